import type { AvroRecordSchema } from './dataset.ts';
import { defineDataset } from './dataset.ts';
import type { TradeV2 } from './crypto-trades.ts';
import { conditionOf, currencyBySuffix, decimalPrecision, decimalScale, noConditions, remembered, sortedByKey, tradeFields, tradeGoldColumns, tradeReasons, tradeRules } from './crypto-trades.ts';
import { microsOfSeconds, unscaledOf } from './decimal.ts';

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
