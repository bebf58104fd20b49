import { invariant } from './errors.ts';

/**
 * Delay histogram with logarithmic buckets: bucket `i` holds delays in [growth^i, growth^(i+1)) ms, so that a quantile
 * is off by at most 5 %. Merging is adding; its JSON is small however many records it counts, so it can cross Temporal.
 */
export type FreshnessJson = Record<string, number>;

const growth = 1.05;
const logGrowth = Math.log(growth);
/** growth^400 ms is about 84 hours: older records (a backlog, a restored topic) share the last bucket. */
const bucketMax = 400;

export const freshnessBucket = (delayMs: number): number =>
  delayMs < 1 ? 0 : Math.min(bucketMax, Math.floor(Math.log(delayMs) / logGrowth));

/** Upper edge of a bucket in milliseconds. */
const bucketEdgeMs = (bucket: number): number => growth ** (bucket + 1);

export const addDelay = (histogram: FreshnessJson, delayMs: number, count: number): void => {
  const bucket = String(freshnessBucket(delayMs));
  histogram[bucket] = (histogram[bucket] ?? 0) + count;
};

export const mergeFreshness = (a: FreshnessJson, b: FreshnessJson): FreshnessJson => {
  const sum = { ...a };
  for (const [bucket, count] of Object.entries(b)) sum[bucket] = (sum[bucket] ?? 0) + count;
  return sum;
};

/** The delay in ms that a share `q` (0..1) of the records does not exceed; null for an empty histogram. */
export const freshnessQuantile = (histogram: FreshnessJson, q: number): number | null => {
  invariant(q >= 0 && q <= 1, () => `quantile ${q} is not within [0, 1]`);
  const buckets = Object.keys(histogram).map(Number).sort((a, b) => a - b);
  const total = buckets.reduce((sum, bucket) => sum + histogram[String(bucket)]!, 0);
  if (total === 0) return null;
  let seen = 0;
  for (const bucket of buckets) {
    seen += histogram[String(bucket)]!;
    if (seen >= q * total) return Math.round(bucketEdgeMs(bucket));
  }
  return Math.round(bucketEdgeMs(buckets.at(-1)!));
};

/** Each bucket as the middle of its delays and how many records it counts. */
export const freshnessDelays = (histogram: FreshnessJson): { delayMs: number; records: number }[] =>
  Object.entries(histogram).map(([bucket, records]) => ({ delayMs: (growth ** Number(bucket) + bucketEdgeMs(Number(bucket))) / 2, records }));
