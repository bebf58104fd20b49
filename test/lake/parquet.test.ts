import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { ColumnBatch, ColumnValues, EncodableBatch } from '../../src/lake/columns.ts';
import { compareBytes, decodeSingleValue, encodeSingleValue } from '../../src/lake/iceberg/single-value.ts';
import { bytesSource, copyColumnChunks, dataFileFromFooter, openParquet, readColumns, readStoredColumns, rowGroupBounds, type ByteSource } from '../../src/lake/parquet-reader.ts';
import { DataFileBuilder, encodeDataFile } from '../../src/lake/parquet-writer.ts';
import type { Field, FieldType } from '../../src/lake/schema.ts';
import { seed } from '../support/seed.ts';

const check = { seed, numRuns: 60 };

let nextId = 1;
const field = (name: string, type: FieldType, required = false): Field => ({ id: nextId++, name, type, required });
const fields: readonly Field[] = [
  field('offset', 'long', true),
  field('event_time', 'timestamptz', true),
  field('local_time', 'timestamp'),
  field('price', 'decimal(18,8)'),
  field('partition', 'int', true),
  field('day', 'date'),
  field('side', 'string', true),
  field('text', 'string'),
  field('raw', 'binary', true),
  field('key', 'binary'),
  field('flag', 'boolean'),
  field('weight', 'double'),
  { id: 100, name: 'conditions', required: false, type: { type: 'list', elementId: 101, element: 'string', elementRequired: true } },
  { id: 102, name: 'levels', required: true, type: { type: 'list', elementId: 103, element: 'long', elementRequired: false } },
];

const int64 = fc.oneof(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), fc.constantFrom(0n, -1n, 2n ** 63n - 1n, -(2n ** 63n)));
const decimal = fc.oneof(fc.bigInt({ min: -(10n ** 18n) + 1n, max: 10n ** 18n - 1n }), fc.constantFrom(10n ** 18n - 1n, -(10n ** 18n) + 1n));
const text = fc.oneof(fc.string({ unit: 'grapheme', maxLength: 30 }), fc.constantFrom('', 'BUY', 'é', 'x'.repeat(300), '\u{10ffff}'.repeat(20)));
const bytes = fc.uint8Array({ maxLength: 40 });
const orNull = <T>(values: fc.Arbitrary<T>): fc.Arbitrary<T | null> => fc.option(values, { freq: 4 });

const row = fc.record({
  offset: int64,
  event_time: fc.bigInt({ min: -(10n ** 15n), max: 10n ** 16n }),
  local_time: orNull(int64),
  price: orNull(decimal),
  partition: fc.integer(),
  day: orNull(fc.integer({ min: -100_000, max: 100_000 })),
  side: fc.constantFrom('BUY', 'SELL'),
  text: orNull(text),
  raw: bytes,
  key: orNull(bytes),
  flag: orNull(fc.boolean()),
  weight: orNull(fc.double({ noNaN: true })),
  conditions: orNull(fc.array(text, { maxLength: 4 })),
  levels: fc.array(orNull(int64), { maxLength: 3 }),
});
const rowsArbitrary = fc.oneof(fc.array(row, { minLength: 1, maxLength: 60 }), fc.array(row, { minLength: 1, maxLength: 4 }).map((few) => Array.from({ length: 90 }, (_, i) => few[i % few.length]!)));

type Row = (typeof row extends fc.Arbitrary<infer T> ? T : never);
const batchOf = (rows: readonly Row[]): ColumnBatch => {
  const column = (name: keyof Row): readonly unknown[] => rows.map((one) => one[name]);
  const columns: Record<string, ColumnValues> = Object.fromEntries(fields.map(({ name }) => [name, column(name as keyof Row) as ColumnValues]));
  columns.offset = BigInt64Array.from(rows, (one) => one.offset);
  columns.partition = Int32Array.from(rows, (one) => one.partition);
  return { rowCount: rows.length, columns };
};

