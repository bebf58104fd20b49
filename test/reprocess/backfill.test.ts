import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Coverage, IntervalSet, topicPartitionKey } from '../../src/domain/offsets.ts';
import { candidateBytes } from '../../src/refine/gold-candidates.ts';
import type { Reading } from './readings-lake.ts';
import { ReadingsLake, topic, withRules } from './readings-lake.ts';

const seed = process.env['TEST_SEED'] ? Number(process.env['TEST_SEED']) : Date.now() & 0x7fffffff;
const readings = fc.array(fc.record({ partition: fc.nat(1), reading: fc.nat(40), isValid: fc.nat(7).map((n) => n > 0) }), { minLength: 1, maxLength: 80, size: 'max' });
const cuts = fc.array(fc.nat(80), { maxLength: 5 });

/** Bronze files and micro-batches by the cuts. */
const fill = async (lake: ReadingsLake, records: readonly Reading[], at: readonly number[]): Promise<void> => {
  const bounds = [...new Set([0, ...at, records.length])].filter((cut) => cut <= records.length).sort((a, b) => a - b);
  for (const [i, start] of bounds.slice(0, -1).entries()) await lake.refine(await lake.ingest(records.slice(start, bounds[i + 1])));
};
const offsetsIn = (ranges: readonly { partition: number; start: number; length: number }[]): Coverage =>
  Coverage.of(ranges.map(({ partition, start, length }) => [topicPartitionKey(topic, partition), IntervalSet.of({ start: BigInt(start), end: BigInt(start + length) })] as const));
const ranges = fc.array(fc.record({ partition: fc.nat(1), start: fc.nat(60), length: fc.integer({ min: 1, max: 50 }) }), { minLength: 1, maxLength: 4 });

describe('a backfill with unchanged rules', () => {
  test('leaves Silver, the DLQ and Gold equal row for row, whatever its offsets, the files and the memory budget', async () => {
    await fc.assert(fc.asyncProperty(readings, cuts, ranges, fc.constantFrom(1, 7, 40), fc.constantFrom(60, 1_000), async (records, at, chosen, chunkRowsMax, budgetRows) => {
      const lake = await ReadingsLake.open({ chunkRowsMax, budgetBytes: budgetRows * candidateBytes * 2 });
      await fill(lake, records, at);
      const before = await lake.rows();
      await lake.backfill({ by: 'offsets', offsets: offsetsIn(chosen).toJson() });
      expect(await lake.rows()).toEqual(before);
    }), { seed, numRuns: 40 });
  }, 240_000);
});

describe('a backfill with changed rules', () => {
  test('leaves what a lake has that was refined with the new ones from scratch', async () => {
    await fc.assert(fc.asyncProperty(readings, cuts, fc.nat(5), fc.constantFrom(60, 1_000), async (records, at, refused, budgetRows) => {
      const changed = withRules('2', (reading) => reading % 6 === refused);
      const lake = await ReadingsLake.open({ budgetBytes: budgetRows * candidateBytes * 2 });
      await fill(lake, records, at);
      lake.dataset = changed;
      await lake.backfill({ by: 'all' });
      const scratch = await ReadingsLake.open({ dataset: changed });
      await fill(scratch, records, at);
      expect(await lake.rows()).toEqual(await scratch.rows());
    }), { seed, numRuns: 40 });
  }, 240_000);

  test('in a part of the offsets leaves Gold as the least of each key of what Silver then holds', async () => {
    await fc.assert(fc.asyncProperty(readings, cuts, ranges, fc.nat(5), async (records, at, chosen, refused) => {
      const lake = await ReadingsLake.open();
      await fill(lake, records, at);
      lake.dataset = withRules('2', (reading) => reading % 6 === refused);
      await lake.backfill({ by: 'offsets', offsets: offsetsIn(chosen).toJson() });
      // Gold built anew from this Silver.
      const { gold, silver } = await lake.rows();
      const again = await ReadingsLake.open();
      const version = await lake.load('silver');
      for (const [key, object] of lake.store.objects) await again.store.put(key, object.body);
      again.dataset = { ...lake.dataset, gold: { ...lake.dataset.gold, name: 'gold_again' } };
      await again.catalog.ensureTable(again.dataset.gold);
      await again.merge('all', version.coverage, await version.scan());
      expect((await again.rows()).silver).toEqual(silver);
      expect(gold).toEqual((await again.rows()).gold);
    }), { seed, numRuns: 40 });
  }, 240_000);
});
