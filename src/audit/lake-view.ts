import type { Pipeline } from '../datasets/pipeline.ts';
import { dlqResolutionsTable, ingestGapsTable } from '../datasets/engine-tables.ts';
import { isTidemarkError } from '../domain/errors.ts';
import { Coverage } from '../domain/offsets.ts';
import type { Catalog, LiveFile, ScanOptions, TableVersion } from '../lake/table.ts';

/** One version of each table, such that what is downstream is never newer than what it comes from. */
export interface LakeView {
  /** Null: there is no such table (yet); it counts as empty. */
  version(table: string): TableVersion | null;
  coverage(table: string): Coverage;
  scan(table: string, options?: ScanOptions): Promise<LiveFile[]>;
}

const loadsMax = 5;

const loadOrNull = async (catalog: Catalog, name: string): Promise<TableVersion | null> => {
  try {
    return await catalog.load(name);
  } catch (error) {
    if (isTidemarkError(error, 'TABLE_NOT_FOUND')) return null;
    throw error;
  }
};

/** Whether rows that were there have changed or gone since `before`: a compaction (`replace`) keeps them all. */
const hasRewritten = (before: TableVersion | null, now: TableVersion | null): boolean => {
  if (!before || !now || before.version === now.version) return false;
  const known = new Set(before.snapshots.map(({ snapshotId }) => snapshotId));
  return now.snapshots.some(({ snapshotId, operation }) => operation !== 'append' && operation !== 'replace' && !known.has(snapshotId));
};

/**
 * Loads the tables downstream first: what Gold holds was in Silver when Gold was loaded, and what Silver holds was in
 * Bronze. That holds for appends; a backfill replaces rows in several tables one after the other, so if a replacement
 * falls between the loads they are done again. A lake that is rewritten without pause is audited as the last load found it.
 */
export const loadLakeView = async (catalog: Catalog, pipeline: Pipeline): Promise<LakeView> => {
  const unique = (names: string[]): string[] => [...new Set(names)];
  const order = unique([
    ...pipeline.datasets.map(({ gold }) => gold.name),
    pipeline.dlqTable,
    dlqResolutionsTable.name,
    ...pipeline.datasets.map(({ silver }) => silver.name),
    ingestGapsTable.name,
    ...pipeline.datasets.map(({ bronze }) => bronze.name),
  ]);
  // Neither is upstream of the other: gaps and Bronze take turns along the log, and a DLQ replay writes resolutions and Silver.
  const sideways = [ingestGapsTable.name, dlqResolutionsTable.name];
  let versions = new Map<string, TableVersion | null>();
  for (let loads = 1; loads <= loadsMax; loads += 1) {
    versions = new Map();
    for (const name of order) versions.set(name, await loadOrNull(catalog, name));
    const again = await Promise.all(order.map(async (name) => {
      const before = versions.get(name) ?? null;
      const now = await loadOrNull(catalog, name);
      return sideways.includes(name) ? before?.version !== now?.version : hasRewritten(before, now);
    }));
    if (!again.includes(true)) break;
  }
  return {
    version: (table) => versions.get(table) ?? null,
    coverage: (table) => versions.get(table)?.coverage ?? Coverage.empty,
    scan: async (table, options) => (await versions.get(table)?.scan(options)) ?? [],
  };
};
