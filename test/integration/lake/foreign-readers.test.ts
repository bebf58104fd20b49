import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest';
import type { ColumnBatch } from '../../../src/lake/columns.ts';
import type { DataFile } from '../../../src/lake/data-file.ts';
import { createObjectStoreCatalog, type ObjectStoreCatalog } from '../../../src/lake/object-store-catalog.ts';
import { encodeDataFile } from '../../../src/lake/parquet-writer.ts';
import { createS3ObjectStore } from '../../../src/lake/s3-object-store.ts';
import type { PartitionTuple, TableDefinition } from '../../../src/lake/schema.ts';
import { queryWithDuckDb, readWithPyIceberg } from '../../support/readers/index.ts';

// Python and its libraries take seconds to begin, on a busy machine many, and are installed first where they are not there.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const { s3 } = inject('stack');
const store = createS3ObjectStore({ ...s3, credentials: s3, bucket: `lake-${randomUUID()}` });
const newCatalog = (options = {}): ObjectStoreCatalog => createObjectStoreCatalog({ store, namespace: 'market_data', ...options });
beforeAll(() => store.ensureBucket());
afterAll(() => store.close());

const hour = 3_600_000_000n;
const definition: TableDefinition = {
  name: 'trades',
  fields: [
    { id: 1, name: 'trade_id', type: 'string', required: true },
    { id: 2, name: 'exchange', type: 'string', required: true },
    { id: 3, name: 'timestamp', type: 'timestamptz', required: true },
    { id: 4, name: 'price', type: 'decimal(18,8)', required: false },
    { id: 5, name: 'conditions', type: { type: 'list', elementId: 6, element: 'string', elementRequired: true }, required: false },
    { id: 7, name: 'raw', type: 'binary', required: false },
    { id: 8, name: 'source_sequence', type: 'long', required: false },
    { id: 9, name: 'trade_date', type: 'date', required: true },
  ],
  partitionBy: [
    { sourceId: 2, fieldId: 1000, name: 'exchange', transform: 'identity' },
    { sourceId: 3, fieldId: 1001, name: 'timestamp_hour', transform: 'hour' },
    { sourceId: 9, fieldId: 1002, name: 'trade_date', transform: 'identity' },
  ],
  sortBy: ['timestamp'],
};
interface Trade { id: string; at: bigint; price: bigint | null; raw?: Uint8Array; sequence?: bigint; conditions?: string[] }

const uploaded = async (catalog: ObjectStoreCatalog, table: TableDefinition, name: string, batch: ColumnBatch, partition: PartitionTuple): Promise<DataFile> => {
  const { bytes, metrics } = encodeDataFile({ fields: table.fields, batch });
  const filePath = catalog.dataLocation(table.name, `${name}.parquet`);
  await store.put(store.keyOf(filePath), bytes);
  return { ...metrics, filePath, partition };
};
const tradesFile = (catalog: ObjectStoreCatalog, name: string, exchange: string, trades: readonly Trade[]): Promise<DataFile> => {
  const atHour = Number(trades[0]!.at / hour) - (trades[0]!.at < 0n ? 1 : 0);
  const day = Math.floor(atHour / 24);
  const batch: ColumnBatch = {
    rowCount: trades.length,
    columns: {
      trade_id: trades.map(({ id }) => id),
      exchange: trades.map(() => exchange),
      timestamp: BigInt64Array.from(trades, ({ at }) => at),
      price: trades.map(({ price }) => price),
      conditions: trades.map(({ conditions }) => conditions ?? null),
      raw: trades.map(({ raw }) => raw ?? null),
      source_sequence: trades.map(({ sequence }) => sequence ?? null),
      trade_date: Int32Array.from(trades, () => day),
    },
  };
  return uploaded(catalog, definition, name, batch, { exchange, timestamp: atHour, trade_date: day });
};
const decimal = (text: string): bigint => {
  const [whole, fraction = ''] = text.split('.');
  return BigInt(whole! + fraction.padEnd(8, '0'));
};
const ids = (rows: readonly Record<string, unknown>[]): string[] => rows.map((row) => String(row['trade_id'])).sort();
const fileNames = (paths: readonly string[]): string[] => paths.map((path) => /([^/]+)\.parquet$/.exec(path)![1]!).sort();

