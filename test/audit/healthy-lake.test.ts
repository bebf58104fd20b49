import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { Coverage, IntervalSet, topicPartitionKey } from '../../src/domain/offsets.ts';
import { createSmallLake, hourMicros, pipeline, topicOf, winnersOf } from './small-lake.ts';
import type { Reading } from './small-lake.ts';

interface Plan {
  seed: number;
  partitions: number;
  offsetsMax: number;
  hours: number;
  keys: number;
}

const plan: fc.Arbitrary<Plan> = fc.record({
  seed: fc.nat(), partitions: fc.integer({ min: 1, max: 3 }), offsetsMax: fc.integer({ min: 1, max: 400 }), hours: fc.integer({ min: 1, max: 6 }), keys: fc.integer({ min: 1, max: 500 }),
});

/** mulberry32: a lake that fails is made again from its seed. */
const randomOf = (seed: number) => {
  let state = seed;
  return (below: number): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 4_294_967_296) * below);
  };
};

/** A lake as a running pipeline leaves it: sparse offsets, gaps, refused rows, duplicates anywhere, and work that still waits at each stage. */
const buildLake = async ({ seed, partitions, offsetsMax, hours, keys }: Plan) => {
  const random = randomOf(seed);
  const lake = await createSmallLake();
  const logs = new Map<string, { logStart: bigint; logEnd: bigint }>();
  const merged: Reading[] = [];
  const figures = new Map<string, { bronzeRows: number; silverRows: number; dlqRows: number; sparse: number; gaps: number; unrefined: number; lag: number }>();
  let mergedCover = Coverage.empty;
  for (const { source } of pipeline.datasets) {
    const counts = { bronzeRows: 0, silverRows: 0, dlqRows: 0, sparse: 0, gaps: 0, unrefined: 0, lag: 0 };
    figures.set(source, counts);
    for (let partition = 0; partition < partitions; partition += 1) {
      const first = random(3) === 0 ? 70_000 * random(3) + random(100) : 0;
      let next = first;
      const total = random(offsetsMax);
      while (next < first + total) {
        const end = next + 1 + random(120);
        if (random(6) === 0) {
          await lake.recordGap(source, partition, next, end);
          counts.gaps += end - next;
          next = end;
          continue;
        }
        const rows: Reading[] = [];
        for (let offset = next; offset < end; offset += 1) {
          if (random(15) === 0) continue;
          const key = random(keys);
          rows.push({ source, partition, offset, site: `site-${key % 3}`, id: String(key), at: 1_700_000_000_000_000 + (key % hours) * hourMicros + key, isValid: random(10) !== 0 });
        }
        await lake.ingest(source, partition, next, end, rows);
        counts.bronzeRows += rows.length;
        counts.sparse += end - next - rows.length;
        // Each stage may not have come to this file yet.
        const stage = random(5);
        const cover = Coverage.of([[topicPartitionKey(topicOf(source), partition), IntervalSet.of({ start: BigInt(next), end: BigInt(end) })]]);
        if (stage === 0) {
          counts.unrefined += rows.length;
        } else {
          await lake.refine(source, rows, cover);
          counts.silverRows += rows.filter(({ isValid }) => isValid).length;
          counts.dlqRows += rows.filter(({ isValid }) => !isValid).length;
          if (stage > 1) {
            merged.push(...rows);
            mergedCover = mergedCover.union(cover);
          }
        }
        next = end;
      }
      const ahead = random(50);
      // Nothing of this topic partition was read yet: all that the broker holds waits.
      counts.lag += ahead;
      logs.set(topicPartitionKey(topicOf(source), partition), { logStart: BigInt(next === first ? first : first + random(next - first)), logEnd: BigInt(next + ahead) });
    }
  }
  await lake.merge(winnersOf(merged), mergedCover);
  const kafka = (topic: string) => Promise.resolve(new Map([...logs].filter(([key]) => key.startsWith(`${topic}/`)).map(([key, bounds]) => [Number(key.split('/')[1]), bounds])));
  return { ...lake, kafka, figures, merged };
};

test.each([
  ['with room for everything', 64 * 1024 * 1024],
  ['with a budget that forces slices and passes', 1_024],
])('a healthy lake has no finding, whatever it holds, %s', async (_, memoryBudgetBytes) => {
  await fc.assert(fc.asyncProperty(plan, async (chosen) => {
    const lake = await buildLake(chosen);
    const report = await lake.audit({ kafka: lake.kafka, memoryBudgetBytes });
    const isIdle = (source: string): boolean => lake.figures.get(source)!.bronzeRows === 0;
    expect(report.findings.filter(({ promise, subject }) => !(promise === 'source-has-rows' && isIdle(subject)))).toEqual([]);
    for (const { source, ...found } of report.sources) {
      const { bronzeRows, silverRows, dlqRows, sparse, gaps, unrefined, lag } = lake.figures.get(source)!;
      expect(found).toMatchObject({
        bronzeRows, silverRows, dlqRows, dlqOpenRows: dlqRows, sparseOffsets: String(sparse), gapOffsets: String(gaps), unrefinedRows: unrefined, kafkaLag: String(lag),
      });
    }
    const winners = winnersOf(lake.merged).length;
    expect(report.gold[0]).toMatchObject({ rows: winners, distinctKeys: winners, silverRows: lake.merged.filter(({ isValid }) => isValid).length });
  }), { numRuns: 15 });
}, 120_000);
