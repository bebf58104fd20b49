import type { IntervalSet } from '../domain/offsets.ts';

/** Membership of ascending offsets in an interval set: one comparison an offset while they stay in one interval. */
export class OffsetCursor {
  private readonly set: IntervalSet;
  private from = 0;
  private to = 0;

  constructor(set: IntervalSet) {
    this.set = set;
  }

  has(offset: number): boolean {
    if (offset >= this.from && offset < this.to) return true;
    if (this.set.isEmpty) return false;
    const wanted = BigInt(offset);
    if (!this.set.has(wanted)) return false;
    const interval = this.set.intervals.find(({ start, end }) => wanted >= start && wanted < end)!;
    this.from = Number(interval.start);
    // Ends past 2^53 round, but no offset of a row here reaches them; see rowOffset in transform.ts.
    this.to = Number(interval.end);
    return true;
  }
}
