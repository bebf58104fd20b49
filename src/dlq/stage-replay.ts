import { randomUUID } from 'node:crypto';
import type { DlqReplayInput, ReplayCounts } from '../contracts/dlq-replay.ts';
import { replayAttemptsMaxDefault } from '../contracts/dlq-replay.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { dlqResolutionsTable } from '../datasets/engine-tables.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { cleanseFunctionOf, datasetOf } from '../datasets/pipeline.ts';
import type { CoverageJson, Interval } from '../domain/offsets.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { EncodableBatch } from '../lake/columns.ts';
import { spreadColumn } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { encodeDataFile } from '../lake/parquet-writer.ts';
import type { PartitionTuple, TableDefinition } from '../lake/schema.ts';
import type { Catalog } from '../lake/table.ts';
import type { DecoderCache } from '../refine/decoders.ts';
import { divertReasons } from '../refine/divert.ts';
import { partitionDimensions, partitionPath, partitionRows, sortRowsBy, tupleOf } from '../refine/partition-rows.ts';
import type { UnplacedRow } from './bronze-rows.ts';
import { placeInBronze } from './bronze-rows.ts';
import { readRows } from './read-rows.ts';
import type { RefinedRows, ReplayOutcome, ReplayRow } from './refine-rows.ts';
import { refineRows } from './refine-rows.ts';
import type { ChunkFile, StagedReplay, StoredPlan } from './replay-store.ts';
import { replayStore } from './replay-store.ts';
import type { ResolutionAction } from './resolutions.ts';

export interface StageReplayDeps {
  store: ObjectStore;
  catalog: Catalog;
  pipeline: Pipeline;
  decoders: DecoderCache;
  signal?: AbortSignal;
  onProgress?: (progress: { rows: number }) => void;
}

const chunkColumns = ['raw_record', 'error_reason', 'error_type', 'kafka_topic', 'kafka_partition', 'kafka_offset', 'kafka_timestamp'] as const;
const putsAtOnce = 4;

/** The rows of a chunk, with what Bronze knows of them. */
export const loadChunkRows = async ({ store, catalog, signal }: Pick<StageReplayDeps, 'store' | 'catalog' | 'signal'>, dataset: Dataset, files: readonly ChunkFile[]): Promise<ReplayRow[]> => {
  const rows: UnplacedRow[] = [];
  for await (const { file, batch: { columns } } of readRows(store, files, chunkColumns, signal)) {
    for (const [n, row] of file.rows.entries()) {
      const raw = columns['raw_record']![row] as Uint8Array | null;
      const reason = columns['error_reason']![row] as string;
      rows.push({
        topic: columns['kafka_topic']![row] as string, partition: columns['kafka_partition']![row] as number, offset: Number(columns['kafka_offset']![row] as bigint),
        // A copy: the view would keep its whole page.
        raw: raw === null ? null : Uint8Array.from(raw),
        kafkaTimestamp: columns['kafka_timestamp']![row] as bigint, errorType: columns['error_type']![row] as string, reason, attempts: file.attempts[n]!,
        lacksBytes: raw === null && reason === divertReasons.unreadable,
      });
    }
  }
  return placeInBronze(store, await catalog.load(dataset.bronze.name), rows, signal);
};

/** Refines the rows of chunk files as the plan says; in memory, nothing is written. */
export const refineChunk = async (deps: StageReplayDeps, plan: Pick<StoredPlan, 'encodeSchemaId'> & { input: DlqReplayInput }, files: readonly ChunkFile[], nowMs: number): Promise<{ rows: ReplayRow[]; refined: RefinedRows }> => {
  const { pipeline, decoders } = deps;
  const { selection, mode, attemptsMax = replayAttemptsMaxDefault } = plan.input;
  const dataset = datasetOf(pipeline, selection.source);
  const rows = await loadChunkRows(deps, dataset, files);
  const refined = await refineRows({
    dataset, decoders, mode, attemptsMax, nowMs,
    ...(mode.mode === 'cleanse' ? { cleanse: cleanseFunctionOf(pipeline, mode.cleanse, dataset.source) } : {}),
    ...(plan.encodeSchemaId === null ? {} : { encodeSchemaId: plan.encodeSchemaId }),
  }, rows);
  return { rows, refined };
};

const actionOf = (outcome: Exclude<ReplayOutcome, { outcome: 'kept' }>): ResolutionAction =>
  (outcome.outcome === 'refused' && outcome.isQuarantined ? 'quarantined' : outcome.outcome);

