import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import binanceTrades, { rawSchema as binanceSchema } from '../../src/datasets/binance-trades.ts';
import type { Dataset } from '../../src/datasets/dataset.ts';
import { dlqTable } from '../../src/datasets/engine-tables.ts';
import krakenTrades, { rawSchema as krakenSchema } from '../../src/datasets/kraken-trades.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import type { CoverageJson } from '../../src/domain/offsets.ts';
import type { DataFile } from '../../src/lake/data-file.ts';
import { objectSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import type { TableDefinition } from '../../src/lake/schema.ts';
import { DecoderCache } from '../../src/refine/decoders.ts';
import type { RefineInput, RefineResult } from '../../src/refine/refine.ts';
import { refineBronze } from '../../src/refine/refine.ts';
import { encodeWire } from '../../src/schema-registry/wire-codec.ts';
import { putBronzeFile } from '../support/bronze-file.ts';
import { rawSchema as sensorSchema, sensorReadings } from '../support/datasets/sensor-readings.ts';
import type { RawReading } from '../support/datasets/sensor-readings.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import { avroTypeOf, binanceRaw, krakenRaw, wireEncoder } from '../support/raw-records.ts';

const dlqName = 'silver_dlq_trades';
const schemas = new Map<number, string>([[1, JSON.stringify(binanceSchema)], [2, JSON.stringify(krakenSchema)], [3, JSON.stringify(sensorSchema)]]);
const binance = wireEncoder(binanceSchema, 1);
const kraken = wireEncoder(krakenSchema, 2);
const sensor = wireEncoder(sensorSchema, 3) as (record: RawReading) => Buffer;

const decodersOf = (dataset: Dataset, known: ReadonlyMap<number, string> = schemas): DecoderCache => new DecoderCache(dataset, {
  load: (id) => {
    const schema = known.get(id);
    return schema === undefined ? Promise.reject(new TidemarkError('SCHEMA_NOT_FOUND', `schema id ${id}: not found`)) : Promise.resolve({ id, schema, fingerprint: '' });
  },
  keep: () => Promise.reject(new Error('refining keeps no schemas')),
});

const coverageOf = (topic: string, partition: number, text: string): CoverageJson => ({ [`${topic}/${partition}`]: text });

interface Refined {
  result: RefineResult;
  silver: Record<string, unknown>[];
  dlq: Record<string, unknown>[];
}

const rowsOf = async (store: MemoryObjectStore, table: TableDefinition, files: readonly DataFile[]): Promise<Record<string, unknown>[]> => {
  const rows: Record<string, unknown>[] = [];
  for (const { filePath, fileSizeBytes } of files) {
    const file = await openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes));
    const { rowCount, columns } = await readColumns(file, { columns: table.fields.map(({ name }) => name) });
    for (let i = 0; i < rowCount; i += 1) rows.push(Object.fromEntries(table.fields.map(({ name }) => [name, columns[name]![i]])));
  }
  return rows;
};

const refine = async (store: MemoryObjectStore, dataset: Dataset, input: Omit<RefineInput, 'source' | 'batchId' | 'nowMs'> & { nowMs?: number }, options: { decoders?: DecoderCache; signal?: AbortSignal } = {}): Promise<Refined> => {
  const result = await refineBronze({
    store, dataset, decoders: options.decoders ?? decodersOf(dataset), dlqTable: dlqName, dataLocation: (table, suffix) => store.location(`${table}/data/${suffix}`),
    ...(options.signal ? { signal: options.signal } : {}),
  }, { source: dataset.source, batchId: 'batch', nowMs: 1_767_323_046_000, ...input });
  const bytesIn = (rows: Record<string, unknown>[]) => rows.toSorted((a, b) => Number((a['kafka_offset'] as bigint) - (b['kafka_offset'] as bigint)));
  return { result, silver: bytesIn(await rowsOf(store, dataset.silver, result.silverFiles)), dlq: bytesIn(await rowsOf(store, dlqTable(dlqName), result.dlqFiles)) };
};

