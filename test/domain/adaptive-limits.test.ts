import fc from 'fast-check';
import { expect, test } from 'vitest';
import { batchMeasuresMax, firstBatchLimit, flushInterval, nextBatchLimit } from '../../src/domain/adaptive-limits.ts';
import type { BatchBounds, BatchMeasure } from '../../src/domain/adaptive-limits.ts';

const bounds: BatchBounds = { recordsMin: 100, recordsMax: 500_000, triggerMs: 5_000 };
const aimMs = bounds.triggerMs * 0.8;

interface Cost { fixedMs: number; perRecordMs: number }
interface Run { limit: number; measures: BatchMeasure[] }
/** Micro-batches over what arrives while the one before runs. */
const batches = (run: Run, count: number, { fixedMs, perRecordMs }: Cost, recordsPerSecond: number, noise: (n: number) => number = () => 1, backlog = 0): BatchMeasure[] => {
  let waiting = backlog;
  const made: BatchMeasure[] = [];
  for (let n = 0; n < count; n += 1) {
    const records = Math.max(1, Math.min(run.limit, Math.floor(waiting)));
    const durationMs = (fixedMs + perRecordMs * records) * noise(n);
    waiting = Math.max(0, waiting - records) + recordsPerSecond * durationMs / 1000;
    made.push({ records, durationMs });
    run.measures = [...run.measures, made.at(-1)!].slice(-batchMeasuresMax);
    run.limit = nextBatchLimit(run.limit, run.measures, bounds).recordsMax;
  }
  return made;
};
const start = (): Run => ({ limit: firstBatchLimit(bounds).recordsMax, measures: [] });

/** A fixed cost that leaves room, and records such that the largest batch takes up to 200 triggers. */
const cost = fc.record({ fixedMs: fc.double({ min: 1, max: aimMs / 2, noNaN: true }), perRecordMs: fc.double({ min: 0.001, max: 2, noNaN: true }) });
const noiseOf = (seeds: readonly number[]) => (n: number): number => 0.9 + 0.2 * seeds[n % seeds.length]!;

test('after a 50-fold burst, micro-batches take at most 80 % of the trigger interval from the sixth on', () => {
  fc.assert(fc.property(cost, fc.double({ min: 1, max: 2_000, noNaN: true }), fc.integer({ min: 0, max: 20 }), (costs, rate, before) => {
    const run = start();
    batches(run, before, costs, rate);
    const burst = batches(run, 40, costs, rate * 50, undefined, rate * 50 * 60);
    for (const { durationMs, records } of burst.slice(5)) expect(durationMs <= aimMs || records <= bounds.recordsMin).toBe(true);
  }), { numRuns: 500 });
});

test('costs that differ by a tenth from batch to batch leave them within 80 % as well', () => {
  const seeds = fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 30 });
  const linear = fc.double({ min: 0.001, max: 2, noNaN: true }).map((perRecordMs): Cost => ({ fixedMs: 0, perRecordMs }));
  fc.assert(fc.property(linear, seeds, (costs, noise) => {
    const burst = batches(start(), 40, costs, 1_000_000, noiseOf(noise), 100_000_000);
    for (const { durationMs, records } of burst.slice(5)) expect(durationMs <= aimMs || records <= bounds.recordsMin).toBe(true);
  }), {
    numRuns: 2_000,
    examples: [
      [{ fixedMs: 0, perRecordMs: 0.09300418120500502 }, [0, 0, 0, 0.9999999999999974, 0, 0.8468284947847949, 0]],
      [{ fixedMs: 0, perRecordMs: 1.1965658559932997 }, [0.9993967975433194, 0, 0.9999999999999974]],
    ],
  });
});

test('micro-batches over a backlog are not smaller than they need to be: at least half of the trigger interval, or the upper bound', () => {
  fc.assert(fc.property(cost, (costs) => {
    const burst = batches(start(), 40, costs, 1_000_000, undefined, 100_000_000);
    for (const { durationMs, records } of burst.slice(15)) expect(durationMs >= bounds.triggerMs / 2 || records === bounds.recordsMax || records <= bounds.recordsMin).toBe(true);
  }), { numRuns: 300 });
});

