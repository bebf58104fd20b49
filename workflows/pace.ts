import { CancellationScope, isCancellation, sleep } from '@temporalio/workflow';
import { paidUntilAfter, paidUntilAtRate } from '../src/domain/pace.ts';

/**
 * Holds work to a rate: nothing more is started while what was is not paid for. A timer runs until it is. The clock only says how long it
 * runs, never whether there is one: after a Workflow Task that nobody finished, a replay may be told another time than the first run was.
 */
export class Pace {
  private readonly onPaid: () => void;
  private timer: CancellationScope | null = null;
  private paidUntilMs = 0;

  constructor(onPaid: () => void) {
    this.onPaid = onPaid;
  }

  /** `owedUntilMs`: what an earlier run had not paid for, when it continued as new. */
  begin(owedUntilMs: number | null): void {
    this.paidUntilMs = Date.now();
    if (owedUntilMs !== null) this.start(owedUntilMs);
  }

  get isOwing(): boolean {
    return this.timer !== null;
  }

  /** Null: everything is paid for. */
  get owedUntilMs(): number | null {
    return this.timer === null ? null : this.paidUntilMs;
  }

  pay(rows: number, rowsPerSecond: number | null): void {
    if (rowsPerSecond !== null) this.start(paidUntilAfter(this.paidUntilMs, rows, rowsPerSecond, Date.now()));
  }

  /** Null: no limit. */
  change(before: number | null, after: number | null): void {
    if (this.timer === null) return;
    if (before === null || after === null) this.end();
    else this.start(paidUntilAtRate(this.paidUntilMs, before, after, Date.now()));
  }

  /** Time that was spent in a pause is not made up for. */
  resume(): void {
    this.paidUntilMs = Math.max(this.paidUntilMs, Date.now());
  }

  end(): void {
    this.timer?.cancel();
    this.timer = null;
  }

  private start(paidUntilMs: number): void {
    this.end();
    this.paidUntilMs = paidUntilMs;
    const timer = new CancellationScope();
    this.timer = timer;
    void this.runOut(timer, Math.max(1, paidUntilMs - Date.now()));
  }

  private async runOut(timer: CancellationScope, milliseconds: number): Promise<void> {
    try {
      await timer.run(() => sleep(milliseconds));
    } catch (error) {
      if (!isCancellation(error)) throw error;
      return;
    }
    if (this.timer === timer) this.timer = null;
    this.onPaid();
  }
}
