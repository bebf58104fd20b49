import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { backfillWorkflowId, backfillWorkflowType } from '../../src/contracts/backfill.ts';
import type { BackfillInput } from '../../src/contracts/backfill.ts';
import { dlqReplayWorkflowId, dlqReplayWorkflowType, pauseReplaySignal } from '../../src/contracts/dlq-replay.ts';
import type { DlqReplayInput } from '../../src/contracts/dlq-replay.ts';
import type { ReprocessProgress } from '../../src/contracts/reprocess.ts';
import { progressQuery, reprocessSignals } from '../../src/contracts/reprocess.ts';
import type { RunningPipeline } from './pipeline-processes.ts';

export interface PausedReprocess {
  backfillId: string;
  replayId: string;
  /** Of the backfill. */
  progress: ReprocessProgress;
}

/**
 * Looks while a backfill of one source stands still with a part of its rows refined, and a DLQ replay of another one before its first
 * record. Both are cancelled then, which leaves the tables as they were. The backfill's source needs more rows than one chunk.
 */
export const whileReprocessIsPaused = async (
  { temporal, config: { temporal: { taskQueue } } }: Pick<RunningPipeline, 'temporal' | 'config'>,
  { backfillOf, replayOf, rowsPerSecond }: { backfillOf: string; replayOf: string; rowsPerSecond: number }, look: (paused: PausedReprocess) => Promise<void>,
): Promise<void> => {
  const id = randomUUID().slice(0, 8);
  const [backfillId, replayId] = [backfillWorkflowId(id), dlqReplayWorkflowId(id)];
  const backfill = await temporal.workflow.start(backfillWorkflowType, {
    workflowId: backfillId, taskQueue, staticSummary: `Backfill of ${backfillOf}: all offsets`,
    args: [{ id, source: backfillOf, range: { by: 'all' }, rowsPerSecond, parallelism: 1 } satisfies BackfillInput],
  });
  const replay = await temporal.workflow.signalWithStart(dlqReplayWorkflowType, {
    workflowId: replayId, taskQueue, staticSummary: `DLQ replay of ${replayOf}: rules`, signal: pauseReplaySignal,
    args: [{ id, selection: { source: replayOf }, mode: { mode: 'rules' }, actor: 'ops' } satisfies DlqReplayInput],
  });
  const untilProgress = async (holds: (progress: ReprocessProgress) => boolean): Promise<ReprocessProgress> => {
    for (;;) {
      const progress = await backfill.query<ReprocessProgress>(progressQuery).catch(() => null);
      if (progress && holds(progress)) return progress;
      await sleep(50);
    }
  };
  try {
    await untilProgress(({ chunksRefined }) => chunksRefined > 0);
    await backfill.signal(reprocessSignals.pause);
    await look({ backfillId, replayId, progress: await untilProgress(({ phase, chunksRunning }) => phase === 'paused' && chunksRunning === 0) });
  } finally {
    await Promise.all([backfill, replay].map(async (handle) => {
      await handle.cancel();
      await handle.result().catch(() => undefined);
    }));
  }
};
