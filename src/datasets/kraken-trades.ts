import type { EncodedRecord } from '../schema-registry/encoded-record.ts';
import { AsciiMemo, asciiBytes } from './ascii.ts';
import type { AvroRecordSchema, ColumnarMapping, ColumnWriters, TextWriter } from './dataset.ts';
import { defineDataset } from './dataset.ts';
import type { TradeV2 } from './crypto-trades.ts';
import {
  conditionOf, currencyBySuffix, decimalPrecision, decimalScale, fieldNumbers, isPlainlyValid, jsonEntries, jsonNullableText, noConditions, remembered, sortedByKey,
  tradeFields, tradeGoldColumns, tradeReasons, tradeRules, tradeWriters,
} from './crypto-trades.ts';
import { microsOfAscii, microsOfSeconds, unscaledOf, unscaledOfAscii } from './decimal.ts';

/** One trade of Kraken (spot v1 or v2, futures), as capture writes it. */
export interface KrakenRawTrade {
  channel_id: number;
  price: string;
  volume: string;
  /** `sec.micros`. */
  timestamp: string;
  side: string;
  order_type: string;
  misc: string;
  pair: string;
  /** Receive time, µs since the epoch. */
  ingestion_timestamp: number;
  market: string;
  native_id: string | null;
  /** `frame_ordinal`: the ordinal among equal trades of one v1 frame, only where it is greater than 0. */
  extra: Record<string, string>;
}

export const rawSchema: AvroRecordSchema = {
  type: 'record',
  name: 'KrakenRawTrade',
  namespace: 'com.k2.marketdata.raw',
  fields: [
    { name: 'channel_id', type: 'long', doc: '0 where the feed has none (v2, futures)' },
    { name: 'price', type: 'string', doc: 'The text of the frame' },
    { name: 'volume', type: 'string', doc: 'The text of the frame' },
    { name: 'timestamp', type: 'string', doc: 'sec.micros' },
    { name: 'side', type: 'string', doc: 'b or s' },
    { name: 'order_type', type: 'string', doc: 'l or m; empty where the feed does not say (futures)' },
    { name: 'misc', type: 'string' },
    { name: 'pair', type: 'string', doc: 'As the feed writes it: XBT/USD, PI_XBTUSD' },
    { name: 'ingestion_timestamp', type: 'long', doc: 'Receive time, microseconds since the epoch' },
    { name: 'market', type: 'string', default: 'spot', doc: 'spot or futures' },
    { name: 'native_id', type: ['null', 'string'], default: null, doc: 'What the feed calls the trade (v2: trade_id, futures: uid)' },
    { name: 'extra', type: { type: 'map', values: 'string' }, default: {}, doc: 'Every other field of the frame, as text' },
  ],
};

const venues: Readonly<Record<string, { exchange: string; assetClass: TradeV2['asset_class'] }>> = {
  spot: { exchange: 'KRAKEN', assetClass: 'crypto' },
  futures: { exchange: 'KRAKEN_FUTURES', assetClass: 'futures' },
};

/** `XBT/USD` → BTCUSD in USD; `PI_XBTUSD` → PI_BTCUSD in USD. */
const instrument = remembered((pair: string): { symbol: string; currency: string } => {
  const named = pair.replaceAll('XBT', 'BTC');
  const slash = named.indexOf('/');
  const symbol = named.replaceAll('/', '');
  return { symbol, currency: slash < 0 ? currencyBySuffix(named) : named.slice(slash + 1) || 'UNKNOWN' };
});

/** Keeps `|` for joining, so that two lists of fields never join to the same text. */
const joinable = (text: string): string => (/[|%]/.test(text) ? text.replaceAll('%', '%25').replaceAll('|', '%7C') : text);

/** v1 trades have no id: every field and the ordinal among equal trades of their frame make one. */
const constructedId = (raw: KrakenRawTrade): string => {
  const ordinal = raw.extra['frame_ordinal'];
  const id = `${joinable(raw.pair)}|${joinable(raw.price)}|${joinable(raw.volume)}|${joinable(raw.timestamp)}|${joinable(raw.side)}|${joinable(raw.order_type)}|${joinable(raw.misc)}`;
  return ordinal === undefined ? id : `${id}|${joinable(ordinal)}`;
};

const sideOf = (side: string): string => (side === 'b' ? 'BUY' : side === 's' ? 'SELL' : side);

