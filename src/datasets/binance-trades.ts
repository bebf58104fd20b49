import { AsciiMemo, asciiBytes } from './ascii.ts';
import type { AvroRecordSchema, ColumnarMapping, ColumnWriters } from './dataset.ts';
import { defineDataset } from './dataset.ts';
import type { TradeV2 } from './crypto-trades.ts';
import {
  conditionOf, currencyBySuffix, decimalPrecision, decimalScale, entryOf, fieldNumbers, isPlainlyValid, json, jsonEntries, jsonNullableText, noConditions, remembered,
  sortedByKey, tradeFields, tradeGoldColumns, tradeReasons, tradeRules, tradeWriters,
} from './crypto-trades.ts';
import { unscaledOf, unscaledOfAscii } from './decimal.ts';

/** One trade or aggregate trade of a Binance market, as capture writes it. */
export interface BinanceRawTrade {
  event_type: string;
  event_time_ms: number;
  symbol: string;
  trade_id: number;
  price: string;
  quantity: string;
  trade_time_ms: number;
  is_buyer_maker: boolean;
  is_best_match: boolean | null;
  /** Receive time, µs since the epoch. */
  ingestion_timestamp: number;
  market: string;
  native_id: string | null;
  extra: Record<string, string>;
}

export const rawSchema: AvroRecordSchema = {
  type: 'record',
  name: 'BinanceRawTrade',
  namespace: 'com.k2.marketdata.raw',
  fields: [
    { name: 'event_type', type: 'string', doc: 'e: trade or aggTrade' },
    { name: 'event_time_ms', type: 'long', doc: 'E' },
    { name: 'symbol', type: 'string', doc: 's' },
    { name: 'trade_id', type: 'long', doc: 't, of aggregate trades a' },
    { name: 'price', type: 'string', doc: 'p, the text of the frame' },
    { name: 'quantity', type: 'string', doc: 'q, the text of the frame' },
    { name: 'trade_time_ms', type: 'long', doc: 'T' },
    { name: 'is_buyer_maker', type: 'boolean', doc: 'm' },
    { name: 'is_best_match', type: ['null', 'boolean'], default: null, doc: 'M, spot only' },
    { name: 'ingestion_timestamp', type: 'long', doc: 'Receive time, microseconds since the epoch' },
    { name: 'market', type: 'string', default: 'spot', doc: 'spot, usdm, coinm or us' },
    { name: 'native_id', type: ['null', 'string'], default: null, doc: 'What the feed calls the trade, where that is no number' },
    { name: 'extra', type: { type: 'map', values: 'string' }, default: {}, doc: 'Every other field of the frame, as text' },
  ],
};

const venues: Readonly<Record<string, { exchange: string; assetClass: TradeV2['asset_class'] }>> = {
  spot: { exchange: 'BINANCE', assetClass: 'crypto' },
  usdm: { exchange: 'BINANCE_USDM', assetClass: 'futures' },
  coinm: { exchange: 'BINANCE_COINM', assetClass: 'futures' },
  us: { exchange: 'BINANCE_US', assetClass: 'crypto' },
};

/** The symbol as one text that all its rows share, and the currency of its price. */
const instrument = remembered((symbol: string) => ({ symbol, currency: currencyBySuffix(symbol) }));

const field = fieldNumbers(rawSchema, [
  'event_type', 'event_time_ms', 'symbol', 'trade_id', 'price', 'quantity', 'trade_time_ms', 'is_buyer_maker', 'is_best_match', 'ingestion_timestamp', 'market', 'native_id', 'extra',
]);
const tradeIdPrefix = new AsciiMemo((eventType) => asciiBytes(eventType === 'aggTrade' ? 'BINANCE-AGG-' : 'BINANCE-'));
const venueOf = new AsciiMemo((market) => (Object.hasOwn(venues, market) ? venues[market]! : null));
const instrumentOf = new AsciiMemo(instrument);
const conditionsOf = new AsciiMemo(conditionOf);
const orderKind = 'X'.charCodeAt(0);
const part = {
  eventTime: asciiBytes('{"event_time_ms":'), eventType: asciiBytes(',"event_type":"'), extra: asciiBytes('","extra":'), isBestMatch: asciiBytes(',"is_best_match":'),
  market: asciiBytes(',"market":"'), nativeId: asciiBytes('","native_id":'),
};

