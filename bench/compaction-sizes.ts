/**
 * Sizes and memory of compactions with the targets as they are shipped: 128 MB in Bronze, 64 in Silver, 256 in Gold. Each table gets files
 * of an eighth of its target, two and a half targets of them, as the magnitude before leaves them, spread over each other; they lie on
 * disk, so that the memory is the compaction's own: `node bench/compaction-sizes.ts [--json] [--table bronze|silver|gold]`.
 */
import { mkdir, mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { rewriteFiles } from '../src/compaction/rewrite.ts';
import { compactedTableOf } from '../src/compaction/tables.ts';
import { bronzeFileSuffix } from '../src/contracts/bronze.ts';
import binanceTrades from '../src/datasets/binance-trades.ts';
import marketData from '../src/datasets/market-data.ts';
import { topicPartitionKey } from '../src/domain/offsets.ts';
import type { ColumnValues, ConstantColumn } from '../src/lake/columns.ts';
import type { DataFile } from '../src/lake/data-file.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import { encodeDataFile } from '../src/lake/parquet-writer.ts';
import type { Field, PartitionTuple, TableDefinition } from '../src/lake/schema.ts';
import { footerKeys } from '../src/streaming/bronze-file.ts';

const MiB = 1 << 20;
const { values: args } = parseArgs({ options: { json: { type: 'boolean', default: false }, table: { type: 'string' } } });
const { bronze, silver, gold, topic } = binanceTrades;
const cases: { kind: 'bronze' | 'silver' | 'gold'; definition: TableDefinition; targetBytes: number; partition: PartitionTuple }[] = [
  { kind: 'bronze', definition: bronze, targetBytes: 128 * MiB, partition: { ingestion_timestamp: 19_675 } },
  { kind: 'silver', definition: silver, targetBytes: 64 * MiB, partition: { timestamp: 472_223 } },
  { kind: 'gold', definition: gold, targetBytes: 256 * MiB, partition: { exchange: 'BINANCE', timestamp: 472_223 } },
];

const root = await mkdtemp(join(tmpdir(), 'tidemark-compaction-sizes-'));
const path = (key: string): string => join(root, key);
const unused = (): never => { throw new Error('this bench does not ask for it'); };
/** Objects as files; parts go to disk as they come. */
const store: ObjectStore = {
  bucket: 'lake',
  location: (key) => `s3://lake/${key}`,
  keyOf: (location) => location.slice('s3://lake/'.length),
  async put(key, body) {
    await mkdir(dirname(path(key)), { recursive: true });
    await writeFile(path(key), body);
    return { etag: '' };
  },
  upload(key) {
    const opening = mkdir(dirname(path(key)), { recursive: true }).then(() => open(path(key), 'w'));
    return {
      append: async (bytes) => { await (await opening).write(bytes); },
      finish: async () => (await opening).close(),
      abort: async () => (await opening).close(),
    };
  },
  get: async (key) => ({ body: await readFile(path(key)), etag: '', metadata: {} }),
  async getRange(key, start, end) {
    const file = await open(path(key), 'r');
    const { buffer, bytesRead } = await file.read(Buffer.allocUnsafeSlow(end - start), 0, end - start, start);
    await file.close();
    return buffer.subarray(0, bytesRead);
  },
  head: async (key) => ({ key, size: (await stat(path(key))).size, etag: '', lastModifiedMs: 0, metadata: {} }),
  list: unused,
  delete: unused,
};

const startMicros = 1_700_002_800_000_000n;
const random = (id: number, salt: number): number => Math.imul(Math.imul(id, 0x9e3779b1) ^ Math.imul(salt, 0x85ebca6b), 0xc2b2ae35) >>> 0;
/** Values of a trade's length, with as much that does not compress as a trade has. */
const columnOf = ({ name, type, required }: Field, ids: readonly number[]): ColumnValues | ConstantColumn => {
  const long = (of: (id: number) => bigint): BigInt64Array => BigInt64Array.from(ids, of);
  if (name === 'topic' || name === 'kafka_topic') return { constant: topic };
  if (name === 'exchange') return { constant: 'BINANCE' };
  if (name === 'offset' || name === 'kafka_offset' || name === 'source_sequence') return long(BigInt);
  if (name === 'timestamp' || name === 'kafka_timestamp') return long((id) => startMicros + BigInt(id) * 300n);
  if (name === 'raw_bytes') return ids.map((id) => Buffer.from(`\0\0\0\0\x07trade BTCUSDT ${id} 42${random(id, 1) % 900_000}.10 0.${random(id, 2)} ${1_700_002_800_000 + id} spot`));
  if (name === 'message_id') return ids.map((id) => [1, 2, 3, 4].map((salt) => random(id, salt).toString(16).padStart(8, '0')).join('').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'));
  if (name === 'trade_id') return ids.map((id) => `BINANCE-${id}`);
  if (name === 'symbol' || name === 'side') return ids.map((id) => (name === 'side' ? ['BUY', 'SELL'] : ['BTCUSDT', 'ETHUSDT', 'SOLUSDT'])[random(id, 5) % (name === 'side' ? 2 : 3)]!);
  if (name === 'price' || name === 'quantity') return long((id) => BigInt(random(id, 6) % 100_000) * 1_000_000n);
  if (name === 'vendor_data') return ids.map((id) => `{"event_time_ms":${1_700_002_800_000 + id},"is_best_match":true,"market":"spot","extra":{}}`);
  if (typeof type !== 'string') return ids.map(() => []);
  if (type === 'timestamptz') return { constant: startMicros };
  if (!required) return { constant: null };
  return { constant: type === 'int' || type === 'date' ? 0 : type === 'string' ? 'x' : 0n };
};

interface Figure { table: string; targetMB: number; inputFiles: number; inputMB: number; rows: number; outputMB: number[]; ofTarget: string[]; rowsPerSecond: number; peakMB: number }
const figures: Figure[] = [];
for (const { kind, definition, targetBytes, partition } of cases.filter(({ kind: one }) => args.table === undefined || args.table === one)) {
  const table = compactedTableOf(marketData, definition.name);
  const write = async (ids: readonly number[], name: string): Promise<DataFile> => {
    const [first, end] = [BigInt(ids[0]!), BigInt(ids.at(-1)! + 1)];
    const { bytes, metrics } = encodeDataFile({
      fields: definition.fields, batch: { rowCount: ids.length, columns: Object.fromEntries(definition.fields.map((field) => [field.name, columnOf(field, ids)])) },
      ...(kind === 'bronze' ? { keyValueMetadata: { [footerKeys.topicPartition]: topicPartitionKey(topic, 0), [footerKeys.range]: `${first}-${end}` } } : {}),
    });
    const filePath = store.location(`warehouse/data/${kind === 'bronze' ? bronzeFileSuffix({ topic, partition: 0, start: first, end, epoch: 1 }) : `${name}.parquet`}`);
    await store.put(store.keyOf(filePath), bytes);
    return { ...metrics, filePath, partition };
  };
  const sample = await write(Array.from({ length: 50_000 }, (_, i) => i), 'sample');
  const rowsOfFile = Math.round((targetBytes / 8) * 50_000 / sample.fileSizeBytes);
  const files: DataFile[] = [];
  for (let file = 0; file < 20; file += 1) {
    // In Bronze one file follows the other; elsewhere a late one lies among those before it.
    const from = kind === 'bronze' ? file * rowsOfFile : Math.floor(file / 4) * 4 * rowsOfFile + (file % 4);
    files.push(await write(Array.from({ length: rowsOfFile }, (_, i) => from + (kind === 'bronze' ? i : i * 4)), `in-${file}`));
    process.stderr.write(`${kind}: ${file + 1} of 20 files\r`);
  }
  globalThis.gc?.();
  const before = process.memoryUsage().rss;
  let peak = before;
  const look = setInterval(() => { peak = Math.max(peak, process.memoryUsage().rss); }, 20);
  const started = performance.now();
  let outputs = 0;
  const written = await rewriteFiles({ store }, {
    files, partition, targetBytes, ...table.rewrite(kind === 'bronze' ? topicPartitionKey(topic, 0) : '', (suffix) => store.location(`out/${suffix}`), kind, () => String(outputs += 1)),
  });
  clearInterval(look);
  const rows = rowsOfFile * files.length;
  figures.push({
    table: definition.name, targetMB: targetBytes / MiB, inputFiles: files.length, inputMB: Math.round(files.reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0) / MiB), rows,
    outputMB: written.map(({ fileSizeBytes }) => Math.round(fileSizeBytes / MiB)), ofTarget: written.map(({ fileSizeBytes }) => `${Math.round((fileSizeBytes / targetBytes) * 100)} %`),
    rowsPerSecond: Math.round(rows / ((performance.now() - started) / 1_000)), peakMB: Math.round((peak - before) / MiB),
  });
}
await rm(root, { recursive: true, force: true });
if (args.json) console.log(JSON.stringify({ figures }));
else for (const one of figures) {
  console.log(`${one.table.padEnd(22)} target ${one.targetMB} MB: ${one.inputFiles} files, ${one.inputMB} MB, ${one.rows.toLocaleString('en')} rows → ${one.outputMB.join(', ')} MB (${one.ofTarget.join(', ')}); `
    + `${one.rowsPerSecond.toLocaleString('en')} rows/s, ${one.peakMB} MB above the start`);
}
