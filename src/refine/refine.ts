import { randomUUID } from 'node:crypto';
import type { Dataset } from '../datasets/dataset.ts';
import { dlqTable } from '../datasets/engine-tables.ts';
import { eachAtOnce } from '../domain/at-once.ts';
import { TidemarkError, invariant, isTidemarkError } from '../domain/errors.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import { Coverage } from '../domain/offsets.ts';
import type { EncodableBatch } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import { objectSource, openParquet, readStoredColumns } from '../lake/parquet-reader.ts';
import { encodeDataFile, type RowSelection } from '../lake/parquet-writer.ts';
import { releaseBuffer, releaseColumns, releaseOwnColumns } from '../lake/release.ts';
import type { TableDefinition } from '../lake/schema.ts';
import type { DecoderCache } from './decoders.ts';
import { plannedRowGroups } from './planned-row-groups.ts';
import type { PartitionDimension } from './partition-rows.ts';
import { partitionDimensions, partitionPath, partitionRows, sortRowsBy, tupleOf } from './partition-rows.ts';
import type { ProducedHistogram, Resolution } from './transform.ts';
import { BronzeTransform, bronzeColumnsRead } from './transform.ts';

/** Plain JSON: it crosses to a worker thread. */
export interface RefineInput {
  source: string;
  /** Names the data files; they carry a random part besides, so that two attempts never write to one key. */
  batchId: string;
  /** Bronze files that hold the planned offsets; rows outside of the plan are passed over. */
  bronzeFiles: readonly { filePath: string; recordCount: number; fileSizeBytes: number }[];
  /** Offsets whose row goes to Silver if it is valid. */
  silver: CoverageJson;
  /** Offsets whose row goes to the DLQ if it is refused. */
  dlq: CoverageJson;
  resolutions?: readonly Resolution[];
  /** Processing time, ms since the epoch. */
  nowMs: number;
}

/** Plain JSON. The files are durable and in no table yet. */
export interface RefineResult {
  silverFiles: DataFile[];
  dlqFiles: DataFile[];
  /** Rows within the plan: silverRows + dlqRows + alreadyThereRows. */
  bronzeRows: number;
  silverRows: number;
  dlqRows: number;
  /** Rows whose own table has them already; they were planned for the other one only. */
  alreadyThereRows: number;
  dlqByType: Record<string, number>;
  dlqByReason: Record<string, number>;
  /** When the Silver rows were produced to Kafka. */
  produced: ProducedHistogram;
  /** µs since the epoch; null without Silver rows. */
  eventTimeMin: number | null;
  eventTimeMax: number | null;
  /** Milliseconds by step. */
  timings: Record<'read' | 'transform' | 'split' | 'encode', number>;
}

export interface RefineDeps {
  store: ObjectStore;
  dataset: Dataset;
  decoders: DecoderCache;
  /** The pipeline's DLQ table. */
  dlqTable: string;
  /** Where a data file of a table goes. */
  dataLocation(table: string, suffix: string): string;
  signal?: AbortSignal;
  /** Called when the Bronze bytes are not needed any more, before Silver is encoded. */
  onReleased?: () => void;
  /** Called between files and partitions: rows refined and files written so far. */
  onProgress?: (progress: { rows: number; files: number }) => void;
}

/** Of an encoded row; trades take some 90. */
const bytesPerRowExpected = 100;
/** Footers that are fetched side by side: they are small, and the time goes in waiting. */
const openedAtOnce = 8;
/** A row group up to this size is fetched while the one before it is transformed; of larger ones there is only one in memory. */
const rowsReadAhead = 25_000;
/** Files that are on their way to the store while the next one is encoded. */
const putsAtOnce = 4;

/** A batch has many files: a failure says which one it is about. */
const ofFile = (filePath: string) => (error: unknown): never => {
  if (!isTidemarkError(error) || error.message.includes(filePath)) throw error;
  throw new TidemarkError(error.code, `${filePath}: ${error.message}`, { cause: error });
};

/** Rows that follow each other are a range: their columns are encoded where they are. */
const selectionOf = (indices: Uint32Array): RowSelection => {
  const start = indices[0] ?? 0;
  for (let i = 1; i < indices.length; i += 1) if (indices[i] !== start + i) return { indices };
  return { start, end: start + indices.length };
};

/**
 * Refines Bronze rows into data files of Silver and the DLQ, one Silver file for each Silver partition and Gold bucket,
 * its rows sorted by event time. Nothing is committed. A record never fails the batch; what throws is the store, the
 * registry, an unreadable file, or a broken invariant.
 */
