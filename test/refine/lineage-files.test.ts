import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { Coverage, IntervalSet, topicPartitionKey } from '../../src/domain/offsets.ts';
import { filesOfOffsets, rowLineage } from '../../src/refine/lineage-files.ts';
import { offsetsOfFiles } from '../../src/reprocess/select-offsets.ts';
import { ReadingsLake, topic } from '../reprocess/readings-lake.ts';
import { seed } from '../support/seed.ts';

test('the files of any offset intervals are found: every one that holds a row of them, and none whose bounds lie elsewhere', async () => {
  const lake = await ReadingsLake.open();
  for (let batch = 0; batch < 6; batch += 1) {
    await lake.refine(await lake.ingest(Array.from({ length: 10 }, (_, i) => ({ partition: (batch + i) % 3, reading: batch * 10 + i, isValid: true }))));
  }
  const version = await lake.load('silver');
  const files = await version.scan();
  const held = new Map(await Promise.all(files.map(async (file) => [file.filePath, await offsetsOfFiles(lake, [file], rowLineage)] as const)));
  const intervals = fc.array(fc.record({ partition: fc.nat(3), start: fc.nat(25), length: fc.integer({ min: 1, max: 6 }) }), { minLength: 1, maxLength: 5 });
  await fc.assert(fc.asyncProperty(intervals, async (chosen) => {
    const wanted = Coverage.of(chosen.map(({ partition, start, length }) => [topicPartitionKey(topic, partition), IntervalSet.of({ start: BigInt(start), end: BigInt(start + length) })] as const));
    const found = new Set((await filesOfOffsets(version, wanted, rowLineage)).map(({ filePath }) => filePath));
    for (const [path, offsets] of held) {
      if (offsets.overlaps(wanted)) expect(found.has(path)).toBe(true);
      const hull = Coverage.of(offsets.entries().flatMap(([key]) => offsets.entries().map(([, set]) => [key, IntervalSet.of({ start: set.intervals[0]!.start, end: set.intervals.at(-1)!.end })] as const)));
      if (offsets.keys().length === 1 && !hull.overlaps(wanted)) expect(found.has(path)).toBe(false);
    }
  }), { seed, numRuns: 100 });
  expect(await filesOfOffsets(version, Coverage.empty, rowLineage)).toEqual([]);
  expect(await filesOfOffsets(version, Coverage.fromJson({ 'another/0': '0-100' }), rowLineage)).toEqual([]);
}, 60_000);

test('a set of offsets meets an interval exactly when it overlaps it', () => {
  const interval = fc.tuple(fc.nat(60), fc.nat(8)).map(([start, length]) => ({ start: BigInt(start), end: BigInt(start + length) }));
  fc.assert(fc.property(fc.array(interval, { maxLength: 8 }), interval, (some, one) => {
    const set = IntervalSet.of(...some);
    expect(set.meets(one)).toBe(set.overlaps(IntervalSet.of(one)));
  }), { seed });
});
