import { lastAuditOf } from '../audit/last-audit.ts';
import { auditPromises } from '../contracts/audit.ts';
import type { AuditPromise } from '../contracts/audit.ts';
import { auditFindingsTable, ingestGapsTable } from '../datasets/engine-tables.ts';
import { pipelineTables } from '../datasets/pipeline.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { loadDlqRate } from '../dlq/rates.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog, LiveFile, TableVersion } from '../lake/table.ts';
import type { Metrics } from './metrics.ts';

export interface LakeMetricsOptions {
  catalog: Catalog;
  store: Pick<ObjectStore, 'keyOf' | 'list'>;
  pipeline: Pipeline;
  metrics: Metrics;
  /** Where retention keeps copies of a table's data files. */
  archive?: { store: Pick<ObjectStore, 'list'>; prefixOf(table: string): string };
  signal: AbortSignal;
  nowMs?: () => number;
}

/** Looks between two listings of the metadata folders: they hold an object or more for each commit of a day. */
const looksPerListing = 10;

interface SeenTable { metadataLocation: string; partitions: Set<string> }

/**
 * The gauges of the tables. Reads manifests alone, of tables that have changed since the last look, so that a look costs
 * little beside a stream; returns one look, to be repeated.
 */
export const createLakeMetrics = ({ catalog, store, pipeline, metrics, archive, signal, nowMs = Date.now }: LakeMetricsOptions): (() => Promise<void>) => {
  const seen = new Map<string, SeenTable>();
  let looks = 0;

  const countMetadata = async (table: string): Promise<void> => {
    const data = store.keyOf(catalog.dataLocation(table, ''));
    let objects = 0;
    for await (const _ of store.list(`${data.slice(0, data.lastIndexOf('data/'))}metadata/`)) {
      objects += 1;
      if (signal.aborted) return;
    }
    metrics.set('metadata_file_count', { table }, objects);
  };

  const countArchive = async (table: string): Promise<void> => {
    if (!archive) return;
    let bytes = 0;
    for await (const { size } of archive.store.list(archive.prefixOf(table))) {
      bytes += size;
      if (signal.aborted) return;
    }
    metrics.set('stored_bytes', { table, tier: 'archive' }, bytes);
  };

  const lookAt = async (table: string): Promise<void> => {
    const version = await catalog.load(table);
    const before = seen.get(table);
    if (before?.metadataLocation === version.metadataLocation) return;
    const files = await version.scan();
    const bytes = bytesByPartition(files);
    const sizes = [...bytes.values()].sort((a, b) => a - b);
    metrics.set('data_file_count', { table }, files.length);
    metrics.set('table_rows', { table }, files.reduce((sum, { recordCount }) => sum + recordCount, 0));
    metrics.set('stored_bytes', { table, tier: 'hot' }, sizes.reduce((sum, size) => sum + size, 0));
    metrics.set('table_partitions', { table }, sizes.length);
    metrics.set('partition_size_bytes', { table, stat: 'median' }, sizes[Math.floor(sizes.length / 2)] ?? 0);
    metrics.set('partition_size_bytes', { table, stat: 'max' }, sizes.at(-1) ?? 0);
    // What was there at the first look was not created now.
    const created = before === undefined ? 0 : [...bytes.keys()].filter((key) => !before.partitions.has(key)).length;
    metrics.add('partitions_created_total', { table }, created);
    if (table === ingestGapsTable.name) setLastGaps(files, metrics);
    if (table === pipeline.dlqTable) setDlqRows(files, metrics);
    if (table === auditFindingsTable.name) setLastAudit(version, metrics);
    seen.set(table, { metadataLocation: version.metadataLocation, partitions: new Set(bytes.keys()) });
  };

  return async () => {
    const listing = looks % looksPerListing === 0;
    looks += 1;
    for (const { name } of pipelineTables(pipeline)) {
      if (signal.aborted) return;
      await lookAt(name);
      if (listing) await Promise.all([countMetadata(name), countArchive(name)]);
    }
    // Of the last hour: it changes also while no table does.
    for (const dataset of pipeline.datasets) {
      metrics.set('dlq_rate_percent', { source: dataset.source }, (await loadDlqRate({ catalog, pipeline }, dataset, nowMs())).percent ?? 0);
    }
    metrics.set('lake_figures_timestamp_seconds', {}, nowMs() / 1_000);
  };
};

const bytesByPartition = (files: readonly LiveFile[]): Map<string, number> => {
  const bytes = new Map<string, number>();
  for (const { partition, fileSizeBytes } of files) {
    const key = Object.entries(partition).map(([column, value]) => `${column}=${String(value)}`).join('/');
    bytes.set(key, (bytes.get(key) ?? 0) + fileSizeBytes);
  }
  return bytes;
};

const setDlqRows = (files: readonly LiveFile[], metrics: Metrics): void => {
  const rows = new Map<string, { source: string; errorType: string; count: number }>();
  for (const { partition, recordCount } of files) {
    const source = String(partition['bronze_source']);
    const errorType = String(partition['error_type']);
    const group = rows.get(`${source}/${errorType}`) ?? { source, errorType, count: 0 };
    rows.set(`${source}/${errorType}`, { ...group, count: group.count + recordCount });
  }
  // Rows that retention has purged leave no group of their own behind.
  metrics.remove('dlq_rows');
  for (const { source, errorType, count } of rows.values()) metrics.set('dlq_rows', { source, error_type: errorType }, count);
};

/** Whoever audited: this Temporal Worker, another one, or a command. Every promise has its series, so that one that holds again goes back to 0. */
const setLastAudit = ({ properties }: TableVersion, metrics: Metrics): void => {
  const last = lastAuditOf(properties);
  if (last === null) return;
  for (const promise of Object.keys(auditPromises) as AuditPromise[]) metrics.set('audit_findings', { promise }, last.findingsByPromise[promise] ?? 0);
  metrics.set('audit_last_timestamp_seconds', {}, last.endedAtMs / 1_000);
  metrics.set('audit_duration_seconds', {}, last.durationMs / 1_000);
};

/** A streaming worker that was started again no longer knows of its gaps; the table does. */
const setLastGaps = (files: readonly LiveFile[], metrics: Metrics): void => {
  const detectedAt = ingestGapsTable.fields.find(({ name }) => name === 'detected_at')!;
  const last = new Map<string, number>();
  for (const { partition, upperBounds } of files) {
    const bound = upperBounds[detectedAt.id];
    if (bound === undefined) continue;
    const source = String(partition['bronze_source']);
    const micros = Number(decodeSingleValue('timestamptz', Buffer.from(bound, 'base64')));
    last.set(source, Math.max(last.get(source) ?? 0, micros / 1e6));
  }
  for (const [source, seconds] of last) metrics.set('ingest_gap_last_timestamp_seconds', { source }, seconds);
};
