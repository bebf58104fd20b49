import { randomUUID } from 'node:crypto';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { beforeAll, expect, inject, test, vi } from 'vitest';
import { queryWithDuckDb, readWithPyIceberg, writeWithPyIceberg } from '../support/readers/index.ts';

// Python and its libraries take seconds to begin, on a busy machine many, and are installed first where they are not there.
vi.setConfig({ testTimeout: 300_000, hookTimeout: 300_000 });

const { s3 } = inject('stack');
const bucket = `readers-${randomUUID()}`;
let metadata: string;

beforeAll(async () => {
  const client = new S3Client({ endpoint: s3.endpoint, region: s3.region, credentials: s3, forcePathStyle: true });
  await client.send(new CreateBucketCommand({ Bucket: bucket }));
  client.destroy();
  metadata = await writeWithPyIceberg(s3, {
    warehouse: `s3://${bucket}/warehouse`,
    namespace: 'market_data',
    name: 'trades',
    schema: [['trade_id', 'long'], ['symbol', 'string'], ['price', 'decimal(18,8)'], ['timestamp', 'timestamptz'], ['raw', 'binary']],
    partitionBy: ['symbol'],
    batches: [
      [{ trade_id: 1, symbol: 'BTCUSDT', price: '0.00000001', timestamp: '2023-11-14T22:13:20.123456Z', raw: '00ff' }],
      [{ trade_id: 2, symbol: 'ETHUSDT', price: '1234567890.12345678', timestamp: '2023-11-14T22:13:21Z', raw: null }],
    ],
  });
});

test('PyIceberg reads a table on the S3 server from its metadata file alone, and prunes by partition', async () => {
  const all = await readWithPyIceberg(s3, metadata);
  expect(all.rows.toSorted((a, b) => Number(a['trade_id']) - Number(b['trade_id']))).toEqual([
    { trade_id: 1, symbol: 'BTCUSDT', price: '0.00000001', timestamp: '2023-11-14T22:13:20.123456Z', raw: '00ff' },
    { trade_id: 2, symbol: 'ETHUSDT', price: '1234567890.12345678', timestamp: '2023-11-14T22:13:21.000000Z', raw: null },
  ]);
  expect(all.columns).toMatchObject({ price: 'decimal(18, 8)', timestamp: 'timestamptz' });
  const one = await readWithPyIceberg(s3, metadata, { filter: "symbol = 'ETHUSDT'", columns: ['trade_id'] });
  expect(one).toMatchObject({ rows: [{ trade_id: 2 }], dataFiles: [expect.stringContaining('ETHUSDT')] });
});

test('DuckDB reads the same table on the S3 server with SQL', async () => {
  const rows = await queryWithDuckDb(s3, { trades: metadata }, 'SELECT symbol, count(*) AS n, sum(price) AS price, max(timestamp) AS latest FROM trades GROUP BY symbol ORDER BY symbol');
  expect(rows).toEqual([
    { symbol: 'BTCUSDT', n: 1, price: '0.00000001', latest: '2023-11-14T22:13:20.123456Z' },
    { symbol: 'ETHUSDT', n: 1, price: '1234567890.12345678', latest: '2023-11-14T22:13:21.000000Z' },
  ]);
});
