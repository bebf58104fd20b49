import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeHeaders, decodeRecords } from '../../src/kafka/record-batch.ts';
import type { AbortedTransaction, DecodeResult, RecordSink } from '../../src/kafka/record-batch.ts';
import { encodeBatch, encodeMarker, plainRecord } from '../support/record-batches.ts';

interface Taken { offset: bigint; timestampMs: number; key: string | null; value: string | null; headers: [string, string | null][] }

class Collector implements RecordSink {
  readonly taken: Taken[] = [];
  private readonly origin: bigint;
  private readonly room: number;

  constructor(origin: bigint, room = Infinity) {
    this.origin = origin;
    this.room = room;
  }

  append(bytes: Uint8Array, delta: number, timestampMs: number, keyStart: number, keyEnd: number, valueStart: number, valueEnd: number, headersStart: number): boolean {
    if (this.taken.length >= this.room) return false;
    const text = (start: number, end: number): string | null => (start < 0 ? null : Buffer.from(bytes.subarray(start, end)).toString('hex'));
    this.taken.push({
      offset: this.origin + BigInt(delta), timestampMs, key: text(keyStart, keyEnd), value: text(valueStart, valueEnd),
      headers: headersStart < 0 ? [] : decodeHeaders(bytes, headersStart).map(([name, value]) => [name, value === null ? null : Buffer.from(value).toString('hex')]),
    });
    return true;
  }

  retract(count: number): void {
    this.taken.length -= count;
  }
}

const decode = async (recordSet: Buffer, from: bigint, { aborted = [] as AbortedTransaction[], room = Infinity } = {}): Promise<DecodeResult & { taken: Taken[] }> => {
  const sink = new Collector(from, room);
  const result = await decodeRecords({ recordSet, from, origin: from, aborted, sink, decompress: () => { throw new Error('not compressed'); } });
  return { ...result, taken: sink.taken };
};

const hex = (text: string): string => Buffer.from(text).toString('hex');

test('any records come out as they went in, from any offset on', async () => {
  const bytes = fc.option(fc.uint8Array({ maxLength: 300 }).map((value) => Buffer.from(value)));
  const batches = fc.array(fc.record({
    sparseBefore: fc.nat(5),
    records: fc.array(fc.record({
      skip: fc.nat(3), timestampDelta: fc.integer({ min: -(2 ** 40), max: 2 ** 40 }), key: bytes, value: bytes,
      headers: fc.array(fc.tuple(fc.string(), bytes), { maxLength: 3 }),
    }), { minLength: 1, maxLength: 8 }),
    sparseAfter: fc.nat(5),
  }), { maxLength: 6 });
  await fc.assert(fc.asyncProperty(batches, fc.bigInt({ min: 0n, max: 2n ** 52n }), fc.bigInt({ min: 0n, max: 2n ** 41n }), fc.nat(30), async (specs, base, firstTimestamp, skip) => {
    let offset = base;
    const expected: Taken[] = [];
    const recordSet = Buffer.concat(specs.map(({ sparseBefore, records, sparseAfter }) => {
      const baseOffset = offset + BigInt(sparseBefore);
      let delta = 0;
      const encoded = records.map(({ skip: hole, timestampDelta, key, value, headers }, i) => {
        delta += (i === 0 ? 0 : 1) + hole;
        expected.push({
          offset: baseOffset + BigInt(delta), timestampMs: Number(firstTimestamp) + timestampDelta,
          key: key?.toString('hex') ?? null, value: value?.toString('hex') ?? null,
          headers: headers.map(([name, header]) => [name, header?.toString('hex') ?? null]),
        });
        return { offsetDelta: delta, timestampDelta, key, value, headers };
      });
      offset = baseOffset + BigInt(delta + sparseAfter) + 1n;
      return encodeBatch({ baseOffset, lastOffsetDelta: delta + sparseAfter, firstTimestamp, records: encoded });
    }));
    const from = base + BigInt(skip);
    const { taken, next, full, unreadable } = await decode(recordSet, from);
    expect({ full, unreadable }).toEqual({ full: false, unreadable: null });
    expect(taken).toEqual(expected.filter((record) => record.offset >= from));
    expect(next).toBe(offset > from ? offset : from);
  }));
});

test('a batch that is cut short is left for the next fetch', async () => {
  const whole = encodeBatch({ baseOffset: 5n, lastOffsetDelta: 1, firstTimestamp: 0n, records: [plainRecord(0, 'a'), plainRecord(1, 'b')] });
  const cut = encodeBatch({ baseOffset: 7n, lastOffsetDelta: 0, firstTimestamp: 0n, records: [plainRecord(0, 'c')] });
  for (let length = 0; length < cut.length; length += 1) {
    const { taken, next, unreadable } = await decode(Buffer.concat([whole, cut.subarray(0, length)]), 5n);
    expect(taken.map(({ offset }) => offset)).toEqual([5n, 6n]);
    expect(next).toBe(7n);
    expect(unreadable).toBe(null);
  }
});

test('a full sink stops before the refused record, and going on from there misses none', async () => {
  const recordSet = encodeBatch({ baseOffset: 10n, lastOffsetDelta: 4, firstTimestamp: 0n, records: [0, 1, 2, 3, 4].map((i) => plainRecord(i, `v${i}`)) });
  const first = await decode(recordSet, 10n, { room: 2 });
  expect(first).toMatchObject({ full: true, next: 12n, records: 2 });
  const rest = await decode(recordSet, first.next);
  expect([...first.taken, ...rest.taken].map(({ offset }) => offset)).toEqual([10n, 11n, 12n, 13n, 14n]);
});