describe('a table of many commits', () => {
  let metadata: string;
  let location: string;
  let paths: Record<string, string>;
  beforeAll(async () => {
    // Merging three manifests at once, so that what is read went through rewritten ones.
    const catalog = newCatalog({ manifestsMergedAt: 3 });
    await catalog.ensureTable(definition);
    const files = {
      early: await tradesFile(catalog, 'early', 'BINANCE', [{ id: 'B-1', at: -1n, price: decimal('0.00000001'), conditions: [] }]),
      low: await tradesFile(catalog, 'low', 'BINANCE', [
        { id: 'B-2', at: 470_000n * hour, price: decimal('9999999999.99999999'), raw: Buffer.from([0, 255]), sequence: 2n ** 62n },
        { id: 'B-3', at: 470_000n * hour + 123_456n, price: decimal('9000000000.1'), conditions: ['limit', 'é'] },
      ]),
      high: await tradesFile(catalog, 'high', 'BINANCE', [{ id: 'B-4', at: 470_000n * hour + 500_000n, price: null }]),
      cheap: await tradesFile(catalog, 'cheap', 'BINANCE', [{ id: 'B-5', at: 470_000n * hour + 900_000n, price: -decimal('3.14') }]),
      kraken: await tradesFile(catalog, 'kraken', 'KRAKEN', [{ id: 'K-1', at: 470_001n * hour, price: decimal('2') }]),
      wrong: await tradesFile(catalog, 'wrong', 'KRAKEN', [{ id: 'K-2', at: 470_001n * hour, price: decimal('777') }]),
      right: await tradesFile(catalog, 'right', 'KRAKEN', [{ id: 'K-2', at: 470_001n * hour, price: decimal('7') }]),
    };
    for (const name of ['early', 'low', 'high', 'cheap', 'kraken', 'wrong'] as const) await catalog.commit('trades', { commitId: name, add: [files[name]] });
    const { version } = await catalog.commit('trades', { commitId: 'fix', add: [files.right], remove: [files.wrong.filePath] });
    ({ metadataLocation: metadata, location } = version);
    paths = Object.fromEntries(Object.entries(files).map(([name, { filePath }]) => [name, filePath]));
  });

  test('is read by PyIceberg row for row', async () => {
    const { rows, columns, dataFiles } = await readWithPyIceberg(s3, metadata);
    expect(columns).toEqual({
      trade_id: 'string', exchange: 'string', timestamp: 'timestamptz', price: 'decimal(18, 8)', conditions: 'list<string>', raw: 'binary', source_sequence: 'long', trade_date: 'date',
    });
    expect(fileNames(dataFiles)).toEqual(['cheap', 'early', 'high', 'kraken', 'low', 'right']);
    expect(rows.toSorted((a, b) => (String(a['trade_id']) < String(b['trade_id']) ? -1 : 1))).toEqual([
      { trade_id: 'B-1', exchange: 'BINANCE', timestamp: '1969-12-31T23:59:59.999999Z', price: '0.00000001', conditions: [], raw: null, source_sequence: null, trade_date: '1969-12-31' },
      { trade_id: 'B-2', exchange: 'BINANCE', timestamp: '2023-08-14T08:00:00.000000Z', price: '9999999999.99999999', conditions: null, raw: '00ff', source_sequence: '4611686018427387904', trade_date: '2023-08-14' },
      { trade_id: 'B-3', exchange: 'BINANCE', timestamp: '2023-08-14T08:00:00.123456Z', price: '9000000000.10000000', conditions: ['limit', 'é'], raw: null, source_sequence: null, trade_date: '2023-08-14' },
      { trade_id: 'B-4', exchange: 'BINANCE', timestamp: '2023-08-14T08:00:00.500000Z', price: null, conditions: null, raw: null, source_sequence: null, trade_date: '2023-08-14' },
      { trade_id: 'B-5', exchange: 'BINANCE', timestamp: '2023-08-14T08:00:00.900000Z', price: '-3.14000000', conditions: null, raw: null, source_sequence: null, trade_date: '2023-08-14' },
      { trade_id: 'K-1', exchange: 'KRAKEN', timestamp: '2023-08-14T09:00:00.000000Z', price: '2.00000000', conditions: null, raw: null, source_sequence: null, trade_date: '2023-08-14' },
      { trade_id: 'K-2', exchange: 'KRAKEN', timestamp: '2023-08-14T09:00:00.000000Z', price: '7.00000000', conditions: null, raw: null, source_sequence: null, trade_date: '2023-08-14' },
    ]);
  });

  test.each([
    ["exchange = 'KRAKEN'", ['kraken', 'right'], ['K-1', 'K-2']],
    ["timestamp >= '2023-08-14T09:00:00+00:00'", ['kraken', 'right'], ['K-1', 'K-2']],
    ["timestamp < '1970-01-01T00:00:00+00:00'", ['early'], ['B-1']],
    ["trade_date = '1969-12-31'", ['early'], ['B-1']],
    ['price > 9000000000', ['low'], ['B-2', 'B-3']],
    ['price < 0', ['cheap'], ['B-5']],
    ['source_sequence is not null', ['low'], ['B-2']],
    ["trade_id = 'K-1'", ['kraken'], ['K-1']],
  ])('PyIceberg plans only the files that may hold %s', async (filter, files, expected) => {
    const read = await readWithPyIceberg(s3, metadata, { filter });
    expect(fileNames(read.dataFiles)).toEqual(files);
    expect(ids(read.rows)).toEqual(expected);
  });

  test('is read by DuckDB row for row, and by its location alone through the version hint', async () => {
    const sql = 'SELECT trade_id, price, timestamp, conditions, raw, source_sequence, trade_date FROM trades WHERE trade_id IN (\'B-1\', \'B-2\', \'K-2\') ORDER BY trade_id';
    expect(await queryWithDuckDb(s3, { trades: metadata }, sql)).toEqual([
      { trade_id: 'B-1', price: '0.00000001', timestamp: '1969-12-31T23:59:59.999999Z', conditions: [], raw: null, source_sequence: null, trade_date: '1969-12-31' },
      { trade_id: 'B-2', price: '9999999999.99999999', timestamp: '2023-08-14T08:00:00.000000Z', conditions: null, raw: '00ff', source_sequence: '4611686018427387904', trade_date: '2023-08-14' },
      { trade_id: 'K-2', price: '7.00000000', timestamp: '2023-08-14T09:00:00.000000Z', conditions: null, raw: null, source_sequence: null, trade_date: '2023-08-14' },
    ]);
    expect(await queryWithDuckDb(s3, { trades: location }, 'SELECT count(*) AS n, sum(price) AS price FROM trades')).toEqual([{ n: 7, price: '19000000005.96000000' }]);
  });

  test.each([
    ['a partition value', "exchange = 'KRAKEN'", ['kraken', 'right'], ['K-1', 'K-2']],
    ['an hour', "timestamp < TIMESTAMPTZ '1970-01-01 00:00:00+00'", ['early'], ['B-1']],
    // DuckDB opens a file whose column holds only nulls, which have no bounds.
    ['the bounds of a column', "exchange = 'BINANCE' AND price > 9000000000", ['low', 'high'], ['B-2', 'B-3']],
  ])('DuckDB does not open files that %s rules out', async (_, predicate, kept, expected) => {
    // The other files are gone for a moment: whoever opens one fails.
    const saved = await Promise.all(Object.entries(paths).filter(([name]) => !kept.includes(name)).map(async ([, path]) => ({ key: store.keyOf(path), ...await store.get(store.keyOf(path)) })));
    await store.delete(saved.map(({ key }) => key));
    try {
      const rows = await queryWithDuckDb(s3, { trades: metadata }, `SELECT trade_id FROM trades WHERE ${predicate}`);
      expect(ids(rows)).toEqual(expected);
      await expect(queryWithDuckDb(s3, { trades: metadata }, 'SELECT trade_id FROM trades')).rejects.toThrow(/404|HTTP/);
    } finally {
      for (const { key, body } of saved) await store.put(key, body);
    }
  });
});

