import { topicPartitionsAtOnceMax } from '../contracts/stream.ts';
import type { CheckpointReport, LedgerView, WorkerHealth } from '../contracts/stream.ts';
import { isTidemarkError } from '../domain/errors.ts';
import type { TidemarkError } from '../domain/errors.ts';
import { jsonBytes } from '../domain/payload.ts';
import type { CheckpointClient } from './checkpoint-client.ts';
import type { CheckpointOutbox, Settlement } from './checkpoint-outbox.ts';
import { backoffMs } from './clock.ts';
import type { Clock } from './clock.ts';
import type { AtStep } from './steps.ts';

export interface ReporterLog {
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
}

export interface CheckpointReporterOptions {
  source: string;
  owner: string;
  outbox: CheckpointOutbox;
  checkpoints: CheckpointClient;
  clock: Clock;
  log: ReporterLog;
  /** Signals are at least this far apart; the first one leaves at once. */
  intervalMs?: number;
  /**
   * How often the ledger is looked at for every claimed topic partition: one that has nothing to report would else never
   * learn that its claim is gone, or that the ledger went back.
   */
  lookIntervalMs?: number;
  /** Goes along with every report. */
  health?: () => WorkerHealth;
  onSettled(settlement: Settlement): void;
  /** A report was delivered and the ledger read back: its JSON size, and how long that took. */
  onReported?(bytes: number, acceptedAfterMs: number): void;
  /** No such workflow: Temporal lost it, or it was terminated. */
  onLedgerLost(): void;
  atStep: AtStep;
}

const retryMs = { first: 200, max: 10_000 };
/** Longest wait for files that are being written. */
const gatherMs = 200;

const isOutage = (error: unknown): error is TidemarkError =>
  isTidemarkError(error) && (error.retryable || error.code === 'WORKFLOW_NOT_FOUND');

/**
 * Reports what is in the outbox, one report in flight at a time: a Signal, then the ledger is read back until it
 * answers, and only then comes the next Signal. So however long nobody runs the workflow, one Signal waits for it.
 */
export class CheckpointReporter {
  private readonly options: CheckpointReporterOptions & Required<Pick<CheckpointReporterOptions, 'intervalMs' | 'lookIntervalMs'>>;
  private readonly stopped = new AbortController();
  private wakeUp: (() => void) | null = null;
  private notified = false;
  private healthDue = false;
  private running: Promise<void> | null = null;
  private drainWaiters: (() => void)[] = [];

  constructor(options: CheckpointReporterOptions) {
    this.options = { intervalMs: 1_000, lookIntervalMs: 10_000, ...options };
  }

  /** Rejects only with what `atStep` throws, or a bug. */
  start(): Promise<void> {
    this.running ??= this.run();
    return this.running;
  }

  /** Something became durable, or was taken away. */
  notify(): void {
    this.notified = true;
    this.wakeUp?.();
    this.resolveDrained();
  }

  /** What `health` says is not to wait for the next file: a report leaves for it, no sooner than any other. */
  tellHealth(): void {
    this.healthDue = true;
    this.notify();
  }