const conditionsOf = (raw: KrakenRawTrade): readonly string[] => {
  if (raw.order_type === 'l') return conditionOf('limit');
  if (raw.order_type === 'm') return conditionOf('market');
  // Futures say what kind of trade it was instead: fill, liquidation, assignment, termination, block.
  const kind = raw.extra['type'];
  return kind === undefined ? noConditions : conditionOf(kind);
};

/** v2 counts the trades of a symbol; v1 has no id and futures have a UUID. */
const sequenceOf = (nativeId: string | null): number | null => (nativeId !== null && /^\d{1,15}$/.test(nativeId) ? Number(nativeId) : null);

const field = fieldNumbers(rawSchema, [
  'channel_id', 'price', 'volume', 'timestamp', 'side', 'order_type', 'misc', 'pair', 'ingestion_timestamp', 'market', 'native_id', 'extra',
]);
const venueOf = new AsciiMemo((market) => {
  const venue = Object.hasOwn(venues, market) ? venues[market] : undefined;
  return venue ? { ...venue, idPrefix: asciiBytes(`${venue.exchange}-`) } : null;
});
const instrumentOf = new AsciiMemo(instrument);
const sideBy = new AsciiMemo((side) => (side === 'b' ? 'BUY' : side === 's' ? 'SELL' : null));
const conditionsBy = new AsciiMemo((orderType) => (orderType === 'l' ? conditionOf('limit') : orderType === 'm' ? conditionOf('market') : null));
const kindOf = new AsciiMemo(conditionOf);
const part = {
  channel: asciiBytes('{"channel_id":'), extra: asciiBytes(',"extra":'), market: asciiBytes(',"market":"'), misc: asciiBytes('","misc":"'), nativeId: asciiBytes('","native_id":'),
  pair: asciiBytes(',"pair":"'), end: asciiBytes('"}'), join: asciiBytes('|'), type: asciiBytes('type'), ordinal: asciiBytes('frame_ordinal'),
};
/** What {@link constructedId} joins, in its order. */
const joined = [field.pair, field.price, field.volume, field.timestamp, field.side, field.order_type, field.misc];

/** The number of the entry with this key; −1 if there is none. */
const entryNamed = ({ bytes, keyStarts, keyEnds }: EncodedRecord, count: number, key: Uint8Array): number => {
  for (let i = 0; i < count; i += 1) {
    const start = keyStarts[i]!;
    if (keyEnds[i]! - start !== key.length) continue;
    let at = 0;
    while (at < key.length && bytes[start + at] === key[at]) at += 1;
    if (at === key.length) return i;
  }
  return -1;
};

/** As {@link constructedId}; false for a field that it escapes, or that is not plain ASCII. */
const writeConstructedId = (out: TextWriter, record: EncodedRecord, extras: number): boolean => {
  const { bytes } = record;
  const isJoinable = (start: number, end: number): boolean => {
    for (let i = start; i < end; i += 1) if (bytes[i] === 0x7c || bytes[i] === 0x25) return false;
    return true;
  };
  for (let i = 0; i < joined.length; i += 1) {
    const start = record.textStart(joined[i]!);
    const end = record.textEnd(joined[i]!);
    if (i > 0) out.literal(part.join);
    if (!isJoinable(start, end) || !out.jsonText(bytes, start, end)) return false;
  }
  const ordinal = entryNamed(record, extras, part.ordinal);
  if (ordinal < 0) return true;
  out.literal(part.join);
  return isJoinable(record.valueStarts[ordinal]!, record.valueEnds[ordinal]!) && out.jsonText(bytes, record.valueStarts[ordinal]!, record.valueEnds[ordinal]!);
};

/** As {@link sequenceOf}: −1 for none. */
const sequenceOfAscii = (bytes: Uint8Array, start: number, end: number): number => {
  if (end === start || end - start > 15) return -1;
  let value = 0;
  for (let i = start; i < end; i += 1) {
    const digit = bytes[i]! - 48;
    if (digit < 0 || digit > 9) return -1;
    value = value * 10 + digit;
  }
  return value;
};

