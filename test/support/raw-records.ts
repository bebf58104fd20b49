import avro from 'avsc';
import type { AvroRecordSchema } from '../../src/datasets/dataset.ts';
import type { BinanceRawTrade } from '../../src/datasets/binance-trades.ts';
import type { KrakenRawTrade } from '../../src/datasets/kraken-trades.ts';
import { encodeWire } from '../../src/schema-registry/wire-codec.ts';

/** A Binance trade as capture writes it; every field can be given. */
export const binanceRaw = (given: Partial<BinanceRawTrade> = {}): BinanceRawTrade => ({
  event_type: 'trade', event_time_ms: 1_680_652_800_000, symbol: 'BTCUSDT', trade_id: 3_071_245_454, price: '28165.47000000', quantity: '0.00056000',
  trade_time_ms: 1_680_652_799_999, is_buyer_maker: true, is_best_match: true, ingestion_timestamp: 1_680_652_800_004_107, market: 'spot', native_id: null,
  extra: { b: '20720542158', a: '20720542592' }, ...given,
});

/** A Kraken v1 trade as capture writes it. */
export const krakenRaw = (given: Partial<KrakenRawTrade> = {}): KrakenRawTrade => ({
  channel_id: 321, price: '58721.20000', volume: '0.02798644', timestamp: '1617666461.465618', side: 's', order_type: 'm', misc: '', pair: 'XBT/USD',
  ingestion_timestamp: 1_617_666_461_507_299, market: 'spot', native_id: null, extra: {}, ...given,
});

export const avroTypeOf = (schema: AvroRecordSchema): avro.Type => avro.Type.forSchema(schema as unknown as avro.Schema);

/** Record values in the wire format. */
export const wireEncoder = (schema: AvroRecordSchema, schemaId: number): ((record: object) => Buffer) => {
  const type = avroTypeOf(schema);
  return (record) => encodeWire(schemaId, type.toBuffer(record));
};