test('an aborted transaction leaves no record, others between its records stay', async () => {
  const transactional = 0x10;
  const batch = (baseOffset: bigint, producerId: bigint, value: string): Buffer =>
    encodeBatch({ baseOffset, lastOffsetDelta: 0, firstTimestamp: 0n, attributes: transactional, producerId, records: [plainRecord(0, value)] });
  const recordSet = Buffer.concat([
    batch(0n, 7n, 'aborted 1'), batch(1n, 8n, 'kept 1'),
    encodeBatch({ baseOffset: 2n, lastOffsetDelta: 0, firstTimestamp: 0n, records: [plainRecord(0, 'plain')] }),
    encodeMarker(3n, 7n, 'abort'), batch(4n, 7n, 'kept 2'), encodeMarker(5n, 7n, 'commit'), encodeMarker(6n, 8n, 'commit'),
  ]);
  const { taken, next } = await decode(recordSet, 0n, { aborted: [{ producerId: 7n, firstOffset: 0n }] });
  expect(taken.map(({ value }) => value)).toEqual([hex('kept 1'), hex('plain'), hex('kept 2')]);
  expect(next, 'the markers are read past').toBe(7n);
});

test('log append time is the time of every record in its batch', async () => {
  const recordSet = encodeBatch({ baseOffset: 0n, lastOffsetDelta: 1, firstTimestamp: 5n, maxTimestamp: 999n, attributes: 0x08, records: [plainRecord(0, 'a'), plainRecord(1, 'b')] });
  expect((await decode(recordSet, 0n)).taken.map(({ timestampMs }) => timestampMs)).toEqual([999, 999]);
});

describe('bytes that are no record batch', () => {
  const good = encodeBatch({ baseOffset: 0n, lastOffsetDelta: 0, firstTimestamp: 0n, records: [plainRecord(0, 'good')] });

  test('an old magic byte', async () => {
    const bad = encodeBatch({ baseOffset: 1n, lastOffsetDelta: 0, firstTimestamp: 0n, records: [plainRecord(0, 'bad')] });
    bad[16] = 1;
    const { taken, next, unreadable } = await decode(Buffer.concat([good, bad]), 0n);
    expect(taken).toHaveLength(1);
    expect(next).toBe(1n);
    expect(unreadable).toMatchObject({ code: 'RECORD_BATCH_UNREADABLE', message: 'record batch at offset 1: expected magic byte 2, found 1' });
  });

  test('more records claimed than there are: none of the batch is taken', async () => {
    const bad = encodeBatch({ baseOffset: 1n, lastOffsetDelta: 2, firstTimestamp: 0n, records: [plainRecord(0, 'x'), plainRecord(1, 'y')] });
    bad.writeInt32BE(3, 57);
    const { taken, next, unreadable } = await decode(Buffer.concat([good, bad]), 0n);
    expect(taken.map(({ value }) => value)).toEqual([hex('good')]);
    expect(next).toBe(1n);
    expect(unreadable?.code).toBe('RECORD_BATCH_UNREADABLE');
  });

  test('records that do not decompress', async () => {
    const bad = encodeBatch({ baseOffset: 1n, lastOffsetDelta: 0, firstTimestamp: 0n, attributes: 4, records: [plainRecord(0, 'x')] });
    const { taken, unreadable } = await decode(Buffer.concat([good, bad]), 0n);
    expect(taken).toHaveLength(1);
    expect(unreadable?.message).toContain('record batch at offset 1: its records do not decompress');
  });

  test('headers that do not fill their record: a name past its end, a negative length, a count of more than there are', async () => {
    for (const headers of [[2, 0x7e, 1], [2, 1, 1], [4, 2, 0x61, 1], [1]]) {
      const record = { ...plainRecord(0, 'x'), headers: [['ab', null] as [string, null]] };
      const bad = encodeBatch({ baseOffset: 1n, lastOffsetDelta: 0, firstTimestamp: 0n, records: [record] });
      // The record ends with its headers: count 1, length 2, "ab", null.
      bad.set([...headers, 0, 0, 0, 0].slice(0, 5), bad.length - 5);
      const { taken, next, unreadable } = await decode(Buffer.concat([good, bad]), 0n);
      expect(taken.map(({ value }) => value)).toEqual([hex('good')]);
      expect(next).toBe(1n);
      expect(unreadable?.code).toBe('RECORD_BATCH_UNREADABLE');
    }
  });

  test('random bytes never throw, never take a record beyond their batch', async () => {
    await fc.assert(fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), fc.nat(60), async (noise, at) => {
      const bytes = Buffer.concat([good, Buffer.from(good)]);
      bytes.set(noise.subarray(0, Math.max(0, bytes.length - at - 16)), Math.min(at + 16, bytes.length));
      const { taken } = await decode(bytes, 0n);
      expect(taken.length).toBeLessThanOrEqual(bytes.length);
    }), { examples: [[Uint8Array.from([153, 0, 30, 59]), 50]], numRuns: 2_000 });
  });
});
