/**
 * Rows a second and memory of a compaction on one core: Silver files as micro-batches leave them, small ones that are decoded and merged,
 * large ones that are copied, and the worst case in which every file spreads over the whole hour:
 * `node bench/compaction.ts [--json] [--rows N] [--files N]`. The object store is in memory; its bytes are taken off the peak.
 */
import { parseArgs } from 'node:util';
import { rewriteFiles } from '../src/compaction/rewrite.ts';
import binanceTrades from '../src/datasets/binance-trades.ts';
import type { EncodableBatch } from '../src/lake/columns.ts';
import type { DataFile } from '../src/lake/data-file.ts';
import { encodeDataFile } from '../src/lake/parquet-writer.ts';
import { createMemoryObjectStore } from '../test/support/memory-object-store.ts';

const { values: args } = parseArgs({ options: { json: { type: 'boolean', default: false }, rows: { type: 'string', default: '1000000' }, files: { type: 'string', default: '100' } } });
const rows = Number(args.rows);
const { silver, topic } = binanceTrades;
const startMicros = 1_700_002_800_000_000n;
const hourMicros = 3_600_000_000n;

const batchOf = (ids: readonly number[]): EncodableBatch => {
  const text = (of: (id: number) => string): string[] => ids.map(of);
  const long = (of: (id: number) => bigint): BigInt64Array => BigInt64Array.from(ids, of);
  const timeOf = (id: number): bigint => startMicros + (BigInt(id) * hourMicros) / BigInt(rows);
  return {
    rowCount: ids.length,
    columns: {
      message_id: text((id) => `${(id * 2_654_435_761 % 4_294_967_296).toString(16).padStart(8, '0')}-0000-5000-8000-${id.toString(16).padStart(12, '0')}`), trade_id: text((id) => `BINANCE-${id}`),
      symbol: text((id) => ['BTCUSDT', 'ETHUSDT', 'SOLUSDT'][id % 3]!), exchange: { constant: 'BINANCE' }, asset_class: { constant: 'crypto' }, timestamp: long(timeOf),
      price: long((id) => 4_200_000_000_000n + BigInt(id % 900) * 1_000_000n), quantity: long((id) => BigInt(id % 10_000) * 1_000n), currency: { constant: 'USDT' }, side: text((id) => (id % 2 === 0 ? 'BUY' : 'SELL')),
      trade_conditions: ids.map(() => []), source_sequence: long(BigInt), ingestion_timestamp: long((id) => timeOf(id) + 5_000n), platform_sequence: { constant: null },
      vendor_data: text((id) => `{"event_time_ms":${1_700_000_000_000 + id},"is_best_match":true,"market":"spot","extra":{"x":"${id * 7919 % 1_000_000}"}}`), validation_timestamp: { constant: 1n },
      bronze_ingestion_timestamp: { constant: 2n }, schema_id: { constant: 1 }, kafka_topic: { constant: topic }, kafka_partition: { constant: 0 }, kafka_offset: long(BigInt), rule_version: { constant: '1' },
    },
  };
};

interface Figure { name: string; inputFiles: number; outputFiles: number; rowsPerSecond: number; cpuMicrosPerRow: number; peakMBWithoutStore: number }
const figures: Figure[] = [];
const run = async (name: string, inputFiles: number, idsOf: (file: number) => number[]): Promise<void> => {
  const store = createMemoryObjectStore();
  const files: DataFile[] = [];
  for (let file = 0; file < inputFiles; file += 1) {
    const { bytes, metrics } = encodeDataFile({ fields: silver.fields, batch: batchOf(idsOf(file)) });
    const filePath = store.location(`in/${file}.parquet`);
    await store.put(store.keyOf(filePath), bytes);
    files.push({ filePath, partition: { timestamp: 0 }, ...metrics });
  }
  globalThis.gc?.();
  const before = process.memoryUsage().rss;
  let peak = before;
  const look = setInterval(() => { peak = Math.max(peak, process.memoryUsage().rss); }, 20);
  const cpu = process.cpuUsage();
  const started = performance.now();
  const written = await rewriteFiles({ store }, {
    files, partition: { timestamp: 0 }, table: silver, targetBytes: 64 << 20, describe: () => ({ filePath: store.location(`out/${figures.length}-${Math.random()}.parquet`) }),
  });
  const seconds = (performance.now() - started) / 1_000;
  const { user, system } = process.cpuUsage(cpu);
  clearInterval(look);
  // The store holds what was written, once as pieces and once as the object.
  const stored = 2 * written.reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0);
  figures.push({ name, inputFiles, outputFiles: written.length, rowsPerSecond: Math.round(rows / seconds), cpuMicrosPerRow: Number(((user + system) / rows).toFixed(2)), peakMBWithoutStore: Math.round((peak - before - stored) / (1 << 20)) });
};

const range = (from: number, until: number): number[] => Array.from({ length: until - from }, (_, i) => from + i);
const small = Number(args.files);
await run('small files, one after the other', small, (file) => range(Math.floor((rows * file) / small), Math.floor((rows * (file + 1)) / small)));
const large = Math.max(1, Math.round(rows / 60_000));
await run('files of a full row group: copied', large, (file) => range(Math.floor((rows * file) / large), Math.floor((rows * (file + 1)) / large)));
await run('every file over the whole hour', large, (file) => Array.from({ length: Math.floor((rows + large - 1 - file) / large) }, (_, i) => i * large + file));
if (args.json) console.log(JSON.stringify({ rows, figures }));
else for (const { name, inputFiles, outputFiles, rowsPerSecond, cpuMicrosPerRow, peakMBWithoutStore } of figures) console.log(`${name.padEnd(36)} ${inputFiles} → ${outputFiles} files ${rowsPerSecond.toLocaleString('en').padStart(10)} rows/s ${cpuMicrosPerRow} µs CPU a row, ${peakMBWithoutStore} MB above the start`);
