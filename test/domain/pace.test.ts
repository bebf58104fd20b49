import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { burstMs, paidUntilAfter, paidUntilAtRate } from '../../src/domain/pace.ts';
import { seed } from '../support/seed.ts';

/** When the last row is paid for, and when each chunk started, if timers ring late by so much. */
const run = (chunks: readonly { rows: number; lateMs: number; rowsPerSecond: number }[]): { endMs: number; starts: number[] } => {
  let nowMs = 1_000_000;
  let paidUntilMs = nowMs;
  const starts: number[] = [];
  for (const { rows, lateMs, rowsPerSecond } of chunks) {
    starts.push(nowMs);
    paidUntilMs = paidUntilAfter(paidUntilMs, rows, rowsPerSecond, nowMs);
    nowMs = Math.max(nowMs, paidUntilMs) + lateMs;
  }
  return { endMs: nowMs - 1_000_000, starts };
};

test('a rate holds within 5 % over a run, and at no time more was started than the rate allows and a burst, however late the timers ring', () => {
  fc.assert(fc.property(fc.double({ min: 100, max: 1_000_000, noNaN: true }), fc.array(fc.record({ seconds: fc.double({ min: 0.05, max: 2, noNaN: true }), lateMs: fc.nat(burstMs - 100) }), { minLength: 60, maxLength: 300 }), (rowsPerSecond, given) => {
    const chunks = given.map(({ seconds, lateMs }) => ({ rows: seconds * rowsPerSecond, lateMs, rowsPerSecond }));
    // A chunk that takes less than its timer is late cannot keep the rate up.
    const timely = chunks.map((chunk) => ({ ...chunk, lateMs: Math.min(chunk.lateMs, chunk.rows / rowsPerSecond * 900) }));
    const { endMs, starts } = run(timely);
    const dueMs = timely.reduce((sum, { rows }) => sum + rows, 0) / rowsPerSecond * 1_000;
    expect(endMs).toBeGreaterThanOrEqual(dueMs - 1e-3);
    expect(endMs).toBeLessThanOrEqual(Math.max(dueMs * 1.05, dueMs + burstMs));
    let started = 0;
    for (const [i, { rows }] of timely.entries()) {
      expect(started / rowsPerSecond * 1_000).toBeLessThanOrEqual(starts[i]! - starts[0]! + 1e-3);
      started += rows;
    }
  }), { seed });
});

test('time that was lost past a burst is not made up for', () => {
  const at = { rows: 1_000, rowsPerSecond: 1_000 };
  const { starts } = run([{ ...at, lateMs: 60_000 }, { ...at, lateMs: 0 }, { ...at, lateMs: 0 }, { ...at, lateMs: 0 }, { ...at, lateMs: 0 }]);
  // One minute late: two chunks follow at once, as the burst allows, and then one a second.
  expect(starts.map((start) => start - starts[0]!)).toEqual([0, 61_000, 61_000, 61_000, 62_000]);
});

test('what is not paid for when the rate changes is paid for at the new one', () => {
  const paidUntilMs = paidUntilAfter(0, 10_000, 1_000, 0);
  expect(paidUntilMs).toBe(10_000);
  expect(paidUntilAtRate(paidUntilMs, 1_000, 2_000, 4_000)).toBe(7_000);
  expect(paidUntilAtRate(paidUntilMs, 1_000, 100, 4_000)).toBe(64_000);
  expect(paidUntilAtRate(paidUntilMs, 1_000, 2_000, 11_000)).toBe(11_000);
});
