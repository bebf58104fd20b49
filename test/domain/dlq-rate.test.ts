import { expect, test } from 'vitest';
import { dlqRateOf, recoveryPercentOf } from '../../src/domain/dlq-rate.ts';

test.each([
  ['no records', 0, 0, null, 'ok'], ['one bad record at night', 10, 1, 10, 'ok'], ['exactly 1 %', 10_000, 100, 1, 'ok'], ['above 1 %', 10_000, 101, 1.01, 'warning'],
  ['exactly 5 %', 10_000, 500, 5, 'warning'], ['above 5 %', 10_000, 501, 5.01, 'critical'], ['nothing valid', 100, 100, 100, 'critical'],
] as const)('the DLQ rate of %s warns above 1 %% and is critical above 5 %%', (_, records, refused, percent, level) => {
  expect(dlqRateOf(records, refused)).toEqual({ records, dlqRecords: refused, percent, level });
});

test('the recovery rate leaves purged rows out, and has no value without a row', () => {
  expect(recoveryPercentOf({ recovered: 3, open: 1, flagged: 0, quarantined: 0 })).toBe(75);
  expect(recoveryPercentOf({ recovered: 0, open: 0, flagged: 0, quarantined: 0 })).toBeNull();
});
