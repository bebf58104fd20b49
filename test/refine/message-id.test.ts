import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { messageIdNamespace, messageIdsOf } from '../../src/refine/message-id.ts';

/** UUIDv5 as RFC 9562 describes it, by node:crypto. */
const uuid5 = (namespace: string, name: string): string => {
  const bytes = createHash('sha1').update(Buffer.from(namespace.replaceAll('-', ''), 'hex')).update(name).digest();
  bytes[6] = (bytes[6]! & 0x0f) | 0x50;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes.toString('hex', 0, 16).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
};
const idByDefinition = (topic: string, partition: number, offset: number): string => uuid5(uuid5(messageIdNamespace, `${topic}/${partition}`), String(offset));

test('an id is the UUIDv5 of topic, partition and offset, in whatever order offsets come', () => {
  fc.assert(fc.property(fc.string({ maxLength: 140 }), fc.nat(100_000), fc.array(fc.nat({ max: Number.MAX_SAFE_INTEGER }), { minLength: 1, maxLength: 5 }), (topic, partition, starts) => {
    const idOf = messageIdsOf(topic, partition);
    const offsets = starts.flatMap((start) => [start, start + 1, start + 2, start]).filter(Number.isSafeInteger);
    expect(offsets.map(idOf)).toEqual(offsets.map((offset) => idByDefinition(topic, partition, offset)));
  }));
});

test('consecutive offsets carry their digits', () => {
  const idOf = messageIdsOf('t', 0);
  const offsets = [...Array.from({ length: 1_200 }, (_, i) => i), 9_999_999, 10_000_000, 10_000_001, 5, 6];
  expect(offsets.map(idOf)).toEqual(offsets.map((offset) => idByDefinition('t', 0, offset)));
});

test('ids that were written stay what they are', () => {
  expect(messageIdsOf('market.crypto.trades.binance.raw', 3)(12_345)).toBe('79e47d60-fb21-59dc-889d-a7aede33a2d2');
});
