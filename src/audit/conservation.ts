import { randomUUID } from 'node:crypto';
import type { AuditReport } from '../contracts/audit.ts';
import { dlqResolutionsTable, ingestGapsTable } from '../datasets/engine-tables.ts';
import type { Dataset } from '../datasets/dataset.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { TidemarkError } from '../domain/errors.ts';
import { Coverage } from '../domain/offsets.ts';
import { topicPartitionKey } from '../domain/offsets.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog } from '../lake/table.ts';
import type { Archive, StoredManifest } from '../retention/archive.ts';
import { takenOffsets } from '../retention/archive.ts';
import type { AuditProgress, AuditRun } from './audit-run.ts';
import { markFile } from './audit-run.ts';
import { hasMd5Etag } from './data-file-check.ts';
import type { Verification } from './data-file-check.ts';
import { FindingCollector } from './findings.ts';
import { GoldAudit } from './gold-audit.ts';
import { loadLakeView } from './lake-view.ts';
import type { LineageColumns } from './lineage.ts';
import { memoryBudgetBytesDefault } from './limits.ts';
import { bronzeLineage, refinedLineage } from './lineage.ts';
import { auditArchive, auditListing } from './listing.ts';
import type { KafkaBounds } from './offsets-audit.ts';
import { loadClaimants, loadRecovering, loadReplacing } from './recovering.ts';
import { OffsetsAudit } from './offsets-audit.ts';

export type { AuditProgress } from './audit-run.ts';
export type { KafkaBounds } from './offsets-audit.ts';

const hourMs = 3_600_000;

/** Tables that retention takes rows from. */
const pipelineTablesOf = (datasets: readonly Dataset[], pipeline: Pipeline): string[] =>
  [...new Set([...pipeline.datasets.filter(({ gold }) => datasets.some((one) => one.gold.name === gold.name)).flatMap(({ bronze, silver }) => [bronze.name, silver.name]), pipeline.dlqTable])];

const loadManifests = async (archive: Pick<Archive, 'list'> | undefined, tables: readonly string[]): Promise<Map<string, StoredManifest[]>> => {
  const manifests = new Map<string, StoredManifest[]>();
  for (const table of archive ? tables : []) manifests.set(table, await archive!.list(table));
  return manifests;
};

export interface AuditOptions {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  /** Default: all of the pipeline. Gold is shared by sources: of those chosen here each Gold table is audited whole. */
  sources?: readonly string[];
  /** Only these offsets. Gold is audited in the hours that they may lie in. */
  range?: Coverage;
  /** Offsets of each topic partition at the broker, by partition; a topic that is not there has none. Without it Kafka is left out. */
  kafka?: (topic: string) => Promise<ReadonlyMap<number, KafkaBounds>>;
  /** Accounts for the rows that retention took. Without it every row must be in its table. */
  archive?: Pick<Archive, 'list' | 'store' | 'filesPrefix'>;
  /** Put before the datasets' topics. */
  topicPrefix?: string;
  /** Bits and keys together; files in work and decoded columns come on top (about 100 MB). */
  memoryBudgetBytes?: number;
  /** `keys`: decode key columns only, and compare no checksum. Default `content`. */
  verification?: Verification;
  /** Most findings that are listed; all are counted. */
  findingsMax?: number;
  /** Files younger than this may wait for their table commit. Default 24 h. */
  unreferencedGraceMs?: number;
  now?: () => number;
  onProgress?: (progress: AuditProgress) => void;
  signal?: AbortSignal;
}

/**
 * Checks the promises on the data itself: every offset from Kafka to Gold, by the rows' own keys and lineage. Neither
 * ledger nor coverage is trusted: coverage only tells what waits from what is lost, and must agree with the rows.
 *
 * Memory: one bit for each offset and table, 35 bytes for each key of one event hour, both within the budget: what does
 * not fit is done in several passes. An audit changes nothing.
 *
 * @throws TidemarkError BAD_INPUT for an unknown source; OBJECT_STORE_UNAVAILABLE, KAFKA_UNAVAILABLE.
 */
