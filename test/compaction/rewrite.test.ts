import { randomUUID } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { rewriteFiles } from '../../src/compaction/rewrite.ts';
import type { RewriteDeps } from '../../src/compaction/rewrite.ts';
import type { ColumnValues } from '../../src/lake/columns.ts';
import type { DataFile } from '../../src/lake/data-file.ts';
import { bytesSource, dataFileFromFooter, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import type { Field } from '../../src/lake/schema.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import { seed } from '../support/seed.ts';

const fields: readonly Field[] = [
  { id: 1, name: 'topic', type: 'string', required: true },
  { id: 2, name: 'partition', type: 'int', required: true },
  { id: 3, name: 'at', type: 'timestamptz', required: true },
  { id: 4, name: 'price', type: 'decimal(18,8)', required: false },
  { id: 5, name: 'text', type: 'string', required: false },
  { id: 6, name: 'raw', type: 'binary', required: false },
  { id: 7, name: 'flag', type: 'boolean', required: false },
  { id: 8, name: 'weight', type: 'double', required: true },
  { id: 9, name: 'day', type: 'date', required: false },
  { id: 10, name: 'conditions', required: true, type: { type: 'list', elementId: 11, element: 'string', elementRequired: true } },
];

const row = fc.record({
  topic: fc.constantFrom('market.crypto.trades.binance.raw', 'market.crypto.trades.kraken.raw', 'b'),
  partition: fc.integer({ min: 0, max: 2 }),
  // Ties, clusters and far outliers.
  at: fc.oneof(fc.integer({ min: 0, max: 400 }), fc.integer({ min: -(10 ** 15), max: 10 ** 15 })).map(BigInt),
  price: fc.option(fc.bigInt({ min: -(10n ** 17n), max: 10n ** 17n }), { freq: 3 }),
  text: fc.option(fc.string({ unit: 'grapheme', maxLength: 12 }), { freq: 3 }),
  raw: fc.option(fc.uint8Array({ maxLength: 12 }), { freq: 3 }),
  flag: fc.option(fc.boolean(), { freq: 3 }),
  weight: fc.double({ noNaN: true }),
  day: fc.option(fc.integer({ min: -1000, max: 30_000 }), { freq: 3 }),
  conditions: fc.array(fc.constantFrom('limit', 'market', ''), { maxLength: 3 }),
});
type Row = (typeof row extends fc.Arbitrary<infer T> ? T : never);

const columnsOf = (rows: readonly Row[]): Record<string, ColumnValues> => ({
  ...Object.fromEntries(fields.map(({ name }) => [name, rows.map((one) => one[name as keyof Row])])) as Record<string, ColumnValues>,
  partition: Int32Array.from(rows, ({ partition }) => partition), at: BigInt64Array.from(rows, ({ at }) => at), weight: Float64Array.from(rows, ({ weight }) => weight),
});

const writeInput = async (store: MemoryObjectStore, rows: readonly Row[], rowGroupRows: number, omit: readonly string[] = []): Promise<DataFile> => {
  const of = fields.filter(({ name }) => !omit.includes(name));
  const { bytes, metrics } = encodeDataFile({ fields: of, batch: { rowCount: rows.length, columns: columnsOf(rows) }, rowGroupRows });
  const filePath = store.location(`in/${randomUUID()}.parquet`);
  await store.put(store.keyOf(filePath), bytes);
  return { filePath, partition: {}, ...metrics };
};

const shown = (values: readonly unknown[]): string => JSON.stringify(values, (_, value: unknown) =>
  (typeof value === 'bigint' ? `${value}n` : value instanceof Uint8Array ? Buffer.from(value).toString('hex') : Object.is(value, -0) ? '-0' : value));

const readRows = async (store: MemoryObjectStore, { filePath }: DataFile): Promise<unknown[][]> => {
  const parquet = await openParquet(bytesSource((await store.get(store.keyOf(filePath))).body));
  const { rowCount, columns } = await readColumns(parquet, { columns: fields.map(({ name }) => name) });
  return Array.from({ length: rowCount }, (_, i) => fields.map(({ name }) => columns[name]![i]));
};

const rewrite = (store: MemoryObjectStore, files: readonly DataFile[], sortBy: readonly string[], targetBytes: number, deps: Partial<RewriteDeps> = {}): Promise<DataFile[]> => rewriteFiles({ store, ...deps }, {
  files, partition: {}, table: { fields, sortBy }, targetBytes, describe: () => ({ filePath: store.location(`out/${randomUUID()}.parquet`), keyValueMetadata: { test: 'yes' } }),
});

const compare = (a: unknown, b: unknown): number => (a === b ? 0 : (a as bigint) < (b as bigint) ? -1 : 1);

test('every row of the inputs is in the written files once, in every column, in the order of the sort columns, and the metrics are those of the files', async () => {
  await fc.assert(fc.asyncProperty(
    fc.array(fc.tuple(fc.array(row, { maxLength: 40 }), fc.integer({ min: 1, max: 30 }), fc.boolean()), { minLength: 1, maxLength: 8 }),
    fc.constantFrom<readonly string[]>(['at'], ['topic', 'partition', 'at'], []), fc.integer({ min: 500, max: 20_000 }), fc.integer({ min: 2, max: 24 }), fc.integer({ min: 1, max: 20_000 }),
    async (inputs, sortBy, targetBytes, rowGroupRows, inputBytesMax) => {
      const store = createMemoryObjectStore();
      const files = await Promise.all(inputs.map(([rows, groupRows, isSorted]) => writeInput(store, isSorted ? [...rows].sort((a, b) => compare(a.at, b.at)) : rows, groupRows)));
      const written = await rewrite(store, files, sortBy, targetBytes, { rowGroupRows, inputBytesMax });
      const before = (await Promise.all(files.map((file) => readRows(store, file)))).flat();
      const after = (await Promise.all(written.map((file) => readRows(store, file)))).flat();
      expect(after.map(shown).sort()).toEqual(before.map(shown).sort());
      const at = (name: string): number => fields.findIndex((field) => field.name === name);
      for (let i = 1; i < after.length; i += 1) {
        const order = sortBy.map((name) => compare(after[i - 1]![at(name)], after[i]![at(name)])).find((one) => one !== 0) ?? 0;
        expect(order).toBeLessThanOrEqual(0);
      }
      for (const { filePath, partition: _, ...metrics } of written) {
        const opened = await openParquet(bytesSource((await store.get(store.keyOf(filePath))).body));
        expect(dataFileFromFooter(opened, fields)).toEqual(metrics);
        expect(opened.keyValueMetadata).toEqual({ test: 'yes' });
      }
    },
  ), { seed, numRuns: 60 });
});

const plainRow = (at: number): Row => ({ topic: 'b', partition: 0, at: BigInt(at), price: 1n, text: `row ${at}`, raw: Buffer.from([at % 256]), flag: true, weight: at, day: 1, conditions: [] });
const plainRows = (from: number, until: number): Row[] => Array.from({ length: until - from }, (_, i) => plainRow(from + i));

test('files come near the target, and none is a small remainder', async () => {
  const store = createMemoryObjectStore();
  const files = await Promise.all(Array.from({ length: 60 }, (_, i) => writeInput(store, plainRows(i * 100, (i + 1) * 100), 100)));
  // Of files so small most is footer, which does not count.
  const bytes = files.flatMap(({ columnSizes }) => Object.values(columnSizes)).reduce((sum, size) => sum + size, 0);
  const written = await rewrite(store, files, ['at'], Math.round(bytes / 4.3), { rowGroupRows: 200 });
  expect(written).toHaveLength(4);
  for (const { recordCount } of written) expect(Math.abs(recordCount - 1_500)).toBeLessThanOrEqual(200);
});

test('files of 64 and of 256 KiB land near their target too, with rows and order unchanged', async () => {
  for (const targetBytes of [1 << 16, 1 << 18]) {
    const store = createMemoryObjectStore();
    // Twelve files of a quarter of a target each, in no order; what is equal in all rows counts for nothing.
    const text = (at: number): string => Array.from({ length: 4 }, (_, i) => (Math.imul(at * 4 + i, 0x9e3779b1) >>> 0).toString(16)).join('-');
    const rowsOfFile = Math.round(targetBytes / 4 / 34);
    const files = await Promise.all(Array.from({ length: 12 }, (_, f) =>
      writeInput(store, Array.from({ length: rowsOfFile }, (__, i) => ({ ...plainRow(i * 12 + f), text: text(i * 12 + f) })), 65_536)));
    const bytes = files.reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0);
    const written = await rewrite(store, files, ['at'], targetBytes);
    const shares = written.map(({ fileSizeBytes }) => fileSizeBytes / targetBytes);
    expect(written.length, `${bytes} bytes for ${targetBytes}: ${shares.join(', ')}`).toBeGreaterThanOrEqual(2);
    for (const share of shares) {
      expect(share, shares.join(', ')).toBeGreaterThan(0.5);
      expect(share, shares.join(', ')).toBeLessThan(1.5);
    }
    expect(written.reduce((sum, { recordCount }) => sum + recordCount, 0)).toBe(12 * rowsOfFile);
  }
}, 60_000);

