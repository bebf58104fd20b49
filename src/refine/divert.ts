import { randomUUID } from 'node:crypto';
import type { Dataset } from '../datasets/dataset.ts';
import { unknownError } from '../datasets/dataset.ts';
import { dlqTable } from '../datasets/engine-tables.ts';
import { TidemarkError, invariant, isTidemarkError } from '../domain/errors.ts';
import { Coverage, parseTopicPartitionKey, topicPartitionKey } from '../domain/offsets.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import type { DataFile } from '../lake/data-file.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { objectSource, openParquet, readColumns, rowGroupBounds } from '../lake/parquet-reader.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import { encodeDataFile } from '../lake/parquet-writer.ts';
import type { PrimitiveType } from '../lake/schema.ts';
import { hasWireHeader, wireSchemaId } from '../schema-registry/wire-codec.ts';
import { plannedRowGroups } from './planned-row-groups.ts';
import { partitionDimensions, partitionPath, partitionRows, tupleOf } from './partition-rows.ts';

/** Reasons of the rows that {@link divertBronze} writes, under the error type `unknown_error`. */
export const divertReasons = { diverted: 'diverted_by_operator', unreadable: 'bronze_unreadable' } as const;

/** A Bronze file as its manifest describes it: the bounds stand in for what cannot be read. */
export type DivertedFile = Pick<DataFile, 'filePath' | 'recordCount' | 'fileSizeBytes' | 'lowerBounds' | 'upperBounds'>;

/** Plain JSON: it crosses to a worker thread. */
export interface DivertInput {
  source: string;
  batchId: string;
  /** Why, for people: goes into every row. */
  reason: string;
  /** Offsets that the DLQ lacks. */
  offsets: CoverageJson;
  bronzeFiles: readonly DivertedFile[];
  /** Silver files that may hold some of the offsets already: an earlier attempt to refine got so far. Their rows stay where they are. */
  silverFiles: readonly Pick<DataFile, 'filePath' | 'fileSizeBytes'>[];
  /** Processing time, ms since the epoch. */
  nowMs: number;
}

export interface DivertResult {
  dlqFiles: DataFile[];
  bronzeRows: number;
  dlqRows: number;
  /** DLQ rows without their bytes: the Bronze file does not give them any more. */
  unreadableRows: number;
}

export interface DivertDeps {
  store: ObjectStore;
  dataset: Dataset;
  dlqTable: string;
  dataLocation(table: string, suffix: string): string;
  signal?: AbortSignal;
}

interface Rows {
  topicPartitions: string[];
  offsets: BigInt64Array;
  kafkaTimestamps: BigInt64Array;
  raws: (Uint8Array | null)[];
  /** Why the bytes are missing; null: they are there. */
  unreadable: string | null;
}

const microsPerDay = 86_400_000_000n;
const isUnreadable = (error: unknown): error is TidemarkError => isTidemarkError(error, 'FILE_UNREADABLE') || isTidemarkError(error, 'OBJECT_NOT_FOUND');

/**
 * Puts Bronze records into the DLQ as they are, without looking into them: a micro-batch that cannot be refined. Bytes that
 * can be read go with their row; of a damaged file the rest, column by column and row group by row group. Where not even the
 * offsets can be read, the bounds tell them, if no offset between them is sparse; else FILE_UNREADABLE, since a row would be
 * invented or lost.
 */
