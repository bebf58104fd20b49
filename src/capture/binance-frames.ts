import type { CapturedBinanceTrade, FrameKind, ParsedFrame } from './frame.ts';
import { FrameError } from './frame.ts';
import { integerOf, millisOf, textField } from './frame-fields.ts';
import type { JsonText, JsonTextObject } from './json-text.ts';
import { isObject, textOf } from './json-text.ts';

const kindOfEvent: ReadonlyMap<string, Exclude<FrameKind, 'trade'>> = new Map([
  ['depthUpdate', 'book'],
  ['bookTicker', 'quote'],
  ['24hrTicker', 'ticker'],
  ['24hrMiniTicker', 'ticker'],
  ['ticker_all', 'ticker'],
  ['kline', 'candle'],
  ['continuous_kline', 'candle'],
  ['markPriceUpdate', 'mark_price'],
  ['openInterest', 'open_interest'],
  ['trade_all', 'option_trade'],
]);

/** Fields of a trade that have a place of their own in the record. */
const tradeFields = new Set(['e', 'E', 's', 'p', 'q', 'T', 'm', 'M']);

const tradeOf = (data: JsonTextObject, idField: 't' | 'a', market: string, receivedMicros: number): CapturedBinanceTrade => {
  const isBuyerMaker = data['m'];
  if (typeof isBuyerMaker !== 'boolean') throw new FrameError('trade frame: expected a boolean m');
  const isBestMatch = data['M'];
  const extra: Record<string, string> = {};
  for (const field in data) {
    if (field === idField || (tradeFields.has(field) && (field !== 'M' || typeof isBestMatch === 'boolean'))) continue;
    extra[field] = textOf(data[field]!);
  }
  return {
    event_type: textField(data, 'e'),
    event_time_ms: millisOf(data, 'E'),
    symbol: textField(data, 's'),
    trade_id: integerOf(data, idField),
    price: textField(data, 'p'),
    quantity: textField(data, 'q'),
    trade_time_ms: millisOf(data, 'T'),
    is_buyer_maker: isBuyerMaker,
    is_best_match: typeof isBestMatch === 'boolean' ? isBestMatch : null,
    ingestion_timestamp: receivedMicros,
    market,
    native_id: null,
    extra,
  };
};

/** Frames of one object: an event, a REST answer, an answer to a request. */
const parseEvent = (data: JsonTextObject, market: string, receivedMicros: number): ParsedFrame => {
  const event = data['e'];
  if (event === 'trade') return { kind: 'trade', trades: [tradeOf(data, 't', market, receivedMicros)] };
  if (event === 'aggTrade') return { kind: 'trade', trades: [tradeOf(data, 'a', market, receivedMicros)] };
  if (typeof event === 'string') return { kind: kindOfEvent.get(event) ?? (event.endsWith('Ticker') ? 'ticker' : 'other') };
  if ('error' in data || ('code' in data && 'msg' in data)) return { kind: 'error' };
  if ('result' in data && 'id' in data) return { kind: 'subscription' };
  // Spot writes its book tickers and its snapshots without an event type.
  if ('bids' in data && 'asks' in data) return { kind: 'book_snapshot' };
  if ('B' in data && 'A' in data && 'u' in data) return { kind: 'quote' };
  if ('openInterest' in data) return { kind: 'open_interest' };
  return { kind: 'other' };
};

/**
 * Reads a frame of any Binance market: bare, or wrapped as `{"stream","data"}` by a combined stream. The wrapper's name only
 * says the symbol and the event again, so it is not among a trade's `extra`.
 */
export const parseBinanceFrame = (frame: JsonText, market: string, receivedMicros: number): ParsedFrame => {
  const data = isObject(frame) && 'stream' in frame && 'data' in frame ? frame['data'] : frame;
  if (isObject(data)) return parseEvent(data, market, receivedMicros);
  // `!ticker@arr` and its like: one list of events of one kind, and none of them lists trades.
  if (Array.isArray(data) && data.every(isObject) && data[0]) {
    const { kind } = parseEvent(data[0], market, receivedMicros);
    if (kind === 'trade') throw new FrameError('trade frame: expected one trade, found a list');
    return { kind } as ParsedFrame;
  }
  return { kind: 'other' };
};
