/**
 * Rows a second of the Gold merge on one core: Silver files of trades merged into an empty bucket, into one that holds the hour so far,
 * and with one row in a hundred a duplicate: `node bench/merge-gold.ts [--json] [--rows N] [--batches N]`. The object store is in memory.
 */
import { parseArgs } from 'node:util';
import binanceTrades from '../src/datasets/binance-trades.ts';
import type { EncodableBatch } from '../src/lake/columns.ts';
import type { DataFile } from '../src/lake/data-file.ts';
import { createObjectStoreCatalog } from '../src/lake/object-store-catalog.ts';
import { encodeDataFile } from '../src/lake/parquet-writer.ts';
import { GoldKeyCache } from '../src/refine/gold-key-cache.ts';
import { hashKeys, KeyIndex } from '../src/refine/key-hash.ts';
import { mergeGold, type MergeGoldResult } from '../src/refine/merge-gold.ts';
import { createMemoryObjectStore } from '../test/support/memory-object-store.ts';

const { values: args } = parseArgs({ options: { json: { type: 'boolean', default: false }, rows: { type: 'string', default: '150000' }, batches: { type: 'string', default: '8' } } });
const rowsPerBatch = Number(args.rows);
const batches = Number(args.batches);
const dataset = binanceTrades;

const hourStart = 1_700_002_800_000_000n;
const batchMicros = 3_600_000_000n / BigInt(batches + 1);

/** Trades of one batch; every `duplicateEvery`-th repeats one of the batch before. */
const silverBatch = (batch: number, duplicateEvery: number): EncodableBatch => {
  const ids = Array.from({ length: rowsPerBatch }, (_, i) => batch * rowsPerBatch + i - (duplicateEvery > 0 && batch > 0 && i % duplicateEvery === 0 ? rowsPerBatch - 1 : 0));
  const timeOf = (id: number): bigint => hourStart + (BigInt(id) * batchMicros) / BigInt(rowsPerBatch);
  const order = Uint32Array.from({ length: rowsPerBatch }, (_, i) => i).sort((a, b) => ids[a]! - ids[b]!);
  const text = (of: (id: number) => string): string[] => Array.from(order, (i) => of(ids[i]!));
  const long = (of: (id: number) => bigint): BigInt64Array => BigInt64Array.from(order, (i) => of(ids[i]!));
  return {
    rowCount: rowsPerBatch,
    columns: {
      message_id: text((id) => `${(id * 2_654_435_761 % 4_294_967_296).toString(16).padStart(8, '0')}-0000-5000-8000-${id.toString(16).padStart(12, '0')}`), trade_id: text((id) => `BINANCE-${id}`),
      symbol: text((id) => ['BTCUSDT', 'ETHUSDT', 'SOLUSDT'][id % 3]!), exchange: { constant: 'BINANCE' }, asset_class: { constant: 'crypto' }, timestamp: long(timeOf),
      price: long((id) => 4_200_000_000_000n + BigInt(id % 900) * 1_000_000n), quantity: long((id) => BigInt(id % 10_000) * 1_000n), currency: { constant: 'USDT' }, side: text((id) => (id % 2 === 0 ? 'BUY' : 'SELL')),
      trade_conditions: Array.from({ length: rowsPerBatch }, () => []), source_sequence: long(BigInt), ingestion_timestamp: long((id) => timeOf(id) + 5_000n), platform_sequence: { constant: null },
      vendor_data: text((id) => `{"event_time_ms":${1_700_000_000_000 + id},"is_best_match":true,"market":"spot","extra":{"x":"${id * 7919 % 1_000_000}"}}`), validation_timestamp: { constant: 1n },
      bronze_ingestion_timestamp: { constant: 2n }, schema_id: { constant: 1 }, kafka_topic: { constant: dataset.topic }, kafka_partition: { constant: 0 },
      kafka_offset: BigInt64Array.from(order, (i) => BigInt(batch * rowsPerBatch + i)), rule_version: { constant: '1' },
    },
  };
};

interface Figure { name: string; rowsPerSecond: number; goldRows: number; duplicates: number }
const figures: Figure[] = [];
const run = async (name: string, duplicateEvery: number, cacheBytes: number): Promise<void> => {
  const store = createMemoryObjectStore();
  const catalog = createObjectStoreCatalog({ store, namespace: 'market_data' });
  await catalog.ensureTable(dataset.gold);
  const cache = new GoldKeyCache(store, { bytesMax: cacheBytes });
  const silver: DataFile[] = [];
  for (let batch = 0; batch < batches; batch += 1) {
    const { bytes, metrics } = encodeDataFile({ fields: dataset.silver.fields, batch: silverBatch(batch, duplicateEvery) });
    await store.put(`staged/${batch}.parquet`, bytes);
    silver.push({ filePath: store.location(`staged/${batch}.parquet`), partition: {}, ...metrics });
  }
  const results: MergeGoldResult[] = [];
  const start = performance.now();
  for (let batch = 0; batch < batches; batch += 1) {
    results.push(await mergeGold({ store, catalog, dataset, cache }, {
      commitId: `batch-${batch}`, coverage: { [`${dataset.topic}/0`]: `${batch * rowsPerBatch}-${(batch + 1) * rowsPerBatch}` }, silverFiles: [silver[batch]!], nowMs: 0,
    }));
  }
  const seconds = (performance.now() - start) / 1_000;
  const sum = (of: (result: MergeGoldResult) => number): number => results.reduce((total, result) => total + of(result), 0);
  figures.push({ name, rowsPerSecond: Math.round((rowsPerBatch * batches) / seconds), goldRows: sum((result) => result.goldRows), duplicates: sum((result) => result.duplicates) });
};

await run('warm-up', 0, 32 << 20);
figures.length = 0;
await run('no duplicates', 0, 32 << 20);
await run('one in 100 a duplicate of the batch before', 100, 32 << 20);
await run('one in 100 a duplicate, no key cache', 100, 0);

const columns = silverBatch(0, 0).columns;
const hashStart = performance.now();
const hashes = hashKeys(dataset.key.map((name) => columns[name]!), rowsPerBatch);
const index = new KeyIndex(hashes, rowsPerBatch);
for (let row = 0; row < rowsPerBatch; row += 1) index.add(row);
const keysPerSecond = Math.round(rowsPerBatch / ((performance.now() - hashStart) / 1_000));
const peakMegabytes = Math.round(process.resourceUsage().maxRSS / 1024);
if (args.json) {
  console.log(JSON.stringify({ rowsPerBatch, batches, figures, keysPerSecond, peakMegabytes }));
} else {
  for (const { name, rowsPerSecond, goldRows, duplicates } of figures) console.log(`${name.padEnd(46)} ${rowsPerSecond.toLocaleString('en').padStart(12)} rows/s  ${goldRows} in Gold, ${duplicates} duplicates`);
  console.log(`keys hashed and indexed: ${keysPerSecond.toLocaleString('en')} a second; peak memory with the store in it ${peakMegabytes} MB`);
}
