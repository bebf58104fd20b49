import * as fc from 'fast-check';
import type { Message } from 'kafkajs';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { registerCodecs } from '../../src/kafka/codecs.ts';
import type { OutgoingRecord } from '../../src/kafka/producer.ts';
import { PartitionMessages, recordBytesMax } from '../../src/kafka/record-set.ts';
import produceRequest from 'kafkajs/src/protocol/requests/produce/v7/request.js';

beforeEach(() => {
  registerCodecs();
  vi.useFakeTimers({ now: 1_700_000_000_000, toFake: ['Date'] });
});
afterEach(() => { vi.useRealTimers(); });

const encode = async (messages: readonly (Message | OutgoingRecord)[], compression: number): Promise<Buffer> => {
  const request = produceRequest({ acks: -1, timeout: 30_000, compression, topicData: [{ topic: 'a topic', partitions: [{ partition: 3, messages, firstSequence: 17 }] }] });
  return (await request.encode()).buffer;
};

const record = fc.record({
  key: fc.option(fc.oneof(fc.string({ unit: 'grapheme' }), fc.constantFrom('BTCUSDT', 'ETHUSDT', ''))),
  value: fc.option(fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes))),
  headers: fc.option(fc.dictionary(fc.string(), fc.string({ unit: 'grapheme' }), { maxKeys: 3 }), { nil: undefined }),
}).map(({ headers, ...rest }): OutgoingRecord => (headers ? { ...rest, headers } : rest));

test.each([0, 1])('a produce request holds the very bytes that kafkajs would have written (compression %d)', async (compression) => {
  await fc.assert(fc.asyncProperty(fc.array(record, { minLength: 1, maxLength: 200 }), async (records) => {
    const ours = await encode(PartitionMessages.fromRecords(3, records), compression);
    expect(ours.equals(await encode(records, compression))).toBe(true);
  }), { numRuns: 200 });
});

test('thousands of records have the offset deltas of kafkajs', async () => {
  const records = Array.from({ length: 9_000 }, (_, i): OutgoingRecord => ({ key: `symbol ${i % 7}`, value: Buffer.alloc(i % 400, i) }));
  expect((await encode(PartitionMessages.fromRecords(3, records), 0)).equals(await encode(records, 0))).toBe(true);
});

test('a record never needs more bytes than were counted for it', async () => {
  const one = Buffer.alloc(20_000, 7);
  const records: OutgoingRecord[] = [{ key: '\u{1F600}'.repeat(100), value: one, headers: { 'é': 'ü'.repeat(500) } }, { key: null, value: null }];
  const empty = (await encode([{ key: null, value: null }], 0)).length;
  expect((await encode(records, 0)).length - empty).toBeLessThanOrEqual(records.reduce((sum, each) => sum + recordBytesMax(each), 0));
});
