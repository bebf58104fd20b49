import fc from 'fast-check';
import { expect, test } from 'vitest';
import { RetentionForecast, lossShownMs } from '../../src/domain/retention-forecast.ts';
import type { RetentionSample } from '../../src/domain/retention-forecast.ts';

const lookMs = 30_000;
const hour = 3_600_000;

interface World {
  /** Records a millisecond, each stamped when it was written. */
  writePerMs: number;
  /** What the reader takes of them. */
  readShare: number;
  retentionMs: number | null;
  /** The log keeps so many records, and deletes them in segments. */
  size?: { records: number; segment: number };
  /** How far the reader is behind at the start. */
  behindMs: number;
}

/** A log that was written at one rate since long ago, and what a look at it shows. */
const at = ({ writePerMs, readShare, retentionMs, size, behindMs }: World, t: number): RetentionSample & { lost: boolean } => {
  const origin = 1_000 * hour;
  const offsetOf = (ms: number): number => Math.floor((origin + ms) * writePerMs);
  const timeOf = (offset: number): number => offset / writePerMs - origin;
  const logEnd = offsetOf(t);
  const position = Math.min(logEnd, offsetOf(-behindMs) + Math.floor(t * writePerMs * readShare));
  const logStart = size ? Math.max(0, Math.floor((logEnd - size.records) / size.segment) * size.segment) : retentionMs === null ? 0 : Math.max(0, offsetOf(t - retentionMs));
  return {
    atMs: t, logStart: BigInt(logStart), logEnd: BigInt(logEnd), position: BigInt(position), retentionMs,
    positionTimestampMs: position < logEnd ? timeOf(position) : null, logStartTimestampMs: timeOf(logStart), lost: position < logStart,
  };
};
const lossOf = (world: World, upTo: number): number | null => {
  for (let t = 0; t <= upTo; t += 1_000) if (at(world, t).lost) return t;
  return null;
};
const forecastAfter = (world: World, untilMs: number): number | null => {
  const forecast = new RetentionForecast();
  for (let t = 0; t <= untilMs; t += lookMs) forecast.observe(at(world, t));
  return forecast.lossInMs;
};

test('a reader that falls behind a log with an age limit is overtaken when the forecast says, to a minute or a twentieth', () => {
  fc.assert(fc.property(
    fc.double({ min: 0.01, max: 5, noNaN: true }), fc.double({ min: 0, max: 0.9, noNaN: true }), fc.integer({ min: 2, max: 6 }), fc.double({ min: 0.1, max: 0.8, noNaN: true }), fc.integer({ min: 1, max: 40 }),
    (writePerMs, readShare, hours, behindShare, looks) => {
      const world: World = { writePerMs, readShare, retentionMs: hours * hour, behindMs: hours * hour * behindShare };
      const now = looks * lookMs;
      const lostAt = lossOf(world, 100 * hour)!;
      if (lostAt <= now) return;
      const forecast = forecastAfter(world, now);
      expect(Math.abs(forecast! - (lostAt - now))).toBeLessThanOrEqual(Math.max(60_000, (lostAt - now) / 20));
    },
  ), { numRuns: 60 });
});

test('a log with a size limit deletes in segments: the forecast is right to two segments once the log start was seen to move twice', () => {
  fc.assert(fc.property(
    fc.double({ min: 0.05, max: 5, noNaN: true }), fc.double({ min: 0, max: 0.8, noNaN: true }), fc.integer({ min: 4, max: 30 }), fc.double({ min: 0.1, max: 0.6, noNaN: true }),
    (writePerMs, readShare, segments, behindShare) => {
      const segmentMs = 10 * 60_000;
      const segment = Math.ceil(segmentMs * writePerMs);
      const world: World = { writePerMs, readShare, retentionMs: null, size: { records: segment * segments, segment }, behindMs: segments * segmentMs * behindShare };
      const lostAt = lossOf(world, 60 * hour);
      const now = 40 * 60_000;
      if (lostAt === null || lostAt <= now + lookMs) return;
      const forecast = forecastAfter(world, now);
      expect(forecast).not.toBe(null);
      expect(Math.abs(forecast! - (lostAt - now))).toBeLessThanOrEqual(Math.max(2 * segmentMs / (1 - readShare), (lostAt - now) / 4));
    },
  ), { numRuns: 40 });
});

test('a reader at the end of the log, or one that catches up, has nothing to fear', () => {
  fc.assert(fc.property(fc.double({ min: 0.01, max: 5, noNaN: true }), fc.integer({ min: 1, max: 50 }), fc.double({ min: 1.05, max: 20, noNaN: true }), (writePerMs, looks, readShare) => {
    // Offsets are whole numbers: a reader that is one record behind may seem a trifle slower than the log.
    const isFar = (ms: number | null): boolean => ms === null || ms > lossShownMs;
    expect(isFar(forecastAfter({ writePerMs, readShare: 1, retentionMs: 4 * hour, behindMs: 0 }, looks * lookMs))).toBe(true);
    expect(forecastAfter({ writePerMs, readShare, retentionMs: 40 * hour, behindMs: 30 * hour }, looks * lookMs)).toBe(null);
  }));
});

test('the longer records are kept, and the faster they are read, the later is the loss', () => {
  const order = (ms: number | null): number => ms ?? Infinity;
  fc.assert(fc.property(
    fc.record({ writePerMs: fc.double({ min: 0.01, max: 5, noNaN: true }), readShare: fc.double({ min: 0, max: 1.5, noNaN: true }), behindMs: fc.integer({ min: 0, max: 3 * hour }), retentionMs: fc.integer({ min: hour, max: 10 * hour }) }),
    fc.integer({ min: 1, max: hour }), fc.double({ min: 0.01, max: 1, noNaN: true }),
    (world, longer, faster) => {
      const now = 10 * 60_000;
      // Offsets are whole numbers, and so a trifle early or late.
      const forecast = order(forecastAfter(world, now)) * 0.999 - 10_000;
      expect(order(forecastAfter({ ...world, retentionMs: world.retentionMs + longer }, now))).toBeGreaterThanOrEqual(forecast);
      expect(order(forecastAfter({ ...world, readShare: world.readShare + faster }, now))).toBeGreaterThanOrEqual(forecast);
    },
  ));
});

test('without a limit and without a log start that moves there is no forecast; below the log start it is now', () => {
  expect(forecastAfter({ writePerMs: 1, readShare: 0, retentionMs: null, behindMs: hour }, hour)).toBe(null);
  expect(forecastAfter({ writePerMs: 1, readShare: 0, retentionMs: 2 * hour, behindMs: 3 * hour }, lookMs)).toBe(0);
});

test('a first look is enough: the reader may be standing still', () => {
  expect(forecastAfter({ writePerMs: 1, readShare: 1, retentionMs: 5 * hour, behindMs: 2 * hour }, 0)).toBe(3 * hour);
});
