/**
 * A day of micro-batches in one Bronze, one Silver and one Gold table, a commit every 5 s with one small file each: what the day leaves of
 * files, manifests and metadata, and what planning a scan of the day costs; then compacted, then swept a day later. Object store in
 * memory, clock simulated, requests counted: `node bench/lake-day.ts [--json] [--commits N] [--rows N] [--compact-every N]`.
 * With --compact-every the tables are compacted after every N commits too, as the Schedule does it, each hour by default.
 */
import { parseArgs } from 'node:util';
import { compactGroup } from '../src/compaction/compact.ts';
import { planCompaction } from '../src/compaction/plan.ts';
import { compactedTableOf, policyOf } from '../src/compaction/tables.ts';
import type { CompactedTable, CompactionPolicies } from '../src/compaction/tables.ts';
import { bronzeFileSuffix } from '../src/contracts/bronze.ts';
import marketData from '../src/datasets/market-data.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../src/domain/offsets.ts';
import type { ColumnValues, ConstantColumn } from '../src/lake/columns.ts';
import { createObjectStoreCatalog } from '../src/lake/object-store-catalog.ts';
import { encodeDataFile } from '../src/lake/parquet-writer.ts';
import type { Field, PartitionTuple, TableDefinition } from '../src/lake/schema.ts';
import { tidyTable } from '../src/retention/orphans.ts';
import { footerKeys } from '../src/streaming/bronze-file.ts';
import { createMemoryObjectStore } from '../test/support/memory-object-store.ts';
import type { MemoryObjectStore } from '../test/support/memory-object-store.ts';

const { values: args } = parseArgs({ options: {
  'json': { type: 'boolean', default: false }, 'commits': { type: 'string', default: '17280' }, 'rows': { type: 'string', default: '20' },
  'compact-every': { type: 'string', default: '720' },
} });
const commits = Number(args.commits);
const rowsInBatch = Number(args.rows);
const compactEvery = Number(args['compact-every']);

const MiB = 1 << 20;
const dayMs = 86_400_000;
const startMs = Date.UTC(2026, 0, 5);
const intervalMs = dayMs / 17_280;
const policies: CompactionPolicies = { bronzeBytes: 128 * MiB, silverBytes: 64 * MiB, goldBytes: 256 * MiB, filesMin: 8, quietMs: 30 * 60_000 };
const dataset = datasetOf(marketData, 'binance-trades');
const { topic } = dataset;
const key = topicPartitionKey(topic, 0);

/** Values that are like a trade's in length, if not in meaning; times are the batch's. */
const columnOf = ({ name, type, required }: Field, firstOffset: number, atMs: number): ColumnValues | ConstantColumn => {
  const micros = (row: number): bigint => BigInt(Math.floor((atMs + (row * intervalMs) / rowsInBatch) * 1_000));
  const rows = Array.from({ length: rowsInBatch }, (_, row) => row);
  if (name === 'topic' || name === 'kafka_topic') return { constant: topic };
  if (name === 'offset' || name === 'kafka_offset') return BigInt64Array.from(rows, (row) => BigInt(firstOffset + row));
  if (name === 'timestamp' || name === 'kafka_timestamp') return BigInt64Array.from(rows, micros);
  if (name === 'exchange') return { constant: 'BINANCE' };
  if (type === 'timestamptz') return { constant: BigInt(atMs) * 1_000n };
  if (typeof type !== 'string') return { constant: [] };
  if (!required && name !== 'raw_bytes') return { constant: null };
  if (type === 'int' || type === 'date') return { constant: type === 'date' ? Math.floor(atMs / dayMs) : 0 };
  if (type === 'binary') return rows.map((row) => Buffer.from(`trade ${firstOffset + row} ${'0123456789'.repeat(9)}`));
  if (type === 'string') return rows.map((row) => `${name.slice(0, 8)}-${(firstOffset + row) * 2_654_435_761 % 4_294_967_296}`);
  return BigInt64Array.from(rows, (row) => BigInt(firstOffset + row) * 1_000n);
};

interface Figures {
  table: string;
  when: string;
  dataFiles: number;
  /** Of the current snapshot. */
  manifests: number;
  snapshots: number;
  /** What a reader of the current snapshot fetches before it knows its files: metadata, manifest list, manifests. */
  planKB: number;
  planRequests: number;
  planMs: number;
  metadataObjects: number;
  metadataMB: number;
  dataMB: number;
}

const isMetadata = (name: string): boolean => name.includes('/metadata/');

const measure = async (store: MemoryObjectStore, table: TableDefinition, when: string): Promise<Figures> => {
  // A reader that has nothing cached plans the scan of one day by its time column.
  const catalog = createObjectStoreCatalog({ store, namespace: marketData.namespace, expireMetadataEvery: 0 });
  const column = table.name === dataset.bronze.name ? 'ingestion_timestamp' : dataset.eventTime;
  const read: string[] = [];
  store.onGet = (name) => { read.push(name); };
  const started = performance.now();
  const version = await catalog.load(table.name);
  const files = await version.scan({ bounds: [{ column, min: BigInt(startMs) * 1_000n, max: BigInt(startMs + dayMs - 1) * 1_000n }] });
  const planMs = performance.now() - started;
  store.onGet = undefined;
  const sizeOf = (name: string): number => store.objects.get(name)?.body.length ?? 0;
  const stored = [...store.objects.keys()];
  const bytes = (names: readonly string[]): number => names.reduce((sum, name) => sum + sizeOf(name), 0);
  return {
    table: table.name, when, dataFiles: files.length, manifests: read.filter((name) => name.endsWith('-m.avro')).length, snapshots: version.snapshots.length,
    planKB: Math.round(bytes(read) / 1_024), planRequests: read.length, planMs: Math.round(planMs),
    metadataObjects: stored.filter(isMetadata).length, metadataMB: Number((bytes(stored.filter(isMetadata)) / MiB).toFixed(1)), dataMB: Number((bytes(stored.filter((name) => name.includes('/data/'))) / MiB).toFixed(1)),
  };
};

