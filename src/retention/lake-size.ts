import type { Pipeline } from '../datasets/pipeline.ts';
import { pipelineTables } from '../datasets/pipeline.ts';
import { isTidemarkError } from '../domain/errors.ts';
import type { Day, RetentionTier } from '../domain/retention.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { TableDefinition } from '../lake/schema.ts';
import type { Catalog, LiveFile } from '../lake/table.ts';
import type { Archive } from './archive.ts';
import { dayText } from './plan-sweep.ts';

/** Files of one table, tier and day. Purged ones are gone: only their rows and what they took are told. */
export interface StoredSize {
  table: string;
  tier: RetentionTier;
  /** UTC day of the table's partitions, `2026-11-20`: of ingestion in Bronze, of the event in Silver and Gold. Null where they have none. */
  day: string | null;
  files: number;
  rows: number;
  bytes: number;
}

/** The day that a partition lies in; null if the table is partitioned by no time. */
export const dayOfPartition = ({ partitionBy, fields }: TableDefinition, partition: DataFile['partition']): Day | null => {
  for (const { sourceId, transform } of partitionBy) {
    const field = fields.find(({ id }) => id === sourceId);
    const value = field && partition[field.name];
    if (typeof value !== 'number') continue;
    if (transform === 'day' || (transform === 'identity' && field?.type === 'date')) return value;
    if (transform === 'hour') return Math.floor(value / 24);
  }
  return null;
};

const liveFiles = async (catalog: Pick<Catalog, 'load'>, table: string): Promise<LiveFile[]> => {
  try {
    return await (await catalog.load(table)).scan();
  } catch (error) {
    if (isTidemarkError(error, 'TABLE_NOT_FOUND')) return [];
    throw error;
  }
};

/** Bytes, files and rows by table, tier and day, from the tables' manifests and the archive's: no data file is read. */
export const measureLake = async ({ catalog, archive, pipeline }: { catalog: Pick<Catalog, 'load'>; archive: Pick<Archive, 'list'>; pipeline: Pipeline }): Promise<StoredSize[]> => {
  const sizes = new Map<string, StoredSize>();
  const add = (table: string, tier: RetentionTier, day: Day | null, files: number, rows: number, bytes: number): void => {
    const key = `${table} ${tier} ${day ?? ''}`;
    let size = sizes.get(key);
    if (!size) sizes.set(key, size = { table, tier, day: day === null ? null : dayText(day), files: 0, rows: 0, bytes: 0 });
    size.files += files;
    size.rows += rows;
    size.bytes += bytes;
  };
  for (const definition of pipelineTables(pipeline)) {
    const { name } = definition;
    for (const { partition, recordCount, fileSizeBytes } of await liveFiles(catalog, name)) add(name, 'hot', dayOfPartition(definition, partition), 1, recordCount, fileSizeBytes);
    for (const { manifest } of await archive.list(name)) {
      if (manifest.state === 'purged') add(name, 'purged', manifest.lastDay, 0, manifest.rows, 0);
      // Copies that the table's rows are still beside take room as well.
      else for (const { dataFile } of manifest.files) add(name, 'archived', dayOfPartition(definition, dataFile.partition), 1, dataFile.recordCount, dataFile.fileSizeBytes);
    }
  }
  const order: RetentionTier[] = ['hot', 'archived', 'purged'];
  const tables = pipelineTables(pipeline).map(({ name }) => name);
  return [...sizes.values()].sort((a, b) => tables.indexOf(a.table) - tables.indexOf(b.table) || order.indexOf(a.tier) - order.indexOf(b.tier) || ((a.day ?? '') < (b.day ?? '') ? -1 : 1));
};

/** The same without the days. */
export const sizeByTier = (sizes: readonly StoredSize[]): Omit<StoredSize, 'day'>[] => {
  const sums = new Map<string, Omit<StoredSize, 'day'>>();
  for (const { table, tier, files, rows, bytes } of sizes) {
    const key = `${table} ${tier}`;
    const sum = sums.get(key) ?? { table, tier, files: 0, rows: 0, bytes: 0 };
    sums.set(key, { table, tier, files: sum.files + files, rows: sum.rows + rows, bytes: sum.bytes + bytes });
  }
  return [...sums.values()];
};