/** One Bronze file of these values at offsets 100…, all of them planned for both tables. */
const refineValues = async (dataset: Dataset, values: (Uint8Array | null)[], given: Partial<RefineInput> = {}, options: { decoders?: DecoderCache } = {}): Promise<Refined> => {
  const store = createMemoryObjectStore();
  const file = await putBronzeFile(store, { topic: dataset.topic, partition: 2, startOffset: 100n, values });
  const plan = coverageOf(dataset.topic, 2, `100-${100 + values.length}`);
  return refine(store, dataset, { bronzeFiles: [file], silver: plan, dlq: plan, ...given }, options);
};

describe('a valid record', () => {
  test('is a Silver row with its lineage', async () => {
    const { result, silver, dlq } = await refineValues(binanceTrades, [binance(binanceRaw())]);
    expect(result).toMatchObject({ bronzeRows: 1, silverRows: 1, dlqRows: 0, alreadyThereRows: 0, dlqByType: {}, eventTimeMin: 1_680_652_799_999_000, eventTimeMax: 1_680_652_799_999_000 });
    expect(result.silverFiles).toHaveLength(1);
    expect(result.silverFiles[0]).toMatchObject({ partition: { timestamp: 466_847 }, recordCount: 1 });
    expect(result.silverFiles[0]!.filePath).toMatch(/^s3:\/\/lake\/silver_binance_trades\/data\/timestamp_hour=2023-04-04-23\/batch-[0-9a-f-]{36}\.parquet$/);
    expect(dlq).toEqual([]);
    expect(silver).toEqual([{
      message_id: expect.stringMatching(/^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/) as unknown, trade_id: 'BINANCE-3071245454', symbol: 'BTCUSDT', exchange: 'BINANCE',
      asset_class: 'crypto', timestamp: 1_680_652_799_999_000n, price: 2_816_547_000_000n, quantity: 56_000n, currency: 'USDT', side: 'SELL', trade_conditions: [],
      source_sequence: 3_071_245_454n, ingestion_timestamp: 1_680_652_800_004_107n, platform_sequence: null,
      vendor_data: '{"event_time_ms":1680652800000,"event_type":"trade","extra":{"a":"20720542592","b":"20720542158"},"is_best_match":true,"market":"spot","native_id":null}',
      validation_timestamp: 1_767_323_046_000_000n, bronze_ingestion_timestamp: 1_767_323_045_000_000n, schema_id: 1, kafka_topic: 'market.crypto.trades.binance.raw', kafka_partition: 2, kafka_offset: 100n,
      rule_version: binanceTrades.ruleVersion,
    }]);
  });
});

