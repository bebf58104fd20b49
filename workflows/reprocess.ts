import { ActivityFailure, ApplicationFailure, ChildWorkflowFailure, defineSearchAttributeKey } from '@temporalio/common';
import {
  CancellationScope, ParentClosePolicy, condition, defineQuery, defineSignal, executeChild, isCancellation, proxyActivities, setCurrentDetails, setHandler, upsertSearchAttributes, workflowInfo,
} from '@temporalio/workflow';
import type { ChunkRef, PlannedReprocess, RefinedChunk, ReprocessActivities, ReprocessProgress, Throttle } from '../src/contracts/reprocess.ts';
import { progressQuery, reprocessChunkWorkflowId, reprocessSignals } from '../src/contracts/reprocess.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';
import { failureCause } from '../src/domain/failure-cause.ts';
import { reprocessDetails } from './details.ts';
import { Pace } from './pace.ts';

/** Behind everything of the live stream in the task queue; 3 is the default. */
const priority = { priorityKey: 5 };
const retry = { initialInterval: '200 milliseconds', backoffCoefficient: 2, maximumInterval: '10 seconds' } as const;
const { refineChunk } = proxyActivities<ReprocessActivities>({ startToCloseTimeout: '1 hour', heartbeatTimeout: '10 seconds', retry, priority });
const { claimOffsets, replaceSilver, replaceDlq, replaceGold, finishReprocess, abandonReprocess } = proxyActivities<ReprocessActivities>({
  startToCloseTimeout: '12 hours', heartbeatTimeout: '10 seconds', retry, priority,
});

const sourceKey = defineSearchAttributeKey(searchAttributes.source.name, searchAttributes.source.type);
const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);
const rowsKey = defineSearchAttributeKey(searchAttributes.rows.name, searchAttributes.rows.type);
const dlqRowsKey = defineSearchAttributeKey(searchAttributes.dlqRows.name, searchAttributes.dlqRows.type);

export const parallelismMax = 16;
/** Events of one run before it continues as new, where the plan says nothing; a chunk has some nine. */
const historyEventsMaxDefault = 4_000;

/** One chunk of a reprocess: Bronze rows → staged files. A Workflow of its own, so that the Web UI shows each chunk with its outcome. */
export async function reprocessChunkWorkflow(input: ChunkRef): Promise<RefinedChunk> {
  const refined = await refineChunk(input);
  upsertSearchAttributes([{ key: rowsKey, value: refined.rows }, { key: dlqRowsKey, value: refined.dlqRows }]);
  return refined;
}

/** What a run hands on when it continues as new: nothing is running then. */
export interface CarriedReprocess {
  planned: PlannedReprocess;
  nextChunk: number;
  isPaused: boolean;
  /** What was started and is not paid for at the rate; null: everything is. Absent: a run of an older release did not say. */
  owedUntilMs?: number | null;
  progress: ReprocessProgress;
}

export interface ReprocessSettings {
  reprocessId: string;
  source: string;
  rowsPerSecond: number | null;
  parallelism: number;
  carried?: CarriedReprocess;
}

export interface ReprocessSteps {
  /** Runs past the point of no return, between Silver and the DLQ: the place for what else is published. */
  afterSilver?: () => Promise<void>;
  /** Runs before a claimed plan is refined. */
  afterClaim?: () => Promise<void>;
  /** Runs when every chunk is staged, before anything is published: a failure here abandons the reprocess. */
  afterRefine?: () => Promise<void>;
}

/**
 * The steps of a reprocess for the Workflow that calls it, with pause, resume, throttle and progress. Before it publishes, a
 * cancellation or a failure leaves every table as it was; from then on it only rolls forward.
 */
export class Reprocess {
  readonly progress: ReprocessProgress;
  private readonly carried: CarriedReprocess | undefined;
  private isPaused = false;
  private turn = 0;
  private refiningFromMs: number | null = null;
  private readonly pace = new Pace(() => { this.turn += 1; });

