import { ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { Context, asyncLocalStorage } from '@temporalio/activity';
import { InvariantError, TidemarkError } from '../src/domain/errors.ts';

/**
 * A fifth of the heartbeat timeout of the Workflows (10 s): an activity must survive several missed heartbeats. The
 * timeout is how long a stream stands still when a Temporal Worker is killed in the middle of its table commit.
 */
const heartbeatIntervalMs = 2_000;

/**
 * Attempts after which a failure that nobody foresaw, or the loss of the thread that did the work, counts as one of the
 * work itself: it is not retried again, so that it is seen and lets the rest go on.
 */
const unforeseenAttemptsMax = 10;

/** Where a log line was written: the activity, its Workflow, and the source and micro-batch that the Workflow ID names. */
export const activityFields = (): Record<string, unknown> => {
  const context = asyncLocalStorage.getStore();
  if (!context) return {};
  const { workflowExecution, activityType, attempt } = context.info;
  const workflowId = workflowExecution?.workflowId ?? '';
  const [, kind, source, batch] = /^(stream|micro-batch)\/([^/]+)(?:\/(\d+))?$/.exec(workflowId) ?? [];
  return {
    activity: activityType, attempt, workflowId, runId: workflowExecution?.runId,
    ...(kind === undefined ? {} : { source }), ...(batch === undefined ? {} : { microBatch: Number(batch) }),
  };
};

export interface Heartbeat {
  /** What the next heartbeat tells: a hint for people, never a fact to resume from. */
  report(progress: Record<string, string | number>): void;
  /** Aborts when Temporal cancels the activity. */
  readonly signal: AbortSignal;
}

/**
 * The edge between Temporal and the rooms behind it: heartbeats while the work runs, and errors translated once. The
 * failure's type is the error code; whether Temporal may retry follows from the code, unless `retryAlways`. An outage is
 * retried for as long as it lasts.
 */
export const asActivity = async <T>(work: (heartbeat: Heartbeat) => Promise<T>, options: { retryAlways?: boolean } = {}): Promise<T> => {
  const context = Context.current();
  let progress: Record<string, string | number> = {};
  const timer = setInterval(() => context.heartbeat(progress), heartbeatIntervalMs);
  try {
    return await work({
      report: (next) => {
        progress = next;
      },
      signal: context.cancellationSignal,
    });
  } catch (error) {
    if (error instanceof CancelledFailure || error instanceof ApplicationFailure) throw error;
    if (context.cancellationSignal.aborted) throw new CancelledFailure('activity cancelled', [], error instanceof Error ? error : undefined);
    const isLate = context.info.attempt >= unforeseenAttemptsMax;
    if (error instanceof TidemarkError) {
      const hopeless = !error.retryable || (isLate && error.code === 'REFINE_THREAD_LOST');
      throw ApplicationFailure.create({ type: error.code, message: error.message, nonRetryable: hopeless && options.retryAlways !== true, cause: error });
    }
    // A bug, or something nobody foresaw: retried with backoff and visible, a fixed version may be deployed meanwhile.
    const type = error instanceof InvariantError ? 'INVARIANT' : 'UNEXPECTED';
    throw ApplicationFailure.create({
      type, message: error instanceof Error ? error.message : String(error), nonRetryable: isLate && options.retryAlways !== true,
      ...(error instanceof Error ? { cause: error } : {}),
    });
  } finally {
    clearInterval(timer);
  }
};
