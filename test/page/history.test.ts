import { expect, test } from 'vitest';
import { addDelay } from '../../src/domain/freshness.ts';
import type { FreshnessJson } from '../../src/domain/freshness.ts';
import { SourceHistory } from '../../src/page/history.ts';

const sampleAt = (atMs: number, refinedRows: number, delays: [ms: number, count: number][]) => {
  const freshness: FreshnessJson = {};
  for (const [ms, records] of delays) addDelay(freshness, ms, records);
  return { atMs, lagRecords: 5, refinedRows, freshness };
};

test('a point tells what happened since the one before, not since the ledger began', () => {
  const history = new SourceHistory(10_000);
  expect(history.add(sampleAt(0, 100, [[60_000, 100]]))).toBe(false);
  expect(history.add(sampleAt(4_000, 150, [[60_000, 150]]))).toBe(false);
  expect(history.add(sampleAt(10_000, 300, [[60_000, 100], [500, 200]]))).toBe(true);
  expect(history.all).toHaveLength(1);
  const [point] = history.all;
  expect(point).toMatchObject({ atMs: 10_000, lagRecords: 5, rowsPerSecond: 20 });
  expect(point!.freshnessP99Ms).toBeGreaterThan(470);
  expect(point!.freshnessP99Ms).toBeLessThan(560);
});

test('a step without a record has no freshness, and a ledger that began anew starts a curve of its own', () => {
  const history = new SourceHistory(10_000);
  history.add(sampleAt(0, 100, [[500, 100]]));
  history.add(sampleAt(10_000, 100, [[500, 100]]));
  history.add(sampleAt(20_000, 10, [[9_000, 10]]));
  expect(history.all[0]).toMatchObject({ freshnessP50Ms: null, freshnessP99Ms: null, rowsPerSecond: 0 });
  expect(history.all[1]).toMatchObject({ rowsPerSecond: 0 });
  expect(history.all[1]!.freshnessP50Ms).toBeGreaterThan(8_000);
});

test('an hour is kept, and no more', () => {
  const history = new SourceHistory(1);
  for (let i = 0; i < 2_000; i += 1) history.add(sampleAt(i * 10, i, []));
  expect(history.all).toHaveLength(360);
  expect(history.all.at(-1)!.atMs).toBe(19_990);
  expect(history.over(100, sampleAt(19_995, 2_000, [])).rowsPerSecond).toBeGreaterThan(0);
});