  constructor({ reprocessId, source, rowsPerSecond, parallelism, carried }: ReprocessSettings) {
    this.carried = carried;
    this.progress = carried?.progress ?? {
      reprocessId, source, phase: 'planning', planKey: null, rowsTotal: 0, rowsRefined: 0, chunksTotal: 0, chunksRefined: 0, chunksRunning: 0,
      silverRows: 0, dlqRows: 0, dlqByType: {}, published: { silver: null, dlq: null, gold: null },
      rowsPerSecondLimit: rowsPerSecond, parallelism: clampParallelism(parallelism), startedAtMs: Date.now(), refiningMs: 0, asOfMs: Date.now(), isPublishing: false,
    };
    this.isPaused = carried?.isPaused ?? false;
    setHandler(defineQuery<ReprocessProgress>(progressQuery), () => this.view(), { description: 'Phase, rows and chunks done, what was published' });
    setHandler(defineSignal(reprocessSignals.pause), () => { this.steer(() => { this.isPaused = true; }); }, { description: 'Start no more chunks, and publish nothing; those that run end' });
    setHandler(defineSignal(reprocessSignals.resume), () => { this.steer(() => { this.isPaused = false; }); }, { description: 'Go on' });
    setHandler(defineSignal<[Throttle]>(reprocessSignals.throttle), (throttle) => { this.throttle(throttle); },
      { description: 'Change the rate or the parallelism. Input: {"rowsPerSecond": number or null, "parallelism": number}' });
    if (!carried) upsertSearchAttributes([{ key: sourceKey, value: source }]);
    this.show(this.progress.phase);
  }

  /** Null: call again with `carried` after continuing as new. */
  async run(planned: PlannedReprocess, steps: ReprocessSteps = {}): Promise<CarriedReprocess | null> {
    const { reprocessId, planKey } = planned;
    const ref = { reprocessId, planKey };
    Object.assign(this.progress, { planKey, rowsTotal: planned.rows, chunksTotal: planned.chunks });
    if (!planned.isPublished) {
      try {
        if (planned.rows === 0) {
          await abandonReprocess(ref);
          this.show('completed');
          return null;
        }
        if (!this.carried) {
          this.show('waiting for the claim');
          await claimOffsets(ref);
          await steps.afterClaim?.();
        }
        this.pace.begin(this.carried?.owedUntilMs ?? null);
        const { nextChunk, owedUntilMs } = await this.refineAll(planned, this.carried?.nextChunk ?? 0);
        if (nextChunk < planned.chunks) return { planned, nextChunk, isPaused: this.isPaused, owedUntilMs, progress: this.view() };
        await steps.afterRefine?.();
      } catch (error) {
        this.show('abandoning');
        await CancellationScope.nonCancellable(() => abandonReprocess(ref));
        upsertSearchAttributes([{ key: stateKey, value: isCancellation(error) ? 'cancelled' : 'failed' }]);
        throw error;
      }
    }
    await CancellationScope.nonCancellable(() => this.publish(ref, steps));
    return null;
  }

  private async publish(ref: { reprocessId: string; planKey: string }, { afterSilver }: ReprocessSteps): Promise<void> {
    const { published } = this.progress;
    this.progress.isPublishing = true;
    this.show('publishing Silver');
    published.silver = await replaceSilver(ref);
    await afterSilver?.();
    this.show('publishing the DLQ');
    published.dlq = await replaceDlq(ref);
    this.show('replacing Gold');
    published.gold = await replaceGold(ref);
    this.show('finishing');
    await finishReprocess(ref);
    this.show('completed');
    upsertSearchAttributes([{ key: rowsKey, value: this.progress.rowsRefined }, { key: dlqRowsKey, value: this.progress.dlqRows }]);
  }