export const divertBronze = async (deps: DivertDeps, input: DivertInput): Promise<DivertResult> => {
  const { store, dataset, signal } = deps;
  const planned = Coverage.fromJson(input.offsets);
  const inSilver = await silverOffsets(deps, input);
  const table = dlqTable(deps.dlqTable);
  const rows: { key: string; offset: bigint; kafkaTimestamp: bigint; raw: Uint8Array | null; unreadable: string | null }[] = [];
  let bronzeRows = 0;
  for (const file of input.bronzeFiles) {
    signal?.throwIfAborted();
    for (const part of await readRows(deps, file, planned)) {
      for (let i = 0; i < part.offsets.length; i += 1) {
        const key = part.topicPartitions[i]!;
        const offset = part.offsets[i]!;
        if (!planned.of(key).has(offset)) continue;
        bronzeRows += 1;
        if (inSilver.get(key)?.has(offset)) continue;
        const raw = part.raws[i]!;
        // A copy: the view would keep the whole page of its Bronze file.
        rows.push({ key, offset, kafkaTimestamp: part.kafkaTimestamps[i]!, raw: raw === null ? null : Uint8Array.from(raw), unreadable: part.unreadable });
      }
    }
  }

  const places = rows.map(({ key }) => parseTopicPartitionKey(key));
  const batch = {
    rowCount: rows.length,
    columns: {
      raw_record: rows.map(({ raw }) => raw),
      error_reason: rows.map(({ unreadable }) => (unreadable === null ? divertReasons.diverted : divertReasons.unreadable)),
      error_type: { constant: unknownError },
      error_timestamp: { constant: BigInt(input.nowMs) * 1000n },
      bronze_source: { constant: dataset.source },
      kafka_topic: places.map(({ topic }) => topic),
      kafka_partition: Int32Array.from(places, ({ partition }) => partition),
      kafka_offset: BigInt64Array.from(rows, ({ offset }) => offset),
      kafka_timestamp: BigInt64Array.from(rows, ({ kafkaTimestamp }) => kafkaTimestamp),
      schema_id: rows.map(({ raw }) => (raw !== null && hasWireHeader(raw) ? wireSchemaId(raw) : null)),
      dlq_date: Int32Array.from(rows, ({ kafkaTimestamp }) => Number(kafkaTimestamp / microsPerDay)),
      rule_version: { constant: dataset.ruleVersion },
      error_detail: rows.map(({ unreadable }) => (unreadable === null ? input.reason : `${input.reason}; ${unreadable}`)),
    },
  };
  const dimensions = partitionDimensions(table.fields, table.partitionBy);
  const dlqFiles: DataFile[] = [];
  for (const { values, indices } of rows.length === 0 ? [] : partitionRows(batch, dimensions)) {
    signal?.throwIfAborted();
    const { bytes, metrics } = encodeDataFile({ fields: table.fields, batch, rows: { indices } });
    const partition = tupleOf(table, dimensions, values);
    const filePath = deps.dataLocation(table.name, `${partitionPath(table, partition)}/${input.batchId}-${randomUUID()}.parquet`);
    await store.put(store.keyOf(filePath), bytes, { contentType: 'application/vnd.apache.parquet', ...(signal ? { signal } : {}) });
    dlqFiles.push({ filePath, partition, ...metrics });
  }
  const written = dlqFiles.reduce((sum, { recordCount }) => sum + recordCount, 0);
  invariant(written === rows.length, () => `${input.batchId}: expected ${rows.length} rows in files, found ${written}`);
  return { dlqFiles, bronzeRows, dlqRows: rows.length, unreadableRows: rows.filter(({ unreadable }) => unreadable !== null).length };
};

const open = (deps: DivertDeps, { filePath, fileSizeBytes }: Pick<DataFile, 'filePath' | 'fileSizeBytes'>): Promise<ParquetFile> =>
  openParquet(objectSource(deps.store, deps.store.keyOf(filePath), fileSizeBytes, deps.signal ? { signal: deps.signal } : {}));

const silverOffsets = async (deps: DivertDeps, { silverFiles }: DivertInput): Promise<Map<string, Set<bigint>>> => {
  const found = new Map<string, Set<bigint>>();
  for (const silverFile of silverFiles) {
    deps.signal?.throwIfAborted();
    const { rowCount, columns } = await readColumns(await open(deps, silverFile), { columns: ['kafka_topic', 'kafka_partition', 'kafka_offset'] });
    for (let i = 0; i < rowCount; i += 1) {
      const key = topicPartitionKey(columns['kafka_topic']![i] as string, columns['kafka_partition']![i] as number);
      const offsets = found.get(key) ?? new Set();
      found.set(key, offsets.add(columns['kafka_offset']![i] as bigint));
    }
  }
  return found;
};