const allNames = fields.map(({ name }) => name);
/** Values as plain arrays: whether a column is typed depends on its nulls, which its own test covers. */
const plain = (values: ColumnValues | undefined): unknown[] => Array.from(values as Iterable<unknown>, (value) => (value instanceof Uint8Array ? [...value] : value));
const plainColumns = (batch: ColumnBatch): Record<string, unknown[]> => Object.fromEntries(Object.entries(batch.columns).map(([name, values]) => [name, plain(values)]));

// Sixty files of every type, some of them large: seconds, and ten times as many on a busy machine.
describe('a data file', { timeout: 120_000 }, () => {
  test('gives back every value of every type, however rows fall into row groups', async () => {
    await fc.assert(fc.asyncProperty(rowsArbitrary, fc.integer({ min: 1, max: 70 }), async (rows, rowGroupRows) => {
      const batch = batchOf(rows);
      const { bytes: file, metrics } = encodeDataFile({ fields, batch, rowGroupRows });
      const opened = await openParquet(bytesSource(file));
      const read = await readColumns(opened, { columns: allNames });
      expect(read.rowCount).toBe(rows.length);
      expect(plainColumns(read)).toEqual(plainColumns(batch));
      expect(metrics.recordCount).toBe(rows.length);
      expect(metrics.splitOffsets.length).toBe(Math.ceil(rows.length / rowGroupRows));
    }), check);
  });

  test('read as it is stored and written again, is the same file: every value and every metric, of any rows in any order', async () => {
    await fc.assert(fc.asyncProperty(rowsArbitrary, fc.integer({ min: 1, max: 70 }), fc.infiniteStream(fc.boolean()), async (rows, rowGroupRows, keep) => {
      const opened = await openParquet(bytesSource(encodeDataFile({ fields, batch: batchOf(rows), rowGroupRows }).bytes));
      const stored = await readStoredColumns(opened, { columns: allNames, rowGroups: opened.rowGroupRows.map((_, group) => group) });
      const again = encodeDataFile({ fields, batch: stored, rowGroupRows });
      expect(again.metrics).toEqual(encodeDataFile({ fields, batch: batchOf(rows), rowGroupRows }).metrics);
      const indices = Uint32Array.from(rows.keys()).filter(() => keep.next().value!);
      const some = encodeDataFile({ fields, batch: stored, rows: { indices }, rowGroupRows });
      const values = await readColumns(await openParquet(bytesSource(some.bytes)), { columns: allNames });
      expect(plainColumns(values)).toEqual(plainColumns(batchOf([...indices].map((index) => rows[index]!))));
    }), check);
  });

  test('has the same metrics from its footer as its writer returned', async () => {
    await fc.assert(fc.asyncProperty(rowsArbitrary, fc.integer({ min: 1, max: 70 }), async (rows, rowGroupRows) => {
      const { bytes: file, metrics } = encodeDataFile({ fields, batch: batchOf(rows), rowGroupRows });
      expect(dataFileFromFooter(await openParquet(bytesSource(file)), fields)).toEqual(metrics);
    }), check);
  });

  test('is bounded by its metrics: no value lies outside of them', () => {
    fc.assert(fc.property(rowsArbitrary, (rows) => {
      const { metrics } = encodeDataFile({ fields, batch: batchOf(rows), rowGroupRows: 16 });
      for (const { id, name, type } of fields) {
        if (typeof type !== 'string') continue;
        const values = rows.map((one) => one[name as keyof Row]).filter((value) => value !== null) as (bigint | number | string | boolean | Uint8Array)[];
        const lower = metrics.lowerBounds[id];
        const upper = metrics.upperBounds[id];
        expect(metrics.nullValueCounts[id]).toBe(rows.length - values.length);
        expect(lower === undefined).toBe(values.length === 0);
        const encloses = (value: bigint | number | string | boolean | Uint8Array): boolean => {
          if (typeof value === 'string' || value instanceof Uint8Array) {
            const whole = encodeSingleValue(type, value);
            return compareBytes(Buffer.from(lower!, 'base64'), whole) <= 0 && (upper === undefined || compareBytes(Buffer.from(upper, 'base64'), whole) >= 0);
          }
          return decodeSingleValue(type, Buffer.from(lower!, 'base64')) <= value && decodeSingleValue(type, Buffer.from(upper!, 'base64')) >= value;
        };
        expect(values.filter((value) => !encloses(value))).toEqual([]);
      }
    }), check);
  });

  test('a text column of one value keeps it whole as its bounds, else two topics that begin alike are one to whoever plans by them', () => {
    const topic: Field = { id: 1, name: 'kafka_topic', type: 'string', required: true };
    const boundsOf = (columns: ColumnBatch['columns'], rowCount: number) => {
      const { metrics: { lowerBounds, upperBounds } } = encodeDataFile({ fields: [topic], batch: { rowCount, columns } });
      return [lowerBounds, upperBounds].map((bounds) => Buffer.from(bounds[1]!, 'base64').toString());
    };
    const [binance, kraken] = ['market.crypto.trades.binance.raw', 'market.crypto.trades.kraken.raw'];
    expect(boundsOf({ kafka_topic: [kraken, kraken] }, 2)).toEqual([kraken, kraken]);
    expect(boundsOf({ kafka_topic: [binance, kraken] }, 2)).toEqual(['market.crypto.tr', 'market.crypto.ts']);
    const long = 'x'.repeat(300);
    expect(boundsOf({ kafka_topic: [long] }, 1)).toEqual(['x'.repeat(16), `${'x'.repeat(15)}y`]);
  });

  test('holds exactly the selected rows, in the selected order', async () => {
    await fc.assert(fc.asyncProperty(rowsArbitrary, fc.array(fc.nat(), { minLength: 1, maxLength: 80 }), async (rows, picks) => {
      const indices = Uint32Array.from(picks, (pick) => pick % rows.length);
      const { bytes: file } = encodeDataFile({ fields, batch: batchOf(rows), rows: { indices }, rowGroupRows: 13 });
      const read = await readColumns(await openParquet(bytesSource(file)), { columns: allNames });
      expect(plainColumns(read)).toEqual(plainColumns(batchOf(Array.from(indices, (index) => rows[index]!))));
    }), check);
  });

  test('gives back any range of its rows, and any of its row groups', async () => {
    await fc.assert(fc.asyncProperty(rowsArbitrary, fc.nat(60), fc.nat(60), async (rows, a, b) => {
      const { bytes: file } = encodeDataFile({ fields, batch: batchOf(rows), rowGroupRows: 7 });
      const opened = await openParquet(bytesSource(file));
      const [rowStart, rowEnd] = [Math.min(a, b, rows.length), Math.max(a, b)];
      const range = await readColumns(opened, { columns: ['offset', 'text', 'conditions'], rowStart, rowEnd });
      const expected = rows.slice(rowStart, rowEnd);
      expect(range.rowCount).toBe(expected.length);
      expect(plainColumns(range)).toEqual({ offset: expected.map((one) => one.offset), text: expected.map((one) => one.text), conditions: expected.map((one) => one.conditions) });
      const last = opened.rowGroupRows.length - 1;
      const group = await readColumns(opened, { columns: ['offset'], rowGroups: [last, 0] });
      expect(plain(group.columns.offset)).toEqual([...rows.slice(last * 7), ...rows.slice(0, 7)].map((one) => one.offset));
    }), check);
  });
});