export const auditConservation = async (options: AuditOptions): Promise<AuditReport> => {
  const { catalog, store, pipeline, findingsMax = 1_000, now = Date.now } = options;
  const startedAtMs = now();
  const started = performance.now();
  const durationsMs: Record<string, number> = {};
  const timed = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
    const from = performance.now();
    try {
      return await work();
    } finally {
      durationsMs[name] = Math.round((durationsMs[name] ?? 0) + performance.now() - from);
    }
  };
  for (const source of options.sources ?? []) {
    if (!pipeline.datasets.some((dataset) => dataset.source === source)) {
      throw new TidemarkError('BAD_INPUT', `source: expected one of ${pipeline.datasets.map((dataset) => dataset.source).join(', ')}, found ${source}`);
    }
  }
  const datasets = pipeline.datasets.filter(({ source }) => options.sources?.includes(source) ?? true);

  options.onProgress?.({ phase: 'loading', subject: pipeline.namespace, files: 0, rows: 0 });
  const retained = pipelineTablesOf(datasets, pipeline);
  // Before and after the tables: rows that went into the archive, or came back, in between are accounted for by one of them.
  const before = await timed('load', () => loadManifests(options.archive, retained));
  // A replay that ends between two loads is seen by the first look at the claims, one that begins by the second.
  const claimants = await timed('load', () => loadClaimants(catalog, pipeline.datasets));
  const view = await timed('load', () => loadLakeView(catalog, pipeline));
  for (const claimant of await timed('load', () => loadClaimants(catalog, pipeline.datasets))) claimants.add(claimant);
  const recovering = await timed('load', () => loadRecovering({ catalog, store, ...(options.signal ? { signal: options.signal } : {}) }, view, pipeline.datasets, claimants));
  const replacing = await timed('load', () => loadReplacing({ store, now }, view, pipeline.datasets));
  const manifests = await timed('load', () => loadManifests(options.archive, retained));
  const taken = new Map(retained.map((table) => [table, takenOffsets(before.get(table) ?? []).union(takenOffsets(manifests.get(table) ?? []))]));
  const range = options.range;
  const run: AuditRun = {
    catalog, store, pipeline, view, taken: (table) => taken.get(table) ?? Coverage.empty,
    recovering, replacing,
    findings: new FindingCollector(findingsMax, range && ((key) => range.of(key))),
    verification: options.verification ?? 'content',
    memoryBudgetBytes: options.memoryBudgetBytes ?? memoryBudgetBytesDefault,
    range, signal: options.signal, onProgress: options.onProgress,
    tables: new Map(), verified: new Set(), missing: new Set(), md5Differs: [], hasMd5Etags: false, done: { files: 0, rows: 0 },
  };

  const goldTables = new Map<string, Dataset[]>();
  for (const dataset of datasets) goldTables.set(dataset.gold.name, pipeline.datasets.filter(({ gold }) => gold.name === dataset.gold.name));
  const lineages = new Map<string, LineageColumns | undefined>();
  for (const { bronze } of datasets) lineages.set(bronze.name, bronzeLineage);
  for (const { silver, gold } of [...goldTables.values()].flat()) lineages.set(silver.name, refinedLineage).set(gold.name, refinedLineage);
  lineages.set(pipeline.dlqTable, refinedLineage);
  lineages.set(dlqResolutionsTable.name, undefined);
  lineages.set(ingestGapsTable.name, undefined);
  await timed('list', async () => {
    for (const [table, lineage] of lineages) {
      run.onProgress?.({ phase: 'listing', subject: table, ...run.done });
      await auditListing(run, table, lineage, options.unreferencedGraceMs ?? 24 * hourMs, startedAtMs);
      if (options.archive) await auditArchive(run, options.archive, table, manifests.get(table) ?? []);
    }
  });

  const sources: AuditReport['sources'] = [];
  for (const dataset of datasets) {
    const topic = `${options.topicPrefix ?? ''}${dataset.topic}`;
    let kafka: Map<string, KafkaBounds> | undefined;
    if (options.kafka) {
      const bounds = await timed('kafka', () => options.kafka!(topic));
      kafka = new Map([...bounds].map(([partition, found]) => [topicPartitionKey(topic, partition), found]));
    }
    sources.push(await timed('offsets', () => new OffsetsAudit(run, dataset).audit([topic], kafka)));
  }
  const gold: AuditReport['gold'] = [];
  for (const feeding of goldTables.values()) gold.push(await timed('gold', () => new GoldAudit(run, feeding).audit()));

  // An ETag that differs says something only about a store whose ETags are MD5s.
  const witness = datasets.map(({ bronze }) => view.version(bronze.name)).find((version) => version !== null);
  if (run.md5Differs.length > 0 && !run.hasMd5Etags && witness) run.hasMd5Etags = await hasMd5Etag(store, witness.metadataLocation);
  if (run.hasMd5Etags) for (const { table, file } of run.md5Differs) markFile(run, 'files-intact', table, file, 'content changed: it differs from the MD5 that the store noted', lineages.get(table));

  const { listed, total, byPromise } = run.findings.finish();
  return {
    auditId: randomUUID(), ok: total === 0, startedAtMs, durationMs: Math.round(performance.now() - started),
    sources, gold, tables: [...run.tables.values()], findings: listed, findingsTotal: total, findingsByPromise: byPromise, durationsMs,
  };
};