describe('a record that is refused is a DLQ row with its bytes, its reason and its error type', () => {
  const good = binance(binanceRaw());
  const oversized = Buffer.concat([good, Buffer.from([0])]);
  const bigId = avroTypeOf({ ...binanceSchema, fields: binanceSchema.fields.map((field) => (field.name === 'trade_id' ? { ...field, type: 'bytes' } : field)) });
  // A long past 2^53, ten bytes of varint, where the schema has trade_id.
  const hugeLong = Buffer.from(bigId.toBuffer({ ...binanceRaw(), trade_id: Buffer.from('fffffffffffffffffe01'.slice(0, 18), 'hex') }));
  const cases: [name: string, dataset: Dataset, value: Uint8Array | null, type: string, reason: string, detail: RegExp | null][] = [
    ['a tombstone', binanceTrades, null, 'schema_validation', 'null_value', null],
    ['another magic byte', binanceTrades, Buffer.concat([Buffer.from([1]), good.subarray(1)]), 'schema_validation', 'invalid_magic_byte', /found 1$/],
    ['four bytes', binanceTrades, good.subarray(0, 4), 'schema_validation', 'invalid_magic_byte', /found 4$/],
    ['no bytes', binanceTrades, Buffer.alloc(0), 'schema_validation', 'invalid_magic_byte', /found 0$/],
    ['an unknown schema id', binanceTrades, encodeWire(99, good.subarray(5)), 'schema_validation', 'unknown_schema_id', /^schema id 99: /],
    ['a negative schema id', binanceTrades, Buffer.concat([Buffer.from('00ffffffff', 'hex'), good.subarray(5)]), 'schema_validation', 'unknown_schema_id', /not negative/],
    ['a schema of another record', binanceTrades, kraken(krakenRaw()), 'schema_validation', 'incompatible_schema', /KrakenRawTrade|BinanceRawTrade/],
    ['only a header', binanceTrades, good.subarray(0, 5), 'schema_validation', 'body_does_not_decode', /stopped at byte 5 of 5$/],
    ['a truncated body', binanceTrades, good.subarray(0, 40), 'schema_validation', 'body_does_not_decode', /of 40$/],
    ['a long that no number holds', binanceTrades, Buffer.concat([good.subarray(0, 5), hugeLong]), 'schema_validation', 'body_does_not_decode', null],
    ['trailing bytes', binanceTrades, oversized, 'schema_validation', 'trailing_bytes', new RegExp(`byte ${good.length} of ${oversized.length}$`)],
    ['no price', binanceTrades, binance(binanceRaw({ price: '' })), 'price_validation', 'price_is_null', null],
    ['price 0', binanceTrades, binance(binanceRaw({ price: '0', quantity: '0', extra: { X: 'NA' } })), 'price_validation', 'price_must_be_positive,quantity_must_be_positive', /^price_must_be_positive: found 0; quantity_must_be_positive: found 0$/],
    ['a price of nine decimals', binanceTrades, binance(binanceRaw({ price: '1.123456789' })), 'price_validation', 'price_not_representable', null],
    ['no quantity', binanceTrades, binance(binanceRaw({ quantity: '' })), 'quantity_validation', 'quantity_is_null', null],
    ['a negative quantity', binanceTrades, binance(binanceRaw({ quantity: '-1' })), 'quantity_validation', 'quantity_must_be_positive', null],
    ['a quantity of nine decimals', binanceTrades, binance(binanceRaw({ quantity: '0.000000001' })), 'quantity_validation', 'quantity_not_representable', null],
    ['a time in the future', binanceTrades, binance(binanceRaw({ trade_time_ms: 1_680_652_806_000 })), 'timestamp_validation', 'timestamp_in_future', null],
    ['a time too old', binanceTrades, binance(binanceRaw({ trade_time_ms: 0 })), 'timestamp_validation', 'timestamp_too_old', /found 0$/],
    ['no symbol', binanceTrades, binance(binanceRaw({ symbol: '' })), 'symbol_validation', 'symbol_required', null],
    ['another side', krakenTrades, kraken(krakenRaw({ side: 'x' })), 'side_validation', 'invalid_side', /found "x"$/],
    ['a time that is none', krakenTrades, kraken(krakenRaw({ timestamp: '?' })), 'timestamp_validation', 'timestamp_not_representable', null],
    ['a market that nobody knows', binanceTrades, binance(binanceRaw({ market: 'moon' })), 'unknown_error', 'unknown_error', /market: expected/],
    ['a mapping that throws', sensorReadings, sensor({ site: 'a', sensor: 'mapping-throws', sequence: 1, taken_ms: 1, celsius: '1', battery: null, outdoors: true }), 'unknown_error', 'unknown_error', /a mapping that throws/],
    ['a rule that throws', sensorReadings, sensor({ site: 'a', sensor: 'rule-throws', sequence: 1, taken_ms: 1, celsius: '1', battery: null, outdoors: true }), 'unknown_error', 'unknown_error', /a rule that throws/],
    ['a value that no rule refuses and the column cannot hold', sensorReadings, sensor({ site: 'a', sensor: 'b', sequence: 1, taken_ms: 1, celsius: '', battery: null, outdoors: true }), 'unknown_error', 'unknown_error', /column celsius: expected decimal\(6,2\), found null/],
  ];

  test.each(cases)('%s', async (_, dataset, value, type, reason, detail) => {
    const before = dataset === sensorReadings
      ? sensor({ site: 'a', sensor: 'b', sequence: 1, taken_ms: 5, celsius: '1.25', battery: 3, outdoors: true })
      : dataset === krakenTrades ? kraken(krakenRaw()) : good;
    const { result, silver, dlq } = await refineValues(dataset, [before, value, before]);
    expect(result).toMatchObject({ bronzeRows: 3, silverRows: 2, dlqRows: 1, dlqByType: { [type]: 1 }, dlqByReason: { [reason]: 1 } });
    expect(silver.map((row) => row['kafka_offset'])).toEqual([100n, 102n]);
    expect(dlq).toHaveLength(1);
    expect(dlq[0]).toMatchObject({
      error_type: type, error_reason: reason, kafka_offset: 101n, kafka_partition: 2, kafka_topic: dataset.topic, bronze_source: dataset.source,
      error_timestamp: 1_767_323_046_000_000n, kafka_timestamp: 1_767_323_044_500_000n, dlq_date: 20_455, rule_version: dataset.ruleVersion,
    });
    const raw = dlq[0]!['raw_record'] as Uint8Array | null;
    expect(raw === null ? null : Buffer.from(raw).toString('hex')).toBe(value === null ? null : Buffer.from(value).toString('hex'));
    expect(dlq[0]!['error_detail'] ?? '').toMatch(detail ?? /^/);
    expect(result.dlqFiles[0]!.partition).toEqual({ dlq_date: 20_455, bronze_source: dataset.source, error_type: type });
  });

  test('every truncation and every flipped byte of a record gives a row somewhere, and never a throw', async () => {
    const values = [
      ...Array.from({ length: good.length }, (_, end) => good.subarray(0, end)),
      ...Array.from({ length: good.length * 8 }, (_, bit) => {
        const flipped = Buffer.from(good);
        flipped[bit >> 3]! ^= 1 << (bit & 7);
        return flipped;
      }),
    ];
    const { result, silver, dlq } = await refineValues(binanceTrades, values);
    expect(result.bronzeRows).toBe(values.length);
    expect(silver.length + dlq.length).toBe(values.length);
  });

  test('a map whose count was corrupted to billions is refused at once', async () => {
    const withMap = binance(binanceRaw({ extra: {} }));
    // The last byte is the count of the empty map: 2^31 - 1 entries instead.
    const corrupted = Buffer.concat([withMap.subarray(0, -1), Buffer.from('feffffff0f', 'hex')]);
    const { result } = await refineValues(binanceTrades, [corrupted]);
    expect(result.dlqByReason).toEqual({ body_does_not_decode: 1 });
  });
});

