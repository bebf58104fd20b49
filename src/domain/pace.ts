// The pace of work that is paid for by time: rows that are started at a rate of n a second are paid for rows / n seconds later. Times are
// ms since the epoch, rates rows a second. Pure: who calls says what time it is.

/** What a late start may be made up for: the rate holds over a run, not within every instant. */
export const burstMs = 2_000;

/** Until when everything is paid for, once `rows` more are started now. */
export const paidUntilAfter = (paidUntilMs: number, rows: number, rowsPerSecond: number, nowMs: number): number =>
  Math.max(paidUntilMs, nowMs - burstMs) + rows / rowsPerSecond * 1_000;

/** The same when the rate changes: what was started and is not paid for is paid for at the new one. */
export const paidUntilAtRate = (paidUntilMs: number, before: number, after: number, nowMs: number): number =>
  nowMs + Math.max(0, paidUntilMs - nowMs) * before / after;
