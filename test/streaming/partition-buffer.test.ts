import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeRecord } from '../support/record-batches.ts';
import { ByteBudget } from '../../src/streaming/byte-budget.ts';
import { PartitionBuffer } from '../../src/streaming/partition-buffer.ts';
import { decodeRecords } from '../../src/kafka/record-batch.ts';
import { encodeBatch } from '../support/record-batches.ts';

const limits = { rowsMax: 1_000_000, bytesMax: 1 << 30 };
const MiB = 1024 * 1024;
const hex = (bytes: Uint8Array | null): string | null => (bytes === null ? null : Buffer.from(bytes).toString('hex'));

interface Row { key: Buffer | null; value: Buffer | null; headers: [string, Buffer | null][]; timestampDelta: number }

const bytesArbitrary = fc.option(fc.oneof(
  fc.uint8Array({ maxLength: 64 }).map((value) => Buffer.from(value)),
  fc.integer({ min: 1, max: 200_000 }).map((length) => Buffer.alloc(length, length & 0xff)),
));
const rowsArbitrary = fc.array(fc.record<Row>({
  key: bytesArbitrary, value: bytesArbitrary, headers: fc.array(fc.tuple(fc.string(), bytesArbitrary), { maxLength: 2 }),
  timestampDelta: fc.integer({ min: -(2 ** 42), max: 2 ** 42 }),
}), { minLength: 1, maxLength: 40 });

const fill = async (buffer: PartitionBuffer, start: bigint, rows: readonly Row[], timestamp = 1_700_000_000_000n) => decodeRecords({
  recordSet: encodeBatch({ baseOffset: start, lastOffsetDelta: rows.length - 1, firstTimestamp: timestamp, records: rows.map((row, offsetDelta) => ({ ...row, offsetDelta })) }),
  from: start, origin: buffer.start, aborted: [], sink: buffer, decompress: () => { throw new Error('not compressed'); },
});

test('rows come out as they went in, in batches of any size, and the budget gets every byte back', async () => {
  await fc.assert(fc.asyncProperty(rowsArbitrary, fc.bigInt({ min: 0n, max: 2n ** 62n }), fc.integer({ min: 1, max: 50 }), async (rows, start, batchRows) => {
    const budget = new ByteBudget(512 * MiB);
    const buffer = new PartitionBuffer(start, budget, {}, limits);
    await fill(buffer, start, rows);
    expect(buffer.rows).toBe(rows.length);
    expect(budget.usedBytes).toBe(buffer.heldBytes);
    expect(buffer.heldBytes).toBeGreaterThanOrEqual(buffer.payloadBytes);
    for (let from = 0; from < rows.length; from += batchRows) {
      const to = Math.min(rows.length, from + batchRows);
      const wanted = rows.slice(from, to);
      expect([...buffer.offsets(from, to)]).toEqual(wanted.map((_, i) => start + BigInt(from + i)));
      expect([...buffer.kafkaTimestamps(from, to)]).toEqual(wanted.map(({ timestampDelta }) => (1_700_000_000_000n + BigInt(timestampDelta)) * 1000n));
      expect(buffer.values.views(from, to).map(hex)).toEqual(wanted.map(({ value }) => hex(value)));
      expect(buffer.keys.views(from, to).map(hex)).toEqual(wanted.map(({ key }) => hex(key)));
      expect((buffer.headers(from, to) ?? wanted.map(() => null)).map((headers) => (headers === null ? [] : JSON.parse(headers) as unknown)))
        .toEqual(wanted.map(({ headers }) => headers.map(([name, value]) => [name, value === null ? null : value.toString('base64')])));
      const pieces = buffer.values.pieces(from, to);
      expect(hex(Buffer.concat(pieces.map(({ bytes }) => bytes))), 'as Parquet has them plain').toBe(hex(Buffer.concat(wanted.flatMap(({ value }) => {
        if (value === null) return [];
        const length = Buffer.alloc(4);
        length.writeUInt32LE(value.length);
        return [length, value];
      }))));
      expect(buffer.values.nullCount > 0 || pieces.reduce((sum, piece) => sum + piece.rows, 0) === wanted.length).toBe(true);
    }
    buffer.release();
    expect(budget.usedBytes).toBe(0);
  }), { numRuns: 60 });
});

test('timestamps that microseconds cannot hold are cut to the ends of the type, not wrapped', async () => {
  const buffer = new PartitionBuffer(0n, new ByteBudget(MiB), {}, limits);
  const row: Row = { key: null, value: null, headers: [], timestampDelta: 0 };
  await fill(buffer, 0n, [row], 2n ** 63n - 1n);
  await fill(buffer, 1n, [row], -(2n ** 63n));
  await fill(buffer, 2n, [row], -1n);
  expect([...buffer.kafkaTimestamps(0, 3)]).toEqual([2n ** 63n - 1n, -(2n ** 63n), -1000n]);
});

test('a refused row leaves the buffer as it was', () => {
  const budget = new ByteBudget(400 * 1024);
  const buffer = new PartitionBuffer(0n, budget, {}, limits);
  const value = Buffer.alloc(100_000, 1);
  let taken = 0;
  while (buffer.append(value, taken, 0, -1, 0, 0, value.length, -1, 0)) taken += 1;
  expect(taken).toBeGreaterThan(0);
  expect(buffer.rows).toBe(taken);
  expect(budget.usedBytes).toBeLessThanOrEqual(budget.limit);
  expect(buffer.values.views(0, taken).map((view) => view?.length)).toEqual(Array.from({ length: taken }, () => value.length));
});

test('a closed buffer takes nothing: a decoder that comes back late finds no room', () => {
  const budget = new ByteBudget(MiB);
  const buffer = new PartitionBuffer(0n, budget, {}, limits);
  const value = Buffer.from('x');
  expect(buffer.append(value, 0, 0, -1, 0, 0, 1, -1, 0)).toBe(true);
  buffer.release();
  expect(buffer.append(value, 1, 0, -1, 0, 0, 1, -1, 0)).toBe(false);
  expect(budget.usedBytes).toBe(0);
});

test('retracted rows are gone, across chunks too, and the ones before them stay', async () => {
  await fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 90_000 }), { minLength: 2, maxLength: 20 }), fc.nat(), (lengths, cut) => {
    const buffer = new PartitionBuffer(0n, new ByteBudget(64 * MiB), {}, limits);
    const append = (length: number, row: number): void => {
      const value = Buffer.alloc(length, row);
      expect(buffer.append(value, row, row, -1, 0, 0, length, -1, 0)).toBe(true);
    };
    lengths.forEach(append);
    const retracted = cut % lengths.length;
    buffer.retract(retracted);
    const kept = lengths.length - retracted;
    append(3, kept);
    const values = buffer.values.views(0, buffer.rows).map(hex);
    expect(values).toEqual([...lengths.slice(0, kept).map((length, row) => Buffer.alloc(length, row).toString('hex')), Buffer.alloc(3, kept).toString('hex')]);
    expect(buffer.payloadBytes).toBe(lengths.slice(0, kept).reduce((sum, length) => sum + length, 3));
  }));
});

test('one record is encoded as Kafka does', () => {
  expect(encodeRecord({ offsetDelta: 0, timestampDelta: 0, key: null, value: Buffer.from('v'), headers: [] }).toString('hex')).toBe('0e00000001027600');
});
