import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { captureFileSource } from '../../src/capture/capture-file.ts';
import { runCapture } from '../../src/capture/capture.ts';
import binanceTrades, { rawSchema as binanceSchema } from '../../src/datasets/binance-trades.ts';
import type { Dataset } from '../../src/datasets/dataset.ts';
import krakenTrades, { rawSchema as krakenSchema } from '../../src/datasets/kraken-trades.ts';
import { dlqTable } from '../../src/datasets/engine-tables.ts';
import type { DataFile } from '../../src/lake/data-file.ts';
import { objectSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import type { TableDefinition } from '../../src/lake/schema.ts';
import { DecoderCache } from '../../src/refine/decoders.ts';
import { refineBronze } from '../../src/refine/refine.ts';
import { exchangeData, unlessAbsent } from '../capture/exchange-data.ts';
import { memorySink } from '../capture/memory-sink.ts';
import { putBronzeFile } from '../support/bronze-file.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import { binanceRaw, krakenRaw, wireEncoder } from '../support/raw-records.ts';
import { seed } from '../support/seed.ts';

// The quick way from bytes to columns must give what decoding, mapping and validating objects gives: rows, reasons and files.

const dlqName = 'silver_dlq_trades';
const schemas = new Map([[1, JSON.stringify(binanceSchema)], [2, JSON.stringify(krakenSchema)]]);
const sides = {
  binance: { dataset: binanceTrades, encode: wireEncoder(binanceSchema, 1) },
  kraken: { dataset: krakenTrades, encode: wireEncoder(krakenSchema, 2) },
};

const withoutColumnar = ({ columnar: _columnar, ...dataset }: Dataset): Dataset => dataset;

const contentOf = async (store: MemoryObjectStore, table: TableDefinition, files: readonly DataFile[]): Promise<unknown[]> => {
  const found: unknown[] = [];
  for (const { filePath, ...file } of files) {
    const parquet = await openParquet(objectSource(store, store.keyOf(filePath), file.fileSizeBytes));
    const { columns } = await readColumns(parquet, { columns: table.fields.map(({ name }) => name) });
    const plain = Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, Array.from(values as Iterable<unknown>, (value) => (value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value))]));
    found.push({ partition: file.partition, recordCount: file.recordCount, lowerBounds: file.lowerBounds, upperBounds: file.upperBounds, nullValueCounts: file.nullValueCounts, plain });
  }
  return found;
};

/** What refining the values gives, and how many records were mapped as objects. */
const refined = async (dataset: Dataset, values: readonly (Uint8Array | null)[]): Promise<{ content: unknown; mapped: number }> => {
  const store = createMemoryObjectStore();
  const file = await putBronzeFile(store, { topic: dataset.topic, partition: 2, startOffset: 95n, values });
  const decoders = new DecoderCache(dataset, {
    load: (id) => Promise.resolve({ id, schema: schemas.get(id)!, fingerprint: '' }),
    keep: () => Promise.reject(new Error('refining keeps no schemas')),
  });
  let mapped = 0;
  const counted: Dataset = { ...dataset, map: (raw, context) => {
    mapped += 1;
    return dataset.map(raw, context);
  } };
  const plan = { [`${dataset.topic}/2`]: `95-${95 + values.length}` };
  const { silverFiles, dlqFiles, timings: _timings, ...counts } = await refineBronze(
    { store, dataset: counted, decoders, dlqTable: dlqName, dataLocation: (table, suffix) => store.location(`${table}/${suffix}`) },
    { source: dataset.source, batchId: 'batch', nowMs: 1_767_323_046_000, bronzeFiles: [file], silver: plan, dlq: plan },
  );
  return { content: { counts, silver: await contentOf(store, dataset.silver, silverFiles), dlq: await contentOf(store, dlqTable(dlqName), dlqFiles) }, mapped };
};

const bothWays = async (dataset: Dataset, values: readonly (Uint8Array | null)[]) => ({ quick: await refined(dataset, values), reference: await refined(withoutColumnar(dataset), values) });

const files = exchangeData ? readdirSync(exchangeData).filter((name) => name.endsWith('.frames.gz')).sort() : [];

describe.runIf(exchangeData)(`real captures${unlessAbsent}`, () => {
  test.each(files)('%s: the same rows with and without the quick way, and hardly a record goes the other', async (name) => {
    const sink = memorySink();
    await runCapture({ source: captureFileSource([join(exchangeData!, name)]), sink });
    const trades = sink.trades.map(({ trade }) => trade).slice(0, 20_000);
    const { dataset, encode } = name.startsWith('binance') ? sides.binance : sides.kraken;
    const { quick, reference } = await bothWays(dataset, trades.map((trade) => encode(trade)));
    expect(quick.content).toEqual(reference.content);
    // Refused trades, and amounts of more than fifteen digits.
    expect(quick.mapped).toBeLessThanOrEqual(3 + trades.length * 0.02);
  }, 120_000);
});

