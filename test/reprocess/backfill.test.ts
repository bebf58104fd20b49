import { ApplicationFailure } from '@temporalio/common';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ReprocessRange } from '../../src/contracts/backfill.ts';
import { isTidemarkError } from '../../src/domain/errors.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../../src/domain/offsets.ts';
import { candidateBytes } from '../../src/refine/gold-candidates.ts';
import { rowLineage } from '../../src/refine/lineage-files.ts';
import { claimsOf } from '../../src/reprocess/claims.ts';
import { noArchive } from '../support/no-archive.ts';
import type { Reading, ReadingsLakeOptions } from './readings-lake.ts';
import { offsetsOfFiles } from '../../src/reprocess/select-offsets.ts';
import { loadChunk } from '../../src/reprocess/staging.ts';
import { ReadingsLake, takenMs, topic, withRules } from './readings-lake.ts';
import { seed } from '../support/seed.ts';

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
    }), { seed, numRuns: 15 });
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
    }), { seed, numRuns: 15 });
  }, 240_000);

  test('that refuse the row that Gold has brings back the least of its duplicates, under a hold, and gives the hold back', async () => {
    const lake = await ReadingsLake.open();
    await fill(lake, Array.from({ length: 9 }, (_, i) => ({ partition: 0, reading: i < 6 ? 1 : i, isValid: true })), [2, 4]);
    lake.dataset = withRules('2', (reading) => reading === 1);
    await lake.backfill({ by: 'offsets', offsets: { [`${topic}/0`]: '0-2,3-4' } });
    const gold = await offsetsOfFiles(lake, await (await lake.load('gold')).scan(), rowLineage);
    expect(gold.toJson()).toEqual({ [`${topic}/0`]: '2-3,6-9' });
    expect(Object.keys((await lake.load('gold')).properties).filter((name) => name.startsWith('tidemark.hold'))).toEqual([]);
  });

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
    }), { seed, numRuns: 15 });
  }, 240_000);
});

describe('a backfill beside the live stream', () => {
  const records = (from: number, count: number): Reading[] => Array.from({ length: count }, (_, i) => ({ partition: i % 2, reading: (from + i * 7) % 30, isValid: (from + i) % 9 !== 0 }));

  test('loses and doubles nothing, wherever merges of the same buckets come between its steps and its requests', async () => {
    await fc.assert(fc.asyncProperty(fc.array(fc.nat(60), { minLength: 1, maxLength: 5 }), fc.nat(5), async (puts, refused) => {
      const changed = withRules('2', (reading) => reading % 6 === refused);
      const lake = await ReadingsLake.open({ chunkRowsMax: 15 });
      await lake.refine(await lake.ingest(records(0, 40)));
      await lake.refine(await lake.ingest(records(3, 20)));
      lake.dataset = changed;
      let put = 0;
      let isLive = false;
      let live = 0;
      let heldOut = 0;
      // Another process: in one, commits to a table follow each other.
      const stream = lake.another();
      // Micro-batches of the new code, in the middle of the backfill's puts.
      lake.store.onPut = () => {
        if (isLive) return undefined;
        put += 1;
        if (!puts.includes(put)) return undefined;
        return async () => {
          isLive = true;
          live += 1;
          try {
            await stream.refine(await stream.ingest(records(live * 5, 10)));
          } catch (error) {
            // Kept out by a hold: the activity tries again later, and so does this.
            if (!isTidemarkError(error, 'BUCKET_HELD')) throw error;
            heldOut += 1;
          } finally {
            isLive = false;
          }
        };
      };
      await lake.backfill({ by: 'all' });
      lake.store.onPut = undefined;
      for (const table of ['silver', 'gold'] as const) {
        const open = (await lake.load('bronze')).coverage.subtract((await lake.load(table)).coverage);
        if (table === 'silver' && !open.isEmpty) await lake.refine(open);
        expect(table === 'gold' || open.isEmpty).toBe(true);
        expect(open.isEmpty || heldOut > 0).toBe(true);
        if (table === 'gold' && !open.isEmpty) await lake.merge(`late-${live}`, open, await (await lake.load('silver')).scan());
      }
      const scratch = await ReadingsLake.open({ dataset: changed });
      await scratch.refine(await scratch.ingest(records(0, 40)));
      await scratch.refine(await scratch.ingest(records(3, 20)));
      for (let n = 1; n <= live; n += 1) await scratch.refine(await scratch.ingest(records(n * 5, 10)));
      expect(await lake.rows()).toEqual(await scratch.rows());
    }), { seed, numRuns: 12 });
  }, 240_000);

  test('leaves out what was published and not merged, and what was not refined, when it was planned', async () => {
    const lake = await ReadingsLake.open();
    await lake.refine(await lake.ingest(records(0, 20)));
    await lake.refine(await lake.ingest(records(1, 20)), 'gold');
    await lake.ingest(records(2, 20));
    const { figures, rows } = await lake.plan({ by: 'all' });
    expect({ rows, notRefined: figures!.offsetsNotRefined }).toEqual({ rows: 20, notRefined: '40' });
  });
});