const simulate = async (definition: TableDefinition, figures: Figures[]): Promise<{ commitMs: number; compactMs: number; rewrittenFiles: number }> => {
  let nowMs = startMs;
  const store = createMemoryObjectStore('lake', () => nowMs);
  const catalog = createObjectStoreCatalog({ store, namespace: marketData.namespace, now: () => nowMs });
  const table: CompactedTable = compactedTableOf(marketData, definition.name);
  const policy = policyOf(table, policies);
  const spent = { commitMs: 0, compactMs: 0, rewrittenFiles: 0 };
  const compact = async (): Promise<void> => {
    const started = performance.now();
    for (let rounds = 0; rounds < 100; rounds += 1) {
      const [due] = (await planCompaction(await catalog.load(definition.name), table, policy, nowMs)).groups;
      if (!due) break;
      spent.rewrittenFiles += (await compactGroup({ store, catalog, table, policy, now: () => nowMs }, due)).filesIn;
    }
    spent.compactMs += performance.now() - started;
  };
  await catalog.ensureTable(definition);
  for (let commit = 0; commit < commits; commit += 1) {
    nowMs = startMs + commit * intervalMs;
    const first = commit * rowsInBatch;
    const isBronze = definition.name === dataset.bronze.name;
    const columns = Object.fromEntries(definition.fields.map((field) => [field.name, columnOf(field, first, nowMs)]));
    const range = { start: BigInt(first), end: BigInt(first + rowsInBatch) };
    const { bytes, metrics } = encodeDataFile({
      fields: definition.fields, batch: { rowCount: rowsInBatch, columns },
      ...(isBronze ? { keyValueMetadata: { [footerKeys.topicPartition]: key, [footerKeys.range]: `${range.start}-${range.end}` } } : {}),
    });
    const suffix = isBronze ? bronzeFileSuffix({ topic, partition: 0, ...range, epoch: 1 }) : `${definition.name}-${commit}.parquet`;
    const filePath = catalog.dataLocation(definition.name, suffix);
    const hour = Math.floor(nowMs / 3_600_000);
    const partition: PartitionTuple = isBronze ? { ingestion_timestamp: Math.floor(hour / 24) } : definition.name === dataset.gold.name ? { exchange: 'BINANCE', timestamp: hour } : { timestamp: hour };
    const started = performance.now();
    await store.put(store.keyOf(filePath), bytes);
    const covered = Coverage.of([[key, IntervalSet.of(range)]]);
    await catalog.commit(definition.name, { commitId: `batch-${commit}`, add: [{ filePath, partition, ...metrics }], cover: covered, coverageAbsent: covered });
    spent.commitMs += performance.now() - started;
    if (compactEvery > 0 && commit % compactEvery === compactEvery - 1) await compact();
    if (commit % 1_000 === 0) process.stderr.write(`${definition.name}: ${commit} of ${commits} commits\r`);
  }
  await catalog.settled();
  figures.push(await measure(store, definition, compactEvery > 0 ? 'after the day, compacted as it went' : 'after the day'));
  nowMs += policies.quietMs + 3_600_000;
  await compact();
  figures.push(await measure(store, definition, 'compacted once all hours are closed'));
  // A grace period later nothing is current that was not, and a sweep takes the rest.
  nowMs += 2 * dayMs;
  const limits = { snapshotAgeMs: dayMs, snapshotsKept: 20, orphanGraceMs: dayMs };
  await catalog.ensureTable({ ...definition });
  for (const name of ['ingest_gaps']) if (definition.name === dataset.bronze.name) await catalog.ensureTable({ name, fields: [{ id: 1, name: 'x', type: 'string', required: true }], partitionBy: [] });
  await tidyTable({ catalog, store, archive: { list: () => Promise.resolve([]) }, pipeline: marketData, limits, oldestWriterMs: () => Promise.resolve(null), isRunning: () => Promise.resolve(false), now: () => nowMs }, definition.name);
  figures.push(await measure(store, definition, 'swept two days later'));
  return spent;
};

const figures: Figures[] = [];
const spent: Record<string, { commitMs: number; compactMs: number; rewrittenFiles: number }> = {};
for (const definition of [dataset.bronze, dataset.silver, dataset.gold]) spent[definition.name] = await simulate(definition, figures);
const peakMB = Math.round(process.resourceUsage().maxRSS / 1_024);
if (args.json) {
  console.log(JSON.stringify({ commits, rowsInBatch, compactEvery, figures, spent, peakMB }));
} else {
  for (const figure of figures) {
    console.log(`${figure.table.padEnd(22)} ${figure.when.padEnd(36)} ${String(figure.dataFiles).padStart(6)} files ${String(figure.manifests).padStart(4)} manifests ${String(figure.snapshots).padStart(4)} snapshots · `
      + `plan ${figure.planRequests} requests, ${figure.planKB} KB, ${figure.planMs} ms · stored ${figure.metadataObjects} metadata objects, ${figure.metadataMB} MB; data ${figure.dataMB} MB`);
  }
  for (const [table, { commitMs, compactMs, rewrittenFiles }] of Object.entries(spent)) {
    console.log(`${table.padEnd(22)} ${(commitMs / commits).toFixed(2)} ms a commit; compactions ${(compactMs / 1_000).toFixed(1)} s, ${rewrittenFiles} files read`);
  }
  console.log(`peak memory with the store in it ${peakMB} MB`);
}
