import {
  ActivityFailure, ChildWorkflowFailure, ParentClosePolicy,
  allHandlersFinished, condition, continueAsNew, defineQuery, defineSignal, defineUpdate, log, proxyActivities,
  setCurrentDetails, setHandler, startChild, upsertSearchAttributes, workflowInfo,
} from '@temporalio/workflow';
import { WorkflowExecutionAlreadyStartedError, defineSearchAttributeKey } from '@temporalio/common';
import { CheckpointLedger } from '../src/domain/ledger.ts';
import type { LedgerBatch } from '../src/domain/ledger.ts';
import {
  claimUpdate, historyEventsMax, ledgerQuery, pauseSignal, reportSignal, resumeSignal, retryBatchSignal, stateQuery,
} from '../src/contracts/stream.ts';
import type {
  CheckpointReport, ClaimReply, ClaimRequest, LedgerQuery, LedgerView, StreamLimits, StreamState, StreamWorkflowInput,
} from '../src/contracts/stream.ts';
import { microBatchWorkflowId } from '../src/contracts/micro-batch.ts';
import type { MicroBatchOutcome, StreamActivities } from '../src/contracts/micro-batch.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';
import { microBatchWorkflow } from './micro-batch.ts';
import { rootCause } from './failure.ts';
import { streamDetails } from './details.ts';

/** Bronze files of one table commit: bounds the activity's input (about 150 bytes each). */
const commitFilesMax = 200;

const { loadLakeState, commitBronze, recordGaps } = proxyActivities<StreamActivities>({
  startToCloseTimeout: '5 minutes',
  heartbeatTimeout: '10 seconds',
  retry: { initialInterval: '200 milliseconds', backoffCoefficient: 2, maximumInterval: '10 seconds' },
});
const { awaitMicroBatch } = proxyActivities<StreamActivities>({
  startToCloseTimeout: '30 days',
  heartbeatTimeout: '10 seconds',
  retry: { initialInterval: '1 second', maximumInterval: '30 seconds' },
});

const sourceKey = defineSearchAttributeKey(searchAttributes.source.name, searchAttributes.source.type);
const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);

/**
 * The checkpoint ledger of one source, as a durable process: takes claims and reports of the streaming workers, appends
 * accepted files to the Bronze table, and starts micro-batches over what is open. Workflow ID `stream/<source>`; runs
 * until terminated, and continues as new. Without state it rebuilds the ledger from the lake before it answers a claim.
 */