/** The file's rows, as far as it gives them; one part for each row group. */
const readRows = async (deps: DivertDeps, file: DivertedFile, planned: Coverage): Promise<Rows[]> => {
  let parquet: ParquetFile;
  try {
    parquet = await open(deps, file);
  } catch (error) {
    if (!isUnreadable(error)) throw error;
    const bound = (column: string, bounds: Record<number, string>): bigint | number | undefined => boundOf(deps.dataset, column, bounds);
    return [rowsOfBounds(file.filePath, planned, {
      rowCount: file.recordCount,
      partition: Number(bound('partition', file.lowerBounds)),
      first: bound('offset', file.lowerBounds) as bigint | undefined,
      last: bound('offset', file.upperBounds) as bigint | undefined,
      kafkaTimestamp: bound('kafka_timestamp', file.lowerBounds) as bigint | undefined,
    }, `the Bronze file cannot be read (${error.message}); the timestamp is its earliest record's`)];
  }
  const field = (name: string) => deps.dataset.bronze.fields.find((one) => one.name === name)!;
  const parts: Rows[] = [];
  for (const group of plannedRowGroups(parquet, deps.dataset.bronze, planned)) {
    const rowCount = parquet.rowGroupRows[group]!;
    let part: Rows;
    try {
      const { columns } = await readColumns(parquet, { columns: ['topic', 'partition', 'offset', 'kafka_timestamp'], rowGroups: [group] });
      const partitions = columns['partition'] as Int32Array;
      part = {
        topicPartitions: Array.from(columns['topic'] as string[], (topic, i) => topicPartitionKey(topic, partitions[i]!)),
        offsets: columns['offset'] as BigInt64Array, kafkaTimestamps: columns['kafka_timestamp'] as BigInt64Array, raws: Array.from({ length: rowCount }, () => null), unreadable: null,
      };
    } catch (error) {
      if (!isUnreadable(error)) throw error;
      const bounds = (name: string) => rowGroupBounds(parquet, field(name))[group];
      part = rowsOfBounds(file.filePath, planned, {
        rowCount, partition: Number(bounds('partition')?.min), first: bounds('offset')?.min as bigint | undefined, last: bounds('offset')?.max as bigint | undefined,
        kafkaTimestamp: bounds('kafka_timestamp')?.min as bigint | undefined,
      }, `a part of the Bronze file cannot be read (${error.message}); the timestamp is its earliest record's`);
    }
    if (part.unreadable === null) {
      try {
        part.raws = [...(await readColumns(parquet, { columns: ['raw_bytes'], rowGroups: [group] })).columns['raw_bytes'] as (Uint8Array | null)[]];
      } catch (error) {
        if (!isUnreadable(error)) throw error;
        part.unreadable = `the bytes cannot be read from the Bronze file (${error.message})`;
      }
    }
    parts.push(part);
  }
  return parts;
};

const boundOf = (dataset: Dataset, column: string, bounds: Record<number, string>): bigint | number | undefined => {
  const { id, type } = dataset.bronze.fields.find(({ name }) => name === column)!;
  return bounds[id] === undefined ? undefined : decodeSingleValue(type as PrimitiveType, Buffer.from(bounds[id], 'base64')) as bigint | number;
};

/** Rows that only the bounds tell of. The bound of a topic may be cut short, so the plan names it. */
const rowsOfBounds = (
  filePath: string, planned: Coverage,
  { rowCount, partition, first, last, kafkaTimestamp }: { rowCount: number; partition: number; first: bigint | undefined; last: bigint | undefined; kafkaTimestamp: bigint | undefined },
  unreadable: string,
): Rows => {
  const keys = planned.keys().filter((key) => parseTopicPartitionKey(key).partition === partition);
  if (first === undefined || last === undefined || kafkaTimestamp === undefined || last - first + 1n !== BigInt(rowCount) || keys.length !== 1) {
    throw new TidemarkError('FILE_UNREADABLE', `${filePath}: expected ${rowCount} offsets of one topic partition without a hole, found [${first ?? '?'}, ${last ?? '?'}]: which records it held cannot be told. Restore the file, then retry`);
  }
  return {
    topicPartitions: Array.from({ length: rowCount }, () => keys[0]!), offsets: BigInt64Array.from({ length: rowCount }, (_, i) => first + BigInt(i)),
    kafkaTimestamps: new BigInt64Array(rowCount).fill(kafkaTimestamp), raws: Array.from({ length: rowCount }, () => null), unreadable,
  };
};
