import {
  ActivityFailure, ChildWorkflowFailure, ParentClosePolicy,
  allHandlersFinished, condition, continueAsNew, defineQuery, defineSignal, defineUpdate, log, patched, proxyActivities,
  setCurrentDetails, setHandler, startChild, upsertSearchAttributes, workflowInfo,
} from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError, defineSearchAttributeKey } from '@temporalio/common';
import { batchMeasuresMax, firstBatchLimit, nextBatchLimit } from '../src/domain/adaptive-limits.ts';
import type { BatchBounds, BatchLimit } from '../src/domain/adaptive-limits.ts';
import { failureCause } from '../src/domain/failure-cause.ts';
import { CheckpointLedger } from '../src/domain/ledger.ts';
import type { LedgerBatch } from '../src/domain/ledger.ts';
import { firstWithin, payloadBytesMax } from '../src/domain/payload.ts';
import {
  claimUpdate, divertBatchSignal, historyEventsMaxDefault, ledgerQuery, pauseSignal, reportSignal, resumeSignal, retryBatchSignal, stateQuery,
  topicPartitionsAtOnceMax,
} from '../src/contracts/stream.ts';
import type {
  CheckpointReport, ClaimReply, ClaimRequest, LedgerQuery, LedgerView, StateQuery, StreamLimits, StreamState, StreamWorkflowInput, WorkerHealth,
} from '../src/contracts/stream.ts';
import { microBatchWorkflowId } from '../src/contracts/micro-batch.ts';
import type { LakeCursor, MicroBatchOutcome, StreamActivities } from '../src/contracts/micro-batch.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';
import { microBatchWorkflow } from './micro-batch.ts';
import { countOf, recordsOf, streamDetails } from './details.ts';
import { streamState } from './stream-state.ts';

/** Bronze files of one table commit, as JSON: some 170 files. Its result names each of them once more at worst. */
const commitBytesMax = payloadBytesMax * 3 / 8;
const workersKeptMax = 64;
const gapsBytesMax = payloadBytesMax / 2;
/** How long a run that continues as new waits for the commit, and for claims, that are under way. */
const drainTimeout = '10 seconds';

const { loadLakeState, commitBronze, recordGaps, awaitMicroBatch } = proxyActivities<StreamActivities>({
  startToCloseTimeout: '5 minutes',
  heartbeatTimeout: '60 seconds',
  retry: { initialInterval: '200 milliseconds', backoffCoefficient: 2, maximumInterval: '10 seconds' },
});

const sourceKey = defineSearchAttributeKey(searchAttributes.source.name, searchAttributes.source.type);
const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);

/**
 * The checkpoint ledger of one source, as a durable process: takes claims and reports of the streaming workers, appends
 * accepted files to the Bronze table, and starts micro-batches over what is open. Workflow ID `stream/<source>`; runs
 * until terminated, and continues as new. Without state it rebuilds the ledger from the lake before it answers a claim.
 */
