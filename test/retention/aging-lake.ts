import type { AuditReport } from '../../src/contracts/audit.ts';
import type { RetentionPolicy } from '../../src/domain/retention.ts';
import { dayMs } from '../../src/domain/retention.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import { Archive } from '../../src/retention/archive.ts';
import { retainedTables } from '../../src/retention/policies.ts';
import type { RetainedTable } from '../../src/retention/policies.ts';
import { planSweep } from '../../src/retention/plan-sweep.ts';
import type { SweepDeps } from '../../src/retention/plan-sweep.ts';
import { archiveBatch, purgeArchive, removeBatch, settleLeftovers } from '../../src/retention/sweep.ts';
import { tidyTable } from '../../src/retention/orphans.ts';
import type { TidyDeps } from '../../src/retention/orphans.ts';
import type { SweepPlan, TidiedTable } from '../../src/contracts/retention.ts';
import { coverageOfReadings, createSmallLake, datasetOf, hourMicros, pipeline, winnersOf } from '../audit/small-lake.ts';
import type { Reading } from '../audit/small-lake.ts';

export const firstDay = 20_000;
export const hourMs = 3_600_000;
const microsOf = (ms: number): bigint => BigInt(ms) * 1_000n;

interface AgingLakeOptions {
  policies?: Record<string, RetentionPolicy>;
  /** Begins as a copy of another one. */
  of?: { store: MemoryObjectStore; all: readonly Reading[]; now: () => number };
}

/** A lake that grows day by day under a clock of its own, with an archive beside it. */
export const createAgingLake = async ({ policies = {}, of }: AgingLakeOptions = {}) => {
  let nowMs = firstDay * dayMs + 12 * hourMs;
  const now = (): number => nowMs;
  const store = createMemoryObjectStore('lake', now);
  if (of) {
    for (const [key, { body, metadata, lastModifiedMs }] of of.store.objects) {
      nowMs = lastModifiedMs;
      await store.put(key, body, { metadata });
    }
    nowMs = of.now();
  }
  const lake = await createSmallLake(store, { now, expireMetadataEvery: 0 });
  const archive = new Archive({ store, namespace: pipeline.namespace, prefix: 'archive', now });
  const tables = retainedTables(pipeline, policies);
  const deps: SweepDeps = { catalog: lake.catalog, store, archive, pipeline, now };
  const tidyDeps: TidyDeps = {
    catalog: lake.catalog, store, archive, pipeline, now, limits: { snapshotAgeMs: 2 * dayMs, snapshotsKept: 2, orphanGraceMs: dayMs },
    oldestWriterMs: () => Promise.resolve(null), isRunning: () => Promise.resolve(false),
  };
  const all: Reading[] = [...of?.all ?? []];
  const next = new Map<string, number>();
  let sweeps = 0;

  const aged = (name: string): RetainedTable => tables.find((table) => table.name === name)!;
  const liveRows = async (table: string): Promise<number> => (await (await lake.catalog.load(table)).scan()).reduce((sum, { recordCount }) => sum + recordCount, 0);

  return {
    ...lake, archive, tables, deps, tidyDeps, all, aged, liveRows, now,
    setTime(ms: number): void {
      nowMs = ms;
    },
    /**
     * Records of one source that are ingested now: `rows` of one topic partition in one Bronze file. Their event times go back over the last
     * three hours, every 10th is refused, and every 7th repeats one of the day before.
     */
    ingestNow(source: string, partition: number, rows: number): Promise<Reading[]> {
      return (async () => {
        const start = next.get(`${source}/${partition}`) ?? 0;
        next.set(`${source}/${partition}`, start + rows);
        const readings = Array.from({ length: rows }, (_, i): Reading => {
          const offset = start + i;
          const repeats = offset % 7 === 0 && offset >= rows;
          const of = repeats ? offset - rows : offset;
          const original = repeats ? all.find((one) => one.source === source && one.partition === partition && one.offset === of) : undefined;
          return {
            source, partition, offset, site: `${source}-${of % 2}`, id: `${partition}:${of}`, ingestedAt: microsOf(nowMs),
            at: original?.at ?? (nowMs - (of % 3) * hourMs) * 1_000, isValid: offset % 10 !== 3,
          };
        });
        await lake.ingest(source, partition, start, start + rows, readings);
        all.push(...readings);
        return readings;
      })();
    },
    /** Refines and merges readings; Gold holds the winners among everything merged so far. */
    async refineAndMerge(source: string, readings: readonly Reading[]): Promise<void> {
      await lake.refine(source, readings, coverageOfReadings(readings));
      const before = new Set(winnersOf(all.filter((one) => !readings.includes(one))).map(({ site, id }) => `${site} ${id}`));
      const winners = winnersOf(readings).filter(({ site, id }) => !before.has(`${site} ${id}`));
      await lake.merge(winners, coverageOfReadings(readings));
    },
    /** One sweep of a table, as the Workflow runs it. */
    async sweep(name: string, options: { withoutTidying?: boolean } = {}): Promise<{ plan: SweepPlan; rows: number; purgedRows: number; tidied: TidiedTable | null }> {
      const table = aged(name);
      sweeps += 1;
      const sweepId = `sweep-${String(sweeps).padStart(5, '0')}`;
      await settleLeftovers(deps, table, sweepId);
      const plan = await planSweep(deps, table, sweepId);
      let rows = 0;
      for (const [batch] of plan.batches.entries()) {
        const { manifestId } = await archiveBatch(deps, table, plan, batch);
        const swept = manifestId === null ? null : await removeBatch(deps, table, manifestId);
        if (swept?.outcome === 'archived') rows += swept.rows;
      }
      const purged = await purgeArchive(deps, table, plan);
      return { plan, rows, purgedRows: purged.rows, tidied: options.withoutTidying ? null : await tidyTable(tidyDeps, name) };
    },
    auditWithArchive: (): Promise<AuditReport> => lake.audit({ archive }),
  };
};
export type AgingLake = Awaited<ReturnType<typeof createAgingLake>>;
export { datasetOf, hourMicros, pipeline };