const longs = (count: number, at: (i: number) => bigint): BigInt64Array => BigInt64Array.from({ length: count }, (_, i) => at(i));

test('64-bit columns without nulls are typed arrays, and with nulls are bigints and nulls', async () => {
  const two = [field('typed', 'decimal(18,8)'), field('boxed', 'timestamptz')];
  const { bytes: file } = encodeDataFile({ fields: two, batch: { rowCount: 2, columns: { typed: [1n, 2n], boxed: [null, -5n] } } });
  const { columns } = await readColumns(await openParquet(bytesSource(file)), { columns: ['typed', 'boxed'] });
  expect(columns.typed).toBeInstanceOf(BigInt64Array);
  expect(columns.boxed).toEqual([null, -5n]);
});

test('a constant column reads like the same value in every row, and costs under 200 bytes', async () => {
  const constants: EncodableBatch = {
    rowCount: 50_000,
    columns: { topic: { constant: 'market.crypto.trades.binance.raw' }, n: { constant: -7n }, day: { constant: 19_000 }, flag: { constant: true }, nothing: { constant: null }, list: { constant: ['limit'] } },
  };
  const of = [field('topic', 'string', true), field('n', 'long', true), field('day', 'date', true), field('flag', 'boolean'), field('nothing', 'binary'),
    { id: 201, name: 'list', required: true, type: { type: 'list', elementId: 202, element: 'string', elementRequired: true } } satisfies Field];
  const { bytes: file, metrics } = encodeDataFile({ fields: of, batch: constants });
  const { columns } = await readColumns(await openParquet(bytesSource(file)), { columns: of.map(({ name }) => name) });
  for (const [name, { constant }] of Object.entries(constants.columns) as [string, { constant: unknown }][]) {
    expect(new Set(Array.from(columns[name] as Iterable<unknown>, (value) => (Array.isArray(value) ? String(value) : value)))).toEqual(new Set([Array.isArray(constant) ? String(constant) : constant]));
    expect(columns[name]!.length).toBe(50_000);
  }
  expect(Math.max(...Object.values(metrics.columnSizes))).toBeLessThan(200);
});

