interface Sample { atMs: number; counts: readonly number[] }

/** Sums of several counts over the last while, from what was added: a share or a rate that forgets. Bounded by its slots. */
export class RateWindow {
  private readonly spanMs: number;
  private readonly slotMs: number;
  private readonly nowMs: () => number;
  private readonly slots: Sample[] = [];
  private readonly startedAtMs: number;

  constructor(spanMs: number, nowMs: () => number = Date.now, slots = 30) {
    this.spanMs = spanMs;
    this.slotMs = spanMs / slots;
    this.nowMs = nowMs;
    this.startedAtMs = nowMs();
  }

  add(...counts: readonly number[]): void {
    const atMs = Math.floor(this.nowMs() / this.slotMs) * this.slotMs;
    const last = this.slots.at(-1);
    if (last?.atMs === atMs) last.counts = counts.map((count, at) => count + (last.counts[at] ?? 0));
    else this.slots.push({ atMs, counts });
    this.forget();
  }

  /** Of the count at `at`, within the span. */
  sum(at = 0): number {
    this.forget();
    return this.slots.reduce((sum, { counts }) => sum + (counts[at] ?? 0), 0);
  }

  /** A second; over the time since the start while that is shorter than the span. */
  perSecond(at = 0): number {
    const seconds = Math.min(this.spanMs, Math.max(this.slotMs, this.nowMs() - this.startedAtMs)) / 1_000;
    return this.sum(at) / seconds;
  }

  private forget(): void {
    const from = this.nowMs() - this.spanMs;
    while (this.slots.length > 0 && this.slots[0]!.atMs < from) this.slots.shift();
  }
}
