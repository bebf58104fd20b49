import { WorkflowFailedError, WorkflowNotFoundError } from '@temporalio/client';
import type { Client } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { bronzeFileSuffix } from '../src/contracts/bronze.ts';
import { microBatchWorkflowId } from '../src/contracts/micro-batch.ts';
import type { BronzeCommit, CommitBronzeFile, LakeCursor, MicroBatchOutcome, MicroBatchResult, PublishResult, StreamActivities, StreamStart } from '../src/contracts/micro-batch.ts';
import { batchMaxProperty, epochMaxProperty } from '../src/contracts/properties.ts';
import type { GapRange, StreamLimits } from '../src/contracts/stream.ts';
import { ingestGapsTable } from '../src/datasets/engine-tables.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { isTidemarkError } from '../src/domain/errors.ts';
import { failureCause } from '../src/domain/failure-cause.ts';
import { causeCharsMax } from '../src/domain/ledger.ts';
import type { LakeState } from '../src/domain/ledger.ts';
import { Coverage, IntervalSet, parseTopicPartitionKey } from '../src/domain/offsets.ts';
import type { Interval } from '../src/domain/offsets.ts';
import { jsonBytes, payloadBytesMax } from '../src/domain/payload.ts';
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
const refusalCharsMax = 100;
/** How long a micro-batch of an earlier run is left alone before it is asked for again. */
const askAgainMs = 1_000;
const pageBytesMax = payloadBytesMax * 3 / 4;

/** Where a topic partition is read on: behind what Bronze covers and the gaps that follow on. A gap past a hole does not count: the hole has to be read. */
export const nextOffsetOf = (bronze: IntervalSet, gaps: IntervalSet): bigint => {
  let next = bronze.intervals.at(-1)?.end ?? gaps.intervals[0]?.start ?? 0n;
  for (const { start, end } of gaps.intervals) {
    if (start <= next && end > next) next = end;
  }
  return next;
};

/** As many topic partitions, and intervals of the last one, from the cursor on as fit a payload. */
export const lakePage = (nextOffsets: ReadonlyMap<string, bigint>, open: Coverage, from?: LakeCursor): Pick<LakeState, 'nextOffsets' | 'open'> & { next: LakeCursor | null } => {
  const page: Pick<LakeState, 'nextOffsets' | 'open'> = { nextOffsets: {}, open: {} };
  let bytes = 0;
  for (const key of [...nextOffsets.keys()].sort()) {
    if (from && key < from.topicPartition) continue;
    const first = from?.topicPartition === key ? BigInt(from.offset) : 0n;
    bytes += jsonBytes(key) * 2 + 32;
    if (bytes > pageBytesMax && Object.keys(page.nextOffsets).length > 0) return { ...page, next: { topicPartition: key, offset: String(first) } };
    page.nextOffsets[key] = String(nextOffsets.get(key)!);
    const intervals: Interval[] = [];
    for (const interval of open.of(key).intervals) {
      if (interval.end <= first) continue;
      bytes += 42;
      if (bytes > pageBytesMax && intervals.length > 0) {
        page.open[key] = IntervalSet.of(...intervals).toString();
        return { ...page, next: { topicPartition: key, offset: String(interval.start) } };
      }
      intervals.push(interval);
    }
    if (intervals.length > 0) page.open[key] = IntervalSet.of(...intervals).toString();
  }
  return { ...page, next: null };
};

/** Causes that lie in the file itself: it will not be read any better later. */
const isUnreadable = (error: unknown): error is Error =>
  isTidemarkError(error, 'FILE_UNREADABLE') || isTidemarkError(error, 'OBJECT_NOT_FOUND') || isTidemarkError(error, 'CHECKSUM_MISMATCH');

