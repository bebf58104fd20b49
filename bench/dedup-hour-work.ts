/** The two halves of bench/dedup-hour.ts, each in a process of its own: makes the Silver files, or merges them and reads Gold back. */
import binanceTrades from '../src/datasets/binance-trades.ts';
import { loadConfig } from '../src/config/config.ts';
import type { EncodableBatch, PackedColumn } from '../src/lake/columns.ts';
import { packBinaries } from '../src/lake/columns.ts';
import { createObjectStoreCatalog } from '../src/lake/object-store-catalog.ts';
import { objectSource, openParquet, readColumns } from '../src/lake/parquet-reader.ts';
import { encodeDataFile } from '../src/lake/parquet-writer.ts';
import { createS3ObjectStore } from '../src/lake/s3-object-store.ts';
import { GoldKeyCache } from '../src/refine/gold-key-cache.ts';
import { mergeGold } from '../src/refine/merge-gold.ts';
import { messageIdsOf } from '../src/refine/message-id.ts';

export interface DedupHourPlan {
  keys: number;
  distance: number;
  every: number;
  batchRows: number;
}

export interface MergedHour {
  silverRows: number;
  goldRows: number;
  goldFiles: number;
  duplicates: number;
  keysMissing: number;
  rowsTwice: number;
  seconds: number;
  cpuSeconds: number;
}

const dataset = binanceTrades;
const topicPartition = `${dataset.topic}/0`;
const hourStart = 1_700_002_800_000_000;
const hourMicros = 3_600_000_000;
const filesKey = 'staged/files.json';

/** Key numbers of the rows in the order of their offsets, batch by batch. */
function* batchesOf({ keys, distance, every, batchRows }: DedupHourPlan): Generator<number[]> {
  let next = 0;
  for (let offset = 0; next < keys;) {
    const batch: number[] = [];
    for (; batch.length < batchRows && next < keys; offset += 1) {
      if (next > distance && offset % every === 0) batch.push(next - distance);
      else batch.push(next++);
    }
    yield batch;
  }
}

const packed = (texts: readonly string[]): PackedColumn => packBinaries(texts.map((text) => Buffer.from(text, 'latin1')));

/** Silver rows as refining leaves them: by event time. */
const silverBatch = (numbers: readonly number[], firstOffset: number, keys: number): EncodableBatch => {
  const order = Array.from(numbers, (_, i) => i).sort((a, b) => numbers[a]! - numbers[b]!);
  const timeOf = (number: number): bigint => BigInt(hourStart + Math.floor((number / keys) * hourMicros));
  const idOf = messageIdsOf(dataset.topic, 0);
  const long = (of: (i: number) => bigint): BigInt64Array => BigInt64Array.from(order, of);
  return {
    rowCount: numbers.length,
    columns: {
      message_id: packed(order.map((i) => idOf(firstOffset + i))), trade_id: packed(order.map((i) => `BINANCE-${numbers[i]!}`)), symbol: { constant: 'BTCUSDT' }, exchange: { constant: 'BINANCE' },
      asset_class: { constant: 'crypto' }, timestamp: long((i) => timeOf(numbers[i]!)), price: long((i) => 4_200_000_000_000n + BigInt(numbers[i]! % 900) * 1_000_000n),
      quantity: long((i) => BigInt((numbers[i]! % 10_000) + 1) * 1_000n), currency: { constant: 'USDT' }, side: { entries: ['BUY', 'SELL'], codes: Uint32Array.from(order, (i) => numbers[i]! % 2) },
      trade_conditions: { constant: [] }, source_sequence: long((i) => BigInt(numbers[i]!)), ingestion_timestamp: long((i) => timeOf(numbers[i]!) + 5_000n), platform_sequence: { constant: null },
      vendor_data: packed(order.map((i) => `{"event_time_ms":${1_700_000_000_000 + numbers[i]!},"event_type":"trade","extra":{},"is_best_match":true,"market":"spot","native_id":null}`)),
      validation_timestamp: { constant: 1n }, bronze_ingestion_timestamp: { constant: 2n }, schema_id: { constant: 1 }, kafka_topic: { constant: dataset.topic }, kafka_partition: { constant: 0 },
      kafka_offset: long((i) => BigInt(firstOffset + i)), rule_version: { constant: dataset.ruleVersion },
    },
  };
};

interface StagedFile {
  filePath: string;
  fileSizeBytes: number;
  coverage: string;
  rows: number;
}

const [step, planText] = process.argv.slice(2);
const print = (event: Record<string, unknown>): void => void process.stdout.write(`${JSON.stringify(event)}\n`);

const work = async (plan: DedupHourPlan): Promise<void> => {
  const { s3 } = loadConfig();
  const store = createS3ObjectStore({
    bucket: s3.bucket, region: s3.region, credentials: { accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey }, ...(s3.endpoint === undefined ? {} : { endpoint: s3.endpoint }),
  });
  await store.ensureBucket();
  if (step === 'silver') {
    const files: StagedFile[] = [];
    let offset = 0;
    for (const numbers of batchesOf(plan)) {
      const { bytes, metrics } = encodeDataFile({ fields: dataset.silver.fields, batch: silverBatch(numbers, offset, plan.keys) });
      const key = `staged/${files.length}.parquet`;
      await store.put(key, bytes);
      files.push({ filePath: store.location(key), fileSizeBytes: metrics.fileSizeBytes, coverage: `${offset}-${offset + numbers.length}`, rows: numbers.length });
      offset += numbers.length;
      print({ event: 'progress', done: offset });
    }
    await store.put(filesKey, JSON.stringify(files));
    print({ event: 'stopped', rows: offset });
    return;
  }

  const catalog = createObjectStoreCatalog({ store, namespace: 'market_data' });
  await catalog.ensureTable(dataset.gold);
  const cache = new GoldKeyCache(store);
  const files = JSON.parse(Buffer.from((await store.get(filesKey)).body).toString('utf8')) as StagedFile[];
  const sum = { silverRows: 0, goldRows: 0, duplicates: 0 };
  const started = performance.now();
  const cpu = process.cpuUsage();
  for (const [batch, { coverage, rows, ...file }] of files.entries()) {
    const merged = await mergeGold({ store, catalog, dataset, cache }, { commitId: `dedup-hour/${batch}`, coverage: { [topicPartition]: coverage }, silverFiles: [file], nowMs: 0 });
    sum.silverRows += rows;
    sum.goldRows += merged.goldRows;
    sum.duplicates += merged.duplicates;
    print({ event: 'progress', done: sum.silverRows });
  }
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(cpu);

  // Each key once, by the rows themselves.
  const seen = new Uint8Array(Math.ceil(plan.keys / 8));
  let rowsTwice = 0;
  let found = 0;
  const live = await (await catalog.load(dataset.gold.name)).scan();
  for (const { filePath, fileSizeBytes } of live) {
    const { columns } = await readColumns(await openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes)), { columns: ['source_sequence'] });
    for (const sequence of columns['source_sequence'] as BigInt64Array) {
      const number = Number(sequence);
      const bit = 1 << (number & 7);
      if ((seen[number >> 3]! & bit) !== 0) rowsTwice += 1;
      else found += 1;
      seen[number >> 3]! |= bit;
    }
  }
  print({ event: 'stopped', ...sum, goldFiles: live.length, keysMissing: plan.keys - found, rowsTwice, seconds, cpuSeconds: (user + system) / 1e6 } satisfies MergedHour & { event: string });
  store.close();
};

if (step !== undefined && planText !== undefined) await work(JSON.parse(planText) as DedupHourPlan);
