import { flushInterval } from '../domain/adaptive-limits.ts';
import type { FlushBounds, FlushFacts, FlushInterval } from '../domain/adaptive-limits.ts';

const lookEveryMs = 1_000;
/** Of the rate before, in each new one: what came in the last seconds counts. */
const keptShare = 0.8;
/** A topic partition counts while it brought records in so many of the longest intervals. */
const activeIntervals = 2;

/** What one streaming worker takes in, and the flush interval that follows from it. The caller's clock; no I/O. */
export class FlushPace {
  private readonly bounds: FlushBounds;
  private readonly lastTakenMs = new Map<string, number>();
  private records = 0;
  private recordsPerSecond = 0;
  private lookedAtMs: number;
  private decided: FlushInterval;

  constructor(bounds: FlushBounds, nowMs: number) {
    this.bounds = bounds;
    this.lookedAtMs = nowMs;
    this.decided = flushInterval({ topicPartitions: 0, recordsPerSecond: 0 }, bounds);
  }

  taken(topicPartition: string, records: number, nowMs: number): void {
    this.records += records;
    this.lastTakenMs.set(topicPartition, nowMs);
  }

  /** Decides again, at most once a second. */
  look(nowMs: number): void {
    const passedMs = nowMs - this.lookedAtMs;
    if (passedMs < lookEveryMs) return;
    const latest = this.records * 1_000 / passedMs;
    // A burst counts at once: its files are well filled, and nothing needs to wait for them to be.
    this.recordsPerSecond = Math.max(latest, this.recordsPerSecond * keptShare + latest * (1 - keptShare));
    this.records = 0;
    this.lookedAtMs = nowMs;
    for (const [key, takenMs] of this.lastTakenMs) if (nowMs - takenMs > this.bounds.intervalMaxMs * activeIntervals) this.lastTakenMs.delete(key);
    this.decided = flushInterval({ topicPartitions: this.lastTakenMs.size, recordsPerSecond: this.recordsPerSecond }, this.bounds);
  }

  get current(): FlushInterval & FlushFacts {
    return { ...this.decided, topicPartitions: this.lastTakenMs.size, recordsPerSecond: this.recordsPerSecond };
  }

  get intervalMs(): number {
    return this.decided.intervalMs;
  }
}