export async function streamWorkflow(input: StreamWorkflowInput): Promise<void> {
  const { source } = input;
  const ledger = input.carried ? CheckpointLedger.restore(input.carried.ledger) : CheckpointLedger.empty();
  let limits: StreamLimits | null = input.carried?.limits ?? null;
  let paused = input.carried?.paused ?? false;
  let committing = false;
  let claiming = 0;
  let turn = 0;

  const phase = (): StreamState['phase'] => (limits === null ? 'rebuilding' : paused ? 'paused' : 'running');
  const state = (): StreamState => {
    const snapshot = ledger.snapshot();
    return {
      source,
      phase: phase(),
      topicPartitions: Object.fromEntries(Object.entries(snapshot.partitions).map(([key, partition]) => [key, {
        ...partition,
        pendingFiles: snapshot.pending.filter((file) => file.topicPartition === key).length,
      }])),
      open: snapshot.open,
      running: snapshot.running,
      failed: snapshot.failed,
      recent: snapshot.recent,
      gaps: snapshot.gaps,
      totals: snapshot.totals,
    };
  };

  const loadLake = async (): Promise<void> => {
    const start = await loadLakeState({ source });
    ledger.reconcile(start.lake);
    limits = start.limits;
    turn += 1;
  };

  setHandler(defineQuery<LedgerView, [LedgerQuery]>(ledgerQuery), (query) => ({
    ready: limits !== null, topicPartitions: ledger.view(query?.topicPartitions),
  }), { description: 'Owner, epoch and next offset of the named topic partitions' });
  setHandler(defineQuery<StreamState>(stateQuery), state, { description: 'Next offsets, open intervals, micro-batches, gaps, totals' });
  setHandler(defineUpdate<ClaimReply, [ClaimRequest]>(claimUpdate), async (request) => {
    claiming += 1;
    try {
      // Each claim reads the lake again: a Reset or a lost Temporal may have taken the ledger back behind it.
      await loadLake();
      return { claims: ledger.claim(request.owner, request.topicPartitions, Date.now()) };
    } finally {
      claiming -= 1;
    }
  }, {
    description: 'Assign topic partitions to a streaming worker under new epochs',
    validator: (request) => {
      if (typeof request?.owner !== 'string' || !Array.isArray(request.topicPartitions)) {
        throw new TypeError('claim: expected { owner, topicPartitions }');
      }
    },
  });
  setHandler(defineSignal<[CheckpointReport]>(reportSignal), (report) => {
    ledger.accept(report);
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
  setHandler(defineSignal<[number]>(retryBatchSignal), (batch) => {
    if (!ledger.retryBatch(batch)) log.warn('no failed micro-batch of this number', { batch });
    turn += 1;
  }, { description: 'Put a failed micro-batch back among the open intervals' });

  const commitPending = async (): Promise<void> => {
    committing = true;
    try {
      const gaps = ledger.pendingGaps();
      if (gaps.length > 0) {
        await recordGaps({ source, gaps });
        ledger.gapsRecorded(gaps.length);
      }
      const files = ledger.pendingFiles(commitFilesMax);
      if (files.length > 0) {
        await commitBronze({
          source,
          files: files.map(({ topicPartition, fileEpoch, startOffset, endOffset }) => ({ topicPartition, fileEpoch, startOffset, endOffset })),
        });
        ledger.bronzeCommitted(files);
      }
    } finally {
      committing = false;
      turn += 1;
    }
  };

  const settle = (batch: LedgerBatch, outcome: MicroBatchOutcome): void => {
    if (outcome.status === 'completed') {
      ledger.batchSucceeded(batch.batch, { ...outcome.result, durationMs: Date.now() - batch.startedAtMs });
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

  const runBatch = async (batch: LedgerBatch): Promise<void> => {
    try {
      const child = await startChild(microBatchWorkflow, {
        workflowId: microBatchWorkflowId(source, batch.batch),
        parentClosePolicy: ParentClosePolicy.ABANDON,
        args: [{ source, batch: batch.batch, intervals: batch.intervals }],
        staticSummary: `${source} micro-batch ${batch.batch}`,
        typedSearchAttributes: [{ key: sourceKey, value: source }],
      });
      settle(batch, { status: 'completed', result: await child.result() });
    } catch (error) {
      if (error instanceof WorkflowExecutionAlreadyStartedError) {
        // A run whose history is gone started it: its outcome counts, and the lake tells what it leaves open.
        await attach(batch);
      } else if (error instanceof ChildWorkflowFailure || error instanceof ActivityFailure) {
        settle(batch, { status: 'failed', cause: rootCause(error) });
      } else {
        throw error;
      }
    }
  };

  const wantsBatch = (): boolean => {
    if (limits === null || paused || ledger.openRecords === 0) return false;
    const running = ledger.running.length;
    // With none running, whatever is open starts at once: low delay at a low rate. Beside a running one only a well-filled
    // micro-batch starts, so that a backlog is worked off side by side and a trickle is not cut into small files.
    return running === 0 || (running < limits.runningMax && ledger.openRecords >= limits.batchRecordsMax / 2);
  };
  const wantsCommit = (): boolean => !committing && limits !== null && (ledger.pendingCount > 0 || ledger.pendingGaps().length > 0);
  const historyFull = (): boolean => workflowInfo().continueAsNewSuggested || workflowInfo().historyLength > historyEventsMax;

  let failure: unknown;
  const inBackground = (work: Promise<void>): void => {
    work.catch((error: unknown) => {
      failure ??= error ?? new Error('unknown failure');
    });
  };

  let shownState = '';
  upsertSearchAttributes([{ key: sourceKey, value: source }]);
  if (limits === null) await loadLake();
  for (const batch of ledger.running) inBackground(attach(batch));

  while (!historyFull()) {
    if (wantsCommit()) inBackground(commitPending());
    while (wantsBatch()) {
      const batch = ledger.startBatch(limits!.batchRecordsMax, Date.now());
      if (batch === null) break;
      inBackground(runBatch(batch));
    }
    setCurrentDetails(streamDetails(state()));
    const shown = ledger.snapshot().failed.length > 0 ? 'failing' : phase();
    if (shown !== shownState) {
      shownState = shown;
      upsertSearchAttributes([{ key: stateKey, value: shown }]);
    }
    const seen = turn;
    await condition(() => turn !== seen || failure !== undefined || historyFull() || wantsCommit());
    if (failure !== undefined) throw failure;
  }

  // Micro-batches run on (ABANDON), and the next run attaches to them; a commit or a claim under way is finished first.
  await condition(() => !committing && claiming === 0 && allHandlersFinished());
  if (failure !== undefined) throw failure;
  await continueAsNew<typeof streamWorkflow>({ source, carried: { ledger: ledger.snapshot(), limits: limits!, paused } });
}