export const createStreamActivities = ({ catalog, store, pipeline, limits, temporal }: StreamActivityDeps): StreamActivities => {
  /** Files in the order given; a refused one takes those behind it in its topic partition with it: Bronze keeps no hole. */
  const loadDataFiles = async (bronze: TableDefinition, files: readonly CommitBronzeFile[], covered: Coverage, signal: AbortSignal) => {
    const loaded: { file: CommitBronzeFile; dataFile: DataFile }[] = [];
    const refused: BronzeCommit['refused'] = {};
    for (let at = 0; at < files.length; at += footersAtOnce) {
      signal.throwIfAborted();
      const found = await Promise.all(files.slice(at, at + footersAtOnce).map(async (file) => {
        const { topic, partition } = parseTopicPartitionKey(file.topicPartition);
        if (covered.overlaps(rangeCoverage([file]))) return { file, cause: 'a part of its offsets is in the Bronze table already' };
        const suffix = bronzeFileSuffix({ topic, partition, start: BigInt(file.startOffset), end: BigInt(file.endOffset), epoch: file.fileEpoch });
        try {
          return { file, dataFile: await loadBronzeDataFile(store, bronze, catalog.dataLocation(bronze.name, suffix), suffix) };
        } catch (error) {
          if (!isUnreadable(error)) throw error;
          return { file, cause: error.message };
        }
      }));
      for (const one of found) {
        const { topicPartition, startOffset } = one.file;
        if (refused[topicPartition]) continue;
        if (one.dataFile) loaded.push(one);
        else refused[topicPartition] = { startOffset, cause: one.cause.slice(0, refusalCharsMax) };
      }
    }
    return { loaded, refused };
  };

  // Errors of these activities are retried for as long as they last, visible as pending activities: a stream that gave up
  // would stop the other topic partitions too.
  const untilItWorks = { retryAlways: true };
  return {
    loadLakeState: ({ source, from }) => asActivity(async (): Promise<StreamStart> => {
      const dataset = datasetOf(pipeline, source);
      const [bronze, silver, dlq, gold, gaps] = await Promise.all(
        [dataset.bronze.name, dataset.silver.name, pipeline.dlqTable, dataset.gold.name, ingestGapsTable.name].map((name) => catalog.load(name)));
      const refined = silver!.coverage.intersect(dlq!.coverage).intersect(gold!.coverage);
      const nextOffsets = new Map(bronze!.coverage.entries().map(([key, set]) => [key, nextOffsetOf(set, gaps!.coverage.of(key))] as const));
      const { next, ...page } = lakePage(nextOffsets, bronze!.coverage.subtract(refined), from);
      return {
        lake: {
          ...page,
          epochMax: Number(bronze!.properties[epochMaxProperty] ?? 0),
          batchMax: Number(silver!.properties[batchMaxProperty] ?? 0),
        },
        next,
        limits,
      };
    }, untilItWorks),

    commitBronze: ({ source, files }) => asActivity(async ({ signal, report }): Promise<BronzeCommit> => {
      const { bronze } = datasetOf(pipeline, source);
      const version = await catalog.load(bronze.name);
      // What is covered already was committed by an attempt whose answer was lost, or by a run whose history is gone.
      const missing = files.filter((file) => !version.coverage.contains(rangeCoverage([file])));
      report({ files: missing.length });
      const { loaded, refused } = await loadDataFiles(bronze, missing, version.coverage, signal);
      if (loaded.length === 0) return { status: 'alreadyCommitted', snapshotId: null, attempts: 0, rowCount: 0, refused };
      const cover = rangeCoverage(loaded.map(({ file }) => file));
      const epochMax = Math.max(Number(version.properties[epochMaxProperty] ?? 0), ...loaded.map(({ file }) => file.fileEpoch));
      const first = loaded[0]!.file;
      const result = await catalog.commit(bronze.name, {
        commitId: `bronze/${source}/${first.topicPartition}/${first.startOffset}/${loaded.length}/${first.fileEpoch}`,
        add: loaded.map(({ dataFile }) => dataFile),
        cover,
        coverageAbsent: cover,
        setProperties: { [epochMaxProperty]: String(epochMax) },
        summary: { 'tidemark.source': source },
        signal,
      });
      return { ...publishResult(result), rowCount: loaded.reduce((sum, { dataFile }) => sum + dataFile.recordCount, 0), refused };
    }, untilItWorks),

    recordGaps: ({ source, gaps }) => asActivity(async ({ signal }) => {
      const version = await catalog.load(ingestGapsTable.name);
      // Of a gap that was found again after more was lost, only what is new: the rest is recorded.
      const missing = gaps.flatMap((gap): GapRange[] => rangeCoverage([gap]).subtract(version.coverage).of(gap.topicPartition).intervals
        .map(({ start, end }) => ({ ...gap, startOffset: String(start), endOffset: String(end) })));
      if (missing.length === 0) return { status: 'alreadyCommitted' as const, snapshotId: null, attempts: 0 };
      const cover = rangeCoverage(missing);
      const dataFile = await prepareGapRows({ catalog, store, source, gaps: missing });
      return publishResult(await catalog.commit(ingestGapsTable.name, {
        commitId: `gap/${source}/${missing[0]!.topicPartition}/${missing[0]!.startOffset}`, add: [dataFile], cover, coverageAbsent: cover, signal,
      }));
    }, untilItWorks),

    awaitMicroBatch: ({ source, batch }) => asActivity(async (): Promise<MicroBatchOutcome> => {
      const handle = temporal.workflow.getHandle(microBatchWorkflowId(source, batch));
      try {
        const { status } = await handle.describe();
        if (status.name === 'RUNNING') {
          // Temporal asks again later. Waiting here would keep an activity's place, and all places together would leave
          // none for the activities of the very micro-batches that are waited for. Attempts leave no events.
          throw ApplicationFailure.create({ type: 'MICRO_BATCH_RUNNING', message: `micro-batch ${batch} is running`, nextRetryDelay: askAgainMs });
        }
        return { status: 'completed', result: await handle.result() as MicroBatchResult };
      } catch (error) {
        if (error instanceof WorkflowNotFoundError) return { status: 'lost', cause: 'no such Workflow Execution' };
        if (!(error instanceof WorkflowFailedError)) throw error;
        const { cause } = error;
        return cause?.name === 'TerminatedFailure' || cause?.name === 'CancelledFailure'
          ? { status: 'lost', cause: cause.message }
          : { status: 'failed', cause: failureCause(error).slice(0, causeCharsMax) };
      }
    }, untilItWorks),
  };
};