  /** Resolves when the ledger has accepted everything, or when the signal aborts. */
  drained(signal: AbortSignal): Promise<void> {
    if (this.options.outbox.isEmpty || signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      this.drainWaiters.push(resolve);
      signal.addEventListener('abort', () => resolve(), { once: true });
    });
  }

  async stop(): Promise<void> {
    this.stopped.abort();
    this.wakeUp?.();
    await this.running?.catch(() => undefined);
  }

  private get isStopped(): boolean {
    return this.stopped.signal.aborted;
  }

  private async run(): Promise<void> {
    const { outbox, owner, source, checkpoints, clock, log, intervalMs, lookIntervalMs, atStep } = this.options;
    let lastSignalMs = -Infinity;
    let failures = 0;
    let lastLookMs = clock.nowMs();
    while (!this.isStopped) {
      const untilLookMs = lastLookMs + lookIntervalMs - clock.nowMs();
      if (untilLookMs <= 0) {
        await this.lookAtAll();
        lastLookMs = clock.nowMs();
        continue;
      }
      if (!outbox.isReportable && !this.healthDue) {
        await this.idle(untilLookMs);
        continue;
      }
      await this.sleep(lastSignalMs + intervalMs - clock.nowMs());
      // Files that closed together are durable one after the other: a report that leaves with the first makes the others wait for the next.
      const gatherUntilMs = clock.nowMs() + gatherMs;
      while (!this.isStopped && outbox.writing > 0 && clock.nowMs() < gatherUntilMs) await this.idle(gatherUntilMs - clock.nowMs());
      const report = this.collect();
      if (this.isStopped || report === null) continue;
      try {
        await atStep('before-report', source);
        lastSignalMs = clock.nowMs();
        await checkpoints.report(source, report);
        await atStep('after-report', source);
        failures = 0;
        this.healthDue = false;
      } catch (error) {
        if (!isOutage(error)) throw error;
        if (error.code === 'WORKFLOW_NOT_FOUND') this.options.onLedgerLost();
        log.warn({ source, error: error.message, ranges: report.ranges.length }, 'checkpoint report not delivered, trying again');
        // The Signal may have arrived all the same; if so, its repetition changes nothing.
        await this.sleep(backoffMs(failures, retryMs.first, retryMs.max));
        failures += 1;
        continue;
      }
      // Also after a report of health alone: while nobody runs the workflow, one Signal waits.
      const named = Object.keys(report.epochs);
      const view = await this.readBack(named.length > 0 ? named : Object.keys(outbox.epochs()).slice(0, 1));
      if (view === null) continue;
      this.options.onReported?.(jsonBytes(report), clock.nowMs() - lastSignalMs);
      this.options.onSettled(outbox.settle(owner, report.epochs, view));
      this.resolveDrained();
    }
  }

  private collect(): CheckpointReport | null {
    const { outbox, owner, health } = this.options;
    const report = outbox.collect(owner);
    if (health === undefined) return report;
    // Without a claim there is nobody to speak of.
    if (report === null && (!this.healthDue || Object.keys(outbox.epochs()).length === 0)) {
      this.healthDue = false;
      return null;
    }
    return { ...report ?? { owner, epochs: {}, ranges: [], gaps: [] }, health: health() };
  }

  /** One try: while Temporal is away there is nothing to learn. */
  private async lookAtAll(): Promise<void> {
    const { source, owner, outbox, checkpoints, log, onSettled, onLedgerLost } = this.options;
    const epochs = outbox.epochs();
    const topicPartitions = Object.keys(epochs);
    try {
      for (let from = 0; from < topicPartitions.length && !this.isStopped; from += topicPartitionsAtOnceMax) {
        const view = await checkpoints.ledger(source, { topicPartitions: topicPartitions.slice(from, from + topicPartitionsAtOnceMax) });
        if (view.ready) onSettled(outbox.settle(owner, epochs, view));
      }
    } catch (error) {
      if (!isOutage(error)) throw error;
      log.info({ source, error: error.message }, 'ledger does not answer');
      if (error.code === 'WORKFLOW_NOT_FOUND') onLedgerLost();
    }
    this.resolveDrained();
  }

  /** Null when it was stopped, or the workflow is gone. */
  private async readBack(topicPartitions: string[]): Promise<LedgerView | null> {
    const { source, checkpoints, log } = this.options;
    for (let failures = 0; !this.isStopped; failures += 1) {
      try {
        const view = await checkpoints.ledger(source, { topicPartitions });
        if (view.ready) return view;
      } catch (error) {
        if (!isOutage(error)) throw error;
        if (error.code === 'WORKFLOW_NOT_FOUND') {
          this.options.onLedgerLost();
          return null;
        }
        log.warn({ source, error: error.message }, 'ledger does not answer, trying again');
      }
      await this.sleep(backoffMs(failures, retryMs.first, retryMs.max));
    }
    return null;
  }

  private resolveDrained(): void {
    if (this.options.outbox.isEmpty) for (const resolve of this.drainWaiters.splice(0)) resolve();
  }

  /** Until something is there to report, or `ms` have passed. */
  private async idle(ms: number): Promise<void> {
    if (!this.notified && !this.isStopped) {
      const waking = new AbortController();
      this.wakeUp = () => waking.abort();
      await this.options.clock.sleep(ms, waking.signal);
      this.wakeUp = null;
    }
    this.notified = false;
  }

  private async sleep(ms: number): Promise<void> {
    if (ms > 0 && !this.isStopped) await this.options.clock.sleep(ms, this.stopped.signal);
  }
}