export async function streamWorkflow(input: StreamWorkflowInput): Promise<void> {
  const { source, carried } = input;
  const { ledger, complete } = carried ? CheckpointLedger.restore(carried.ledger) : { ledger: CheckpointLedger.empty(), complete: false };
  // Known once the lake was read: until then nothing is committed, started or answered.
  let limits: StreamLimits | null = complete ? carried!.limits : null;
  let batchLimit: BatchLimit | null = carried?.batchLimit ?? null;
  let paused = carried?.paused ?? false;
  let committing = false;
  let startingBatches = 0;
  let turn = 0;
  // Not carried to the next run: with its next report each worker is there again.
  const workers = new Map<string, WorkerHealth>();

  const phase = (): StreamState['phase'] => (limits === null ? 'rebuilding' : paused ? 'paused' : 'running');
  const bounds = (): BatchBounds | null => (limits?.adaptive
    ? { recordsMin: Math.min(limits.adaptive.batchRecordsMin, limits.batchRecordsMax), recordsMax: limits.batchRecordsMax, triggerMs: limits.adaptive.batchTriggerMs }
    : null);
  /** Without bounds the limit is the configured one. */
  const currentBatchLimit = (): BatchLimit | null => {
    if (limits === null) return null;
    const within = bounds();
    if (within === null) return { recordsMax: limits.batchRecordsMax, reason: 'configured' };
    // The config of today bounds what an earlier run found out.
    return batchLimit === null ? firstBatchLimit(within)
      : { ...batchLimit, recordsMax: Math.max(within.recordsMin, Math.min(within.recordsMax, batchLimit.recordsMax)) };
  };
  const state = (after?: string): StreamState => {
    const limit = currentBatchLimit();
    return streamState(source, phase(), ledger, { batchLimit: limit && { ...limit, triggerMs: limits?.adaptive?.batchTriggerMs ?? null }, workers: Object.fromEntries(workers) }, after);
  };
  const view = (topicPartitions: readonly string[] = ledger.topicPartitions()): LedgerView =>
    ({ ready: limits !== null, topicPartitions: ledger.view(topicPartitions.slice(0, topicPartitionsAtOnceMax)) });

  const loadLake = async (): Promise<void> => {
    let from: LakeCursor | undefined;
    for (;;) {
      const page = await loadLakeState({ source, ...(from === undefined ? {} : { from }) });
      ledger.reconcile(page.lake);
      if (page.next === null) {
        ({ limits } = page);
        turn += 1;
        return;
      }
      from = page.next;
    }
  };

  setHandler(defineQuery<LedgerView, [LedgerQuery]>(ledgerQuery), (query) => view(query?.topicPartitions),
    { description: 'Owner, epoch and next offset of the named topic partitions' });
  setHandler(defineQuery<StreamState, [StateQuery | undefined]>(stateQuery), (query) => state(query?.after),
    { description: 'Next offsets, open intervals, micro-batches, gaps, totals' });
  setHandler(defineUpdate<ClaimReply, [ClaimRequest]>(claimUpdate), async (request) => {
    // Each claim reads the lake again: a Reset or a lost Temporal may have taken the ledger back behind it.
    await loadLake();
    return { claims: ledger.claim(request.owner, request.topicPartitions, Date.now()) };
  }, {
    description: 'Assign topic partitions to a streaming worker under new epochs',
    validator: (request) => {
      if (typeof request?.owner !== 'string' || !Array.isArray(request.topicPartitions) || request.topicPartitions.length > topicPartitionsAtOnceMax) {
        throw new TypeError(`claim: expected { owner, topicPartitions } with at most ${topicPartitionsAtOnceMax} topic partitions`);
      }
    },
  });
  setHandler(defineSignal<[CheckpointReport]>(reportSignal), (report) => {
    ledger.accept(report);
    if (report.health) {
      // The latest last; a worker that is gone is forgotten once there are many.
      workers.delete(report.owner);
      workers.set(report.owner, report.health);
      if (workers.size > workersKeptMax) workers.delete(workers.keys().next().value!);
    }
    turn += 1;
  }, { description: 'Bronze files that are durable on S3' });
  setHandler(defineSignal(pauseSignal), () => {
    paused = true;
    turn += 1;
  }, { description: 'Start no more micro-batches; Bronze goes on' });
  setHandler(defineSignal(resumeSignal), () => {
    paused = false;
    turn += 1;
  }, { description: 'Start micro-batches again' });
  const letGoAgain = (batch: number, divert?: string): void => {
    if (!ledger.retryBatch(Number(batch), divert)) log.warn('no failed micro-batch of this number', { batch });
    turn += 1;
  };
  setHandler(defineSignal<[number]>(retryBatchSignal), (batch) => letGoAgain(batch),
    { description: 'Refine a failed micro-batch again, under a new number. Input: its number' });
  setHandler(defineSignal<[number]>(divertBatchSignal), (batch) => {
    letGoAgain(batch, `micro-batch ${batch} was diverted by an operator: ${ledger.causeOf(Number(batch)) ?? ''}`);
  }, { description: 'Put every record of a failed micro-batch into the DLQ. Input: its number' });

  const commitPending = async (): Promise<void> => {
    committing = true;
    try {
      const gaps = firstWithin(ledger.pendingGaps(), gapsBytesMax);
      if (gaps.length > 0) {
        await recordGaps({ source, gaps });
        ledger.gapsRecorded(gaps);
      }
      const named = firstWithin(ledger.pendingFiles().map(({ topicPartition, fileEpoch, startOffset, endOffset }) => ({ topicPartition, fileEpoch, startOffset, endOffset })), commitBytesMax);
      const files = ledger.pendingFiles().slice(0, named.length);
      if (files.length > 0) {
        const summary = `${countOf(files.length, 'file')}, ${countOf(files.reduce((sum, { rowCount }) => sum + rowCount, 0), 'record')}`;
        const { refused } = await commitBronze.executeWithOptions({ summary }, [{ source, files: named }]);
        ledger.bronzeCommitted(files.filter(({ topicPartition, startOffset }) => {
          const first = refused[topicPartition];
          return !first || BigInt(startOffset) < BigInt(first.startOffset);
        }));
        for (const [topicPartition, { startOffset, cause }] of Object.entries(refused)) {
          log.error('Bronze file refused, its topic partition is read again from there', { topicPartition, startOffset, cause });
          ledger.fileRefused(topicPartition, startOffset, cause, Date.now());
        }
      }
    } finally {
      committing = false;
      turn += 1;
    }
  };

  /** A diverted batch costs something else, and so does one whose rows the lake had already. */
  const adapt = (batch: LedgerBatch): void => {
    const within = bounds();
    const measures = ledger.recentBatches(batchMeasuresMax).map(({ bronzeRows, durationMs }) => ({ records: bronzeRows, durationMs }));
    if (within === null || batch.divert !== undefined || (measures.at(-1)?.records ?? 0) === 0) return;
    batchLimit = nextBatchLimit(currentBatchLimit()!.recordsMax, measures, within);
  };

  const settle = (batch: LedgerBatch, outcome: MicroBatchOutcome): void => {
    if (outcome.status === 'completed') {
      ledger.batchSucceeded(batch.batch, { ...outcome.result, durationMs: Date.now() - batch.startedAtMs });
      adapt(batch);
    } else if (outcome.status === 'failed') {
      log.error('micro-batch failed', { batch: batch.batch, cause: outcome.cause });
      ledger.batchFailed(batch.batch, outcome.cause, Date.now());
    } else {
      log.warn('micro-batch is gone without an outcome', { batch: batch.batch, cause: outcome.cause });
      ledger.batchLost(batch.batch);
    }
    turn += 1;
  };

  /** Waits for a micro-batch of an earlier run. */
  const attach = async (batch: LedgerBatch): Promise<void> => {
    settle(batch, await awaitMicroBatch({ source, batch: batch.batch }));
  };

  /**
   * A run whose history is gone (by a Reset, or a lost Temporal) started a micro-batch of this number, over what was open then. It is
   * waited for, so that two do not work on the same offsets; which of ours it left open, only the lake knows.
   */
  const forestalled = async (batch: LedgerBatch): Promise<void> => {
    const outcome = await awaitMicroBatch({ source, batch: batch.batch });
    if (!patched('forestalled-batches-open-again')) {
      settle(batch, outcome);
      return;
    }
    log.warn('a micro-batch of this number had been started by a run whose history is gone', { batch: batch.batch });
    ledger.batchForestalled(batch.batch, outcome.status === 'completed' ? { ...outcome.result, durationMs: Date.now() - batch.startedAtMs } : null);
    turn += 1;
  };

  const startBatch = async ({ batch, intervals, divert }: LedgerBatch) => {
    startingBatches += 1;
    try {
      return await startChild(microBatchWorkflow, {
        workflowId: microBatchWorkflowId(source, batch),
        parentClosePolicy: ParentClosePolicy.ABANDON,
        args: [{ source, batch, intervals, ...(divert === undefined ? {} : { divert }) }],
        staticSummary: `${source} micro-batch ${batch}: ${countOf(recordsOf(intervals), 'record')}${divert === undefined ? '' : ', to the DLQ'}`,
        typedSearchAttributes: [{ key: sourceKey, value: source }],
      });
    } finally {
      startingBatches -= 1;
      turn += 1;
    }
  };

  const runBatch = async (batch: LedgerBatch): Promise<void> => {
    try {
      const child = await startBatch(batch);
      settle(batch, { status: 'completed', result: await child.result() });
    } catch (error) {
      if (error instanceof WorkflowExecutionAlreadyStartedError) {
        await forestalled(batch);
      } else if (error instanceof ChildWorkflowFailure || error instanceof ActivityFailure) {
        settle(batch, { status: 'failed', cause: failureCause(error) });
      } else {
        throw error;
      }
    }
  };

  const wantsBatch = (): boolean => {
    if (limits === null || paused || (ledger.openRecords === 0 && ledger.againCount === 0)) return false;
    const running = ledger.runningCount;
    // With none running, whatever is open starts at once: low delay at a low rate. Beside a running one only a well-filled
    // micro-batch starts, so that a backlog is worked off side by side and a trickle is not cut into small files.
    return running === 0 || (running < limits.runningMax && (ledger.againCount > 0 || ledger.openRecords >= currentBatchLimit()!.recordsMax / 2));
  };
  const wantsCommit = (): boolean => !committing && limits !== null && (ledger.pendingCount > 0 || ledger.pendingGaps().length > 0);
  const historyFull = (): boolean => workflowInfo().continueAsNewSuggested || workflowInfo().historyLength > (limits?.historyEventsMax ?? historyEventsMaxDefault);

  let failure: unknown;
  const inBackground = (work: Promise<void>): void => {
    work.catch((error: unknown) => {
      failure ??= error ?? new Error('unknown failure');
    });
  };

  let shownState = '';
  upsertSearchAttributes([{ key: sourceKey, value: source }]);
  if (limits === null) inBackground(loadLake());
  for (const batch of ledger.running) inBackground(attach(batch));

  while (!historyFull()) {
    if (wantsCommit()) inBackground(commitPending());
    while (wantsBatch()) {
      const batch = ledger.startBatch(currentBatchLimit()!.recordsMax, Date.now());
      if (batch === null) break;
      inBackground(runBatch(batch));
    }
    setCurrentDetails(streamDetails(state()));
    const shown = ledger.failedCount > 0 || ledger.haltedCount > 0 ? 'failing' : phase();
    if (shown !== shownState) {
      shownState = shown;
      upsertSearchAttributes([{ key: stateKey, value: shown }]);
    }
    const seen = turn;
    await condition(() => turn !== seen || failure !== undefined || historyFull());
    if (failure !== undefined) throw failure;
  }

  // Micro-batches run on (ABANDON), and the next run attaches to them once they have started. A commit or a claim under
  // way is finished first, unless the lake keeps it waiting: then the next run repeats the commit, which is harmless, and
  // the streaming worker its claim. Waiting on would let the history grow with every report.
  await condition(() => failure !== undefined || (!committing && startingBatches === 0 && allHandlersFinished()), drainTimeout);
  if (failure !== undefined) throw failure;
  const known = limits ?? carried?.limits;
  await continueAsNew<typeof streamWorkflow>({ source, ...(known === undefined ? {} : { carried: { ledger: ledger.carry(limits !== null), limits: known, paused, ...(batchLimit === null ? {} : { batchLimit }) } }) });
}