test('when records become ten times dearer or cheaper, the limit follows within eight batches', () => {
  fc.assert(fc.property(fc.double({ min: 0.02, max: 0.2, noNaN: true }), fc.constantFrom(0.1, 10), (perRecordMs, factor) => {
    const run = start();
    batches(run, 10, { fixedMs: 200, perRecordMs }, 1_000_000, undefined, 100_000_000);
    const after = batches(run, 16, { fixedMs: 200, perRecordMs: perRecordMs * factor }, 1_000_000, undefined, 100_000_000).slice(8);
    for (const { durationMs, records } of after) {
      expect(durationMs).toBeLessThanOrEqual(aimMs);
      expect(durationMs >= bounds.triggerMs / 2 || records === bounds.recordsMax).toBe(true);
    }
  }), { numRuns: 100 });
});

test('under a fixed cost above the aim the limit is tried lower, and goes back up: smaller batches would only pay it more often', () => {
  const burst = batches(start(), 40, { fixedMs: 20_000, perRecordMs: 0.1 }, 1_000_000, undefined, 100_000_000);
  for (const { records } of burst.slice(10)) expect(records).toBeGreaterThan(20_000);
  expect(burst.slice(10).reduce((sum, { records }) => sum + records, 0) / 30).toBeGreaterThan(100_000);
});

test('small batches at a low rate leave the limit alone, so that a burst is not taken in crumbs', () => {
  const run = start();
  batches(run, 50, { fixedMs: 500, perRecordMs: 0.02 }, 20);
  expect(run.limit).toBe(bounds.recordsMax);
});

test('the limit stays within its bounds, and says what it came from, whatever was measured', () => {
  const measure = fc.record({ records: fc.nat(1_000_000), durationMs: fc.double({ min: 0, max: 1e9, noNaN: true }) });
  fc.assert(fc.property(fc.array(measure, { maxLength: 10 }), fc.integer({ min: 1, max: 10_000_000 }), (measures, limit) => {
    const next = nextBatchLimit(limit, measures, bounds);
    expect(Number.isSafeInteger(next.recordsMax) && next.recordsMax >= bounds.recordsMin && next.recordsMax <= bounds.recordsMax).toBe(true);
    expect(next.reason).not.toMatch(/NaN|Infinity|undefined/);
  }));
});

const flushBounds = { intervalMinMs: 1_000, intervalMaxMs: 10_000 };

test('24 topic partitions at a low rate make at most four Bronze files a second together', () => {
  const { intervalMs, reason } = flushInterval({ topicPartitions: 24, recordsPerSecond: 100 }, flushBounds);
  expect(intervalMs).toBe(6_000);
  expect(24 / (intervalMs / 1_000)).toBeLessThanOrEqual(4);
  expect(reason).toBe('100 records/s over 24 topic partitions: at most 4 files/s');
});

test('few topic partitions, and well-filled files, wait no longer than the shortest interval', () => {
  expect(flushInterval({ topicPartitions: 3, recordsPerSecond: 1 }, flushBounds).intervalMs).toBe(1_000);
  expect(flushInterval({ topicPartitions: 24, recordsPerSecond: 50_000 }, flushBounds).intervalMs).toBe(1_000);
  expect(flushInterval({ topicPartitions: 0, recordsPerSecond: 0 }, flushBounds).intervalMs).toBe(1_000);
});

test('the flush interval never leaves its bounds, shortens with the rate, and grows with the topic partitions', () => {
  fc.assert(fc.property(fc.nat(5_000), fc.double({ min: 0, max: 1e6, noNaN: true }), (topicPartitions, recordsPerSecond) => {
    const at = (partitions: number, rate: number): number => flushInterval({ topicPartitions: partitions, recordsPerSecond: rate }, flushBounds).intervalMs;
    const interval = at(topicPartitions, recordsPerSecond);
    expect(interval >= flushBounds.intervalMinMs && interval <= flushBounds.intervalMaxMs).toBe(true);
    expect(at(topicPartitions, recordsPerSecond * 2 + 1)).toBeLessThanOrEqual(interval);
    expect(at(topicPartitions + 1, recordsPerSecond)).toBeGreaterThanOrEqual(interval);
  }));
});