test('a required column refuses a null, a wrong kind, a wrong length and a decimal out of range, naming the column', () => {
  const encode = (type: FieldType, values: ColumnValues) => () => encodeDataFile({ fields: [{ id: 1, name: 'price', type, required: true }], batch: { rowCount: 2, columns: { price: values } } });
  for (const attempt of [
    encode('long', [1n, null]), encode('long', [1, 2]), encode('string', [1n, 2n]), encode('decimal(18,8)', [10n ** 18n, 0n]), encode('decimal(18,8)', [0n, -(10n ** 18n)]),
    encode('long', BigInt64Array.of(1n)), encode('long', Int32Array.of(1, 2)), encode('long', [2n ** 63n, 0n]), encode('int', [2 ** 31, 0]),
  ]) {
    expect(attempt).toThrow(expect.objectContaining({ code: 'BAD_INPUT', message: expect.stringContaining('price') as string }) as Error);
  }
});

test('field ids, logical types and key-value metadata are in the footer', async () => {
  const { bytes: file } = encodeDataFile({ fields, batch: batchOf([]), keyValueMetadata: { 'tidemark.epoch': '7' } });
  const opened = await openParquet(bytesSource(file));
  expect(opened.keyValueMetadata).toEqual({ 'tidemark.epoch': '7' });
  const element = (name: string) => opened.metadata.schema.find((one) => one.name === name);
  expect(element('price')).toMatchObject({ field_id: 4, type: 'INT64', repetition_type: 'OPTIONAL', logical_type: { type: 'DECIMAL', precision: 18, scale: 8 } });
  expect(element('event_time')).toMatchObject({ field_id: 2, repetition_type: 'REQUIRED', logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: true, unit: 'MICROS' } });
  expect(element('local_time')).toMatchObject({ logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: false, unit: 'MICROS' } });
  expect(element('conditions')).toMatchObject({ field_id: 100, logical_type: { type: 'LIST' } });
  expect(opened.metadata.schema.filter(({ name }) => name === 'element').map((one) => one.field_id)).toEqual([101, 103]);
});