const mapping = (columns: ColumnWriters): ColumnarMapping => {
  const out = tradeWriters(columns);
  return (record, row) => {
    const { bytes } = record;
    const price = unscaledOfAscii(bytes, record.textStart(field.price), record.textEnd(field.price), decimalScale);
    const quantity = unscaledOfAscii(bytes, record.textStart(field.quantity), record.textEnd(field.quantity), decimalScale);
    const timestamp = record.natural(field.trade_time_ms) * 1000;
    const received = record.natural(field.ingestion_timestamp);
    const tradeId = record.natural(field.trade_id);
    const eventTime = record.natural(field.event_time_ms);
    if (!isPlainlyValid(price, quantity, timestamp, received) || !(tradeId >= 0) || !(eventTime >= 0)) return NaN;
    const eventTypeStart = record.textStart(field.event_type);
    const eventTypeEnd = record.textEnd(field.event_type);
    const marketStart = record.textStart(field.market);
    const marketEnd = record.textEnd(field.market);
    const prefix = tradeIdPrefix.of(bytes, eventTypeStart, eventTypeEnd);
    const venue = venueOf.of(bytes, marketStart, marketEnd);
    const known = instrumentOf.of(bytes, record.textStart(field.symbol), record.textEnd(field.symbol));
    const extras = record.findEntries(field.extra);
    if (!prefix || !venue || !known || known.symbol === '' || extras < 0) return NaN;
    const kind = entryOf(record, extras, orderKind);
    const conditions = kind < 0 ? noConditions : conditionsOf.of(bytes, record.valueStarts[kind]!, record.valueEnds[kind]!);
    if (!conditions) return NaN;

    out.trade_id.begin(row);
    out.trade_id.literal(prefix);
    out.trade_id.natural(tradeId);
    out.trade_id.end();
    out.symbol.set(row, known.symbol);
    out.exchange.set(row, venue.exchange);
    out.asset_class.set(row, venue.assetClass);
    out.timestamp.set(row, timestamp);
    out.price.set(row, price);
    out.quantity.set(row, quantity);
    out.currency.set(row, known.currency);
    out.side.set(row, record.boolean(field.is_buyer_maker) ? 'SELL' : 'BUY');
    out.trade_conditions.set(row, conditions);
    out.source_sequence.set(row, tradeId);
    out.ingestion_timestamp.set(row, received);
    out.platform_sequence.setNull(row);

    const vendor = out.vendor_data;
    vendor.begin(row);
    vendor.literal(part.eventTime);
    vendor.natural(eventTime);
    vendor.literal(part.eventType);
    if (!vendor.jsonText(bytes, eventTypeStart, eventTypeEnd)) return NaN;
    vendor.literal(part.extra);
    if (!jsonEntries(vendor, record, extras)) return NaN;
    vendor.literal(part.isBestMatch);
    vendor.literal(record.isNull(field.is_best_match) ? json.null : record.booleanOf(field.is_best_match) ? json.true : json.false);
    vendor.literal(part.market);
    vendor.ascii(bytes, marketStart, marketEnd);
    vendor.literal(part.nativeId);
    if (!jsonNullableText(vendor, record, field.native_id)) return NaN;
    vendor.literal(json.close);
    vendor.end();
    return timestamp;
  };
};

export default defineDataset<BinanceRawTrade, TradeV2>({
  source: 'binance-trades',
  topic: 'market.crypto.trades.binance.raw',
  rawSchema,
  ruleVersion: 'binance-trades/1',
  bronzeTable: 'bronze_binance_trades',
  silverTable: 'silver_binance_trades',
  goldTable: 'gold_crypto_trades',
  fields: tradeFields,
  key: ['exchange', 'symbol', 'trade_id'],
  eventTime: 'timestamp',
  goldBucketBy: ['exchange'],
  goldColumns: tradeGoldColumns,
  rules: tradeRules,
  reasons: tradeReasons,
  columnar: { messageId: 'message_id', mapping },
  map(raw, { messageId }) {
    const venue = venues[raw.market];
    if (!venue) throw new TypeError(`market: expected ${Object.keys(venues).join(', ')}, found ${JSON.stringify(raw.market)}`);
    // X says what kind of order traded (MARKET, INSURANCE_FUND, NA); only futures have it.
    const kind = raw.extra['X'];
    const { symbol, currency } = instrument(raw.symbol);
    return {
      message_id: messageId,
      // Aggregate trades count in an id space of their own.
      trade_id: raw.event_type === 'aggTrade' ? `BINANCE-AGG-${raw.trade_id}` : `BINANCE-${raw.trade_id}`,
      symbol,
      exchange: venue.exchange,
      asset_class: venue.assetClass,
      // T, the trade's time; E is when the frame was made.
      timestamp: raw.trade_time_ms * 1000,
      price: unscaledOf(raw.price, decimalPrecision, decimalScale),
      quantity: unscaledOf(raw.quantity, decimalPrecision, decimalScale),
      currency,
      side: raw.is_buyer_maker ? 'SELL' : 'BUY',
      trade_conditions: kind === undefined ? noConditions : conditionOf(kind),
      source_sequence: raw.trade_id,
      ingestion_timestamp: raw.ingestion_timestamp,
      platform_sequence: null,
      // One flat text by JSON.stringify; put together by hand it is a tree of pieces that costs more to keep.
      vendor_data: JSON.stringify({
        event_time_ms: raw.event_time_ms, event_type: raw.event_type, extra: sortedByKey(raw.extra), is_best_match: raw.is_best_match, market: raw.market, native_id: raw.native_id,
      }),
    };
  },
});
