import { hash, randomBytes } from 'node:crypto';
import { bronzeFileSuffix } from '../src/contracts/bronze.ts';
import binanceTrades from '../src/datasets/binance-trades.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../src/domain/offsets.ts';
import type { ColumnValues, ConstantColumn, EncodableBatch } from '../src/lake/columns.ts';
import type { DataFile } from '../src/lake/data-file.ts';
import { createObjectStoreCatalog } from '../src/lake/object-store-catalog.ts';
import { encodeDataFile } from '../src/lake/parquet-writer.ts';
import { createS3ObjectStore } from '../src/lake/s3-object-store.ts';
import type { PartitionTuple, TableDefinition } from '../src/lake/schema.ts';
import type { StackEndpoints } from '../src/stack/index.ts';
import { pipelineTables } from '../src/datasets/pipeline.ts';
import pipeline from './audit-pipeline.ts';

/** Rows that one generated file of each table has, at most; every hundredth is a duplicate. */
export const batchRows = 100_000;
export const firstTradeId = 3_071_245_454;
const partitions = 4;
const hourMicros = 3_600_000_000;
const firstHour = 490_000;

/** Bronze, Silver and Gold of one source on a real S3 server; 1 % of the rows are duplicates. */
export const generateLake = async ({ endpoint, region, accessKeyId, secretAccessKey }: StackEndpoints['s3'], { bucket, rowCount, hours }: { bucket: string; rowCount: number; hours: number }): Promise<void> => {
  const store = createS3ObjectStore({ bucket, endpoint, region, credentials: { accessKeyId, secretAccessKey } });
  const catalog = createObjectStoreCatalog({ store, namespace: pipeline.namespace });
  await store.ensureBucket();
  for (const table of pipelineTables(pipeline)) await catalog.ensureTable(table);
  const { bronze, silver, gold, topic } = binanceTrades;
  const batches = Math.ceil(rowCount / batchRows);
  const pending: Record<string, DataFile[]> = { [bronze.name]: [], [silver.name]: [], [gold.name]: [] };
  const covered: { [place: string]: bigint } = {};
  const write = async (table: TableDefinition, batch: EncodableBatch, suffix: string, partition: PartitionTuple, footer?: Record<string, string>): Promise<void> => {
    const { bytes, metrics } = encodeDataFile({ fields: table.fields, batch, ...(footer ? { keyValueMetadata: footer } : {}) });
    const filePath = catalog.dataLocation(table.name, suffix);
    await store.put(store.keyOf(filePath), bytes, { metadata: { sha256: hash('sha256', bytes, 'hex') } });
    pending[table.name]!.push({ ...metrics, filePath, partition });
  };
  const publish = async (): Promise<void> => {
    const cover = Coverage.of(Object.entries(covered).map(([key, end]) => [key, IntervalSet.of({ start: 0n, end })]));
    for (const [table, add] of Object.entries(pending)) await catalog.commit(table, { commitId: `${table}/${add[0]!.filePath}`, add: add.splice(0), cover });
    await catalog.commit(pipeline.dlqTable, { commitId: `dlq/${Object.values(covered).join()}`, add: [], cover });
  };
  const symbols = ['BTCUSDT', 'ETHUSDT', 'SOLUSDT', 'BNBUSDT', 'XRPUSDT'];
  // Records and message ids compress no better than real ones do: all of what is in them is noise.
  const noise = randomBytes(1 << 22);
  const noiseText = noise.toString('hex');
  const recordOf = (row: number): Uint8Array => {
    const at = (row * 64) % (noise.length - 128);
    return noise.subarray(at, at + 64);
  };
  const idOf = (row: number): string => {
    const at = (row * 32) % (noiseText.length - 36);
    return noiseText.slice(at, at + 36);
  };
  for (let batch = 0; batch < batches; batch += 1) {
    const count = Math.min(batchRows, rowCount - batch * batchRows);
    const partition = batch % partitions;
    const key = topicPartitionKey(topic, partition);
    const start = covered[key] ?? 0n;
    const end = start + BigInt(count);
    const hour = firstHour + Math.floor((batch * hours) / batches);
    const timeMicros = hour * hourMicros + Math.floor((((batch * hours) / batches) % 1) * hourMicros * 0.9);
    const offsets = BigInt64Array.from({ length: count }, (_, i) => start + BigInt(i));
    const constant = (value: ConstantColumn['constant']): ConstantColumn => ({ constant: value });
    await write(bronze, {
      rowCount: count,
      columns: {
        raw_bytes: Array.from({ length: count }, (_, i) => recordOf(batch * batchRows + i)), topic: constant(topic), partition: constant(partition), offset: offsets, kafka_timestamp: constant(BigInt(timeMicros)),
        ingestion_timestamp: constant(BigInt(timeMicros)), ingestion_date: constant(Math.floor(hour / 24)),
      },
    }, bronzeFileSuffix({ topic, partition, start, end, epoch: 1 }), { ingestion_timestamp: Math.floor(hour / 24) }, { 'tidemark.topic-partition': key, 'tidemark.range': `${start}-${end}` });
    // Every hundredth row repeats the trade before it.
    const original = (i: number): number => (i % 100 === 99 ? i - 1 : i);
    const columns = (rows: readonly number[] | null): { [column: string]: ColumnValues | ConstantColumn } => {
      const of = rows ?? Array.from({ length: count }, (_, i) => i);
      return {
        message_id: of.map((i) => idOf(batch * batchRows + i)), trade_id: of.map((i) => `BINANCE-${firstTradeId + batch * batchRows + original(i)}`),
        symbol: of.map((i) => symbols[original(i) % symbols.length]!), exchange: constant('BINANCE'), asset_class: constant('crypto'),
        timestamp: BigInt64Array.from(of, (i) => BigInt(timeMicros + original(i) * 10)), price: constant(2_800_000_000_000n), quantity: constant(100_000_000n), currency: constant('USDT'),
        side: constant('BUY'), trade_conditions: constant([]), source_sequence: constant(null), ingestion_timestamp: constant(BigInt(timeMicros)), platform_sequence: constant(null), vendor_data: constant('{}'),
        validation_timestamp: constant(BigInt(timeMicros)), bronze_ingestion_timestamp: constant(BigInt(timeMicros)), schema_id: constant(1), kafka_topic: constant(topic), kafka_partition: constant(partition),
        kafka_offset: rows === null ? offsets : BigInt64Array.from(rows, (i) => start + BigInt(i)), rule_version: constant('bench'),
      };
    };
    await write(silver, { rowCount: count, columns: columns(null) }, `bench/${batch}.parquet`, { timestamp: hour });
    const winners = Array.from({ length: count }, (_, i) => i).filter((i) => i % 100 !== 99);
    await write(gold, {
      rowCount: winners.length,
      columns: { ...columns(winners), gold_ingestion_timestamp: constant(BigInt(timeMicros)), exchange_date: constant(Math.floor(hour / 24)), exchange_hour: constant(hour % 24) },
    }, `bench/${batch}.parquet`, { exchange: 'BINANCE', timestamp: hour });
    covered[key] = end;
    if (batch % 20 === 19 || batch === batches - 1) await publish();
  }
  store.close();
};
