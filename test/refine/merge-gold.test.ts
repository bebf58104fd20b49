import * as fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { goldSummary } from '../../src/contracts/properties.ts';
import { goldIngestionField, lineageFields, partitionBy } from '../../src/datasets/dataset.ts';
import { Coverage, IntervalSet, topicPartitionKey, type CoverageJson } from '../../src/domain/offsets.ts';
import type { DataFile } from '../../src/lake/data-file.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import type { ObjectStore } from '../../src/lake/object-store.ts';
import { objectSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import type { Field } from '../../src/lake/schema.ts';
import type { Catalog } from '../../src/lake/table.ts';
import { candidateBytes } from '../../src/refine/gold-candidates.ts';
import { GoldKeyCache } from '../../src/refine/gold-key-cache.ts';
import { mergeGold, type MergeDataset, type MergeGoldInput, type MergeGoldResult } from '../../src/refine/merge-gold.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import { seed } from '../support/seed.ts';

/** Nothing of trades: readings of sensors, keyed by place and a number. */
const ownFields: readonly Field[] = [
  { id: 1, name: 'place', type: 'string', required: true },
  { id: 2, name: 'reading', type: 'long', required: true },
  { id: 3, name: 'seen_at', type: 'timestamptz', required: true },
  { id: 4, name: 'value', type: 'decimal(18,8)', required: false },
];
const silverFields = [...ownFields, ...lineageFields];
const minute: Field = { id: 202, name: 'seen_minute', type: 'int', required: true };
const goldFields = [...silverFields, goldIngestionField, minute];
const dataset: MergeDataset = {
  silver: { name: 'silver_readings', fields: silverFields, partitionBy: partitionBy(silverFields, [['seen_at', 'hour']]), sortBy: ['seen_at'] },
  gold: { name: 'gold_readings', fields: goldFields, partitionBy: partitionBy(goldFields, [['place', 'identity'], ['seen_at', 'hour']]), sortBy: ['seen_at'] },
  key: ['place', 'reading'],
  eventTime: 'seen_at',
  goldColumns: [{ field: minute, from: ['seen_at'], derive: ({ seen_at: times }, rowCount) => Int32Array.from({ length: rowCount }, (_, i) => Math.floor(Number(times![i]) / 60_000_000) % 60) }],
};

interface Reading { place: string; reading: bigint; seenAt: bigint; value: bigint | null; topic: string; partition: number; offset: bigint }

const hour = 3_600_000_000n;
const start = 472_222n * hour;
/** Equal keys share their event time: it follows from the key. */
const seenAt = (place: string, reading: bigint): bigint => start + (reading % 3n) * hour + ((reading * 977n + BigInt(place.length)) % 3_600n) * 1_000_000n;

const encodeSilver = (rows: readonly Reading[], rowGroupRows: number) => {
  const sorted = rows.toSorted((a, b) => Number(a.seenAt - b.seenAt));
  return encodeDataFile({
    fields: silverFields, rowGroupRows,
    batch: {
      rowCount: sorted.length,
      columns: {
        place: sorted.map((row) => row.place), reading: sorted.map((row) => row.reading), seen_at: sorted.map((row) => row.seenAt), value: sorted.map((row) => row.value),
        validation_timestamp: { constant: 1n }, bronze_ingestion_timestamp: { constant: 2n }, schema_id: { constant: 1 }, rule_version: { constant: '1' },
        kafka_topic: sorted.map((row) => row.topic), kafka_partition: Int32Array.from(sorted, (row) => row.partition), kafka_offset: BigInt64Array.from(sorted, (row) => row.offset),
      },
    },
  });
};

let fileNumber = 0;
/** Silver files as refining leaves them (one for each Gold bucket), or with all rows of the batch in one. */
const putSilver = async (store: ObjectStore, rows: readonly Reading[], { rowGroupRows = 8, isMixed = false } = {}): Promise<DataFile[]> => {
  const groups = Map.groupBy(rows, (row) => (isMixed ? '' : `${row.place}/${row.seenAt / hour}`));
  return Promise.all([...groups.values()].map(async (group) => {
    const { bytes, metrics } = encodeSilver(group, rowGroupRows);
    fileNumber += 1;
    const key = `staged/${fileNumber}.parquet`;
    await store.put(key, bytes);
    return { filePath: store.location(key), partition: {}, ...metrics };
  }));
};

const coverageOf = (rows: readonly Reading[]): CoverageJson => Coverage.of(rows.map((row) => [topicPartitionKey(row.topic, row.partition), IntervalSet.of({ start: row.offset, end: row.offset + 1n })])).toJson();

const readGold = async (store: ObjectStore, catalog: Catalog) => {
  const version = await catalog.load('gold_readings');
  const files = await version.scan();
  const rows: (Reading & { ingested: bigint; minute: number })[] = [];
  for (const file of files) {
    const { columns, rowCount } = await readColumns(await openParquet(objectSource(store, store.keyOf(file.filePath), file.fileSizeBytes)), { columns: goldFields.map(({ name }) => name) });
    const at = <T>(name: string, row: number): T => columns[name]![row] as T;
    for (let row = 0; row < rowCount; row += 1) {
      rows.push({
        place: at('place', row), reading: at('reading', row), seenAt: at('seen_at', row), value: at('value', row), topic: at('kafka_topic', row), partition: at('kafka_partition', row), offset: at('kafka_offset', row),
        ingested: at('gold_ingestion_timestamp', row), minute: at('seen_minute', row),
      });
      expect(file.partition).toEqual({ place: at('place', row), seen_at: Number(at<bigint>('seen_at', row) / hour) });
    }
    const times = columns['seen_at'] as BigInt64Array;
    expect(times.toSorted()).toEqual(times);
  }
  return { version, files, rows };
};

const lineage = (row: Reading): string => `${row.topic}/${String(row.partition).padStart(3, '0')}/${String(row.offset).padStart(20, '0')}`;
const byKey = (rows: readonly Reading[]) => rows.map((row) => ({ key: `${row.place}/${row.reading}`, lineage: lineage(row), value: row.value, seenAt: row.seenAt })).toSorted((a, b) => (a.key < b.key ? -1 : 1));
/** Of equal keys the least lineage. */
const modelOf = (rows: readonly Reading[]): Reading[] => [...Map.groupBy(rows, (row) => `${row.place}/${row.reading}`).values()].map((group) => group.toSorted((a, b) => (lineage(a) < lineage(b) ? -1 : 1))[0]!);

interface Lake { store: ReturnType<typeof createMemoryObjectStore>; catalog: Catalog; cache: GoldKeyCache }
const openLake = async (): Promise<Lake> => {
  const store = createMemoryObjectStore();
  const catalog = createObjectStoreCatalog({ store, namespace: 'tests' });
  await catalog.ensureTable(dataset.gold);
  return { store, catalog, cache: new GoldKeyCache(store) };
};
let mergeNumber = 0;
const inputOf = (rows: readonly Reading[], silverFiles: readonly DataFile[], commitId = `merge-${(mergeNumber += 1)}`): MergeGoldInput => ({ commitId, coverage: coverageOf(rows), silverFiles, nowMs: 7 });

const reading = (place: string, number: bigint, offset: bigint, { topic = 'raw', partition = 0, value = offset as bigint | null } = {}): Reading => ({ place, reading: number, seenAt: seenAt(place, number), value, topic, partition, offset });

describe('Gold equals the least lineage of each key', () => {
  const readingArbitrary = fc.record({ place: fc.constantFrom('A', 'Berlin'), reading: fc.bigInt({ min: 0n, max: 40n }), topic: fc.constantFrom('raw', 'raw2'), partition: fc.nat(2), value: fc.option(fc.bigInt({ min: 0n, max: 9n })) });
  const scenario = fc.record({
    rows: fc.array(readingArbitrary, { minLength: 1, maxLength: 160, size: 'max' }),
    batches: fc.constantFrom(1, 2, 6),
    batchOf: fc.array(fc.nat(5), { minLength: 160, maxLength: 160 }),
    order: fc.shuffledSubarray([0, 1, 2, 3, 4, 5], { minLength: 6 }),
    rowGroupRows: fc.integer({ min: 1, max: 20 }),
    isMixed: fc.boolean(),
    budgetRows: fc.constantFrom(3, 12, 1_000),
    mergersAtOnce: fc.constantFrom(1, 2, 3),
    cacheBytes: fc.constantFrom(0, 500, 1 << 20),
  });
  type Scenario = typeof scenario extends fc.Arbitrary<infer T> ? T : never;

  const mergeAll = async ({ rows: drawn, batches, batchOf, order, rowGroupRows, isMixed, budgetRows, mergersAtOnce, cacheBytes }: Scenario) => {
    // Offsets are dense in each topic partition, in the order drawn.
    const next = new Map<string, bigint>();
    const rows = drawn.map(({ place, reading: number, topic, partition, value }) => {
      const key = topicPartitionKey(topic, partition);
      const offset = next.get(key) ?? 0n;
      next.set(key, offset + 1n);
      return reading(place, number, offset, { topic, partition, value });
    });
    const { store, catalog } = await openLake();
    const pending = order.map((batch) => rows.filter((_, i) => batchOf[i]! % batches === batch)).filter((batch) => batch.length > 0);
    // One reading has one time, so one microsecond holds as many rows as it was drawn in a batch.
    const perMoment = Math.max(...pending.flatMap((batch) => [...Map.groupBy(batch, (row) => `${row.place}/${row.seenAt}`).values()].map((group) => group.length)));
    const budgetBytes = Math.max(budgetRows, perMoment) * candidateBytes * 2;
    const results: MergeGoldResult[] = [];
    const merger = async (): Promise<void> => {
      // Each has its own catalog and cache, as another process would.
      const deps = { store, catalog: createObjectStoreCatalog({ store, namespace: 'tests' }), dataset, cache: new GoldKeyCache(store, { bytesMax: cacheBytes }), budgetBytes };
      for (let batch = pending.shift(); batch; batch = pending.shift()) {
        const input = inputOf(batch, await putSilver(store, batch, { rowGroupRows, isMixed }));
        results.push(await mergeGold(deps, input));
        expect((await mergeGold(deps, input)).status).toBe('alreadyCommitted');
      }
    };
    await Promise.all(Array.from({ length: mergersAtOnce }, merger));
    return { rows, results, gold: await readGold(store, catalog) };
  };

  test('whatever the batches, their order, their files, the budget, and however many mergers run at once', async () => {
    await fc.assert(fc.asyncProperty(scenario, async (drawn) => {
      const { rows, results, gold } = await mergeAll(drawn);
      expect(byKey(gold.rows)).toEqual(byKey(modelOf(rows)));
      const sum = (of: (result: MergeGoldResult) => number): number => results.reduce((total, result) => total + of(result), 0);
      expect({ goldRows: sum((result) => result.goldRows), duplicates: sum((result) => result.duplicates) }).toEqual({ goldRows: gold.rows.length, duplicates: rows.length - gold.rows.length });
      expect(gold.version.coverage.toJson()).toEqual(coverageOf(rows));
    }), { seed, numRuns: 60 });
  }, 180_000);
});

describe('a merge', () => {
  let lake: Lake;
  beforeEach(async () => {
    lake = await openLake();
  });
  const merge = async (rows: readonly Reading[], options: { silver?: readonly Reading[]; commitId?: string } = {}): Promise<MergeGoldResult> =>
    mergeGold({ ...lake, dataset }, inputOf(rows, await putSilver(lake.store, options.silver ?? rows), options.commitId));

  test('fills the columns that Silver lacks, and keeps all others', async () => {
    await merge([reading('A', 1n, 0n), reading('A', 2n, 1n, { value: null })]);
    const { rows } = await readGold(lake.store, lake.catalog);
    expect(rows.toSorted((a, b) => Number(a.offset - b.offset))).toEqual([0n, 1n].map((offset) => {
      const row = reading('A', offset + 1n, offset, { value: offset === 1n ? null : offset });
      return { ...row, ingested: 7_000n, minute: Math.floor(Number(row.seenAt) / 60_000_000) % 60 };
    }));
  });

  test('takes only the offsets that it was given, and of these only what Gold does not cover', async () => {
    const all = [0n, 1n, 2n, 3n, 4n].map((offset) => reading('A', 10n + offset * 3n, offset));
    expect(await merge(all.slice(1, 3), { silver: all })).toMatchObject({ status: 'committed', goldRows: 2, duplicates: 0 });
    expect(await merge(all.slice(0, 4), { silver: all })).toMatchObject({ status: 'committed', goldRows: 2, duplicates: 0 });
    const { rows, version } = await readGold(lake.store, lake.catalog);
    expect(rows.map((row) => row.offset).toSorted()).toEqual([0n, 1n, 2n, 3n]);
    expect(version.coverage.toJson()).toEqual({ 'raw/0': '0-4' });
  });

  test('of a greater lineage adds nothing and counts a duplicate; of a lesser one replaces the row', async () => {
    const others = Array.from({ length: 20 }, (_, i) => reading('A', BigInt(i) * 3n, 100n + BigInt(i)));
    await merge([...others, reading('A', 99n, 50n)]);
    expect(await merge([reading('A', 99n, 60n)])).toMatchObject({ goldRows: 0, duplicates: 1, replacedRows: 0, addedFiles: 0, snapshotId: null });
    expect(await merge([reading('A', 99n, 7n)])).toMatchObject({ goldRows: 0, duplicates: 1, replacedRows: 1, addedFiles: 2, removedFiles: 1 });
    const { rows, version } = await readGold(lake.store, lake.catalog);
    expect(byKey(rows)).toEqual(byKey([...others, reading('A', 99n, 7n)]));
    expect(version.coverage.toJson()).toEqual({ 'raw/0': '7-8,50-51,60-61,100-120' });
  });

  test('leaves no file where the only row of one was replaced', async () => {
    await merge([reading('A', 1n, 5n)]);
    await merge([reading('A', 1n, 2n)]);
    const { files, rows } = await readGold(lake.store, lake.catalog);
    expect(files.length).toBe(1);
    expect(rows.map((row) => row.offset)).toEqual([2n]);
  });

  test('compares topics and partitions before offsets, partitions as numbers', async () => {
    await merge([reading('A', 1n, 5n, { topic: 'b', partition: 2 })]);
    await merge([reading('A', 1n, 9n, { topic: 'b', partition: 10 })]);
    await merge([reading('A', 4n, 1n, { topic: 'b' }), reading('A', 4n, 8n, { topic: 'a' })]);
    const { rows } = await readGold(lake.store, lake.catalog);
    expect(rows.map((row) => `${row.topic}/${row.partition}/${row.offset}`).toSorted()).toEqual(['a/0/8', 'b/2/5']);
  });

  test('does not read files whose event times are elsewhere, nor the ones it wrote itself', async () => {
    await merge([reading('A', 3n, 0n)]);
    const read: string[] = [];
    lake.store.onGet = (key) => {
      if (key.includes('gold_readings/data')) read.push(key);
    };
    await merge([reading('A', 3n, 1n), reading('A', 6n, 2n)]);
    expect(read.filter((key) => !key.includes('.parquet'))).toEqual([]);
    const early = read.length;
    lake.cache = new GoldKeyCache(lake.store);
    await merge([reading('A', 9n, 3n)]);
    expect(read.length).toBe(early);
    await merge([reading('A', 3n, 4n)]);
    expect(read.length).toBeGreaterThan(early);
  });

  test('under the same commit id is committed once, and says again what it counted', async () => {
    const rows = [reading('A', 1n, 0n), reading('A', 1n, 1n)];
    const first = await merge(rows, { commitId: 'batch-1' });
    const again = await merge(rows, { commitId: 'batch-1' });
    expect(first).toMatchObject({ status: 'committed', goldRows: 1, duplicates: 1 });
    expect(again).toMatchObject({ status: 'alreadyCommitted', goldRows: 1, duplicates: 1, snapshotId: first.snapshotId, isCounted: true });
    const { version } = await readGold(lake.store, lake.catalog);
    expect(version.currentSnapshot?.summary).toMatchObject({ [goldSummary.rows]: '1', [goldSummary.duplicates]: '1' });
  });

  test('whose answer to the commit was lost is found committed, once', async () => {
    let lost = 0;
    lake.store.onPut = (key) => {
      if (!key.includes('gold_readings/metadata/v') || lost > 0) return undefined;
      lost += 1;
      return 'loseAnswer';
    };
    await merge([reading('A', 1n, 0n)]);
    const { rows } = await readGold(lake.store, lake.catalog);
    expect(lost).toBe(1);
    expect(rows.length).toBe(1);
  });

  test('that is overtaken in its bucket probes what is new, and writes again only what lost', async () => {
    const contested = reading('A', 3n, 10n);
    const own = [reading('A', 6n, 11n), contested];
    const silver = await putSilver(lake.store, own);
    let isOvertaken = false;
    lake.store.onPut = (key) => {
      if (isOvertaken || !key.includes('gold_readings/data')) return undefined;
      isOvertaken = true;
      return async () => {
        const other = createObjectStoreCatalog({ store: lake.store, namespace: 'tests' });
        const rows = [reading('A', 3n, 1n), reading('A', 9n, 2n)];
        await mergeGold({ store: lake.store, catalog: other, cache: new GoldKeyCache(lake.store), dataset }, inputOf(rows, await putSilver(lake.store, rows)));
      };
    };
    const result = await mergeGold({ ...lake, dataset }, inputOf(own, silver));
    expect(result).toMatchObject({ status: 'committed', attempts: 2, goldRows: 1, duplicates: 1 });
    const { rows } = await readGold(lake.store, lake.catalog);
    expect(rows.map((row) => row.offset).toSorted()).toEqual([1n, 11n, 2n]);
  });

  test('that is overtaken by the rewriting of a file it meant to rewrite removes its row from the new one', async () => {
    const there = Array.from({ length: 6 }, (_, i) => reading('A', BigInt(i) * 3n, 50n + BigInt(i)));
    await merge(there);
    const own = [reading('A', 3n, 10n), reading('A', 6n, 90n), reading('A', 30n, 11n)];
    const silver = await putSilver(lake.store, own);
    let isOvertaken = false;
    lake.store.onPut = (key) => {
      if (isOvertaken || !key.includes('gold_readings/data')) return undefined;
      isOvertaken = true;
      return async () => {
        const other = createObjectStoreCatalog({ store: lake.store, namespace: 'tests' });
        const rows = [reading('A', 9n, 1n), reading('A', 3n, 20n)];
        await mergeGold({ store: lake.store, catalog: other, cache: new GoldKeyCache(lake.store), dataset }, inputOf(rows, await putSilver(lake.store, rows)));
      };
    };
    const result = await mergeGold({ ...lake, dataset }, inputOf(own, silver));
    expect(result).toMatchObject({ status: 'committed', attempts: 2, goldRows: 1, duplicates: 2, replacedRows: 1 });
    const { rows } = await readGold(lake.store, lake.catalog);
    expect(byKey(rows)).toEqual(byKey(modelOf([...there, ...own, reading('A', 9n, 1n), reading('A', 3n, 20n)])));
  });

  test('without a Silver row covers its offsets all the same', async () => {
    const result = await mergeGold({ ...lake, dataset }, { ...inputOf([], []), coverage: { 'raw/0': '0-10' } });
    expect(result).toMatchObject({ status: 'committed', goldRows: 0, duplicates: 0, snapshotId: null });
    expect((await lake.catalog.load('gold_readings')).coverage.toJson()).toEqual({ 'raw/0': '0-10' });
  });

  test('that meets one offset twice in Silver, or a covered row that Gold denies, stops loudly', async () => {
    const twice = [reading('A', 1n, 0n), reading('A', 1n, 0n)];
    await expect(merge(twice.slice(1), { silver: twice })).rejects.toMatchObject({ code: 'BAD_INPUT' });
    await merge([reading('A', 1n, 0n)]);
    const { files } = await readGold(lake.store, lake.catalog);
    const other = await openLake();
    const body = await lake.store.get(lake.store.keyOf(files[0]!.filePath));
    await other.store.put(other.store.keyOf(files[0]!.filePath), body.body);
    await other.catalog.commit('gold_readings', { commitId: 'without coverage', add: [files[0]!] });
    await expect(mergeGold({ ...other, dataset }, inputOf([reading('A', 1n, 0n)], await putSilver(other.store, [reading('A', 1n, 0n)])))).rejects.toMatchObject({ code: 'TABLE_CORRUPT' });
  });

  test('that cannot fit one moment into its budget says so, and leaves Gold as it was', async () => {
    const rows = Array.from({ length: 30 }, (_, i) => ({ ...reading('A', BigInt(i), BigInt(i)), seenAt: start }));
    const attempt = mergeGold({ ...lake, dataset, budgetBytes: candidateBytes * 2 * 8 }, inputOf(rows, await putSilver(lake.store, rows)));
    await expect(attempt).rejects.toMatchObject({ code: 'BUDGET_EXCEEDED' });
    expect((await readGold(lake.store, lake.catalog)).rows).toEqual([]);
  });
});

test('a duplicate that comes late is found by reading the rows around its first copy, not all between', async () => {
  const lake = await openLake();
  // Fifty files, each with a minute of one hour.
  const at = (number: number, offset: number): Reading => ({ ...reading('A', BigInt(number), BigInt(offset)), seenAt: start + BigInt(number) * 6_000_000n });
  const files = Array.from({ length: 50 }, (_, file) => Array.from({ length: 10 }, (_, i) => at(file * 10 + i, file * 10 + i)));
  for (const rows of files) await mergeGold({ ...lake, dataset }, inputOf(rows, await putSilver(lake.store, rows)));
  const late = [at(45, 1_000), ...Array.from({ length: 10 }, (_, i) => at(500 + i, 1_001 + i))];
  const reads: string[] = [];
  const store: ObjectStore = { ...lake.store, getRange: (key, ...range) => {
    reads.push(key);
    return lake.store.getRange(key, ...range);
  } };
  const result = await mergeGold({ ...lake, store, cache: new GoldKeyCache(store), dataset }, inputOf(late, await putSilver(lake.store, late)));
  expect(result).toMatchObject({ goldRows: 10, duplicates: 1 });
  expect(new Set(reads.filter((key) => key.includes('gold_readings'))).size).toBeLessThanOrEqual(2);
});
