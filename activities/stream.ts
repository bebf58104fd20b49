import { WorkflowFailedError, WorkflowNotFoundError } from '@temporalio/client';
import type { Client } from '@temporalio/client';
import { bronzeFileSuffix } from '../src/contracts/bronze.ts';
import { microBatchWorkflowId } from '../src/contracts/micro-batch.ts';
import type { CommitBronzeFile, MicroBatchOutcome, MicroBatchResult, PublishResult, StreamActivities, StreamStart } from '../src/contracts/micro-batch.ts';
import { batchMaxProperty, epochMaxProperty } from '../src/contracts/properties.ts';
import type { GapRange, StreamLimits } from '../src/contracts/stream.ts';
import { ingestGapsTable } from '../src/datasets/engine-tables.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { Coverage, IntervalSet, parseTopicPartitionKey } from '../src/domain/offsets.ts';
import type { DataFile } from '../src/lake/data-file.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import type { TableDefinition } from '../src/lake/schema.ts';
import type { Catalog, CommitResult } from '../src/lake/table.ts';
import { prepareGapRows } from '../src/refine/gap-rows.ts';
import { loadBronzeDataFile } from '../src/streaming/bronze-data-file.ts';
import { asActivity } from './edge.ts';

export interface StreamActivityDeps {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  limits: StreamLimits;
  /** For micro-batches that an earlier run of the stream workflow started. */
  temporal: Client;
}

export const publishResult = ({ status, snapshotId, attempts }: CommitResult): PublishResult =>
  ({ status, snapshotId: snapshotId === null ? null : String(snapshotId), attempts });

const rangeCoverage = (ranges: readonly { topicPartition: string; startOffset: string; endOffset: string }[]): Coverage =>
  Coverage.of(ranges.map(({ topicPartition, startOffset, endOffset }) =>
    [topicPartition, IntervalSet.of({ start: BigInt(startOffset), end: BigInt(endOffset) })] as const));

/** Footers read at once: enough to hide the store's latency, few enough for its connections. */
const footersAtOnce = 8;

export const createStreamActivities = ({ catalog, store, pipeline, limits, temporal }: StreamActivityDeps): StreamActivities => {
  const loadDataFiles = async (bronze: TableDefinition, files: readonly CommitBronzeFile[], signal: AbortSignal): Promise<DataFile[]> => {
    const loaded: DataFile[] = [];
    for (let at = 0; at < files.length; at += footersAtOnce) {
      signal.throwIfAborted();
      loaded.push(...await Promise.all(files.slice(at, at + footersAtOnce).map(async (file) => {
        const { topic, partition } = parseTopicPartitionKey(file.topicPartition);
        const suffix = bronzeFileSuffix({ topic, partition, start: BigInt(file.startOffset), end: BigInt(file.endOffset), epoch: file.fileEpoch });
        return loadBronzeDataFile(store, bronze, catalog.dataLocation(bronze.name, suffix), suffix);
      })));
    }
    return loaded;
  };

  // Errors of these activities are retried for as long as they last, visible as pending activities: a stream that gave up
  // would stop the other topic partitions too.
  const untilItWorks = { retryAlways: true };
  return {
    loadLakeState: ({ source }) => asActivity(async (): Promise<StreamStart> => {
      const dataset = datasetOf(pipeline, source);
      const [bronze, silver, dlq, gold, gaps] = await Promise.all(
        [dataset.bronze.name, dataset.silver.name, pipeline.dlqTable, dataset.gold.name, ingestGapsTable.name].map((name) => catalog.load(name)));
      const refined = silver!.coverage.intersect(dlq!.coverage).intersect(gold!.coverage);
      const nextOffsets = Object.fromEntries(bronze!.coverage.entries().map(([key, set]) => {
        const ends = [set, gaps!.coverage.of(key)].flatMap(({ intervals }) => intervals.slice(-1).map(({ end }) => end));
        return [key, String(ends.reduce((max, end) => (end > max ? end : max), 0n))];
      }));
      return {
        lake: {
          nextOffsets,
          open: bronze!.coverage.subtract(refined).toJson(),
          epochMax: Number(bronze!.properties[epochMaxProperty] ?? 0),
          batchMax: Number(silver!.properties[batchMaxProperty] ?? 0),
        },
        limits,
      };
    }, untilItWorks),

    commitBronze: ({ source, files }) => asActivity(async ({ signal, report }) => {
      const { bronze } = datasetOf(pipeline, source);
      const version = await catalog.load(bronze.name);
      // What is covered already was committed by an attempt whose answer was lost, or by a run whose history is gone.
      const missing = files.filter((file) => !version.coverage.contains(rangeCoverage([file])));
      if (missing.length === 0) return { status: 'alreadyCommitted' as const, snapshotId: null, attempts: 0, rowCount: 0 };
      report({ files: missing.length });
      const dataFiles = await loadDataFiles(bronze, missing, signal);
      const cover = rangeCoverage(missing);
      const epochMax = Math.max(Number(version.properties[epochMaxProperty] ?? 0), ...missing.map(({ fileEpoch }) => fileEpoch));
      const first = missing[0]!;
      const result = await catalog.commit(bronze.name, {
        commitId: `bronze/${source}/${first.topicPartition}/${first.startOffset}/${missing.length}/${first.fileEpoch}`,
        add: dataFiles,
        cover,
        coverageAbsent: cover,
        setProperties: { [epochMaxProperty]: String(epochMax) },
        summary: { 'tidemark.source': source },
        signal,
      });
      return { ...publishResult(result), rowCount: dataFiles.reduce((sum, { recordCount }) => sum + recordCount, 0) };
    }, untilItWorks),

    recordGaps: ({ source, gaps }) => asActivity(async ({ signal }) => {
      const version = await catalog.load(ingestGapsTable.name);
      const missing = gaps.filter((gap) => !version.coverage.contains(rangeCoverage([gap])));
      if (missing.length === 0) return { status: 'alreadyCommitted' as const, snapshotId: null, attempts: 0 };
      const cover = rangeCoverage(missing);
      const dataFile = await prepareGapRows({ catalog, store, source, gaps: missing satisfies GapRange[] });
      return publishResult(await catalog.commit(ingestGapsTable.name, {
        commitId: `gap/${source}/${missing[0]!.topicPartition}/${missing[0]!.startOffset}`, add: [dataFile], cover, coverageAbsent: cover, signal,
      }));
    }, untilItWorks),

    awaitMicroBatch: ({ source, batch }) => asActivity(async ({ signal }): Promise<MicroBatchOutcome> => {
      const handle = temporal.workflow.getHandle(microBatchWorkflowId(source, batch));
      try {
        return { status: 'completed', result: await temporal.connection.withAbortSignal(signal, () => handle.result() as Promise<MicroBatchResult>) };
      } catch (error) {
        if (error instanceof WorkflowNotFoundError) return { status: 'lost', cause: 'no such Workflow Execution' };
        if (!(error instanceof WorkflowFailedError)) throw error;
        let cause: Error = error;
        while (cause.cause instanceof Error) cause = cause.cause;
        return cause.name === 'TerminatedFailure' || cause.name === 'CancelledFailure'
          ? { status: 'lost', cause: cause.message }
          : { status: 'failed', cause: cause.message };
      }
    }, untilItWorks),
  };
};