test('pages larger than the target are split, and long, wide and non-ASCII texts survive it', async () => {
  const rowCount = 20_000;
  const json = Array.from({ length: rowCount }, (_, i) => (i % 977 === 0 ? `{"é":"${'ü'.repeat(i % 400)}"}` : `{"id":${i},"pad":"${'p'.repeat(150)}"}`));
  const { bytes: file } = encodeDataFile({ fields: [field('json', 'string', true), field('n', 'long', true)], batch: { rowCount, columns: { json, n: longs(rowCount, (i) => BigInt(i)) } } });
  const read = await readColumns(await openParquet(bytesSource(file)), { columns: ['json', 'n'] });
  expect(read.columns.json).toEqual(json);
});

test('a copied row group holds the same rows under other field ids, beside columns that are encoded anew', async () => {
  await fc.assert(fc.asyncProperty(rowsArbitrary, async (rows) => {
    const source = await openParquet(bytesSource(encodeDataFile({ fields, batch: batchOf(rows), rowGroupRows: 11 }).bytes));
    const renumbered = fields.map((one) => ({ ...one, id: one.id + 500, type: typeof one.type === 'string' ? one.type : { ...one.type, elementId: one.type.elementId + 500 } }));
    const added: Field = { id: 900, name: 'merged_at', type: 'timestamptz', required: true };
    const target = [added, ...renumbered];
    const builder = new DataFileBuilder({ fields: target });
    for (const [group, rowCount] of source.rowGroupRows.entries()) {
      const copies = await copyColumnChunks(source, group, renumbered);
      builder.appendRowGroup(rowCount, (leaf) => copies[renumbered.findIndex(({ name }) => name === leaf.field.name)] ?? { constant: 5n });
    }
    const { bytes: file, metrics } = builder.finish();
    const opened = await openParquet(bytesSource(file));
    const read = await readColumns(opened, { columns: target.map(({ name }) => name) });
    expect(plainColumns(read)).toEqual({ merged_at: rows.map(() => 5n), ...plainColumns(batchOf(rows)) });
    expect(dataFileFromFooter(opened, target)).toEqual(metrics);
    const direct = encodeDataFile({ fields: renumbered, batch: batchOf(rows), rowGroupRows: 11 }).metrics;
    expect({ lower: metrics.lowerBounds, upper: metrics.upperBounds }).toMatchObject({ lower: direct.lowerBounds, upper: direct.upperBounds });
  }), { ...check, numRuns: 20 });
});

test('a byte that changes in any page is refused by whoever reads the column, also after the column chunk was copied to another file', async () => {
  const column: Field = { id: 1, name: 'text', type: 'string', required: true };
  const texts = Array.from({ length: 500 }, (_, i) => `row ${i * 7919}`);
  const { bytes: file } = encodeDataFile({ fields: [column], batch: { rowCount: texts.length, columns: { text: texts } } });
  const opened = await openParquet(bytesSource(file));
  const { data_page_offset: start, total_compressed_size: size } = opened.chunk(0, opened.leaf('text')).meta_data;
  const damaged = Uint8Array.from(file);
  // Behind the header, inside the compressed values.
  damaged[Number(start) + Number(size) - 20]! ^= 4;
  const source = await openParquet(bytesSource(damaged));
  await expect(readColumns(source, { columns: ['text'] })).rejects.toMatchObject({ code: 'FILE_UNREADABLE', message: 'column text: a page differs from its CRC' });
  const builder = new DataFileBuilder({ fields: [column] });
  const [copy] = await copyColumnChunks(source, 0, [column]);
  builder.appendRowGroup(texts.length, () => copy!);
  await expect(readColumns(await openParquet(bytesSource(builder.finish().bytes)), { columns: ['text'] })).rejects.toThrow('a page differs from its CRC');
});

