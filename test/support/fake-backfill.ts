import { randomUUID } from 'node:crypto';
import type { WorkflowHandle } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { whileAlive } from './heartbeats.ts';
import type { BackfillActivities, BackfillInput, BackfillResult } from '../../src/contracts/backfill.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../../src/contracts/backfill.ts';
import type { ReprocessActivities, ReprocessProgress, Throttle } from '../../src/contracts/reprocess.ts';
import { progressQuery, reprocessSignals } from '../../src/contracts/reprocess.ts';
import type { Environment } from '../workflows/environment.ts';

export interface FakeBackfillOptions {
  chunks: number;
  chunkRows: number;
  rowsPerSecond?: number | null;
  parallelism?: number;
  historyEventsMax?: number;
  /** Runs inside of refining a chunk. */
  onChunk?: (chunk: number, backfill: FakeBackfill) => Promise<void>;
}

/** The backfill Workflow over activities that only write down what they were asked for. */
export class FakeBackfill {
  /** Activities in the order they began; `refine <n>` for a chunk. */
  readonly steps: string[] = [];
  readonly refined: number[] = [];
  readonly handle: WorkflowHandle;
  private readonly environment: Environment;

  private constructor(environment: Environment, handle: WorkflowHandle) {
    this.environment = environment;
    this.handle = handle;
  }

  /** Starts the Workflow, and a Temporal Worker for the time that `use` runs. */
  static async run<T>(environment: Environment, { chunks, chunkRows, rowsPerSecond = null, parallelism = 2, historyEventsMax, onChunk }: FakeBackfillOptions, use: (backfill: FakeBackfill) => Promise<T>): Promise<T> {
    const { temporal, bundle } = environment;
    const id = `fake-${randomUUID().slice(0, 8)}`;
    const workflowId = backfillWorkflowId(id);
    const backfill = new FakeBackfill(environment, temporal.client.workflow.getHandle(workflowId));
    const { steps, refined } = backfill;
    const published = { status: 'committed', snapshotId: '1', addedRows: 0, removedRows: 0, attempts: 1 } as const;
    const step = <Result>(name: string, result: Result) => (): Promise<Result> => {
      steps.push(name);
      return Promise.resolve(result);
    };
    const activities: BackfillActivities & ReprocessActivities = {
      planBackfill: step('plan', {
        reprocessId: workflowId, planKey: 'plan', source: 'readings', chunks, chunkRows, rows: chunks * chunkRows, isPublished: false, figures: null,
        ...(historyEventsMax === undefined ? {} : { historyEventsMax }),
      }),
      claimOffsets: step('claim', undefined),
      refineChunk: async ({ chunk }) => {
        steps.push(`refine ${chunk}`);
        await whileAlive(() => onChunk?.(chunk, backfill));
        refined.push(chunk);
        return { rows: chunkRows, silverRows: chunkRows - 1, dlqRows: 1, dlqByType: { price_validation: 1 }, durationMs: 1 };
      },
      replaceSilver: step('silver', published), replaceDlq: step('dlq', published), replaceGold: step('gold', published),
      finishReprocess: step('finish', undefined), abandonReprocess: step('abandon', { isPublished: false, filesRemoved: 0 }),
    };
    // Deadlocks are looked for against the wall clock: a machine under load must not look like one.
    const worker = await Worker.create({ connection: temporal.nativeConnection, taskQueue: id, workflowBundle: bundle, activities, debugMode: true });
    await temporal.client.workflow.start(backfillWorkflowType, {
      workflowId, taskQueue: id, args: [{ id, source: 'readings', range: { by: 'all' }, rowsPerSecond, parallelism } satisfies BackfillInput],
    });
    return worker.runUntil(async () => {
      try {
        return await use(backfill);
      } finally {
        await backfill.handle.terminate('the test is over').catch(() => {});
      }
    });
  }

  result(): Promise<BackfillResult> {
    return this.handle.result() as Promise<BackfillResult>;
  }

  progress(): Promise<ReprocessProgress> {
    return this.handle.query<ReprocessProgress>(progressQuery);
  }

  async pause(): Promise<void> {
    await this.handle.signal(reprocessSignals.pause);
  }

  async resume(): Promise<void> {
    await this.handle.signal(reprocessSignals.resume);
  }

  async throttle(throttle: Throttle): Promise<void> {
    await this.handle.signal(reprocessSignals.throttle, throttle);
  }

  /** Asks until the progress is as wished; what it was last goes into the failure. */
  async until(holds: (progress: ReprocessProgress) => boolean, timeoutMs = 50_000): Promise<ReprocessProgress> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const progress = await this.progress();
      if (holds(progress)) return progress;
      if (Date.now() > deadline) throw new Error(`the backfill did not get there: ${JSON.stringify(progress)}`);
      await new Promise((wake) => { setTimeout(wake, 20); });
    }
  }

  /** Histories of its runs, the first run first. */
  async histories(): Promise<History[]> {
    const found: History[] = [];
    let runId: string | undefined = (await this.handle.describe()).runId;
    while (runId) {
      const history: History = await this.environment.temporal.client.workflow.getHandle(this.handle.workflowId, runId).fetchHistory();
      found.unshift(history);
      runId = history.events?.[0]?.workflowExecutionStartedEventAttributes?.continuedExecutionRunId || undefined;
    }
    return found;
  }
}
export type History = Awaited<ReturnType<WorkflowHandle['fetchHistory']>>;