export const refineBronze = async (deps: RefineDeps, input: RefineInput): Promise<RefineResult> => {
  const { dataset, store, signal } = deps;
  const timings = { read: 0, transform: 0, split: 0, encode: 0 };
  const timed = <Result>(step: keyof typeof timings, work: () => Result): Result => {
    const started = performance.now();
    const result = work();
    timings[step] += performance.now() - started;
    return result;
  };

  const plan = { silver: Coverage.fromJson(input.silver), dlq: Coverage.fromJson(input.dlq) };
  const planned = plan.silver.union(plan.dlq);
  const bronzeFiles: { file: ParquetFile; filePath: string; groups: number[] }[] = [];
  await eachAtOnce(input.bronzeFiles, openedAtOnce, async ({ filePath, fileSizeBytes }, index) => {
    signal?.throwIfAborted();
    const file = await openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes, signal ? { signal } : {})).catch(ofFile(filePath));
    bronzeFiles[index] = { file, filePath, groups: plannedRowGroups(file, dataset.bronze, planned) };
  });
  const transform = new BronzeTransform({
    dataset,
    rowsMax: bronzeFiles.reduce((sum, { file, groups }) => sum + groups.reduce((rows, group) => rows + file.rowGroupRows[group]!, 0), 0),
    ...plan,
    nowMicros: BigInt(input.nowMs) * 1000n,
    ...(input.resolutions ? { resolutions: input.resolutions } : {}),
  });
  let rows = 0;
  const parts = bronzeFiles.flatMap(({ file, filePath, groups }) => groups.map((group) => ({ file, filePath, group })));
  const read = ({ file, filePath, group }: (typeof parts)[number]): Promise<EncodableBatch> => {
    const reading = readStoredColumns(file, { columns: [...bronzeColumnsRead], rowGroups: [group] }).catch(ofFile(filePath));
    // A failure is told where it is awaited.
    reading.catch(() => undefined);
    return reading;
  };
  let ahead: Promise<EncodableBatch> | undefined;
  for (const [index, part] of parts.entries()) {
    signal?.throwIfAborted();
    const started = performance.now();
    const reading = ahead ?? read(part);
    const following = parts[index + 1];
    ahead = following && following.file.rowGroupRows[following.group]! <= rowsReadAhead ? read(following) : undefined;
    const bronze = await reading;
    timings.read += performance.now() - started;
    const decoders = await deps.decoders.lookUp(transform.schemaIds(bronze));
    timed('transform', () => { transform.append(bronze, decoders); });
    releaseColumns(bronze.columns);
    rows += bronze.rowCount;
    deps.onProgress?.({ rows, files: 0 });
  }
  const { silver, dlq, ...counts } = timed('transform', () => transform.finish());
  deps.onReleased?.();

  const putting = new Set<Promise<void>>();
  let failure: unknown;
  let files = 0;

  const send = async (key: string, bytes: Uint8Array): Promise<void> => {
    try {
      await store.put(key, bytes, { contentType: 'application/vnd.apache.parquet', ...(signal ? { signal } : {}) });
      // Only now: a request that failed may still be reading it.
      releaseBuffer(bytes.buffer);
      files += 1;
      deps.onProgress?.({ rows, files });
    } catch (error) {
      failure ??= error;
    }
  };

  /** Encodes one file and sends it off; at most {@link putsAtOnce} are under way. */
  const write = async (table: TableDefinition, batch: EncodableBatch, dimensions: readonly PartitionDimension[], values: readonly (string | number | null)[], indices: Uint32Array): Promise<DataFile> => {
    while (putting.size >= putsAtOnce) await Promise.race(putting);
    if (failure !== undefined) throw failure as Error;
    signal?.throwIfAborted();
    const { bytes, metrics } = timed('encode', () => encodeDataFile({ fields: table.fields, batch, rows: selectionOf(indices), bytesExpected: indices.length * bytesPerRowExpected }));
    const partition = tupleOf(table, dimensions, values);
    const filePath = deps.dataLocation(table.name, `${partitionPath(table, partition)}/${input.batchId}-${randomUUID()}.parquet`);
    const put = send(store.keyOf(filePath), bytes).finally(() => { putting.delete(put); });
    putting.add(put);
    return { filePath, partition, ...metrics };
  };

  const writeAll = async (table: TableDefinition, batch: EncodableBatch, dimensions: readonly PartitionDimension[], sortBy?: string): Promise<DataFile[]> => {
    const written: DataFile[] = [];
    for (const { values, indices } of timed('split', () => partitionRows(batch, dimensions))) {
      if (sortBy !== undefined) timed('split', () => { sortRowsBy(batch, sortBy, indices); });
      written.push(await write(table, batch, dimensions, values, indices));
    }
    return written;
  };

  let silverFiles: DataFile[];
  let dlqFiles: DataFile[];
  try {
    silverFiles = await writeAll(dataset.silver, silver, partitionDimensions(dataset.gold.fields, dataset.silver.partitionBy, dataset.gold.partitionBy), dataset.eventTime);
    releaseOwnColumns(silver);
    const rejected = dlqTable(deps.dlqTable);
    dlqFiles = await writeAll(rejected, dlq, partitionDimensions(rejected.fields, rejected.partitionBy));
  } finally {
    await Promise.all(putting);
  }
  if (failure !== undefined) throw failure as Error;
  const inFiles = (list: readonly DataFile[]): number => list.reduce((sum, { recordCount }) => sum + recordCount, 0);
  invariant(inFiles(silverFiles) === counts.silverRows && inFiles(dlqFiles) === counts.dlqRows,
    () => `${input.batchId}: expected ${counts.silverRows} and ${counts.dlqRows} rows in files, found ${inFiles(silverFiles)} and ${inFiles(dlqFiles)}`);
  return { silverFiles, dlqFiles, ...counts, timings };
};