describe('the plan', () => {
  const values = [binance(binanceRaw({ trade_id: 1 })), null, binance(binanceRaw({ trade_id: 2 })), null, binance(binanceRaw({ trade_id: 3 }))];
  const topic = binanceTrades.topic;

  test('is exact to the row: rows outside of it are passed over', async () => {
    const plan = coverageOf(topic, 2, '101-103,104-105');
    const { result, silver, dlq } = await refineValues(binanceTrades, values, { silver: plan, dlq: plan });
    expect(result).toMatchObject({ bronzeRows: 3, silverRows: 2, dlqRows: 1 });
    expect([...silver, ...dlq].map((row) => row['kafka_offset'])).toEqual([102n, 104n, 101n]);
  });

  test('offsets that Silver has already go to the DLQ only, and nothing twice', async () => {
    const { result, silver, dlq } = await refineValues(binanceTrades, values, { silver: {} });
    expect(result).toMatchObject({ bronzeRows: 5, silverRows: 0, dlqRows: 2, alreadyThereRows: 3 });
    expect([silver.length, dlq.length]).toEqual([0, 2]);
  });

  test('offsets that the DLQ has already go to Silver only', async () => {
    const { result } = await refineValues(binanceTrades, values, { dlq: {} });
    expect(result).toMatchObject({ bronzeRows: 5, silverRows: 3, dlqRows: 0, alreadyThereRows: 2 });
  });

  test('another topic partition of the same numbers is another plan', async () => {
    const { result } = await refineValues(binanceTrades, values, { silver: coverageOf(topic, 3, '100-105'), dlq: coverageOf('other', 2, '100-105') });
    expect(result).toMatchObject({ bronzeRows: 0, silverRows: 0, dlqRows: 0, silverFiles: [], dlqFiles: [] });
  });
});