  /** Chunks in a sliding window, as many at once as the parallelism says. Returns the first that was not started: all before it are staged. */
  private async refineAll(planned: PlannedReprocess, from: number): Promise<{ nextChunk: number; owedUntilMs: number | null }> {
    let next = from;
    let owedUntilMs: number | null = null;
    const { historyEventsMax = historyEventsMaxDefault } = planned;
    const failures: unknown[] = [];
    this.refiningFromMs = Date.now();
    const scope = new CancellationScope();
    await scope.run(async () => {
      const running = new Set<Promise<void>>();
      const start = (chunk: number): void => {
        const refining = this.refine(planned, chunk).catch((error: unknown) => { failures.push(error); })
          .finally(() => {
            running.delete(refining);
            this.progress.chunksRunning = running.size;
            this.steer(() => {});
          });
        running.add(refining);
        this.progress.chunksRunning = running.size;
      };
      const isFull = (): boolean => workflowInfo().continueAsNewSuggested || workflowInfo().historyLength > historyEventsMax;
      try {
        while (failures.length === 0) {
          this.show(this.isPaused ? 'paused' : 'refining');
          const isStarted = next >= planned.chunks;
          // The rate holds for the last chunk too, and a pause holds back the publishing.
          if (running.size === 0 && (isStarted ? !this.pace.isOwing && !this.isPaused : isFull())) break;
          if (isStarted || isFull() || this.isPaused || running.size >= this.progress.parallelism || this.pace.isOwing) {
            const seen = this.turn;
            await condition(() => this.turn !== seen);
            continue;
          }
          const rows = Math.min(planned.chunkRows, planned.rows - next * planned.chunkRows);
          this.pace.pay(rows, this.progress.rowsPerSecondLimit);
          start(next);
          next += 1;
        }
      } finally {
        ({ owedUntilMs } = this.pace);
        this.pace.end();
        if (running.size > 0) {
          scope.cancel();
          await CancellationScope.nonCancellable(() => condition(() => running.size === 0));
        }
        this.restRefining();
      }
    });
    if (failures.length > 0) throw readable(failures[0]);
    return { nextChunk: next, owedUntilMs };
  }

  private async refine({ reprocessId, planKey, source }: PlannedReprocess, chunk: number): Promise<void> {
    const refined = await executeChild(reprocessChunkWorkflow, {
      workflowId: reprocessChunkWorkflowId({ reprocessId, chunk }), args: [{ reprocessId, planKey, chunk }], priority,
      parentClosePolicy: ParentClosePolicy.TERMINATE,
      staticSummary: `${reprocessId}, chunk ${chunk}`, typedSearchAttributes: [{ key: sourceKey, value: source }],
    });
    const { progress } = this;
    progress.chunksRefined += 1;
    progress.rowsRefined += refined.rows;
    progress.silverRows += refined.silverRows;
    progress.dlqRows += refined.dlqRows;
    for (const [type, count] of Object.entries(refined.dlqByType)) progress.dlqByType[type] = (progress.dlqByType[type] ?? 0) + count;
  }

  private steer(change: () => void): void {
    const wasPaused = this.isPaused;
    change();
    if (wasPaused !== this.isPaused && this.refiningFromMs !== null) {
      this.restRefining();
      if (!this.isPaused) this.pace.resume();
      this.refiningFromMs = Date.now();
    }
    this.turn += 1;
    this.show(this.progress.phase);
  }

  private throttle({ rowsPerSecond, parallelism }: Throttle): void {
    this.steer(() => {
      const { progress } = this;
      if (parallelism !== undefined) progress.parallelism = clampParallelism(parallelism);
      if (rowsPerSecond === undefined || (rowsPerSecond !== null && !(rowsPerSecond > 0))) return;
      const before = progress.rowsPerSecondLimit;
      progress.rowsPerSecondLimit = rowsPerSecond;
      this.pace.change(before, rowsPerSecond);
    });
  }

  private restRefining(): void {
    this.progress.refiningMs = this.refiningMs();
    this.refiningFromMs = this.refiningFromMs === null ? null : Date.now();
  }

  private refiningMs(): number {
    const isRunning = this.refiningFromMs !== null && this.progress.phase === 'refining';
    return this.progress.refiningMs + (isRunning ? Date.now() - this.refiningFromMs! : 0);
  }

  private view(): ReprocessProgress {
    return { ...this.progress, refiningMs: this.refiningMs(), asOfMs: Date.now() };
  }

  private show(phase: ReprocessProgress['phase']): void {
    const { progress } = this;
    if (phase !== progress.phase) {
      progress.refiningMs = this.refiningMs();
      if (this.refiningFromMs !== null) this.refiningFromMs = Date.now();
      progress.phase = phase;
      upsertSearchAttributes([{ key: stateKey, value: phase }]);
    }
    setCurrentDetails(reprocessDetails(this.view()));
  }
}

const clampParallelism = (parallelism: number): number => Math.max(1, Math.min(parallelismMax, Math.floor(parallelism)));

/** A chunk's failure, named once: the Web UI shows the outermost message. */
const readable = (failure: unknown): unknown => {
  if (isCancellation(failure)) return failure;
  if (failure instanceof ChildWorkflowFailure || failure instanceof ActivityFailure) {
    return ApplicationFailure.create({ type: 'CHUNK_FAILED', message: failureCause(failure), nonRetryable: true, cause: failure });
  }
  return failure;
};
