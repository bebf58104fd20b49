import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { SweepPlan } from '../../src/contracts/retention.ts';
import { auditConservation } from '../../src/audit/conservation.ts';
import { compactGroup } from '../../src/compaction/compact.ts';
import { planCompaction } from '../../src/compaction/plan.ts';
import { compactedTableOf } from '../../src/compaction/tables.ts';
import binanceTrades, { rawSchema } from '../../src/datasets/binance-trades.ts';
import marketData from '../../src/datasets/market-data.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { isTidemarkError } from '../../src/domain/errors.ts';
import { dayMs } from '../../src/domain/retention.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import { Archive } from '../../src/retention/archive.ts';
import { tidyTable } from '../../src/retention/orphans.ts';
import { planSweep } from '../../src/retention/plan-sweep.ts';
import type { SweepDeps } from '../../src/retention/plan-sweep.ts';
import { retainedTables } from '../../src/retention/policies.ts';
import type { RetainedTable } from '../../src/retention/policies.ts';
import { restoreArchive } from '../../src/retention/restore.ts';
import { archiveBatch, purgeArchive, removeBatch, settleLeftovers } from '../../src/retention/sweep.ts';
import { ReadingsLake, withRules } from '../reprocess/readings-lake.ts';
import type { Reading } from '../reprocess/readings-lake.ts';
import { createDlqLake, rawSchemaId } from '../support/dlq-lake.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import { binanceRaw, wireEncoder } from '../support/raw-records.ts';
import { rowTexts } from '../support/table-rows.ts';
import { createAgingLake, datasetOf, firstDay, hourMs, pipeline as sensorPipeline } from './aging-lake.ts';
import { seed } from '../support/seed.ts';

const policy = { hotDays: 1, purgeDays: 300 };

/** Sweeps as a process of its own runs them, on a day on which every row is due. */
const sweeperOf = (store: MemoryObjectStore, pipeline: Pipeline, nowMs: number) => {
  const now = (): number => nowMs;
  const archive = new Archive({ store, namespace: pipeline.namespace, prefix: 'archive', now });
  const deps: SweepDeps = { store, archive, pipeline, now, catalog: createObjectStoreCatalog({ store, namespace: pipeline.namespace }) };
  const names = [...pipeline.datasets.flatMap(({ bronze, silver }) => [bronze.name, silver.name]), pipeline.dlqTable];
  const tables = retainedTables(pipeline, Object.fromEntries(names.map((name) => [name, policy])));
  let sweeps = 0;
  const plans: SweepPlan[] = [];
  const sweepTable = async (table: RetainedTable): Promise<number> => {
    sweeps += 1;
    const sweepId = `sweep-${String(sweeps).padStart(4, '0')}`;
    let rows = (await settleLeftovers(deps, table, sweepId)).reduce((sum, one) => sum + (one.outcome === 'archived' ? one.rows : 0), 0);
    const plan = await planSweep(deps, table, sweepId);
    plans.push(plan);
    for (const [batch] of plan.batches.entries()) {
      const { manifestId } = await archiveBatch(deps, table, plan, batch);
      const swept = manifestId === null ? null : await removeBatch(deps, table, manifestId);
      if (swept?.outcome === 'archived') rows += swept.rows;
    }
    return rows;
  };
  return {
    deps, archive, plans,
    sweep: async (): Promise<number> => {
      let rows = 0;
      for (const table of tables) rows += await sweepTable(table);
      return rows;
    },
    restore: async (): Promise<void> => {
      for (const table of tables) await restoreArchive(deps, table, { untilMs: nowMs + dayMs });
    },
    audit: () => auditConservation({ catalog: deps.catalog, store, pipeline, archive }),
  };
};

/** Runs `work` in the middle of each put that `strikes` says, once at a time, and counts the puts of others. */
const between = (store: MemoryObjectStore, strikes: (put: number) => boolean, work: () => Promise<void>): { puts: () => number; end: () => void } => {
  let puts = 0;
  let isInside = false;
  store.onPut = () => {
    if (isInside) return undefined;
    puts += 1;
    if (!strikes(puts)) return undefined;
    return async () => {
      isInside = true;
      try {
        await work();
      } finally {
        isInside = false;
      }
    };
  };
  return { puts: () => puts, end: () => { store.onPut = undefined; } };
};

/** Puts to strike at: a few, evenly apart, others with another seed. */
const someOf = (puts: number): number[] => {
  const apart = Math.max(1, Math.floor(puts / 8));
  return Array.from({ length: Math.floor(puts / apart) }, (_, i) => 1 + (seed % apart) + i * apart);
};