describe('resolutions', () => {
  const topic = binanceTrades.topic;

  test('replacement bytes are refined in place of the Bronze bytes', async () => {
    const { silver, dlq } = await refineValues(binanceTrades, [binance(binanceRaw({ price: '-1' }))], {
      resolutions: [{ topic, partition: 2, offset: '100', replacement: binance(binanceRaw({ price: '1' })).toString('base64') }],
    });
    expect(dlq).toEqual([]);
    expect(silver[0]).toMatchObject({ price: 100_000_000n, kafka_offset: 100n });
  });

  test('a resolution that names another schema id decodes with that one', async () => {
    const { silver } = await refineValues(binanceTrades, [encodeWire(99, binance(binanceRaw()).subarray(5))], { resolutions: [{ topic, partition: 2, offset: '100', schemaId: 1 }] });
    expect(silver[0]).toMatchObject({ schema_id: 1, kafka_offset: 100n });
  });

  test('what fails again keeps its Bronze bytes in the DLQ', async () => {
    const value = binance(binanceRaw({ price: '-1' }));
    const { dlq } = await refineValues(binanceTrades, [value], { resolutions: [{ topic, partition: 2, offset: '100', replacement: Buffer.from('rubbish').toString('base64') }] });
    expect(dlq[0]).toMatchObject({ error_reason: 'invalid_magic_byte' });
    expect(Buffer.from(dlq[0]!['raw_record'] as Uint8Array).equals(value)).toBe(true);
  });

  test('a resolution of another offset or topic partition changes nothing', async () => {
    const { dlq } = await refineValues(binanceTrades, [null], { resolutions: [{ topic, partition: 1, offset: '100', replacement: '' }, { topic, partition: 2, offset: '101', replacement: '' }] });
    expect(dlq[0]).toMatchObject({ error_reason: 'null_value' });
  });
});

describe('schemas', () => {
  const older = { ...binanceSchema, fields: binanceSchema.fields.filter(({ name }) => !['market', 'native_id', 'extra'].includes(name)) };

  test('a record of an older schema is read as one of today\'s, defaults filled in', async () => {
    const { market: _, native_id: __, extra: ___, ...rest } = binanceRaw();
    const { silver } = await refineValues(binanceTrades, [encodeWire(4, avroTypeOf(older).toBuffer(rest))], {}, { decoders: decodersOf(binanceTrades, new Map([[4, JSON.stringify(older)]])) });
    expect(silver[0]).toMatchObject({ exchange: 'BINANCE', schema_id: 4 });
  });

  test('a registry that is away fails the batch, retryable, and rejects no record', async () => {
    const away = new DecoderCache(binanceTrades, {
      load: () => Promise.reject(new TidemarkError('REGISTRY_UNAVAILABLE', 'no answer')),
      keep: () => Promise.reject(new Error('unused')),
    });
    await expect(refineValues(binanceTrades, [binance(binanceRaw())], {}, { decoders: away })).rejects.toMatchObject({ code: 'REGISTRY_UNAVAILABLE', retryable: true });
  });

  test('an unknown id is looked up once for all its records', async () => {
    let lookups = 0;
    const decoders = new DecoderCache(binanceTrades, {
      load: (id) => {
        lookups += 1;
        return Promise.reject(new TidemarkError('SCHEMA_NOT_FOUND', `${id}`));
      },
      keep: () => Promise.reject(new Error('unused')),
    });
    const value = encodeWire(77, Buffer.from('body'));
    await refineValues(binanceTrades, [value, value, value], {}, { decoders });
    await refineValues(binanceTrades, [value], {}, { decoders });
    expect(lookups).toBe(1);
  });
});