/** Rows of `dlq_resolutions`: one for each outcome but `kept`. */
const resolutionBatch = (rows: readonly ReplayRow[], outcomes: readonly ReplayOutcome[], { id, actor, selection }: DlqReplayInput, nowMs: number): EncodableBatch => {
  const resolved = rows.flatMap((row, i) => {
    const outcome = outcomes[i]!;
    return outcome.outcome === 'kept' ? [] : [{ row, outcome }];
  });
  const isAttempt = ({ outcome }: ReplayOutcome): boolean => outcome === 'recovered' || outcome === 'refused';
  return {
    rowCount: resolved.length,
    columns: {
      topic: resolved.map(({ row }) => row.topic),
      partition: Int32Array.from(resolved, ({ row }) => row.partition),
      offset: BigInt64Array.from(resolved, ({ row }) => BigInt(row.offset)),
      action: resolved.map(({ outcome }) => actionOf(outcome)),
      replacement_bytes: resolved.map(({ outcome }) => (outcome.outcome === 'recovered' ? outcome.replacement : null)),
      schema_id: resolved.map(({ outcome }) => (outcome.outcome === 'recovered' ? outcome.schemaId : null)),
      replay_id: { constant: id },
      reason: resolved.map(({ outcome }) => outcome.reason),
      actor: { constant: actor },
      attempt: Int32Array.from(resolved, ({ row, outcome }) => row.attempts + (isAttempt(outcome) ? 1 : 0)),
      resolved_at: { constant: BigInt(nowMs) * 1_000n },
      bronze_source: { constant: selection.source },
    },
  };
};

/** Offsets of a Silver batch. */
const coverageOfSilver = ({ rowCount, columns }: EncodableBatch): CoverageJson => {
  const intervals = new Map<string, Interval[]>();
  const [topics, partitions, offsets] = ['kafka_topic', 'kafka_partition', 'kafka_offset'].map((name) => spreadColumn(columns[name]!, rowCount));
  for (let i = 0; i < rowCount; i += 1) {
    const key = topicPartitionKey(topics![i] as string, partitions![i] as number);
    const start = offsets![i] as bigint;
    const known = intervals.get(key);
    if (known) known.push({ start, end: start + 1n });
    else intervals.set(key, [{ start, end: start + 1n }]);
  }
  return Coverage.of([...intervals].map(([key, list]) => [key, IntervalSet.of(...list)] as const)).toJson();
};

/** Stages one chunk, once: its Silver and resolution files are durable and in no table. A repetition finds what is staged. */
export const stageReplayChunk = async (deps: StageReplayDeps, { id, chunk, nowMs }: { id: string; chunk: number; nowMs: number }): Promise<ReplayCounts> => {
  const { store, catalog, pipeline, signal, onProgress } = deps;
  const stored = replayStore(store);
  const plan = await stored.plan(id);
  const known = await stored.tryStaged(id, plan.nonce, chunk);
  if (known) return known.counts;
  const { files } = await stored.chunk(id, plan.nonce, chunk);
  const { rows, refined: { outcomes, silver, counts } } = await refineChunk(deps, plan, files, nowMs);
  onProgress?.({ rows: rows.length });
  const dataset = datasetOf(pipeline, plan.input.selection.source);

  const putting: Promise<DataFile>[] = [];
  const write = async (table: TableDefinition, batch: EncodableBatch, indices: Uint32Array, partition: PartitionTuple): Promise<void> => {
    signal?.throwIfAborted();
    const { bytes, metrics } = encodeDataFile({ fields: table.fields, batch, rows: { indices } });
    const filePath = catalog.dataLocation(table.name, `${partitionPath(table, partition)}/dlq-replay-${id}-${chunk}-${randomUUID()}.parquet`);
    const put = store.put(store.keyOf(filePath), bytes, { contentType: 'application/vnd.apache.parquet', ...(signal ? { signal } : {}) }).then(() => ({ filePath, partition, ...metrics }));
    // Seen by whoever awaits them all.
    put.catch(() => {});
    putting.push(put);
    if (putting.length % putsAtOnce === 0) await Promise.all(putting);
  };
  const dimensions = partitionDimensions(dataset.gold.fields, dataset.silver.partitionBy, dataset.gold.partitionBy);
  for (const { values, indices } of silver.rowCount === 0 ? [] : partitionRows(silver, dimensions)) {
    sortRowsBy(silver, dataset.eventTime, indices);
    await write(dataset.silver, silver, indices, tupleOf(dataset.silver, dimensions, values));
  }
  const silverCount = putting.length;
  const resolutions = resolutionBatch(rows, outcomes, plan.input, nowMs);
  if (resolutions.rowCount > 0) {
    await write(dlqResolutionsTable, resolutions, Uint32Array.from({ length: resolutions.rowCount }, (_, i) => i), { bronze_source: dataset.source });
  }
  const written = await Promise.all(putting);
  const staged: StagedReplay = { silverFiles: written.slice(0, silverCount), resolutionFiles: written.slice(silverCount), recovered: silver.rowCount === 0 ? {} : coverageOfSilver(silver), counts };
  return (await stored.putStaged(id, plan.nonce, chunk, staged)).counts;
};

