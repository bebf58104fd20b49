import { expect, test } from 'vitest';
import { Coverage, IntervalSet } from '../../src/domain/offsets.ts';
import { findMessage, newestFirst } from '../../src/explain/find-message.ts';
import { isMessageId, messageIdFinder, messageIdsOf } from '../../src/refine/message-id.ts';

const coverageOf = (ranges: Record<string, [number, number][]>): Coverage => Coverage.of(Object.entries(ranges).map(([key, intervals]) =>
  [key, IntervalSet.of(...intervals.map(([start, end]) => ({ start: BigInt(start), end: BigInt(end) })))] as const));

test('a message id is found again at its place, whatever the number of digits, and case does not matter', () => {
  for (const offset of [0, 9, 10, 99_999, 100_000, 123_456_789, 2 ** 53 - 2]) {
    const id = messageIdsOf('a.topic', 3)(offset);
    expect(isMessageId(id)).toBe(true);
    expect(messageIdFinder('a.topic', 3, id)(Math.max(0, offset - 150), offset + 1)).toBe(offset);
    expect(messageIdFinder('a.topic', 3, id.toUpperCase())(offset, offset + 1)).toBe(offset);
    expect(messageIdFinder('a.topic', 4, id)(Math.max(0, offset - 150), offset + 1)).toBe(null);
  }
});

test('every covered offset is looked at once, the newest of each topic partition first', () => {
  const slices = newestFirst(coverageOf({ 'a/0': [[0, 600_000], [700_000, 700_010]], 'b/1': [[5, 6]] }));
  expect(slices.slice(0, 2)).toEqual([{ topic: 'a', partition: 0, start: 700_000, end: 700_010 }, { topic: 'b', partition: 1, start: 5, end: 6 }]);
  const ofA = slices.filter(({ topic }) => topic === 'a').slice(1);
  expect(ofA.at(0)!.end).toBe(600_000);
  expect(ofA.at(-1)!.start).toBe(0);
  for (const [i, slice] of ofA.slice(1).entries()) expect(slice.end).toBe(ofA[i]!.start);
});

test('threads find it in a coverage with holes, and say so when it is nowhere', async () => {
  const coverage = coverageOf({ 'a/0': [[0, 400_000]], 'a/1': [[1_000_000, 1_300_000]] });
  for (const [partition, offset] of [[0, 3], [1, 1_000_000], [1, 1_299_999]] as const) {
    const { place } = await findMessage(messageIdsOf('a', partition)(offset), coverage);
    expect(place).toEqual({ topic: 'a', partition, offset: BigInt(offset) });
  }
  expect(await findMessage(messageIdsOf('a', 1)(999_999), coverage)).toEqual({ place: null, offsetsTried: 700_000 });
}, 60_000);

test('a search that is stopped ends with its reason', async () => {
  const signal = AbortSignal.abort(new Error('stopped by a test'));
  await expect(findMessage(messageIdsOf('a', 0)(1), coverageOf({ 'a/9': [[0, 5_000_000]] }), { signal })).rejects.toThrow('stopped by a test');
});