describe('a sweep of all tables that comes at any write', () => {
  const encode = wireEncoder(rawSchema, rawSchemaId);
  const values = Array.from({ length: 40 }, (_, i) => encode(binanceRaw({ trade_id: i % 6 === 5 ? i - 1 : i, ...(i % 4 === 0 ? { price: '1,000.5' } : {}) })));
  const nowMs = Date.now() + 40 * dayMs;

  const replayed = async (strike: number | null) => {
    const store = createMemoryObjectStore('lake');
    const lake = await createDlqLake(store);
    lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
    for (let file = 0; file < 4; file += 1) await lake.ingest(binanceTrades, values.slice(file * 10, file * 10 + 10), { start: file * 10, ingestionMs: 1_767_323_045_000 + file * 1_000 });
    await lake.refine(binanceTrades.source);
    const sweeper = sweeperOf(store, marketData, nowMs);
    const held: string[] = [];
    const strikes = between(store, (put) => put === strike, async () => {
      await sweeper.sweep();
      held.push(...sweeper.plans.flatMap((plan) => plan.held.map(({ reason }) => reason)));
    });
    const result = await lake.replay(lake.input(binanceTrades.source, { mode: 'cleanse', cleanse: 'price-separators' }, { chunkRows: 5 }));
    strikes.end();
    expect((await sweeper.audit()).findings).toEqual([]);
    const rowsOf = async () => Promise.all(['bronze_binance_trades', 'silver_binance_trades', 'silver_dlq_trades', 'gold_crypto_trades'].map(async (table) => lake.comparable(await lake.rows(table))));
    return { lake, sweeper, result, held, puts: strikes.puts(), rowsOf };
  };

  test('of a DLQ replay takes nothing that the replay needs and says so, and everything is recovered, archived and restored as without it', async () => {
    const alone = await replayed(null);
    expect(alone.result).toMatchObject({ selected: 10, recovered: 10 });
    const wanted = await alone.rowsOf();
    const reasons = new Set<string>();
    for (const put of someOf(alone.puts)) {
      const { sweeper, result, held, rowsOf } = await replayed(put);
      expect({ put, result }).toEqual({ put, result: alone.result });
      for (const reason of held) reasons.add(reason);
      expect(held, `put ${put}`).not.toEqual([]);
      // Now all is due and nobody needs it.
      await sweeper.sweep();
      expect({ put, findings: (await sweeper.audit()).findings }).toEqual({ put, findings: [] });
      const swept = await rowsOf();
      expect({ put, left: swept.slice(0, 3).map(({ length }) => length) }).toEqual({ put, left: [0, 0, 0] });
      await sweeper.restore();
      expect({ put, rows: await rowsOf() }).toEqual({ put, rows: wanted });
    }
    expect([...reasons]).toContain('reprocess');
  }, 240_000);

  const records: Reading[] = Array.from({ length: 60 }, (_, i) => ({ partition: i % 2, reading: (i * 7) % 30, isValid: i % 9 !== 0 }));
  const changed = withRules('2', (reading) => reading % 6 === 1);

  const backfilled = async (strike: number | null) => {
    const lake = await ReadingsLake.open({ chunkRowsMax: 15 });
    await lake.refine(await lake.ingest(records.slice(0, 40)));
    await lake.refine(await lake.ingest(records.slice(40)));
    lake.dataset = changed;
    const sweeper = sweeperOf(lake.store, lake.pipeline, lake.nowMs + 40 * dayMs);
    const taken: number[] = [];
    const strikes = between(lake.store, (put) => put === strike, async () => { taken.push(await sweeper.sweep()); });
    await lake.backfill({ by: 'all' });
    strikes.end();
    expect((await sweeper.audit()).findings).toEqual([]);
    return { lake, sweeper, taken, puts: strikes.puts() };
  };

  test('of a backfill takes nothing from the moment that its snapshot is pinned, and leaves the rows that it would have left without it', async () => {
    const alone = await backfilled(null);
    const wanted = await alone.lake.rows();
    let heldBack = 0;
    for (const put of someOf(alone.puts)) {
      const { lake, sweeper, taken } = await backfilled(put);
      if (sweeper.plans.some((plan) => plan.held.some(({ reason }) => reason === 'reprocess'))) {
        heldBack += 1;
        expect({ put, taken }).toEqual({ put, taken: [0] });
      }
      await sweeper.restore();
      expect({ put, gold: (await lake.rows()).gold }).toEqual({ put, gold: wanted.gold });
      expect({ put, findings: (await sweeper.audit()).findings }).toEqual({ put, findings: [] });
      if (taken[0] === 0) expect({ put, rows: await lake.rows() }).toEqual({ put, rows: wanted });
    }
    expect(heldBack).toBeGreaterThan(3);
  }, 240_000);
});