test('row groups that fill one and overlap no other go over encoded, the rest is merged into full ones', async () => {
  const store = createMemoryObjectStore();
  const full = await writeInput(store, plainRows(0, 400), 100);
  const small = await Promise.all([4, 5, 6, 7].map((i) => writeInput(store, plainRows(i * 100, i * 100 + 25), 100)));
  const [written] = await rewrite(store, [...small, full], ['at'], 1 << 20, { rowGroupRows: 100 });
  const opened = await openParquet(bytesSource((await store.get(store.keyOf(written!.filePath))).body));
  expect(opened.rowGroupRows).toEqual([100, 100, 100, 100, 100]);
  const source = await openParquet(bytesSource((await store.get(store.keyOf(full.filePath))).body));
  const pages = async (file: typeof opened): Promise<string> => {
    const { meta_data: metadata } = file.chunk(2, file.leaf('text'));
    const start = Number(metadata.dictionary_page_offset ?? metadata.data_page_offset);
    return Buffer.from((await file.fetch([{ start, end: start + Number(metadata.total_compressed_size) }]))[0]!).toString('hex');
  };
  expect(await pages(opened)).toBe(await pages(source));
});

test('row groups that all overlap are cut into ranges, so that none holds more rows than it should', async () => {
  const store = createMemoryObjectStore();
  // Each file spreads over the whole range.
  const files = await Promise.all(Array.from({ length: 30 }, (_, f) => writeInput(store, Array.from({ length: 100 }, (__, i) => plainRow(i * 30 + f)), 100)));
  const [written] = await rewrite(store, files, ['at'], 1 << 20, { rowGroupRows: 500, inputBytesMax: 10_000 });
  const opened = await openParquet(bytesSource((await store.get(store.keyOf(written!.filePath))).body));
  expect(opened.rowGroupRows).toHaveLength(6);
  expect(Math.max(...opened.rowGroupRows)).toBeLessThanOrEqual(550);
  expect((await readRows(store, written!)).map((values) => Number(values[2]))).toEqual(Array.from({ length: 3_000 }, (_, i) => i));
});