describe('files', () => {
  test('each lies in one Silver partition and one Gold bucket, its rows sorted by event time', async () => {
    const hourMs = 3_600_000;
    const at = 1_680_652_799_999;
    const values = [3, 0, 2, 1, 0, 3].flatMap((hours, i) => ['spot', 'usdm'].map((market) => binance(binanceRaw({ market, trade_id: i, trade_time_ms: at - hours * hourMs - i * 7 }))));
    const { result, silver } = await refineValues(binanceTrades, values);
    expect(result.silverFiles).toHaveLength(8);
    expect(silver).toHaveLength(12);
    const store = createMemoryObjectStore();
    const file = await putBronzeFile(store, { topic: binanceTrades.topic, partition: 2, startOffset: 100n, values });
    const plan = coverageOf(binanceTrades.topic, 2, '100-112');
    const { result: again } = await refine(store, binanceTrades, { bronzeFiles: [file], silver: plan, dlq: plan });
    for (const dataFile of again.silverFiles) {
      const rows = await rowsOf(store, binanceTrades.silver, [dataFile]);
      const times = rows.map((row) => row['timestamp'] as bigint);
      expect(new Set(rows.map((row) => row['exchange'])).size).toBe(1);
      expect(new Set(times.map((time) => time / 3_600_000_000n))).toEqual(new Set([BigInt(dataFile.partition['timestamp'] as number)]));
      expect(times).toEqual(times.toSorted((a, b) => Number(a - b)));
    }
  });

  test('a put that fails fails the batch, after the other puts have ended', async () => {
    const store = createMemoryObjectStore();
    const file = await putBronzeFile(store, { topic: binanceTrades.topic, partition: 2, startOffset: 0n, values: [binance(binanceRaw()), null] });
    store.onPut = (key) => (key.startsWith('silver_binance') ? 'failBefore' : undefined);
    const plan = coverageOf(binanceTrades.topic, 2, '0-2');
    await expect(refine(store, binanceTrades, { bronzeFiles: [file], silver: plan, dlq: plan })).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE' });
  });

  test('an aborted batch stops with the signal\'s reason', async () => {
    const store = createMemoryObjectStore();
    const file = await putBronzeFile(store, { topic: binanceTrades.topic, partition: 2, startOffset: 0n, values: [binance(binanceRaw())] });
    const plan = coverageOf(binanceTrades.topic, 2, '0-1');
    await expect(refine(store, binanceTrades, { bronzeFiles: [file], silver: plan, dlq: plan }, { signal: AbortSignal.abort(new Error('cancelled')) })).rejects.toThrow('cancelled');
  });

  test('several Bronze files of several topic partitions are one batch', async () => {
    const store = createMemoryObjectStore();
    const topic = binanceTrades.topic;
    const bronzeFiles = [
      await putBronzeFile(store, { topic, partition: 0, offsets: [5n, 9n, 10n], values: [binance(binanceRaw({ trade_id: 1 })), null, binance(binanceRaw({ trade_id: 2 }))], kafkaTimestampMs: [1_000, 2_000, 3_000] }),
      await putBronzeFile(store, { topic, partition: 1, startOffset: 5n, values: [binance(binanceRaw({ trade_id: 3 }))], kafkaTimestampMs: 3_004 }),
    ];
    const plan = { ...coverageOf(topic, 0, '5-11'), ...coverageOf(topic, 1, '5-6') };
    const { result, silver } = await refine(store, binanceTrades, { bronzeFiles, silver: plan, dlq: plan });
    expect(result).toMatchObject({ bronzeRows: 4, silverRows: 3, dlqRows: 1, produced: { bucketMs: 10, buckets: [[1_000, 1], [3_000, 2]] } });
    expect(new Set(silver.map((row) => row['message_id'])).size).toBe(3);
  });

  test('one Bronze file of several topic partitions, as compaction leaves it, keeps them apart', async () => {
    const store = createMemoryObjectStore();
    const topic = binanceTrades.topic;
    const values = Array.from({ length: 4 }, (_, i) => binance(binanceRaw({ trade_id: i })));
    const file = await putBronzeFile(store, { topic, partition: [0, 0, 1, 1], offsets: [5n, 6n, 5n, 6n], values });
    const plan = { ...coverageOf(topic, 0, '5-7'), ...coverageOf(topic, 1, '6-7') };
    const { silver } = await refine(store, binanceTrades, { bronzeFiles: [file], silver: plan, dlq: plan });
    expect(silver.map((row) => [row['kafka_partition'], row['kafka_offset'], row['trade_id']]).sort()).toEqual([[0, 5n, 'BINANCE-0'], [0, 6n, 'BINANCE-1'], [1, 6n, 'BINANCE-3']]);
    expect(new Set(silver.map((row) => row['message_id'])).size).toBe(3);
  });

  test('the histogram of produced times stays small over any span', async () => {
    const values = Array.from({ length: 2_000 }, () => binance(binanceRaw()));
    const store = createMemoryObjectStore();
    const file = await putBronzeFile(store, { topic: 't', partition: 0, values, kafkaTimestampMs: values.map((_, i) => 1_700_000_000_000 + i * 60_000) });
    const plan = coverageOf('t', 0, '0-2000');
    const { produced } = (await refine(store, binanceTrades, { bronzeFiles: [file], silver: plan, dlq: plan })).result;
    expect(produced.buckets.length).toBeLessThanOrEqual(256);
    expect(produced.buckets.reduce((sum, [, count]) => sum + count, 0)).toBe(2_000);
    expect(produced.buckets.every(([startMs]) => startMs % produced.bucketMs === 0)).toBe(true);
  });
});

