import { invariant } from './errors.ts';

/*
 * How much goes into a micro-batch, and how long a Bronze file stays open, is controlled, not configured: config gives
 * the bounds and the aim. Pure; what is decided depends on nothing but what was measured.
 */

/** One micro-batch as it was measured. */
export interface BatchMeasure {
  records: number;
  durationMs: number;
}

export interface BatchBounds {
  recordsMin: number;
  recordsMax: number;
  /** A micro-batch is to end within 80 % of this. */
  triggerMs: number;
}

export interface BatchLimit {
  /** Most records in the next micro-batch. */
  recordsMax: number;
  /** Why, for people. */
  reason: string;
}

/** Below 80 %, so that batches whose cost differs by a tenth from the one measured stay below it, too. */
const aimShare = 0.65;
const stepUpMax = 4;
const stepDownMax = 8;
/** Batches that the fixed cost is told from: few, because what a record costs changes. */
export const batchMeasuresMax = 4;
/** A batch that held less of its limit says nothing about a larger limit. */
const fullShare = 0.5;
/** Above this share of the aim the fixed cost decides, and smaller batches only add to it. */
const fixedShareMax = 0.75;
const perRecordShareMin = 0.05;

const seconds = (ms: number): string => `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 0)} s`;

export const firstBatchLimit = ({ recordsMax }: BatchBounds): BatchLimit => ({ recordsMax, reason: 'nothing measured yet: the upper bound' });

/**
 * The cost of a batch that does not depend on its records: where the line through the measures meets zero records. Zero
 * when they are of about one size: then all of the cost counts as the records'.
 */
const fixedCostMs = (measures: readonly BatchMeasure[]): number => {
  const sizes = measures.map(({ records }) => records);
  if (Math.max(...sizes) < 2 * Math.min(...sizes)) return 0;
  const meanRecords = sizes.reduce((sum, records) => sum + records, 0) / measures.length;
  const meanMs = measures.reduce((sum, { durationMs }) => sum + durationMs, 0) / measures.length;
  const spread = measures.reduce((sum, { records }) => sum + (records - meanRecords) ** 2, 0);
  const slope = measures.reduce((sum, { records, durationMs }) => sum + (records - meanRecords) * (durationMs - meanMs), 0) / spread;
  return Math.max(0, Math.min(meanMs - slope * meanRecords, ...measures.map(({ durationMs }) => durationMs)));
};

/**
 * The limit after a measured batch.
 *
 * @param recordsMax the limit that the last batch was cut by.
 * @param measures of the last batches, the latest last; more than {@link batchMeasuresMax} are not looked at.
 */
export const nextBatchLimit = (recordsMax: number, measures: readonly BatchMeasure[], bounds: BatchBounds): BatchLimit => {
  invariant(bounds.recordsMin <= bounds.recordsMax, () => `batch limits: expected a lower bound up to ${bounds.recordsMax}, found ${bounds.recordsMin}`);
  const known = measures.slice(-batchMeasuresMax).filter(({ records }) => records > 0);
  const last = known.at(-1);
  const bounded = (wanted: number): number => Math.max(bounds.recordsMin, Math.min(bounds.recordsMax, Math.round(wanted)));
  if (!last) return { recordsMax: bounded(recordsMax), reason: 'nothing measured yet' };
  const { records, durationMs } = last;
  const aimMs = bounds.triggerMs * aimShare;
  const took = `${records} records took ${seconds(durationMs)}, aim ${seconds(aimMs)}`;
  if (durationMs <= aimMs && records < recordsMax * fullShare) return { recordsMax: bounded(recordsMax), reason: `${took}: not full, nothing to learn` };
  const fixedMs = fixedCostMs(known);
  const perRecordMs = Math.max(durationMs - fixedMs, durationMs * perRecordShareMin) / records;
  const isFixed = fixedMs > aimMs * fixedShareMax;
  // Upwards in proportion, as if nothing were fixed: a fixed cost that is but the noise of four batches would have the next one too large.
  const wanted = isFixed ? fixedMs / perRecordMs : Math.min((aimMs - fixedMs) / perRecordMs, records * aimMs / durationMs);
  const next = bounded(Math.max(recordsMax / stepDownMax, Math.min(recordsMax * stepUpMax, wanted)));
  const way = next > recordsMax ? 'more' : next < recordsMax ? 'fewer' : next === bounds.recordsMax ? 'the upper bound' : next === bounds.recordsMin ? 'the lower bound' : 'as before';
  return { recordsMax: next, reason: `${took}${isFixed ? `, ${seconds(fixedMs)} of it whatever their number` : ''}: ${way}` };
};

export interface FlushBounds {
  /** How long a record waits for its Bronze file when files are few or well filled. */
  intervalMinMs: number;
  /** How long it may wait at most. */
  intervalMaxMs: number;
}

export interface FlushFacts {
  /** Topic partitions of the streaming worker that bring records. */
  topicPartitions: number;
  /** Of all of them together. */
  recordsPerSecond: number;
}

export interface FlushInterval {
  intervalMs: number;
  /** Why, for people. */
  reason: string;
}

/** So many Bronze files a second of one streaming worker are no load, */
const filesPerSecondFree = 4;
/** and a file of so many rows is worth its price. */
const rowsWorthAFile = 250;

/**
 * How long a buffer stays open: as short as allowed while files are few or well filled, else long enough for either, within
 * the bounds. 24 topic partitions at a low rate make four files a second together, and not one each.
 */
export const flushInterval = ({ topicPartitions, recordsPerSecond }: FlushFacts, { intervalMinMs, intervalMaxMs }: FlushBounds): FlushInterval => {
  const fewMs = topicPartitions / filesPerSecondFree * 1_000;
  const filledMs = recordsPerSecond > 0 ? topicPartitions * rowsWorthAFile / recordsPerSecond * 1_000 : Infinity;
  const wantedMs = Math.min(fewMs, filledMs);
  const intervalMs = Math.round(Math.max(intervalMinMs, Math.min(intervalMaxMs, wantedMs)));
  const rate = `${Math.round(recordsPerSecond)} records/s over ${topicPartitions} topic partitions`;
  const reason = wantedMs <= intervalMinMs ? 'the shortest' : wantedMs >= intervalMaxMs ? 'the longest' : fewMs <= filledMs ? `at most ${filesPerSecondFree} files/s` : `${rowsWorthAFile} rows a file`;
  return { intervalMs, reason: `${rate}: ${reason}` };
};