test('a table without partitions, and one without rows, are read by both engines', async () => {
  const catalog = newCatalog();
  const plain: TableDefinition = { name: 'findings', fields: [{ id: 1, name: 'n', type: 'long', required: true }], partitionBy: [] };
  const empty = await catalog.ensureTable(plain);
  expect((await readWithPyIceberg(s3, empty.metadataLocation)).rows).toEqual([]);
  expect(await queryWithDuckDb(s3, { t: empty.metadataLocation }, 'SELECT count(*) AS n FROM t')).toEqual([{ n: 0 }]);
  const file = await uploaded(catalog, plain, 'one', { rowCount: 2, columns: { n: BigInt64Array.of(1n, 2n) } }, {});
  const { version } = await catalog.commit('findings', { commitId: 'one', add: [file] });
  expect((await readWithPyIceberg(s3, version.metadataLocation, { filter: 'n > 1' })).rows).toEqual([{ n: 2 }]);
  expect(await queryWithDuckDb(s3, { t: version.metadataLocation }, 'SELECT sum(n)::BIGINT AS n FROM t')).toEqual([{ n: 3 }]);
  const { version: emptied } = await catalog.commit('findings', { commitId: 'none', add: [], remove: [file.filePath] });
  expect((await readWithPyIceberg(s3, emptied.metadataLocation)).rows).toEqual([]);
  expect(await queryWithDuckDb(s3, { t: emptied.metadataLocation }, 'SELECT count(*) AS n FROM t')).toEqual([{ n: 0 }]);
});