describe('a backfill that is hit', () => {
  const records: Reading[] = Array.from({ length: 60 }, (_, i) => ({ partition: i % 2, reading: (i * 7) % 25, isValid: i % 9 !== 0 }));
  const damaged = async (options: ReadingsLakeOptions = {}): Promise<ReadingsLake> => {
    const lake = await ReadingsLake.open({ chunkRowsMax: 25, ...options });
    await fill(lake, records, [20, 33]);
    return lake;
  };
  const retried = async (work: () => Promise<unknown>): Promise<void> => {
    for (let attempts = 1; ; attempts += 1) {
      try {
        await work();
        return;
      } catch (error) {
        if (!(error instanceof ApplicationFailure) || error.nonRetryable || attempts > 5) throw error;
      }
    }
  };

  test.each(['failBefore', 'loseAnswer'] as const)('by a put that gets no answer (%s), at every put of it, has the same rows in the end', async (fault) => {
    const changed = withRules('2', (reading) => reading % 4 === 1);
    const scratch = await ReadingsLake.open({ dataset: changed });
    await fill(scratch, records, [20, 33]);
    const expected = await scratch.rows();
    for (let strike = 1, puts = Infinity; strike <= puts; strike += 1) {
      const lake = await damaged();
      lake.dataset = changed;
      let put = 0;
      lake.store.onPut = () => {
        put += 1;
        return put === strike ? fault : undefined;
      };
      const activities = lake.activities();
      let planned!: Awaited<ReturnType<ReadingsLake['plan']>>;
      await retried(async () => { planned = await lake.plan({ by: 'all' }); });
      const ref = { reprocessId: planned.reprocessId, planKey: planned.planKey };
      await retried(() => activities.claimOffsets(ref));
      for (let chunk = 0; chunk < planned.chunks; chunk += 1) await retried(() => activities.refineChunk({ ...ref, chunk }));
      for (const step of ['replaceSilver', 'replaceDlq', 'replaceGold', 'finishReprocess'] as const) await retried(() => activities[step](ref));
      puts = put;
      expect(await lake.rows(), `put ${strike}`).toEqual(expected);
      expect(claimsOf(await lake.load('silver')).concat(claimsOf(await lake.load('dlq'))), `put ${strike}`).toEqual([]);
      expect((await lake.load('bronze')).tags).toEqual({});
    }
  }, 600_000);

  test('by an end by force after any step goes on where it was, when it is started again', async () => {
    const changed = withRules('2', (reading) => reading % 4 === 1);
    const scratch = await ReadingsLake.open({ dataset: changed });
    await fill(scratch, records, [20, 33]);
    const expected = await scratch.rows();
    for (const last of ['claimOffsets', 'refineChunk', 'replaceSilver', 'replaceDlq', 'replaceGold', 'finishReprocess'] as const) {
      const lake = await damaged();
      lake.dataset = changed;
      await lake.backfill({ by: 'all' }, { between: (step) => (step === last ? Promise.reject(new Error('terminated')) : Promise.resolve()) }).catch(() => {});
      const before = await lake.rows();
      const again = await lake.plan({ by: 'all' });
      expect(again.isPublished, last).toBe(['replaceDlq', 'replaceGold', 'finishReprocess'].includes(last));
      if (!again.isPublished) expect(before.silver, last).not.toEqual(expected.silver);
      await lake.roll(again);
      expect(await lake.rows(), last).toEqual(expected);
    }
  }, 120_000);

  test('by a Bronze file that is gone names it, leaves every table as it was, and its staged files go', async () => {
    const lake = await damaged();
    const before = await lake.rows();
    const data = (): string[] => [...lake.store.objects.keys()].filter((key) => key.includes('/data/') && !key.includes('/bronze_sensor')).sort();
    const files = data();
    const planned = await lake.plan({ by: 'all' });
    const ref = { reprocessId: planned.reprocessId, planKey: planned.planKey };
    const activities = lake.activities();
    await activities.claimOffsets(ref);
    await activities.refineChunk({ ...ref, chunk: 0 });
    expect(data().length).toBeGreaterThan(files.length);
    const gone = (await loadChunk(lake.store, planned.planKey, planned.chunks - 1)).bronzeFiles.at(-1)!.filePath;
    await lake.store.delete([lake.store.keyOf(gone)]);
    await expect(activities.refineChunk({ ...ref, chunk: planned.chunks - 1 })).rejects.toMatchObject({ nonRetryable: true, type: 'OBJECT_NOT_FOUND', message: expect.stringContaining(gone) as string });
    const staged = data().length - files.length;
    expect(await activities.abandonReprocess(ref)).toEqual({ isPublished: false, filesRemoved: staged });
    expect(data()).toEqual(files);
    expect(await lake.rows()).toEqual(before);
    // A zombie of it publishes nothing any more.
    await expect(activities.replaceSilver(ref)).rejects.toMatchObject({ type: 'OBJECT_NOT_FOUND' });
    expect(await lake.rows()).toEqual(before);
  });

  test('by a cancellation after Silver was published is told that it is too late', async () => {
    const lake = await damaged();
    const planned = await lake.plan({ by: 'all' });
    const ref = { reprocessId: planned.reprocessId, planKey: planned.planKey };
    const activities = lake.activities();
    await activities.claimOffsets(ref);
    for (let chunk = 0; chunk < planned.chunks; chunk += 1) await activities.refineChunk({ ...ref, chunk });
    await activities.replaceSilver(ref);
    const published = await lake.rows();
    expect(await activities.abandonReprocess(ref)).toEqual({ isPublished: true, filesRemoved: 0 });
    expect(await lake.rows()).toEqual(published);
    expect(await activities.replaceSilver(ref)).toMatchObject({ status: 'alreadyCommitted' });
  });

  test('by a retry that comes after its snapshot has expired does nothing twice', async () => {
    const lake = await ReadingsLake.open({ chunkRowsMax: 25, snapshotsKept: 1 });
    await fill(lake, records, [20, 33]);
    // Without a row to replace nothing in the files tells that the new ones are there.
    for (const table of ['silver', 'dlq'] as const) {
      const version = await lake.load(table);
      await lake.catalog.commit(version.name, { commitId: `damage-${table}`, add: [], remove: (await version.scan()).map(({ filePath }) => filePath) });
    }
    const planned = await lake.plan({ by: 'all' });
    const activities = lake.activities();
    await activities.claimOffsets(planned);
    for (let chunk = 0; chunk < planned.chunks; chunk += 1) await activities.refineChunk({ ...planned, chunk });
    for (const step of ['replaceSilver', 'replaceDlq', 'replaceGold'] as const) await activities[step](planned);
    await lake.refine(await lake.ingest(records));
    const after = await lake.rows();
    for (const step of ['replaceSilver', 'replaceDlq', 'replaceGold'] as const) await activities[step](planned);
    expect(await lake.rows()).toEqual(after);
  });

  test('by another one over the same offsets waits for it; one that no longer runs and published nothing loses its claim', async () => {
    let running = true;
    const lake = await damaged({ isRunning: () => running });
    const [first, second] = [await lake.plan({ by: 'all' }, 'first'), await lake.plan({ by: 'all' }, 'second')];
    const activities = lake.activities();
    await activities.claimOffsets(first);
    await expect(activities.claimOffsets(second)).rejects.toMatchObject({ type: 'OFFSETS_CLAIMED', nonRetryable: false, message: expect.stringContaining('backfill/first') as string });
    running = false;
    await activities.claimOffsets(second);
    for (let chunk = 0; chunk < first.chunks; chunk += 1) await activities.refineChunk({ ...first, chunk });
    await expect(activities.replaceSilver(first)).rejects.toMatchObject({ type: 'CLAIM_LOST' });
  });

  test.each(['finish', 'abandon'] as const)('by deaths while it planned leaves no plan of them behind (%s), and those of others alone', async (end) => {
    const lake = await damaged();
    const staged = (): string[] => [...lake.store.objects.keys()].filter((key) => key.startsWith('staging/'));
    for (const id of ['one', 'one', 'one/more', 'two', 'one']) await lake.plan({ by: 'all' }, id);
    const others = staged().filter((key) => !/^staging\/backfill\/one\/[\da-f-]{36}\//.test(key));
    expect(others.length).toBeGreaterThan(0);
    const planned = await lake.plan({ by: 'all' }, 'one');
    if (end === 'finish') await lake.roll(planned);
    else await lake.activities().abandonReprocess(planned);
    expect(staged()).toEqual(others);
  });

  test('by a release in its middle does not mix two rule versions', async () => {
    const lake = await damaged();
    const planned = await lake.plan({ by: 'all' });
    await lake.activities().claimOffsets(planned);
    await lake.activities().refineChunk({ ...planned, chunk: 0 });
    lake.dataset = withRules('2', () => false);
    await expect(lake.activities().refineChunk({ ...planned, chunk: 1 })).rejects.toMatchObject({ type: 'RULES_CHANGED', nonRetryable: true });
  });
});

describe('rows that are gone', () => {
  const records: Reading[] = Array.from({ length: 60 }, (_, i) => ({ partition: i % 2, reading: (i * 7) % 25, isValid: i % 9 !== 0 }));

  test('from Silver, the DLQ and Gold, while the tables still cover them, are there again, equal to the last detail', async () => {
    const lake = await ReadingsLake.open();
    await fill(lake, records, [20, 33]);
    const before = await lake.rows();
    for (const table of ['silver', 'gold', 'dlq'] as const) {
      const files = await (await lake.load(table)).scan();
      await lake.catalog.commit((await lake.load(table)).name, { commitId: `damage-${table}`, add: [], remove: files.filter((_, i) => i % 2 === 0).map(({ filePath }) => filePath) });
    }
    expect((await lake.rows()).gold.length).toBeLessThan(before.gold.length);
    await lake.backfill({ by: 'all' });
    expect(await lake.rows()).toEqual(before);
  });

  test('because retention took Silver: a Gold bucket keeps every row of other offsets, and those of the range are merged by key', async () => {
    const lake = await ReadingsLake.open();
    await fill(lake, records, [20, 33]);
    const before = await lake.rows();
    const files = await (await lake.load('silver')).scan();
    await lake.catalog.commit(lake.dataset.silver.name, { commitId: 'retention', add: [], remove: files.map(({ filePath }) => filePath) });
    await lake.backfill({ by: 'offsets', offsets: { [`${topic}/0`]: '0-9' } });
    expect((await lake.rows()).gold).toEqual(before.gold);
  });

  test('from Bronze, and in the archive, are restored first and refined again', async () => {
    let restore: ((offsets: Coverage) => Promise<Coverage>) | undefined;
    const lake = await ReadingsLake.open({ archive: { ...noArchive, restoreBronze: (_, offsets) => restore!(offsets) } });
    await fill(lake, records, [20, 33]);
    const [first] = await (await lake.load('bronze')).scan();
    await lake.catalog.commit(lake.dataset.bronze.name, { commitId: 'retention', add: [], remove: [first!.filePath] });
    restore = async (offsets) => {
      await lake.catalog.commit(lake.dataset.bronze.name, { commitId: 'restore', add: [first!] });
      return offsets;
    };
    const { figures, rows } = await lake.backfill({ by: 'all' });
    expect({ rows, archived: figures!.offsetsArchived, withoutBronze: figures!.offsetsWithoutBronze }).toEqual({ rows: records.length, archived: String(first!.recordCount), withoutBronze: '0' });
    expect([...lake.store.objects.keys()].filter((key) => key.startsWith('staging/'))).toEqual([]);
  });

  test('from Bronze, archived: their Silver rows stay as they are', async () => {
    const lake = await ReadingsLake.open();
    await fill(lake, records, [20, 33]);
    const before = await lake.rows();
    const [first] = await (await lake.load('bronze')).scan();
    await lake.catalog.commit(lake.dataset.bronze.name, { commitId: 'retention', add: [], remove: [first!.filePath] });
    const { figures, rows } = await lake.backfill({ by: 'all' });
    expect({ rows, withoutBronze: figures!.offsetsWithoutBronze }).toEqual({ rows: records.length - first!.recordCount, withoutBronze: String(first!.recordCount) });
    expect(await lake.rows()).toEqual(before);
  });
});

describe('a range', () => {
  const records: Reading[] = Array.from({ length: 90 }, (_, i) => ({ partition: i % 2, reading: (i * 11) % 70, isValid: i % 9 !== 0 }));
  /** Offset by model: the nth record of its topic partition. */
  const offsetsOf = (isMeant: (record: Reading, index: number) => boolean): Coverage => {
    const next = [0, 0];
    return Coverage.of(records.flatMap((record, index) => {
      const start = BigInt(next[record.partition]!);
      next[record.partition]! += 1;
      return isMeant(record, index) ? [[topicPartitionKey(topic, record.partition), IntervalSet.of({ start, end: start + 1n })] as const] : [];
    }));
  };
  const micros = (ms: number): string => String(ms * 1_000);

  test('of event time, of Kafka time and of refining time is half-open and exact to the row', async () => {
    const lake = await ReadingsLake.open({ chunkRowsMax: 1_000 });
    const times: number[] = [];
    const bounds = [0, 30, 55, 90];
    for (const [i, start] of bounds.slice(0, -1).entries()) {
      await lake.refine(await lake.ingest(records.slice(start, bounds[i + 1])));
      times.push(lake.nowMs);
    }
    const plan = async (range: ReprocessRange) => Coverage.fromJson((await lake.plan(range)).figures!.offsets).toJson();
    const all = records.map(({ reading }) => takenMs(reading)).sort((a, b) => a - b);
    const [start, end] = [all[20]!, all[60]!];
    const inTime = ({ reading }: Reading): boolean => takenMs(reading) >= start && takenMs(reading) < end;
    // A rejected record has no event time: its Kafka timestamp, 5 µs later here, counts.
    expect(await plan({ by: 'event-time', startMicros: micros(start), endMicros: micros(end) })).toEqual(offsetsOf(inTime).toJson());
    expect(await plan({ by: 'kafka-timestamp', startMicros: String(start * 1_000 + 5), endMicros: String(end * 1_000 + 5) })).toEqual(offsetsOf(inTime).toJson());
    expect(await plan({ by: 'kafka-timestamp', startMicros: String(start * 1_000 + 6), endMicros: String(end * 1_000 + 6) })).toEqual(offsetsOf(({ reading }) => takenMs(reading) > start && takenMs(reading) <= end).toJson());
    expect(await plan({ by: 'refined', startMicros: micros(times[1]!), endMicros: micros(times[2]!) })).toEqual(offsetsOf((_, index) => index >= 30 && index < 55).toJson());
    expect((await lake.plan({ by: 'refined', startMicros: micros(times[2]! + 1), endMicros: micros(times[2]! + 2) })).rows).toBe(0);
  });

  test('of a rule version means the rows that it made, after a backfill of some of them too', async () => {
    const lake = await ReadingsLake.open({ chunkRowsMax: 1_000 });
    await lake.refine(await lake.ingest(records));
    const { ruleVersion } = lake.dataset;
    lake.dataset = withRules('2', () => false);
    const some = { [`${topic}/0`]: '3-30' };
    await lake.backfill({ by: 'offsets', offsets: some });
    expect((await lake.plan({ by: 'refined', ruleVersion: '2' }, 'second')).figures!.offsets).toEqual(some);
    expect((await lake.plan({ by: 'refined', ruleVersion }, 'third')).figures!.offsets).toEqual({ [`${topic}/0`]: '0-3,30-45', [`${topic}/1`]: '0-45' });
  });
});