test('one moment with more rows than a row group should hold is written in several', async () => {
  const store = createMemoryObjectStore();
  const files = await Promise.all(Array.from({ length: 5 }, () => writeInput(store, Array.from({ length: 100 }, () => plainRow(7)), 100)));
  const [written] = await rewrite(store, files, ['at'], 1 << 20, { rowGroupRows: 120 });
  const opened = await openParquet(bytesSource((await store.get(store.keyOf(written!.filePath))).body));
  expect(Math.max(...opened.rowGroupRows)).toBeLessThanOrEqual(132);
  expect(opened.rowCount).toBe(500);
});

test('a column that a file was written without is null in its rows', async () => {
  const store = createMemoryObjectStore();
  const files = [await writeInput(store, plainRows(0, 10), 10), await writeInput(store, plainRows(5, 15), 10, ['text', 'price'])];
  const [written] = await rewrite(store, files, ['at'], 1 << 20);
  const texts = (await readRows(store, written!)).map((values) => values[4]);
  expect(texts.filter((text) => text === null)).toHaveLength(10);
  expect(texts.filter((text) => text !== null).sort()).toEqual(plainRows(0, 10).map(({ text }) => text).sort());
});

test('a damaged input fails the compaction, and no file comes of it', async () => {
  const store = createMemoryObjectStore();
  const files = await Promise.all([0, 1].map((i) => writeInput(store, plainRows(i * 10, i * 10 + 15), 50)));
  const { body } = await store.get(store.keyOf(files[1]!.filePath));
  const damaged = Uint8Array.from(body);
  const opened = await openParquet(bytesSource(body));
  const { data_page_offset: start, total_compressed_size: size } = opened.chunk(0, opened.leaf('weight')).meta_data;
  damaged[Number(start) + Number(size) - 5]! ^= 1;
  await store.put(store.keyOf(files[1]!.filePath), damaged);
  await expect(rewrite(store, files, ['at'], 1 << 20)).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
  expect([...store.objects.keys()].filter((key) => key.startsWith('out/'))).toEqual([]);
});
