import { expect, test } from 'vitest';
import binanceTrades, { rawSchema } from '../../src/datasets/binance-trades.ts';
import krakenTrades from '../../src/datasets/kraken-trades.ts';
import { createSchemaStore } from '../../src/schema-registry/schema-store.ts';
import { DecoderCache } from '../../src/refine/decoders.ts';
import { createDlqLake, rawSchemaId } from '../support/dlq-lake.ts';
import { binanceRaw, wireEncoder } from '../support/raw-records.ts';

const { source } = binanceTrades;
const olderSchemaId = 3;
/** The version before `native_id` and `extra` came. */
const olderSchema = { ...rawSchema, fields: rawSchema.fields.filter(({ name }) => name !== 'native_id' && name !== 'extra') };
const encodeNow = wireEncoder(rawSchema, rawSchemaId);
const encodeBefore = wireEncoder(olderSchema, olderSchemaId);

test('a producer that alternates two schema versions makes no more files than one that does not, and no DLQ row', async () => {
  const filesOf = async (values: Buffer[]): Promise<Record<string, number>> => {
    const lake = await createDlqLake();
    lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
    lake.registered.set(olderSchemaId, JSON.stringify(olderSchema));
    await lake.ingest(binanceTrades, values);
    await lake.refine(source);
    const counts = await Promise.all(['bronze_binance_trades', 'silver_binance_trades', 'silver_dlq_trades', 'gold_crypto_trades'].map(async (table) => [table, (await (await lake.catalog.load(table)).scan()).length] as const));
    const [silver, gold] = [await lake.rows('silver_binance_trades'), await lake.rows('gold_crypto_trades')];
    expect(silver).toHaveLength(values.length);
    expect(gold).toHaveLength(values.length);
    return Object.fromEntries(counts);
  };
  const records = Array.from({ length: 200 }, (_, i) => binanceRaw({ trade_id: i }));
  const one = await filesOf(records.map((record) => encodeNow(record)));
  expect(await filesOf(records.map((record, i) => (i % 2 === 0 ? encodeNow(record) : encodeBefore(record))))).toEqual(one);
  expect(one).toEqual({ bronze_binance_trades: 1, silver_binance_trades: 1, silver_dlq_trades: 0, gold_crypto_trades: 1 });
});

test('a registry that was rebuilt with other ids does not change a row that is refined again', async () => {
  const lake = await createDlqLake();
  lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
  lake.registered.set(olderSchemaId, JSON.stringify(olderSchema));
  await lake.ingest(binanceTrades, [encodeNow(binanceRaw({ trade_id: 1 })), encodeBefore(binanceRaw({ trade_id: 2 }))]);
  await lake.refine(source);
  const before = lake.comparable(await lake.rows('silver_binance_trades'));

  lake.registered.set(rawSchemaId, JSON.stringify(krakenTrades.rawSchema));
  lake.registered.set(olderSchemaId, JSON.stringify(rawSchema));
  // A process that has never seen the ids.
  const schemas = createSchemaStore({ store: lake.store, registry: lake.registry });
  const found = await new DecoderCache(binanceTrades, schemas).lookUp([rawSchemaId, olderSchemaId]);
  expect([...found.values()].every((entry) => 'decoder' in entry)).toBe(true);
  expect((await schemas.load(rawSchemaId)).schema).toBe(JSON.stringify(rawSchema));
  expect((await lake.refineAgain(source)).silver).toEqual(before);
});
