import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { OffsetBitmap, chunkOffsets, maskOfChunk } from '../../src/audit/offset-bitmap.ts';
import { IntervalSet } from '../../src/domain/offsets.ts';

const interval = fc.tuple(fc.integer({ min: 0, max: 5 * chunkOffsets }), fc.oneof(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 2 * chunkOffsets })))
  .map(([start, length]) => ({ start: BigInt(start), end: BigInt(start + length) }));

test('a bitmap gives back exactly the offsets that were added, as maximal intervals', () => {
  fc.assert(fc.property(fc.array(interval, { maxLength: 6 }), (intervals) => {
    const expected = IntervalSet.of(...intervals);
    const bitmap = new OffsetBitmap();
    let repeated = 0;
    for (const { start, end } of intervals) for (let offset = Number(start); offset < Number(end); offset += 1) repeated += bitmap.add(offset) ? 0 : 1;
    expect([...bitmap.intervals()]).toEqual(expected.intervals);
    expect(bitmap.size).toBe(Number(expected.size));
    expect(repeated).toBe(intervals.reduce((sum, { start, end }) => sum + Number(end - start), 0) - bitmap.size);
  }), { numRuns: 60 });
});

test('the mask of a chunk has exactly the bits of the intervals that meet it', () => {
  fc.assert(fc.property(fc.array(interval, { maxLength: 6 }), fc.integer({ min: 0, max: 8 }), (intervals, index) => {
    const set = IntervalSet.of(...intervals);
    const mask = maskOfChunk(set, index);
    const chunk = IntervalSet.of({ start: BigInt(index * chunkOffsets), end: BigInt((index + 1) * chunkOffsets) });
    const bits = new OffsetBitmap();
    for (const { start, end } of set.intersect(chunk).intervals) for (let offset = start; offset < end; offset += 1n) bits.add(Number(offset));
    expect(mask).toEqual(bits.chunk(index));
  }), { numRuns: 60 });
});

test('an offset far beyond the others costs one chunk', () => {
  const bitmap = new OffsetBitmap();
  bitmap.add(3);
  bitmap.add(9_000_000_000_000_000);
  expect(bitmap.byteLength).toBe(2 * 8192);
  expect(bitmap.has(9_000_000_000_000_000)).toBe(true);
  expect([...bitmap.intervals()]).toEqual([{ start: 3n, end: 4n }, { start: 9_000_000_000_000_000n, end: 9_000_000_000_000_001n }]);
});
