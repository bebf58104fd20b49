/**
 * Rows a second of the Parquet room on one core, for Bronze and Silver shaped rows, against hyparquet-writer used plainly in the
 * same run: `node bench/parquet.ts [--json] [--rows N] [--rounds N]`.
 */
import { parseArgs } from 'node:util';
import { zstdCompressSync, zstdDecompressSync, constants } from 'node:zlib';
import { parquetRead } from 'hyparquet';
import { ByteWriter, ParquetWriter } from 'hyparquet-writer';
import type { ColumnValues, EncodableBatch } from '../src/lake/columns.ts';
import { isConstantColumn } from '../src/lake/columns.ts';
import { bytesSource, copyColumnChunks, openParquet, readColumns } from '../src/lake/parquet-reader.ts';
import { schemaElements } from '../src/lake/parquet-schema.ts';
import { DataFileBuilder, encodeDataFile } from '../src/lake/parquet-writer.ts';
import type { Field, FieldType } from '../src/lake/schema.ts';

const { values: args } = parseArgs({ options: { json: { type: 'boolean', default: false }, rows: { type: 'string', default: '150000' }, rounds: { type: 'string', default: '5' } } });
const rowCount = Number(args.rows);
const rounds = Number(args.rounds);

/** A small generator with a seed, so that every run encodes the same rows. */
let state = 42;
const random = (below: number): number => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
};
const hex = (digits: number): string => Array.from({ length: digits }, () => random(16).toString(16)).join('');

const fieldsOf = (spec: Record<string, [FieldType, boolean]>): Field[] => Object.entries(spec).map(([name, [type, required]], i) => ({ id: i + 1, name, type, required }));
const longs = (at: (i: number) => bigint): BigInt64Array => BigInt64Array.from({ length: rowCount }, (_, i) => at(i));
const texts = (at: (i: number) => string): string[] => Array.from({ length: rowCount }, (_, i) => at(i));

const startMicros = 1_700_000_000_000_000n;
let clock = startMicros;
const eventTime = longs(() => (clock += BigInt(random(40)) * 1_000n));

const bronzeFields = fieldsOf({
  topic: ['string', true], partition: ['int', true], offset: ['long', true], key: ['binary', false], headers: ['string', false], raw_bytes: ['binary', true],
  kafka_timestamp: ['timestamptz', true], ingestion_timestamp: ['timestamptz', true], ingestion_date: ['date', true],
});
const bronze: EncodableBatch = {
  rowCount,
  columns: {
    topic: { constant: 'market.crypto.trades.binance.raw' }, partition: { constant: 3 }, offset: longs((i) => 1_000_000n + BigInt(i)), key: { constant: null }, headers: { constant: null },
    raw_bytes: Array.from({ length: rowCount }, (_, i) => Buffer.from(`\0\0\0\0\u0001trade${startMicros + BigInt(i * 37)}BTCUSDT${900_000_000 + i}${42_000 + random(900)}.${random(100)}0000000.00${random(9_999)}${hex(8)}spot{"M":true,"e":"trade","x":"${random(1_000_000)}"}`)),
    kafka_timestamp: eventTime, ingestion_timestamp: { constant: startMicros }, ingestion_date: { constant: 19_675 },
  },
};

const silverFields: Field[] = [
  ...fieldsOf({
    message_id: ['string', true], trade_id: ['string', true], symbol: ['string', true], exchange: ['string', true], asset_class: ['string', true], timestamp: ['timestamptz', true],
    price: ['decimal(18,8)', true], quantity: ['decimal(18,8)', true], currency: ['string', true], side: ['string', true], source_sequence: ['long', false],
    ingestion_timestamp: ['timestamptz', true], platform_sequence: ['long', false], vendor_data: ['string', false], validation_timestamp: ['timestamptz', true],
    bronze_ingestion_timestamp: ['timestamptz', true], schema_id: ['int', true], kafka_topic: ['string', true], kafka_partition: ['int', true], kafka_offset: ['long', true], rule_version: ['string', true],
  }),
  { id: 40, name: 'trade_conditions', required: true, type: { type: 'list', elementId: 41, element: 'string', elementRequired: true } },
];
const symbols = ['BTCUSDT', 'ETHUSDT', 'SOLUSDT', 'BNBUSDT', 'XRPUSDT', 'ADAUSDT'];
const conditions = [[], ['limit'], ['market']];
const silver: EncodableBatch = {
  rowCount,
  columns: {
    message_id: texts(() => `${hex(8)}-${hex(4)}-5${hex(3)}-8${hex(3)}-${hex(12)}`), trade_id: texts((i) => `BINANCE-${3_100_000_000 + i * 3}`), symbol: texts(() => symbols[random(6)]!),
    exchange: { constant: 'BINANCE' }, asset_class: { constant: 'crypto' }, timestamp: eventTime, price: longs(() => 4_200_000_000_000n + BigInt(random(90_000)) * 1_000_000n),
    quantity: longs(() => BigInt(random(10_000_000)) * 1_000n), currency: texts(() => 'USDT'), side: texts(() => (random(2) === 0 ? 'BUY' : 'SELL')), source_sequence: longs((i) => 3_100_000_000n + BigInt(i * 3)),
    ingestion_timestamp: longs((i) => eventTime[i]! + 2_000n + BigInt(random(9_000))), platform_sequence: { constant: null },
    vendor_data: texts((i) => `{"event_type":"trade","event_time_ms":${1_700_000_000_000 + i * 20},"trade_time_ms":${1_700_000_000_000 + i * 20 - random(9)},"is_buyer_maker":${random(2) === 0},"is_best_match":true,"market":"spot","native_id":null,"extra":{"M":"true","x":"${random(1_000_000)}"}}`),
    validation_timestamp: { constant: startMicros }, bronze_ingestion_timestamp: longs((i) => startMicros + BigInt(Math.floor(i / 20_000))), schema_id: { constant: 7 },
    kafka_topic: { constant: 'market.crypto.trades.binance.raw' }, kafka_partition: { constant: 3 }, kafka_offset: longs((i) => 1_000_000n + BigInt(i)), rule_version: { constant: '3' },
    trade_conditions: Array.from({ length: rowCount }, () => conditions[random(3)]!),
  },
};

