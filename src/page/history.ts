import { freshnessQuantile } from '../domain/freshness.ts';
import type { FreshnessJson } from '../domain/freshness.ts';
import type { HistoryPoint, PageHistory } from './snapshot.ts';

/** What one look saw of a source. Totals only grow, unless the ledger began anew. */
export interface SourceSample {
  atMs: number;
  lagRecords: number | null;
  refinedRows: number;
  freshness: FreshnessJson;
}

/** An hour. */
const pointsMax = 360;
const stepMsDefault = 10_000;

const grown = (now: FreshnessJson, before: FreshnessJson): FreshnessJson => {
  const grownBy: FreshnessJson = {};
  for (const [bucket, records] of Object.entries(now)) {
    const more = records - (before[bucket] ?? 0);
    if (more > 0) grownBy[bucket] = more;
  }
  return grownBy;
};

/** Curves of the last hour, a point each step, made from totals: what they grew by since the point before. */
export class SourceHistory {
  readonly stepMs: number;
  private readonly points: HistoryPoint[] = [];
  /** Where the points begin, oldest first. */
  private readonly samples: SourceSample[] = [];

  constructor(stepMs: number = stepMsDefault) {
    this.stepMs = stepMs;
  }

  /** Returns whether it made a point. */
  add(sample: SourceSample): boolean {
    const last = this.samples.at(-1);
    if (last && sample.atMs - last.atMs < this.stepMs) return false;
    if (last) this.points.push({ atMs: sample.atMs, lagRecords: sample.lagRecords, ...this.since(last, sample) });
    this.samples.push(sample);
    if (this.points.length > pointsMax) this.points.shift();
    if (this.samples.length > pointsMax) this.samples.shift();
    return last !== undefined;
  }

  /** What happened between the newest sample that is at least so old and this one. */
  over(windowMs: number, now: SourceSample): Pick<HistoryPoint, 'freshnessP50Ms' | 'freshnessP99Ms' | 'rowsPerSecond'> {
    const start = this.samples.findLast(({ atMs }) => now.atMs - atMs >= windowMs) ?? this.samples[0];
    return start ? this.since(start, now) : { freshnessP50Ms: null, freshnessP99Ms: null, rowsPerSecond: 0 };
  }

  get all(): readonly HistoryPoint[] {
    return this.points;
  }

  private since(before: SourceSample, now: SourceSample): Pick<HistoryPoint, 'freshnessP50Ms' | 'freshnessP99Ms' | 'rowsPerSecond'> {
    // A ledger that began anew counts from zero: what came since cannot be told from what came before.
    const isSame = now.refinedRows >= before.refinedRows;
    const freshness = isSame ? grown(now.freshness, before.freshness) : now.freshness;
    const rows = isSame ? now.refinedRows - before.refinedRows : 0;
    const seconds = (now.atMs - before.atMs) / 1_000;
    return { freshnessP50Ms: freshnessQuantile(freshness, 0.5), freshnessP99Ms: freshnessQuantile(freshness, 0.99), rowsPerSecond: seconds > 0 ? rows / seconds : 0 };
  }
}

export const historyJson = (histories: ReadonlyMap<string, SourceHistory>): PageHistory => ({
  stepMs: [...histories.values()][0]?.stepMs ?? stepMsDefault,
  points: Object.fromEntries([...histories].map(([source, history]) => [source, [...history.all]])),
});
