import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Coverage, IntervalSet, parseTopicPartitionKey } from '../../src/domain/offsets.ts';

// The model of an interval set: the set of its offsets, in a small universe.
const universe = 40;
const modelOf = (set: IntervalSet): Set<number> => {
  const offsets = new Set<number>();
  for (const { start, end } of set.intervals) for (let offset = start; offset < end; offset += 1n) offsets.add(Number(offset));
  return offsets;
};
const setArbitrary = fc.array(fc.tuple(fc.nat(universe), fc.nat(universe)), { maxLength: 8 })
  .map((pairs) => IntervalSet.of(...pairs.map(([a, b]) => ({ start: BigInt(Math.min(a, b)), end: BigInt(Math.max(a, b)) }))));

describe('an interval set behaves as the set of its offsets', () => {
  test.each([
    ['union', (a: IntervalSet, b: IntervalSet) => a.union(b), (inA: boolean, inB: boolean) => inA || inB],
    ['intersect', (a: IntervalSet, b: IntervalSet) => a.intersect(b), (inA: boolean, inB: boolean) => inA && inB],
    ['subtract', (a: IntervalSet, b: IntervalSet) => a.subtract(b), (inA: boolean, inB: boolean) => inA && !inB],
  ] as const)('%s', (_, operation, model) => {
    fc.assert(fc.property(setArbitrary, setArbitrary, (a, b) => {
      const found = modelOf(operation(a, b));
      const [inA, inB] = [modelOf(a), modelOf(b)];
      for (let offset = 0; offset <= universe; offset += 1) {
        expect(found.has(offset)).toBe(model(inA.has(offset), inB.has(offset)));
        expect(operation(a, b).has(BigInt(offset))).toBe(found.has(offset));
      }
      expect(operation(a, b).size).toBe(BigInt(found.size));
    }));
  });

  test('its intervals are sorted, disjoint and not adjacent, and its text is read back as the same set', () => {
    fc.assert(fc.property(setArbitrary, (set) => {
      for (let i = 1; i < set.intervals.length; i += 1) expect(set.intervals[i]!.start > set.intervals[i - 1]!.end).toBe(true);
      expect(IntervalSet.parse(set.toString()).equals(set)).toBe(true);
    }));
  });

  test('contains and overlaps agree with the offsets', () => {
    fc.assert(fc.property(setArbitrary, setArbitrary, (a, b) => {
      const [inA, inB] = [modelOf(a), modelOf(b)];
      expect(a.contains(b)).toBe([...inB].every((offset) => inA.has(offset)));
      expect(a.overlaps(b)).toBe([...inB].some((offset) => inA.has(offset)));
    }));
  });
});

test.each(['1', '5-3', 'a-b', '1-2,', '-1-4'])('the text %j is refused as intervals, with what was expected and found', (text) => {
  expect(() => IntervalSet.parse(text)).toThrow(/expected .*found/);
});

test('a coverage keeps topic partitions apart and survives its JSON form', () => {
  const coverage = Coverage.fromJson({ 'a/0': '0-10', 'a/1': '5-6', 'import/x/0': '3-9' });
  expect(Coverage.fromJson(coverage.toJson()).equals(coverage)).toBe(true);
  expect(coverage.subtract(Coverage.fromJson({ 'a/0': '2-4' })).toJson()).toEqual({ 'a/0': '0-2,4-10', 'a/1': '5-6', 'import/x/0': '3-9' });
  expect(coverage.overlaps(Coverage.fromJson({ 'a/2': '0-100' }))).toBe(false);
  expect(parseTopicPartitionKey('import/x/0')).toEqual({ topic: 'import/x', partition: 0 });
  expect(() => parseTopicPartitionKey('a')).toThrow(/expected <topic>\/<partition>/);
});