const zstd = (bytes: Uint8Array): Uint8Array => zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 1 } });
/** hyparquet-writer as its README uses it, with the same schema and codec. */
const plainEncode = (fields: Field[], batch: EncodableBatch): Uint8Array => {
  const writer = new ByteWriter();
  const file = new ParquetWriter({ writer, schema: schemaElements(fields), codec: 'ZSTD', compressors: { ZSTD: zstd } });
  const columnData = fields.map(({ name }) => {
    const column = batch.columns[name]!;
    return { name, data: isConstantColumn(column) ? Array.from({ length: batch.rowCount }, () => column.constant) : column as unknown[] };
  });
  void file.write({ columnData, rowGroupSize: 65_536 });
  void file.finish();
  return writer.getBytes();
};

interface Result { name: string; rowsPerSecond: number; bytes?: number }
const results: Result[] = [];
const measure = async (name: string, run: () => Promise<unknown> | unknown): Promise<Result> => {
  await run();
  let best = Infinity;
  for (let round = 0; round < rounds; round += 1) {
    const start = performance.now();
    await run();
    best = Math.min(best, performance.now() - start);
  }
  const result: Result = { name, rowsPerSecond: Math.round(rowCount / (best / 1_000)) };
  results.push(result);
  return result;
};

for (const [name, fields, batch] of [['bronze', bronzeFields, bronze], ['silver', silverFields, silver]] as const) {
  const { bytes } = encodeDataFile({ fields, batch });
  (await measure(`${name} write`, () => encodeDataFile({ fields, batch }))).bytes = bytes.length;
  const plain = plainEncode(fields, batch);
  (await measure(`${name} write, hyparquet-writer alone`, () => plainEncode(fields, batch))).bytes = plain.length;
  const names = fields.map((field) => field.name);
  await measure(`${name} read all columns`, async () => readColumns(await openParquet(bytesSource(bytes)), { columns: names }));
  const file = bytes.slice().buffer;
  await measure(`${name} read all columns, hyparquet alone`, () => parquetRead({ file, compressors: { ZSTD: (page) => zstdDecompressSync(page) }, onComplete: () => {} }));
  if (name === 'bronze') continue;
  const key: (keyof typeof silver.columns)[] = ['exchange', 'symbol', 'trade_id'];
  await measure('silver read 3 key columns', async () => readColumns(await openParquet(bytesSource(bytes)), { columns: key }));
  await measure('silver file to gold file, decoded and encoded', async () => {
    const read: Record<string, ColumnValues> = { ...(await readColumns(await openParquet(bytesSource(bytes)), { columns: names })).columns };
    return encodeDataFile({ fields, batch: { rowCount, columns: read } });
  });
  await measure('silver file to gold file, column chunks copied', async () => {
    const opened = await openParquet(bytesSource(bytes));
    const builder = new DataFileBuilder({ fields });
    for (const [group, rows] of opened.rowGroupRows.entries()) {
      const copies = await copyColumnChunks(opened, group, fields);
      builder.appendRowGroup(rows, (leaf) => copies[fields.indexOf(leaf.field)]!);
    }
    return builder.finish();
  });
}

const peakMegabytes = Math.round(process.resourceUsage().maxRSS / 1024);
if (args.json) {
  console.log(JSON.stringify({ rows: rowCount, results, peakMegabytes }));
} else {
  for (const { name, rowsPerSecond, bytes } of results) {
    console.log(`${name.padEnd(52)} ${rowsPerSecond.toLocaleString('en').padStart(12)} rows/s${bytes === undefined ? '' : `  ${(bytes / rowCount).toFixed(1)} B/row`}`);
  }
  console.log(`${rowCount.toLocaleString('en')} rows; peak memory with all input in it ${peakMegabytes} MB`);
}