test('a table partitioned by the day of a time is pruned by both engines', async () => {
  const catalog = newCatalog();
  const bronze: TableDefinition = {
    name: 'bronze',
    fields: [{ id: 1, name: 'offset', type: 'long', required: true }, { id: 2, name: 'ingestion_timestamp', type: 'timestamptz', required: true }],
    partitionBy: [{ sourceId: 2, fieldId: 1000, name: 'ingestion_timestamp_day', transform: 'day' }],
  };
  await catalog.ensureTable(bronze);
  const day = 24n * hour;
  const files = await Promise.all([-1n, 19_000n, 19_001n].map((n) => uploaded(
    catalog, bronze, `day${n}`, { rowCount: 1, columns: { offset: BigInt64Array.of(2n ** 62n + n), ingestion_timestamp: BigInt64Array.of(n * day + 1n) } }, { ingestion_timestamp: Number(n) },
  )));
  // One manifest holds all three, so that it is not the manifest list alone that prunes.
  const { version } = await catalog.commit('bronze', { commitId: 'days', add: files });
  const read = await readWithPyIceberg(s3, version.metadataLocation, { filter: "ingestion_timestamp >= '2022-01-09T00:00:00+00:00' and ingestion_timestamp < '2022-01-10T00:00:00+00:00'" });
  expect(fileNames(read.dataFiles)).toEqual(['day19001']);
  expect(read.rows).toEqual([{ offset: String(2n ** 62n + 19_001n), ingestion_timestamp: '2022-01-09T00:00:00.000001Z' }]);
  await store.delete(files.slice(1).map(({ filePath }) => store.keyOf(filePath)));
  expect(await queryWithDuckDb(s3, { bronze: version.metadataLocation }, "SELECT ingestion_timestamp FROM bronze WHERE ingestion_timestamp < TIMESTAMPTZ '1970-01-01 00:00:00+00'"))
    .toEqual([{ ingestion_timestamp: '1969-12-31T00:00:00.000001Z' }]);
  expect(await queryWithDuckDb(s3, { bronze: version.metadataLocation }, `SELECT ingestion_timestamp FROM bronze WHERE "offset" < ${2n ** 62n}`))
    .toEqual([{ ingestion_timestamp: '1969-12-31T00:00:00.000001Z' }]);
});
