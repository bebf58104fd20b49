import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { bronzeFileSuffix } from '../../src/contracts/bronze.ts';
import { auditConservation } from '../../src/audit/conservation.ts';
import type { AuditOptions, KafkaBounds } from '../../src/audit/conservation.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import { defineDataset } from '../../src/datasets/dataset.ts';
import type { Dataset } from '../../src/datasets/dataset.ts';
import { dlqResolutionsTable, dlqTable, ingestGapsTable } from '../../src/datasets/engine-tables.ts';
import { pipelineTables } from '../../src/datasets/pipeline.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import type { Interval } from '../../src/domain/offsets.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../../src/domain/offsets.ts';
import { dayOf } from '../../src/lake/iceberg/transforms.ts';
import type { ColumnValues } from '../../src/lake/columns.ts';
import type { DataFile } from '../../src/lake/data-file.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import type { ObjectStoreCatalogOptions } from '../../src/lake/object-store-catalog.ts';
import { bytesSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import type { Field, PartitionTuple, TableDefinition } from '../../src/lake/schema.ts';
import type { ObjectStore } from '../../src/lake/object-store.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';

// A small lake of sensor readings, written by the real encoder and the real catalog, whose rows a model knows.

const fields: Field[] = [
  { id: 1, name: 'site', type: 'string', required: true },
  { id: 2, name: 'reading_id', type: 'string', required: true },
  { id: 3, name: 'at', type: 'timestamptz', required: true },
  { id: 4, name: 'value', type: 'double', required: true },
];

const readings = (source: string): Dataset => defineDataset({
  source, topic: `${source}.raw`, ruleVersion: '1', bronzeTable: `bronze_${source}`, silverTable: `silver_${source}`, goldTable: 'gold_readings',
  rawSchema: { type: 'record', name: 'Reading', namespace: 'test', fields: [] },
  fields, key: ['site', 'reading_id'], eventTime: 'at', goldBucketBy: ['site'], goldColumns: [],
  map: () => ({}), rules: z.any(), reasons: {},
});

export const pipeline: Pipeline = { namespace: 'readings', dlqTable: 'silver_dlq', datasets: [readings('north'), readings('south')] };

export interface Reading {
  source: string;
  partition: number;
  offset: number;
  site: string;
  id: string;
  /** µs. */
  at: number;
  isValid: boolean;
  /** µs; default: the same for all. */
  ingestedAt?: bigint;
}

export interface Cell { [column: string]: bigint | number | string | Uint8Array | null }

const nowMicros = 1_760_000_000_000_000n;
export const hourMicros = 3_600_000_000;

const columnOf = ({ type, required }: Field, values: Cell[string][]): ColumnValues => {
  if (required && (type === 'long' || type === 'timestamptz')) return BigInt64Array.from(values as bigint[]);
  if (required && (type === 'int' || type === 'date')) return Int32Array.from(values as number[]);
  if (type === 'double') return Float64Array.from(values as number[]);
  return values as ColumnValues;
};

/** A test on a shared broker sets the prefix before it imports this module. */
export const topicPrefix = process.env['TIDEMARK_TOPIC_PREFIX'] ?? '';
export const topicOf = (source: string): string => `${topicPrefix}${datasetOf(source).topic}`;
export const datasetOf = (source: string): Dataset => pipeline.datasets.find((dataset) => dataset.source === source)!;

export const coverageOf = (entries: Iterable<{ source: string; partition: number; intervals: readonly Interval[] }>): Coverage =>
  Coverage.of([...entries].map(({ source, partition, intervals }) => [topicPartitionKey(topicOf(source), partition), IntervalSet.of(...intervals)] as const));

/** Offsets of readings as coverage, each alone. */
export const coverageOfReadings = (all: readonly Reading[]): Coverage =>
  coverageOf(all.map(({ source, partition, offset }) => ({ source, partition, intervals: [{ start: BigInt(offset), end: BigInt(offset) + 1n }] })));

export const createSmallLake = async <Store extends ObjectStore = MemoryObjectStore>(store: Store = createMemoryObjectStore('lake') as ObjectStore as Store, catalogOptions: Partial<ObjectStoreCatalogOptions> = {}) => {
  const catalog = createObjectStoreCatalog({ store, namespace: pipeline.namespace, ...catalogOptions });
  for (const table of pipelineTables(pipeline)) await catalog.ensureTable(table);

  const writeFile = async (table: TableDefinition, rows: readonly Cell[], partition: PartitionTuple, options: { suffix?: string; footer?: Record<string, string>; metadata?: Record<string, string> } = {}): Promise<DataFile> => {
    const columns = Object.fromEntries(table.fields.map((field) => [field.name, columnOf(field, rows.map((row) => row[field.name] ?? null))]));
    const { bytes, metrics } = encodeDataFile({ fields: table.fields, batch: { rowCount: rows.length, columns }, rowGroupRows: 50, ...(options.footer ? { keyValueMetadata: options.footer } : {}) });
    const filePath = catalog.dataLocation(table.name, options.suffix ?? `${randomUUID()}.parquet`);
    await store.put(store.keyOf(filePath), bytes, { condition: 'absent', ...(options.metadata ? { metadata: options.metadata } : {}) });
    return { ...metrics, filePath, partition };
  };
  const append = async (table: string, add: DataFile[], cover?: Coverage): Promise<void> => {
    await catalog.commit(table, { commitId: randomUUID(), add, ...(cover ? { cover } : {}) });
  };
  const replace = async (table: string, remove: string[], add: DataFile[]): Promise<void> => {
    await catalog.commit(table, { commitId: randomUUID(), add, remove });
  };

  const bronzeRow = ({ source, partition, offset, ingestedAt = nowMicros }: Reading): Cell => ({
    raw_bytes: Buffer.from(`reading ${offset} of ${source} ${'x'.repeat(100)}`), topic: topicOf(source), partition, offset: BigInt(offset), key: null, headers: null,
    kafka_timestamp: ingestedAt, ingestion_timestamp: ingestedAt, ingestion_date: dayOf(ingestedAt),
  });
  const lineage = ({ source, partition, offset, ingestedAt = nowMicros }: Reading): Cell => ({
    validation_timestamp: ingestedAt, bronze_ingestion_timestamp: ingestedAt, schema_id: 1, kafka_topic: topicOf(source), kafka_partition: partition, kafka_offset: BigInt(offset), rule_version: '1',
  });
  const silverRow = (reading: Reading): Cell => ({ site: reading.site, reading_id: reading.id, at: BigInt(reading.at), value: reading.offset, ...lineage(reading) });
  const goldRow = (reading: Reading): Cell => ({ ...silverRow(reading), gold_ingestion_timestamp: nowMicros });
  const dlqRow = ({ source, partition, offset }: Reading): Cell => ({
    raw_record: Buffer.from('x'), error_reason: 'bad', error_type: 'bad_value', error_timestamp: nowMicros, bronze_source: source, kafka_topic: topicOf(source), kafka_partition: partition,
    kafka_offset: BigInt(offset), kafka_timestamp: nowMicros, schema_id: null, dlq_date: 20_370, rule_version: '1', error_detail: null,
  });
  const groupBy = <T>(all: readonly T[], key: (value: T) => string): T[][] => [...Map.groupBy(all, key).values()];
  const hourOf = ({ at }: Reading): number => Math.floor(at / hourMicros);

  return {
    store, catalog, writeFile, append, replace,
    rows: { bronzeRow, silverRow, goldRow, dlqRow },
    /** One Bronze file of [start, end); the readings are of one topic partition. */
    async ingest(source: string, partition: number, start: number, end: number, all: readonly Reading[], options: { metadata?: Record<string, string> } = {}): Promise<DataFile> {
      const { bronze } = datasetOf(source);
      const file = await writeFile(bronze, all.map(bronzeRow), { ingestion_timestamp: dayOf(all[0]?.ingestedAt ?? nowMicros) }, {
        suffix: bronzeFileSuffix({ topic: topicOf(source), partition, start: BigInt(start), end: BigInt(end), epoch: 1 }),
        footer: { 'tidemark.topic-partition': topicPartitionKey(topicOf(source), partition), 'tidemark.range': `${start}-${end}` },
        ...options,
      });
      await append(bronze.name, [file], coverageOf([{ source, partition, intervals: [{ start: BigInt(start), end: BigInt(end) }] }]));
      return file;
    },
    /** Publishes readings of one source to Silver and the DLQ. */
    async refine(source: string, all: readonly Reading[], cover: Coverage): Promise<void> {
      const { silver } = datasetOf(source);
      const valid = all.filter(({ isValid }) => isValid);
      const files = await Promise.all(groupBy(valid, (reading) => `${hourOf(reading)} ${reading.site}`).map((rows) => writeFile(silver, rows.map(silverRow), { at: hourOf(rows[0]!) })));
      await append(silver.name, files, cover);
      const rejected = all.filter(({ isValid }) => !isValid);
      const rejectedFiles = rejected.length === 0 ? [] : [await writeFile(dlqTable(pipeline.dlqTable), rejected.map(dlqRow), { dlq_date: 20_370, bronze_source: source, error_type: 'bad_value' })];
      await append(pipeline.dlqTable, rejectedFiles, cover);
    },
    /** Writes Gold rows as they are given: the caller knows who wins. */
    async merge(winners: readonly Reading[], cover: Coverage): Promise<void> {
      const { gold } = pipeline.datasets[0]!;
      const files = await Promise.all(groupBy(winners, (reading) => `${hourOf(reading)} ${reading.site}`).map((rows) => writeFile(gold, rows.map(goldRow), { site: rows[0]!.site, at: hourOf(rows[0]!) })));
      await append(gold.name, files, cover);
    },
    async recordGap(source: string, partition: number, start: number, end: number): Promise<void> {
      const file = await writeFile(ingestGapsTable, [{
        bronze_source: source, topic: topicOf(source), partition, start_offset: BigInt(start), end_offset: BigInt(end), detected_at: nowMicros, cause: 'retention',
      }], { bronze_source: source });
      await append(ingestGapsTable.name, [file], coverageOf([{ source, partition, intervals: [{ start: BigInt(start), end: BigInt(end) }] }]));
    },
    async resolve(source: string, resolutions: readonly { reading: Reading; action: string; attempt?: number; at?: bigint }[]): Promise<void> {
      const file = await writeFile(dlqResolutionsTable, resolutions.map(({ reading, action, attempt = 1, at = nowMicros }) => ({
        topic: topicOf(source), partition: reading.partition, offset: BigInt(reading.offset), action, replacement_bytes: null, schema_id: null, replay_id: 'r', reason: null, actor: 'test',
        attempt, resolved_at: at, bronze_source: source,
      })), { bronze_source: source });
      await append(dlqResolutionsTable.name, [file]);
    },
    /** Replaces a data file by one with some of its rows, as a faulty rewrite would: nothing else changes. */
    async rewrite(table: TableDefinition, filePath: string, keep: (row: Cell, index: number) => boolean): Promise<void> {
      const { body } = await store.get(store.keyOf(filePath));
      const parquet = await openParquet(bytesSource(body));
      const { rowCount, columns } = await readColumns(parquet, { columns: table.fields.map(({ name }) => name) });
      const rows = Array.from({ length: rowCount }, (_, i) => Object.fromEntries(table.fields.map(({ name }) => [name, columns[name]![i] as Cell[string]]))).filter(keep);
      const file = (await (await catalog.load(table.name)).scan()).find((candidate) => candidate.filePath === filePath)!;
      const suffix = filePath.split('/data/')[1]!;
      const isNamed = /\/\d{19}-\d{19}-\d+\.parquet$/.test(suffix);
      const rewritten = await writeFile(table, rows, file.partition, { footer: parquet.keyValueMetadata, suffix: isNamed ? suffix.replace(/\.parquet$/, '9.parquet') : `${randomUUID()}.parquet` });
      await replace(table.name, [filePath], [rewritten]);
    },
    audit: (options: Partial<AuditOptions> = {}): Promise<AuditReport> => auditConservation({ catalog, store, pipeline, topicPrefix, memoryBudgetBytes: 64 * 1024 * 1024, ...options }),
  };
};
export type SmallLake<Store extends ObjectStore = MemoryObjectStore> = Awaited<ReturnType<typeof createSmallLake<Store>>>;

/** Gold's winners by the model: of each key the least (topic, partition, offset). */
export const winnersOf = (all: readonly Reading[]): Reading[] => {
  const least = new Map<string, Reading>();
  const isLess = (a: Reading, b: Reading): boolean => {
    if (a.source !== b.source) return topicOf(a.source) < topicOf(b.source);
    return a.partition === b.partition ? a.offset < b.offset : a.partition < b.partition;
  };
  for (const reading of all) {
    if (!reading.isValid) continue;
    const key = `${reading.site} ${reading.id}`;
    const known = least.get(key);
    if (!known || isLess(reading, known)) least.set(key, reading);
  }
  return [...least.values()];
};

/** Readings [start, end) of a topic partition: every 10th is refused, every 7th repeats the one before. */
export const plainReadings = (source: string, partition: number, start: number, end: number): Reading[] => Array.from({ length: end - start }, (_, i) => {
  const offset = start + i;
  const of = offset % 7 === 0 && offset > start ? offset - 1 : offset;
  return { source, partition, offset, site: `${source}-${of % 2}`, id: `${partition}:${of}`, at: 1_700_000_000_000_000 + Math.floor(of / 100) * hourMicros, isValid: offset % 10 !== 3 };
});

/** A healthy lake of two sources, two topic partitions each, `rows` offsets in each; everything is refined and merged. */
export const createHealthyLake = async <Store extends ObjectStore = MemoryObjectStore>({ rows = 300, store }: { rows?: number; store?: Store } = {}) => {
  const lake = await createSmallLake(store);
  const all: Reading[] = [];
  const bronzeFiles: DataFile[] = [];
  for (const { source } of pipeline.datasets) {
    for (const partition of [0, 1]) {
      const half = Math.floor(rows / 2);
      const mine = plainReadings(source, partition, 0, rows);
      bronzeFiles.push(await lake.ingest(source, partition, 0, half, mine.slice(0, half)), await lake.ingest(source, partition, half, rows, mine.slice(half)));
      all.push(...mine);
    }
    const mine = all.filter((reading) => reading.source === source);
    await lake.refine(source, mine, coverageOfReadings(mine));
  }
  await lake.merge(winnersOf(all), coverageOfReadings(all));
  const kafka = (): Promise<ReadonlyMap<number, KafkaBounds>> => Promise.resolve(new Map([0, 1].map((partition) => [partition, { logStart: 0n, logEnd: BigInt(rows) }])));
  return { ...lake, all, bronzeFiles, kafka };
};

export default pipeline;