const mapping = (columns: ColumnWriters): ColumnarMapping => {
  const out = tradeWriters(columns);
  return (record, row) => {
    const { bytes } = record;
    const price = unscaledOfAscii(bytes, record.textStart(field.price), record.textEnd(field.price), decimalScale);
    const quantity = unscaledOfAscii(bytes, record.textStart(field.volume), record.textEnd(field.volume), decimalScale);
    const timestamp = microsOfAscii(bytes, record.textStart(field.timestamp), record.textEnd(field.timestamp));
    const received = record.natural(field.ingestion_timestamp);
    const channel = record.natural(field.channel_id);
    if (!isPlainlyValid(price, quantity, timestamp, received) || !(channel >= 0)) return NaN;
    const marketStart = record.textStart(field.market);
    const marketEnd = record.textEnd(field.market);
    const pairStart = record.textStart(field.pair);
    const pairEnd = record.textEnd(field.pair);
    const venue = venueOf.of(bytes, marketStart, marketEnd);
    const known = instrumentOf.of(bytes, pairStart, pairEnd);
    const side = sideBy.of(bytes, record.textStart(field.side), record.textEnd(field.side));
    const extras = record.findEntries(field.extra);
    if (!venue || !known || known.symbol === '' || !side || extras < 0) return NaN;
    let conditions = conditionsBy.of(bytes, record.textStart(field.order_type), record.textEnd(field.order_type));
    if (conditions === undefined) return NaN;
    if (conditions === null) {
      const kind = entryNamed(record, extras, part.type);
      conditions = kind < 0 ? noConditions : kindOf.of(bytes, record.valueStarts[kind]!, record.valueEnds[kind]!);
      if (!conditions) return NaN;
    }

    const isNamed = !record.isNull(field.native_id);
    const idStart = isNamed ? record.textStartOf(field.native_id) : 0;
    const idEnd = isNamed ? record.textEnd(field.native_id) : 0;
    out.trade_id.begin(row);
    out.trade_id.literal(venue.idPrefix);
    if (!(isNamed ? out.trade_id.jsonText(bytes, idStart, idEnd) : writeConstructedId(out.trade_id, record, extras))) return NaN;
    out.trade_id.end();
    const sequence = isNamed ? sequenceOfAscii(bytes, idStart, idEnd) : -1;
    if (sequence < 0) out.source_sequence.setNull(row);
    else out.source_sequence.set(row, sequence);
    out.symbol.set(row, known.symbol);
    out.exchange.set(row, venue.exchange);
    out.asset_class.set(row, venue.assetClass);
    out.timestamp.set(row, timestamp);
    out.price.set(row, price);
    out.quantity.set(row, quantity);
    out.currency.set(row, known.currency);
    out.side.set(row, side);
    out.trade_conditions.set(row, conditions);
    out.ingestion_timestamp.set(row, received);
    out.platform_sequence.setNull(row);

    const vendor = out.vendor_data;
    vendor.begin(row);
    vendor.literal(part.channel);
    vendor.natural(channel);
    vendor.literal(part.extra);
    if (!jsonEntries(vendor, record, extras)) return NaN;
    vendor.literal(part.market);
    vendor.ascii(bytes, marketStart, marketEnd);
    vendor.literal(part.misc);
    if (!vendor.jsonText(bytes, record.textStart(field.misc), record.textEnd(field.misc))) return NaN;
    vendor.literal(part.nativeId);
    if (!jsonNullableText(vendor, record, field.native_id)) return NaN;
    vendor.literal(part.pair);
    if (!vendor.jsonText(bytes, pairStart, pairEnd)) return NaN;
    vendor.literal(part.end);
    vendor.end();
    return timestamp;
  };
};

export default defineDataset<KrakenRawTrade, TradeV2>({
  source: 'kraken-trades',
  topic: 'market.crypto.trades.kraken.raw',
  rawSchema,
  ruleVersion: 'kraken-trades/1',
  bronzeTable: 'bronze_kraken_trades',
  silverTable: 'silver_kraken_trades',
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
    const { symbol, currency } = instrument(raw.pair);
    return {
      message_id: messageId,
      trade_id: `${venue.exchange}-${raw.native_id ?? constructedId(raw)}`,
      symbol,
      exchange: venue.exchange,
      asset_class: venue.assetClass,
      timestamp: microsOfSeconds(raw.timestamp),
      price: unscaledOf(raw.price, decimalPrecision, decimalScale),
      quantity: unscaledOf(raw.volume, decimalPrecision, decimalScale),
      currency,
      side: sideOf(raw.side),
      trade_conditions: conditionsOf(raw),
      source_sequence: sequenceOf(raw.native_id),
      ingestion_timestamp: raw.ingestion_timestamp,
      platform_sequence: null,
      vendor_data: JSON.stringify({ channel_id: raw.channel_id, extra: sortedByKey(raw.extra), market: raw.market, misc: raw.misc, native_id: raw.native_id, pair: raw.pair }),
    };
  },
});