describe('beside whatever else works on its tables', () => {
  const source = 'north';
  const { bronze, silver } = datasetOf(source);
  const policies = { [bronze.name]: { hotDays: 2, purgeDays: 300 }, [silver.name]: { hotDays: 2, purgeDays: 300 } };

  test('random sweeps, compactions, restores and a live stream, each in the middle of the others\' writes, some of which die, lose and double no row', async () => {
    await fc.assert(fc.asyncProperty(fc.infiniteStream(fc.nat(999)), async (choices) => {
      const choose = (below: number): number => choices.next().value! % below;
      const lake = await createAgingLake({ policies });
      for (let day = firstDay; day < firstDay + 5; day += 1) {
        for (const [partition, hour] of [[0, 1], [0, 23], [1, 23]] as const) {
          lake.setTime(day * dayMs + hour * hourMs);
          const readings = await lake.ingestNow(source, partition, 6);
          await lake.refineAndMerge(source, readings);
        }
      }
      await lake.resolve(source, lake.all.filter(({ isValid }) => !isValid).map((reading) => ({ reading, action: 'flagged' })));
      const { store } = lake;
      const processOf = (): SweepDeps => ({
        ...lake.deps, catalog: createObjectStoreCatalog({ store, namespace: sensorPipeline.namespace, now: lake.now, expireMetadataEvery: 0 }),
        archive: new Archive({ store, namespace: sensorPipeline.namespace, prefix: 'archive', now: lake.now }),
      });
      let sweeps = 0;
      let isLive = false;
      const died = new Error('this process died');
      const sweep = async (name: string, diesAt = -1): Promise<void> => {
        const [deps, table] = [processOf(), lake.aged(name)];
        sweeps += 1;
        const sweepId = `s${sweeps}`;
        await settleLeftovers(deps, table, sweepId);
        const plan = await planSweep(deps, table, sweepId);
        for (const [batch] of plan.batches.entries()) {
          const { manifestId } = await archiveBatch(deps, table, plan, batch);
          if (diesAt === batch) throw died;
          if (manifestId !== null) await removeBatch(deps, table, manifestId);
        }
        await purgeArchive(deps, table, plan);
      };
      const compact = async (name: string): Promise<void> => {
        const [{ catalog }, table] = [processOf(), compactedTableOf(sensorPipeline, name)];
        const compaction = { targetBytes: 1 << 26, filesMin: 2, quietMs: 0 };
        const [due] = (await planCompaction(await catalog.load(name), table, compaction, lake.now() + 1)).groups;
        if (due) await compactGroup({ store, catalog, table, policy: compaction, now: () => lake.now() + 1 }, due);
      };
      const work: ((name: string) => Promise<unknown>)[] = [
        (name) => sweep(name), (name) => sweep(name, 0), compact, compact,
        (name) => restoreArchive(processOf(), lake.aged(name), { untilMs: lake.now() + 1 + choose(2) * dayMs }),
        async () => {
          // One stream: its commits wait for each other.
          if (isLive) return;
          isLive = true;
          try {
            await lake.refineAndMerge(source, await lake.ingestNow(source, 0, 6));
          } finally {
            isLive = false;
          }
        },
        (name) => tidyTable({ ...lake.tidyDeps, limits: { snapshotAgeMs: 1, snapshotsKept: 1, orphanGraceMs: 1 }, catalog: createObjectStoreCatalog({ store, namespace: sensorPipeline.namespace, now: lake.now }), oldestWriterMs: () => Promise.resolve(lake.now() - hourMs) }, name),
        () => { lake.setTime(lake.now() + dayMs / 2); return Promise.resolve(); },
      ];
      const step = async (): Promise<void> => {
        try {
          await work[choose(work.length)]!([bronze.name, silver.name][choose(2)]!);
        } catch (error) {
          // Overtaken: Temporal, or the operator, tries again.
          if (error !== died && !isTidemarkError(error, 'COMMIT_CONFLICT')) throw error;
        }
      };
      let depth = 0;
      let budget = 60;
      store.onPut = () => {
        if (depth >= 2 || budget <= 0 || choose(12) !== 0) return undefined;
        return async () => {
          depth += 1;
          budget -= 1;
          try {
            await step();
          } finally {
            depth -= 1;
          }
        };
      };
      for (let round = 0; round < 12; round += 1) await step();
      store.onPut = undefined;
      expect((await lake.auditWithArchive()).findings).toEqual([]);
      lake.setTime(lake.now() + 3 * dayMs);
      for (const name of [bronze.name, silver.name]) await sweep(name);
      expect((await lake.auditWithArchive()).findings).toEqual([]);
      for (const name of [bronze.name, silver.name]) {
        expect((await lake.archive.list(name)).map(({ manifest: { state } }) => state)).not.toContain('copied');
        await restoreArchive(processOf(), lake.aged(name), { untilMs: lake.now() + dayMs });
      }
      const places = async (name: string): Promise<number> => (await rowTexts(store, await lake.catalog.load(name))).length;
      expect({ bronze: await places(bronze.name), silver: await places(silver.name) }).toEqual({ bronze: lake.all.length, silver: lake.all.filter(({ isValid }) => isValid).length });
      expect((await lake.audit()).findings).toEqual([]);
    }), { seed, numRuns: 5, endOnFailure: true });
  }, 240_000);
});
