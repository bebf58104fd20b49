import type { HoldReason } from '../contracts/retention.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { loadLastResolutions, stateOf } from '../dlq/resolutions.ts';
import { readRows } from '../dlq/read-rows.ts';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { Coverage } from '../domain/offsets.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog, TableVersion } from '../lake/table.ts';
import type { StoredManifest } from './archive.ts';
import { claimsOf } from '../reprocess/claims.ts';
import type { RetainedTable } from './policies.ts';
import { OffsetCollector } from './row-offsets.ts';

/** Tags of these Workflows pin what they work on. */
const reprocessTags = ['backfill/', 'dlq-replay/'];
const isReprocessTag = (tag: string): boolean => reprocessTags.some((prefix) => tag.startsWith(prefix));
/** Offsets and names in a message. */
const offsetsShown = 5;

/** What must stay in a table although it is due. */
export interface Holds {
  /** Tags of running backfills and DLQ replays of the table's sources: they hold all of it. */
  tags: string[];
  /** Offsets that one of the tables downstream has not got yet. */
  unrefined: Coverage;
  /** Offsets of open DLQ rows. */
  openDlq: Coverage;
  /** Offsets that were restored for a while. */
  restored: Coverage;
}

export interface HoldDeps {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  signal?: AbortSignal;
}

const loadOrNull = async (catalog: Catalog, name: string): Promise<TableVersion | null> => {
  try {
    return await catalog.load(name);
  } catch (error) {
    if (isTidemarkError(error, 'TABLE_NOT_FOUND')) return null;
    throw error;
  }
};

const coverageOf = (version: TableVersion | null): Coverage => version?.coverage ?? Coverage.empty;

/** When each closed DLQ row of a source was resolved, µs. Quarantined rows wait for a person, and count as open here. */
export interface DlqState {
  open: Coverage;
  /** Undefined: the row is open. */
  closedAt(topic: string, partition: number, offset: number): bigint | undefined;
}

/** Reads the resolutions of one source; with `withOpen` the lineage of its DLQ rows too. */
export const loadDlqState = async ({ catalog, store, pipeline, signal }: HoldDeps, source: string, withOpen: boolean): Promise<DlqState> => {
  const dlq = await loadOrNull(catalog, pipeline.dlqTable);
  const last = await loadLastResolutions({ store, catalog, ...(signal ? { signal } : {}) }, source);
  const closedAt = (topic: string, partition: number, offset: number): bigint | undefined => {
    const row = last.get(topic, partition, offset);
    const state = stateOf(row);
    return row === undefined || state === 'open' || state === 'quarantined' ? undefined : row.resolvedAt;
  };
  const open = new OffsetCollector();
  if (withOpen && dlq) {
    const files = await dlq.scan({ partition: { bronze_source: source } });
    for await (const { batch: { rowCount, columns } } of readRows(store, files, ['kafka_topic', 'kafka_partition', 'kafka_offset'], signal)) {
      for (let i = 0; i < rowCount; i += 1) {
        const [topic, partition, offset] = [columns['kafka_topic']![i] as string, columns['kafka_partition']![i] as number, columns['kafka_offset']![i] as bigint];
        if (closedAt(topic, partition, Number(offset)) === undefined) open.add(topic, partition, offset);
      }
    }
  }
  return { open: open.coverage(), closedAt };
};

/** Running backfills and DLQ replays that may need rows of these sources. */
export const reprocessTagsOf = async ({ catalog, pipeline }: Pick<HoldDeps, 'catalog' | 'pipeline'>, sources: readonly string[]): Promise<string[]> => {
  const names = new Set([pipeline.dlqTable]);
  for (const { source, bronze, silver, gold } of pipeline.datasets) {
    if (sources.includes(source)) for (const { name } of [bronze, silver, gold]) names.add(name);
  }
  const versions = await Promise.all([...names].map((name) => loadOrNull(catalog, name)));
  const tags = versions.flatMap((version) => Object.keys(version?.tags ?? {}));
  return [...new Set(tags)].filter(isReprocessTag).sort();
};

/** Asked in the very commit that takes rows out: a backfill or a DLQ replay may have begun since the holds were looked at. Bronze has its tag, Silver and the DLQ its claim. */
export const refuseReprocessed = (base: TableVersion): void => {
  const names = [...Object.keys(base.tags).filter(isReprocessTag), ...claimsOf(base).map(({ reprocessId }) => reprocessId)];
  if (names.length > 0) throw new TidemarkError('COMMIT_CONFLICT', `${base.name}: expected no running backfill or DLQ replay to need its rows, found ${names.slice(0, offsetsShown).join(', ')}`);
};

export const loadHolds = async (deps: HoldDeps, table: RetainedTable, manifests: readonly StoredManifest[], nowMs: number): Promise<Holds> => {
  const { catalog, pipeline } = deps;
  const datasets = pipeline.datasets.filter(({ source }) => table.sources.includes(source));
  let unrefined = Coverage.empty;
  let openDlq = Coverage.empty;
  if (table.role !== 'dlq') {
    for (const { source, bronze, silver, gold } of datasets) {
      const [inBronze, inSilver, inDlq, inGold] = (await Promise.all([bronze.name, silver.name, pipeline.dlqTable, gold.name].map((name) => loadOrNull(catalog, name)))).map(coverageOf);
      unrefined = unrefined.union(inBronze!.union(inSilver!).subtract(inSilver!.intersect(inDlq!).intersect(inGold!)));
      // Silver's rows are not refined again: only Bronze holds what an open DLQ row was.
      if (table.role === 'bronze') openDlq = openDlq.union((await loadDlqState(deps, source, true)).open);
    }
  }
  const restored = manifests.filter(({ manifest: { state, restoredUntilMs } }) => state === 'restoring' || (state === 'restored' && (restoredUntilMs ?? 0) > nowMs));
  return {
    tags: await reprocessTagsOf(deps, table.sources),
    unrefined,
    openDlq,
    restored: Coverage.of(restored.flatMap(({ manifest }) => Coverage.fromJson(manifest.offsets).entries())),
  };
};

const describeOffsets = (offsets: Coverage): string => {
  const all = offsets.entries().flatMap(([key, set]) => set.intervals.map(({ start, end }) => `${key} [${start}, ${end})`));
  return all.slice(0, offsetsShown).join(', ') + (all.length > offsetsShown ? `, and ${all.length - offsetsShown} more` : '');
};

/** The first reason to leave a file alone; null: nobody needs it. `meets` says whether the file holds rows of the offsets. */
export const holdOf = async (holds: Holds, meets: (offsets: Coverage) => Promise<boolean>): Promise<{ reason: HoldReason; detail: string } | null> => {
  if (holds.tags.length > 0) return { reason: 'reprocess', detail: holds.tags.slice(0, offsetsShown).join(', ') };
  for (const [reason, offsets] of [['unrefined', holds.unrefined], ['restored', holds.restored], ['open-dlq', holds.openDlq]] as const) {
    if (!offsets.isEmpty && await meets(offsets)) return { reason, detail: describeOffsets(offsets) };
  }
  return null;
};

