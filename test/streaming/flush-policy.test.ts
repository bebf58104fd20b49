import { expect, test } from 'vitest';
import { flushReason } from '../../src/streaming/flush-policy.ts';

const limits = { rowsMax: 100, bytesMax: 1_000, intervalMs: 500 };
const facts = { rows: 10, payloadBytes: 10, ageMs: 0, unacceptedFiles: 0 };

test('size first, time second, and never without a row', () => {
  expect(flushReason({ ...facts, rows: 0, ageMs: 9_999_999 }, limits)).toBe(null);
  expect(flushReason(facts, limits)).toBe(null);
  expect(flushReason({ ...facts, rows: 100 }, limits)).toBe('size');
  expect(flushReason({ ...facts, payloadBytes: 1_000, ageMs: 9_999 }, limits)).toBe('size');
  expect(flushReason({ ...facts, ageMs: 500 }, limits)).toBe('time');
});

test('while the ledger does not answer, files grow instead of their number, and size still closes them', () => {
  expect(flushReason({ ...facts, ageMs: 500, unacceptedFiles: 4 }, limits)).toBe('time');
  expect(flushReason({ ...facts, ageMs: 2_999, unacceptedFiles: 9 }, limits)).toBe(null);
  expect(flushReason({ ...facts, ageMs: 3_000, unacceptedFiles: 9 }, limits)).toBe('time');
  expect(flushReason({ ...facts, rows: 100, unacceptedFiles: 1_000 }, limits)).toBe('size');
  expect(flushReason({ ...facts, ageMs: 30_000, unacceptedFiles: 100_000 }, limits)).toBe('time');
});

test('in the company of another buffer that closes, half the interval suffices', () => {
  expect(flushReason({ ...facts, ageMs: 249 }, limits, true)).toBe(null);
  expect(flushReason({ ...facts, ageMs: 250 }, limits, true)).toBe('time');
  expect(flushReason({ ...facts, ageMs: 250 }, limits, false)).toBe(null);
});