describe('another dataset', () => {
  test('that is no trade refines by the same engine', async () => {
    const reading = (given: Partial<RawReading>): Buffer => sensor({ site: 'oslo', sensor: 's1', sequence: 1, taken_ms: 1_700_000_000_123, celsius: '-3.25', battery: null, outdoors: true, ...given });
    const { result, silver, dlq } = await refineValues(sensorReadings, [reading({}), reading({ battery: 88, outdoors: false, celsius: '21.5' }), reading({ site: '', celsius: '1.234' })]);
    expect(silver.map(({ site, sensor: name, taken, celsius, battery, outdoors, labels }) => ({ site, name, taken, celsius, battery, outdoors, labels }))).toEqual([
      { site: 'oslo', name: 's1', taken: 1_700_000_000_123_000n, celsius: -325n, battery: null, outdoors: true, labels: ['outdoors', 'oslo'] },
      { site: 'oslo', name: 's1', taken: 1_700_000_000_123_000n, celsius: 2_150n, battery: 88, outdoors: false, labels: [] },
    ]);
    expect(dlq[0]).toMatchObject({ error_type: 'place_validation', error_reason: 'site_required,celsius_not_representable' });
    expect(result.silverFiles[0]!.partition).toEqual({ taken: 472_222 });
  });
});

describe('the same Bronze rows, refined again', () => {
  /** Columns that hold a processing time. */
  const withoutProcessingTime = (row: Record<string, unknown>) => ({ ...row, validation_timestamp: null, error_timestamp: null });

  test('give the same rows, ids included, in whatever files and batches they come', async () => {
    const value = fc.oneof(
      fc.record({ trade_id: fc.nat(20), price: fc.constantFrom('1.5', '0', '-2', '0.123456789', ''), market: fc.constantFrom('spot', 'usdm', 'moon'), trade_time_ms: fc.integer({ min: 1_680_649_000_000, max: 1_680_652_810_000 }) }).map((given) => binance(binanceRaw(given))),
      fc.constant(null), fc.uint8Array({ maxLength: 12 }),
    );
    await fc.assert(fc.asyncProperty(fc.array(value, { minLength: 1, maxLength: 40 }), fc.array(fc.nat(40), { maxLength: 4 }), async (values, cuts) => {
      const whole = await refineValues(binanceTrades, values);
      const store = createMemoryObjectStore();
      const topic = binanceTrades.topic;
      const edges = [...new Set([0, ...cuts.filter((cut) => cut < values.length), values.length])].sort((a, b) => a - b);
      const silver: Record<string, unknown>[] = [];
      const dlq: Record<string, unknown>[] = [];
      for (let i = 0; i + 1 < edges.length; i += 1) {
        const [from, to] = [edges[i]!, edges[i + 1]!];
        const file = await putBronzeFile(store, { topic, partition: 2, startOffset: 100n + BigInt(from), values: values.slice(from, to) });
        const plan = coverageOf(topic, 2, `${100 + from}-${100 + to}`);
        const part = await refine(store, binanceTrades, { bronzeFiles: [file], silver: plan, dlq: plan, nowMs: 1_900_000_000_000 + i });
        silver.push(...part.silver);
        dlq.push(...part.dlq);
      }
      expect(silver.map(withoutProcessingTime)).toEqual(whole.silver.map(withoutProcessingTime));
      expect(dlq.map(withoutProcessingTime)).toEqual(whole.dlq.map(withoutProcessingTime));
    }), { numRuns: 30 });
  });
});
