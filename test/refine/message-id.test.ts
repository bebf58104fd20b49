import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { messageIdNamespace, messageIdsOf } from '../../src/refine/message-id.ts';

/** UUIDv5 as RFC 9562 describes it, by node:crypto. */
const uuid5 = (name: string): string => {
  const bytes = createHash('sha1').update(Buffer.from(messageIdNamespace.replaceAll('-', ''), 'hex')).update(name).digest();
  bytes[6] = (bytes[6]! & 0x0f) | 0x50;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes.toString('hex', 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
};

test('an id is the UUIDv5 of topic, partition and offset, in whatever order offsets come', () => {
  fc.assert(fc.property(fc.string({ maxLength: 140 }), fc.nat(100_000), fc.array(fc.nat({ max: Number.MAX_SAFE_INTEGER }), { minLength: 1, maxLength: 5 }), (topic, partition, starts) => {
    const idOf = messageIdsOf(topic, partition);
    const offsets = starts.flatMap((start) => [start, start + 1, start + 2, start]).filter(Number.isSafeInteger);
    expect(offsets.map(idOf)).toEqual(offsets.map((offset) => uuid5(`${topic}/${partition}/${offset}`)));
  }));
});

test('consecutive offsets carry their digits, also where one more digit needs one more block', () => {
  for (const length of [25, 35, 36, 37, 38, 39, 40, 100]) {
    const topic = 'x'.repeat(length);
    const idOf = messageIdsOf(topic, 0);
    for (let offset = 0; offset < 1_200; offset += 1) expect(idOf(offset)).toBe(uuid5(`${topic}/0/${offset}`));
  }
});

test('ids that were written stay what they are', () => {
  expect(messageIdsOf('market.crypto.trades.binance.raw', 3)(12_345)).toBe('e6a55955-4174-5033-a43b-8b56b157f832');
});