const anyText = fc.oneof(
  fc.string({ maxLength: 12 }), fc.string({ unit: 'grapheme', maxLength: 6 }), fc.string({ unit: 'binary', maxLength: 6 }),
  fc.constantFrom('', '0', '"', '\\', '\u0001', '\u007f', '\u2028', '__proto__', 'constructor', 'é', 'X', 'a|b', '50%', 'x'.repeat(70), 'y'.repeat(300)),
);
const decimals = fc.oneof(
  fc.constantFrom('0', '0.00000000', '1', '-1', '1.', '.5', '1e3', '1.123456789', '9999999.99999999', '10000000.00000000', '9999999999.99999999', '99999999999', '28165.47000000', '+1', ' 1', '00012.5', '1.0000000000', ''),
  fc.tuple(fc.nat(99_999_999), fc.nat(8)).map(([digits, places]) => (digits / 10 ** places).toFixed(places)), anyText,
);
const keyText = fc.oneof(fc.constantFrom('a', 'b', 'X', 'type', 'frame_ordinal', '0', '10', 'Ab', 'ab', 'aB', '__proto__', ''), anyText);
const extra = fc.oneof(fc.dictionary(keyText, anyText, { maxKeys: 6 }), fc.constant(Object.fromEntries(Array.from({ length: 70 }, (_, i) => [`k${i}`, 'v']))), fc.constant({}));
/** avsc encodes no greater one. */
const longMax = Number.MAX_SAFE_INTEGER - 1;
const receivedMicros = 1_680_652_800_004_107;
const times = fc.oneof(fc.constantFrom(0, -1, receivedMicros, receivedMicros - 365 * 86_400_000_000, receivedMicros - 365 * 86_400_000_000 - 1000, receivedMicros + 5_000_000, receivedMicros + 6_000_000, longMax, -longMax), fc.integer({ min: -longMax, max: longMax }));
const long = fc.oneof(fc.constantFrom(0, 1, -1, 63, 64, 127, 128, 2 ** 27, 2 ** 28 - 1, 2 ** 31, 99_999_999, 100_000_000, 2 ** 52, longMax), fc.maxSafeNat().map((value) => Math.min(value, longMax)), fc.integer());
const nullable = <Value>(of: fc.Arbitrary<Value>) => fc.option(of, { nil: null });
/** A good record with some fields replaced, as trouble comes. */
const some = <Fields extends Record<string, fc.Arbitrary<unknown>>>(fields: Fields) => fc.record(fields, { requiredKeys: [] });

const binanceRecords = some({
  event_type: fc.oneof(fc.constantFrom('trade', 'aggTrade'), anyText), event_time_ms: long, symbol: fc.oneof(fc.constantFrom('BTCUSDT', 'ETHBTC', 'BTCUSD_210625', ''), anyText), trade_id: long,
  price: decimals, quantity: decimals, trade_time_ms: times.map((micros) => Math.trunc(micros / 1000)), is_buyer_maker: fc.boolean(), is_best_match: nullable(fc.boolean()),
  market: fc.oneof(fc.constantFrom('spot', 'usdm', 'coinm', 'us', 'constructor', 'moon'), anyText), native_id: nullable(anyText), extra,
}).map((given) => sides.binance.encode(binanceRaw(given as Parameters<typeof binanceRaw>[0])));
const krakenRecords = some({
  channel_id: long, price: decimals, volume: decimals, timestamp: fc.oneof(fc.constantFrom('1617666461.465618', '1617666461', '1617666461.4', '1617666461.', '.5', '9999999999.9999999', '12345678901.1', '1617666461.4656189'), decimals, anyText),
  side: fc.constantFrom('b', 's', 'BUY', 'SELL_SHORT', 'x', ''), order_type: fc.oneof(fc.constantFrom('l', 'm', ''), anyText), misc: anyText, pair: fc.oneof(fc.constantFrom('XBT/USD', 'PI_XBTUSD', 'ETH/', '/', 'XRP/EUR'), anyText),
  market: fc.constantFrom('spot', 'futures', 'moon', 'toString'), native_id: nullable(fc.oneof(anyText, fc.constantFrom('0', '007', '123456789012345', '1234567890123456'))), extra,
}).map((given) => sides.kraken.encode(krakenRaw(given as Parameters<typeof krakenRaw>[0])));

/** Bytes as they should not be. */
const damaged = (record: fc.Arbitrary<Buffer>) => fc.tuple(record, fc.nat(), fc.nat(255), fc.nat(3)).map(([bytes, at, byte, kind]) => {
  const out = Buffer.from(bytes);
  if (kind === 0) return out.subarray(0, at % (out.length + 1));
  if (kind === 1) return Buffer.concat([out, Buffer.of(byte)]);
  out[at % out.length] = byte;
  return out;
});

describe('made-up records', () => {
  test.each([['binance', binanceRecords], ['kraken', krakenRecords]] as const)('%s: whatever its fields and bytes are, a record gives the same row, or the same reason', async (side, records) => {
    const value = fc.oneof({ weight: 6, arbitrary: records }, { weight: 2, arbitrary: damaged(records) }, { weight: 1, arbitrary: fc.constant(null) });
    await fc.assert(fc.asyncProperty(fc.array(value, { minLength: 1, maxLength: 60 }), async (values) => {
      const { quick, reference } = await bothWays(sides[side].dataset, values);
      expect(quick.content).toEqual(reference.content);
    }), { seed, numRuns: 60 });
  }, 120_000);
});