test('row group bounds are exact for 64-bit values, decimals near their limit included', async () => {
  const offset: Field = { id: 1, name: 'offset', type: 'long', required: true };
  const price: Field = { id: 2, name: 'price', type: 'decimal(18,8)', required: false };
  const batch = { rowCount: 4, columns: { offset: [2n ** 63n - 1n, 2n ** 63n - 2n, -(2n ** 63n), 7n], price: [10n ** 18n - 1n, 10n ** 18n - 2n, null, null] } };
  const file = await openParquet(bytesSource(encodeDataFile({ fields: [offset, price], batch, rowGroupRows: 2 }).bytes));
  expect(rowGroupBounds(file, offset)).toEqual([{ min: 2n ** 63n - 2n, max: 2n ** 63n - 1n }, { min: -(2n ** 63n), max: 7n }]);
  expect(rowGroupBounds(file, price)).toEqual([{ min: 10n ** 18n - 2n, max: 10n ** 18n - 1n }, undefined]);
});

const countingSource = (file: Uint8Array): ByteSource & { requests: [number, number][] } => {
  const requests: [number, number][] = [];
  return {
    byteLength: file.length, requests,
    slice: (start, end) => {
      requests.push([start, end]);
      return Promise.resolve(file.slice(start, end));
    },
  };
};

test('a small file takes one request; of a large one only the footer and the wanted columns are fetched', async () => {
  const rowCount = 40_000;
  const three = [field('a', 'long', true), field('pad', 'string', true), field('z', 'long', true)];
  const noise = (i: number): bigint => BigInt.asIntN(64, BigInt(i) * 0x9e3779b97f4a7c15n);
  const batch = { rowCount, columns: { a: longs(rowCount, noise), pad: Array.from({ length: rowCount }, (_, i) => noise(i).toString(36)), z: longs(rowCount, noise) } };
  const large = countingSource(encodeDataFile({ fields: three, batch }).bytes);
  const opened = await openParquet(large, { tailBytes: 4096 });
  await readColumns(opened, { columns: ['a', 'z'] });
  expect(large.requests.length).toBe(3);
  expect(large.requests.reduce((sum, [start, end]) => sum + end - start, 0)).toBeLessThan(large.byteLength * 0.8);
  const small = countingSource(encodeDataFile({ fields: three, batch, rows: { start: 0, end: 50 } }).bytes);
  await readColumns(await openParquet(small), { columns: ['a', 'pad', 'z'] });
  expect(small.requests.length).toBe(1);
});

test('what is no Parquet file, or is cut short, is FILE_UNREADABLE', async () => {
  const { bytes: file } = encodeDataFile({ fields, batch: batchOf(fc.sample(row, { numRuns: 5, seed })) });
  const unreadable = expect.objectContaining({ code: 'FILE_UNREADABLE' }) as Error;
  await expect(openParquet(bytesSource(new Uint8Array(3)))).rejects.toThrow(unreadable);
  await expect(openParquet(bytesSource(new Uint8Array(300)))).rejects.toThrow(unreadable);
  await expect(openParquet(bytesSource(file.slice(0, file.length - 9)))).rejects.toThrow(unreadable);
  await expect(openParquet(bytesSource(file)).then((opened) => readColumns(opened, { columns: ['missing'] }))).rejects.toThrow(unreadable);
});

test('a damaged byte gives FILE_UNREADABLE or other values, never another error, nor an endless read', async () => {
  const rows = fc.sample(row, { numRuns: 40, seed });
  const { bytes: sound } = encodeDataFile({ fields, batch: batchOf(rows), rowGroupRows: 16 });
  await fc.assert(fc.asyncProperty(fc.nat(sound.length - 1), fc.integer({ min: 1, max: 255 }), async (at, flip) => {
    const damaged = sound.slice();
    damaged[at]! ^= flip;
    const outcome = await openParquet(bytesSource(damaged)).then((file) => readColumns(file, { columns: allNames })).then(() => 'read', (error: unknown) => error);
    expect(outcome === 'read' || (outcome as { code?: string }).code === 'FILE_UNREADABLE' ? 'as told' : outcome).toBe('as told');
  }), { seed, numRuns: 800 });
}, 60_000);
