import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import parquetjs from 'parquetjs-lite';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { bytesSource, copyColumnChunks, dataFileFromFooter, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { DataFileBuilder, encodeDataFile } from '../../src/lake/parquet-writer.ts';
import type { Field, FieldType } from '../../src/lake/schema.ts';
import { runPython } from '../support/readers/index.ts';

// Python and its libraries take seconds to begin, on a busy machine many, and are installed first where they are not there.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const script = fileURLToPath(new URL('../support/readers/parquet.py', import.meta.url));
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidemark-parquet-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

interface ForeignRead {
  pyarrow: Record<string, unknown>[];
  duckdb: Record<string, unknown>[];
  types: Record<string, string>;
  fieldIds: Record<string, number>;
  statistics: Record<string, [unknown, unknown, number] | null>[];
}
const readForeign = async (name: string, bytes: Uint8Array): Promise<ForeignRead> => {
  const path = join(folder, name);
  await writeFile(path, bytes);
  return (await runPython(script, { do: 'read', path })) as ForeignRead;
};

const required = (id: number, name: string, type: FieldType): Field => ({ id, name, type, required: true });
const optional = (id: number, name: string, type: FieldType): Field => ({ id, name, type, required: false });
const fields: Field[] = [
  required(1, 'offset', 'long'), optional(2, 'price', 'decimal(18,8)'), required(3, 'at', 'timestamptz'), optional(4, 'local', 'timestamp'), required(5, 'day', 'date'),
  required(6, 'side', 'string'), optional(7, 'text', 'string'), optional(8, 'raw', 'binary'), optional(9, 'flag', 'boolean'), optional(10, 'ratio', 'double'),
  required(11, 'partition', 'int'), optional(12, 'nothing', 'string'), required(15, 'topic', 'string'),
  { id: 13, name: 'conditions', required: false, type: { type: 'list', elementId: 14, element: 'string', elementRequired: true } },
];
const rowCount = 3_000;
const rows = Array.from({ length: rowCount }, (_, i) => ({
  offset: 2n ** 63n - 5_000n + BigInt(i),
  price: i % 9 === 0 ? null : (i % 2 === 0 ? 1n : -1n) * (10n ** 18n - 1n - BigInt(i)),
  at: BigInt(i) * 1_000_003n - 900_000_000n,
  local: i % 4 === 0 ? null : BigInt(i),
  day: i - 1_500,
  side: i % 3 === 0 ? 'BUY' : 'SELL',
  text: i % 5 === 0 ? null : i % 5 === 1 ? '' : `text-${i}-${i % 7 === 0 ? 'é\u{1f600}' : 'plain'}-${'x'.repeat(i % 300)}`,
  raw: i % 6 === 0 ? null : Buffer.alloc(i % 50, i % 256),
  flag: i % 4 === 0 ? null : i % 3 === 0,
  ratio: i % 8 === 0 ? null : i / 3,
  partition: (i % 40) - 20,
  conditions: i % 4 === 0 ? null : Array.from({ length: (i % 4) - 1 }, (__, n) => `c${n}`),
}));
const column = <K extends keyof (typeof rows)[number]>(name: K) => rows.map((row) => row[name]);
const batch = {
  rowCount,
  columns: {
    offset: BigInt64Array.from(rows, (row) => row.offset), price: column('price'), at: BigInt64Array.from(rows, (row) => row.at), local: column('local'), day: Int32Array.from(rows, (row) => row.day),
    side: column('side'), text: column('text'), raw: column('raw'), flag: column('flag'), ratio: column('ratio'), partition: Int32Array.from(rows, (row) => row.partition),
    nothing: { constant: null }, topic: { constant: 'trades.raw' }, conditions: column('conditions'),
  },
};

const isoMicros = (micros: bigint): string => {
  const millis = (micros - (((micros % 1_000n) + 1_000n) % 1_000n)) / 1_000n;
  return `${new Date(Number(millis)).toISOString().slice(0, -1)}${String(((micros % 1_000n) + 1_000n) % 1_000n).padStart(3, '0')}`;
};
const decimalText = (unscaled: bigint): string => {
  const digits = (unscaled < 0n ? -unscaled : unscaled).toString().padStart(9, '0');
  return `${unscaled < 0n ? '-' : ''}${digits.slice(0, -8)}.${digits.slice(-8)}`;
};
const expected = rows.map((row) => ({
  offset: String(row.offset), price: row.price === null ? null : decimalText(row.price), at: `${isoMicros(row.at)}Z`, local: row.local === null ? null : isoMicros(row.local),
  day: new Date(row.day * 86_400_000).toISOString().slice(0, 10), side: row.side, text: row.text, raw: row.raw === null ? null : row.raw.toString('hex'), flag: row.flag, ratio: row.ratio,
  partition: String(row.partition), nothing: null, topic: 'trades.raw', conditions: row.conditions,
}));

describe('a data file of ours', () => {
  test('is read by pyarrow and by DuckDB: every value, type, field id and row group statistic', async () => {
    const foreign = await readForeign('ours.parquet', encodeDataFile({ fields, batch, rowGroupRows: 1_024 }).bytes);
    expect(foreign.pyarrow).toEqual(expected);
    expect(foreign.duckdb).toEqual(expected);
    expect(foreign.types).toMatchObject({ price: 'decimal128(18, 8)', at: 'timestamp[us, tz=UTC]', local: 'timestamp[us]', day: 'date32[day]', raw: 'binary', conditions: 'list<element: string not null>' });
    expect(foreign.fieldIds).toEqual(Object.fromEntries(fields.map(({ name, id }) => [name, id])));
    expect(foreign.statistics.map((group) => group['offset'])).toEqual([
      [String(rows[0]!.offset), String(rows[1_023]!.offset), 0], [String(rows[1_024]!.offset), String(rows[2_047]!.offset), 0], [String(rows[2_048]!.offset), String(rows[2_999]!.offset), 0],
    ]);
    expect(foreign.statistics[0]!['price']![1]).toBe(decimalText(rows[2]!.price!));
  });

  test('is read by pyarrow and by DuckDB when its column chunks were copied from another file', async () => {
    const source = await openParquet(bytesSource(encodeDataFile({ fields, batch, rowGroupRows: 1_000 }).bytes));
    const added = required(90, 'merged_at', 'timestamptz');
    const builder = new DataFileBuilder({ fields: [...fields, added] });
    for (const [group, groupRows] of source.rowGroupRows.entries()) {
      const copies = await copyColumnChunks(source, group, fields);
      builder.appendRowGroup(groupRows, (leaf) => copies[fields.indexOf(leaf.field)] ?? { constant: 0n });
    }
    const foreign = await readForeign('copied.parquet', builder.finish().bytes);
    const merged = expected.map((row) => ({ ...row, merged_at: '1970-01-01T00:00:00.000000Z' }));
    expect(foreign.pyarrow).toEqual(merged);
    expect(foreign.duckdb).toEqual(merged);
  });
});

test('pyarrow verifies the checksum of every page, and finds the one with a changed byte', async () => {
  const { bytes } = encodeDataFile({ fields, batch, rowGroupRows: 1_024 });
  const path = join(folder, 'verified.parquet');
  await writeFile(path, bytes);
  expect(await runPython(script, { do: 'verify', path })).toEqual({ damaged: null });
  const opened = await openParquet(bytesSource(bytes));
  for (const name of ['raw', 'text', 'conditions', 'topic']) {
    const { data_page_offset: start, total_compressed_size: size, dictionary_page_offset: dictionary } = opened.chunk(1, opened.leaf(name)).meta_data;
    const damaged = Uint8Array.from(bytes);
    damaged[Number(dictionary ?? start) + Number(size) - 1]! ^= 1;
    await writeFile(path, damaged);
    expect(await runPython(script, { do: 'verify', path }), name).toEqual({ damaged: expect.stringContaining('CRC') as string });
  }
});

describe('a file of an independent writer is read as it was written', () => {
  const cases: [string, Record<string, unknown>][] = [
    ['snappy, pages v1', { compression: 'snappy' }],
    ['gzip, pages v2', { compression: 'gzip', data_page_version: '2.0' }],
    ['zstd, no dictionaries, small pages', { compression: 'zstd', use_dictionary: false, data_page_size: 256, row_group_size: 70 }],
    ['stored, decimals as integers', { compression: 'none', store_decimal_as_integer: true }],
    ['delta encodings', { use_dictionary: false, column_encoding: { number: 'DELTA_BINARY_PACKED', small: 'DELTA_BINARY_PACKED', text: 'DELTA_LENGTH_BYTE_ARRAY', raw: 'DELTA_BYTE_ARRAY', ratio: 'BYTE_STREAM_SPLIT' } }],
  ];
  test.each(cases)('pyarrow: %s', async (name, options) => {
    const path = join(folder, `${name.replaceAll(/\W/g, '-')}.parquet`);
    await runPython(script, { do: 'write', path, options });
    const file = await openParquet(bytesSource(await readFile(path)));
    const { columns, rowCount: count } = await readColumns(file, { columns: file.columnNames });
    const numbers = Array.from({ length: 300 }, (_, i) => i);
    expect(count).toBe(300);
    expect(columns['number']).toEqual(numbers.map((i) => (i % 7 === 0 ? null : BigInt(i) * 10n ** 15n - 10n ** 17n)));
    expect(columns['small']).toEqual(Int32Array.from(numbers, (i) => i - 150));
    expect(columns['price']).toEqual(BigInt64Array.from(numbers, (i) => BigInt(i - 100) * 12_500_000n));
    expect(columns['moment']).toEqual(BigInt64Array.from(numbers, (i) => BigInt(i) * 1_000_001n - 5_000_000n));
    expect(columns['millis']).toEqual(BigInt64Array.from(numbers, (i) => BigInt(i) * 1_001_000n));
    expect(columns['text']).toEqual(numbers.map((i) => (i % 5 === 0 ? null : `t${i % 40}é`)));
    expect((columns['raw'] as Uint8Array[]).map((raw) => [...raw])).toEqual(numbers.map((i) => Array.from({ length: i % 9 }, () => i % 256)));
    expect(columns['flag']).toEqual(numbers.map((i) => i % 3 === 0));
    expect(columns['ratio']).toEqual(Float64Array.from(numbers, (i) => i / 7));
    expect(columns['tags']).toEqual(numbers.map((i) => (i % 6 === 0 ? null : Array.from({ length: i % 4 }, () => `a${i % 3}`))));
    const metrics = dataFileFromFooter(file, [optional(1, 'number', 'long'), optional(2, 'text', 'string')]);
    expect(metrics.recordCount).toBe(300);
    expect(metrics.nullValueCounts).toEqual({ 1: 43, 2: 60 });
  });

  test('parquetjs-lite: snappy, gzip and stored columns, optional and repeated', async () => {
    const schema = new parquetjs.ParquetSchema({
      offset: { type: 'INT64', compression: 'SNAPPY' }, name: { type: 'UTF8', compression: 'GZIP' }, note: { type: 'UTF8', optional: true }, raw: { type: 'BYTE_ARRAY', compression: 'SNAPPY' },
      at: { type: 'TIMESTAMP_MICROS' }, flag: { type: 'BOOLEAN' }, ratio: { type: 'DOUBLE' }, tags: { type: 'UTF8', repeated: true },
    });
    const path = join(folder, 'parquetjs.parquet');
    const writer = await parquetjs.ParquetWriter.openFile(schema, path);
    writer.setRowGroupSize(100);
    for (let i = 0; i < 250; i += 1) {
      await writer.appendRow({
        offset: i * 1_000, name: `n${i}`, ...(i % 3 === 0 ? {} : { note: `note ${i}` }), raw: Buffer.from([i % 256, 1]), at: new Date(i * 1_000), flag: i % 2 === 0, ratio: i / 4,
        tags: Array.from({ length: i % 3 }, (_, n) => `t${n}`),
      });
    }
    await writer.close();
    const file = await openParquet(bytesSource(await readFile(path)));
    const { columns } = await readColumns(file, { columns: ['offset', 'name', 'note', 'raw', 'at', 'flag', 'ratio', 'tags'] });
    const numbers = Array.from({ length: 250 }, (_, i) => i);
    expect(columns['offset']).toEqual(BigInt64Array.from(numbers, (i) => BigInt(i * 1_000)));
    expect(columns['name']).toEqual(numbers.map((i) => `n${i}`));
    expect(columns['note']).toEqual(numbers.map((i) => (i % 3 === 0 ? null : `note ${i}`)));
    expect((columns['raw'] as Uint8Array[]).map((raw) => [...raw])).toEqual(numbers.map((i) => [i % 256, 1]));
    expect(columns['at']).toEqual(BigInt64Array.from(numbers, (i) => BigInt(i) * 1_000_000n));
    expect(columns['flag']).toEqual(numbers.map((i) => i % 2 === 0));
    expect(columns['ratio']).toEqual(Float64Array.from(numbers, (i) => i / 4));
    expect(columns['tags']).toEqual(numbers.map((i) => Array.from({ length: i % 3 }, (_, n) => `t${n}`)));
  });
});
