import type { KrakenRawTrade } from '../datasets/kraken-trades.ts';
import type { FrameKind, ParsedFrame } from './frame.ts';
import { FrameError } from './frame.ts';
import { millisOf, textField } from './frame-fields.ts';
import type { JsonText, JsonTextObject } from './json-text.ts';
import { NumberText, isObject, textOf } from './json-text.ts';

type OtherKind = Exclude<FrameKind, 'trade'>;

/** Channels of v1 (`book-1000`, `ohlc-1`: without the number) and v2, feeds of futures. */
const kindOfChannel: ReadonlyMap<string, OtherKind> = new Map([
  ['book', 'book'],
  ['book_snapshot', 'book'],
  ['level3', 'book'],
  ['spread', 'quote'],
  ['ticker', 'ticker'],
  ['ticker_lite', 'ticker'],
  ['ohlc', 'candle'],
  ['heartbeat', 'heartbeat'],
  ['status', 'status'],
]);

const kindOfEvent: ReadonlyMap<string, OtherKind> = new Map([
  ['heartbeat', 'heartbeat'],
  ['ping', 'ping'],
  ['pong', 'pong'],
  ['systemStatus', 'status'],
  ['info', 'status'],
  ['subscriptionStatus', 'subscription'],
  ['subscribed', 'subscription'],
  ['unsubscribed', 'subscription'],
  ['error', 'error'],
  ['alert', 'error'],
]);

const sides: ReadonlyMap<string, string> = new Map([['buy', 'b'], ['sell', 's']]);
const orderTypes: ReadonlyMap<string, string> = new Map([['limit', 'l'], ['market', 'm']]);

const extraOf = (trade: JsonTextObject, placed: ReadonlySet<string>): Record<string, string> => {
  const extra: Record<string, string> = {};
  for (const field in trade) if (!placed.has(field)) extra[field] = textOf(trade[field]!);
  return extra;
};

// --- v1: [channelID, [[price, volume, time, side, orderType, misc], ...], "trade", pair]

const v1Fields = 6;

const parseV1Trades = (frame: JsonText[], market: string, receivedMicros: number): KrakenRawTrade[] => {
  const [channel, trades] = frame;
  const pair = frame.at(-1);
  if (!(channel instanceof NumberText) || !Array.isArray(trades) || typeof pair !== 'string') {
    throw new FrameError('trade frame: expected [channelID, trades, "trade", pair]');
  }
  // v1 trades have no id. Equal ones of one frame are different trades: their ordinal tells them apart.
  const seen = new Map<string, number>();
  return trades.map((trade): KrakenRawTrade => {
    if (!Array.isArray(trade) || trade.length < v1Fields - 1) throw new FrameError('trade frame: expected [price, volume, time, side, orderType, misc] for each trade');
    const texts = trade.map((value, i) => {
      if (i < v1Fields && typeof value !== 'string' && !(value instanceof NumberText)) throw new FrameError(`trade frame: expected text as field ${i} of a trade, found ${textOf(value)}`);
      return textOf(value);
    });
    const [price, volume, timestamp, side, orderType, misc = ''] = texts as [string, string, string, string, string, string?];
    const extra: Record<string, string> = {};
    for (let i = v1Fields; i < texts.length; i += 1) extra[`field_${i}`] = texts[i]!;
    if (trades.length > 1) {
      const identity = JSON.stringify(texts);
      const ordinal = seen.get(identity) ?? 0;
      seen.set(identity, ordinal + 1);
      if (ordinal > 0) extra['frame_ordinal'] = String(ordinal);
    }
    return {
      channel_id: Number(channel.text), price, volume, timestamp, side, order_type: orderType, misc, pair,
      ingestion_timestamp: receivedMicros, market, native_id: null, extra,
    };
  });
};

const parseV1List = (frame: JsonText[], market: string, receivedMicros: number): ParsedFrame => {
  // A book frame can have two payloads, so the name is looked for from the end.
  const name = frame.at(-2);
  if (typeof name !== 'string') return { kind: 'other' };
  if (name === 'trade') return { kind: 'trade', trades: parseV1Trades(frame, market, receivedMicros) };
  return { kind: kindOfChannel.get(name.replace(/-\d+$/, '')) ?? 'other' };
};

// --- v2: {"channel":"trade","type":"snapshot"|"update","data":[{symbol, side, price, qty, ord_type, trade_id, timestamp}, ...]}

const v2Placed = new Set(['symbol', 'side', 'price', 'qty', 'ord_type', 'trade_id', 'timestamp']);
const isoTime = /^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d+))?Z$/;

/** `2026-09-26T18:09:11.775238Z` → `1790446151.775238`; the fraction never passes through a double. */
const secondsOfIso = (text: string): { seconds: string; exact: boolean } => {
  const match = isoTime.exec(text);
  const millis = match ? Date.parse(`${match[1]}Z`) : Number.NaN;
  if (!match || Number.isNaN(millis)) throw new FrameError(`trade frame: expected an ISO time in UTC as timestamp, found ${JSON.stringify(text)}`);
  const fraction = match[2] ?? '';
  return { seconds: `${millis / 1000}.${fraction.slice(0, 6).padEnd(6, '0')}`, exact: fraction.length <= 6 };
};

const parseV2Trade = (trade: JsonText, market: string, receivedMicros: number): KrakenRawTrade => {
  if (!isObject(trade)) throw new FrameError('trade frame: expected a list of trades as data');
  const side = textField(trade, 'side');
  const orderType = textField(trade, 'ord_type');
  const timestamp = textField(trade, 'timestamp');
  const { seconds, exact } = secondsOfIso(timestamp);
  const extra = extraOf(trade, v2Placed);
  if (!exact) extra['timestamp'] = timestamp;
  return {
    channel_id: 0,
    price: textField(trade, 'price'),
    volume: textField(trade, 'qty'),
    timestamp: seconds,
    side: sides.get(side) ?? side,
    order_type: orderTypes.get(orderType) ?? orderType,
    misc: '',
    pair: textField(trade, 'symbol'),
    ingestion_timestamp: receivedMicros,
    market,
    native_id: textField(trade, 'trade_id'),
    extra,
  };
};

// --- futures: {"feed":"trade", product_id, uid, side, type, seq, time, qty, price}, {"feed":"trade_snapshot","trades":[...]}

const futuresPlaced = new Set(['feed', 'product_id', 'uid', 'side', 'time', 'qty', 'price']);

const parseFuturesTrade = (trade: JsonText, market: string, receivedMicros: number): KrakenRawTrade => {
  if (!isObject(trade)) throw new FrameError('trade frame: expected a list of trades as trades');
  const side = textField(trade, 'side');
  const millis = String(millisOf(trade, 'time'));
  if (!/^\d{4,}$/.test(millis)) throw new FrameError(`trade frame: expected milliseconds as time, found ${millis}`);
  return {
    channel_id: 0,
    price: textField(trade, 'price'),
    volume: textField(trade, 'qty'),
    timestamp: `${millis.slice(0, -3)}.${millis.slice(-3)}000`,
    side: sides.get(side) ?? side,
    // Futures say fill, liquidation and so on as `type`, which is no order type: it goes to extra.
    order_type: '',
    misc: '',
    pair: textField(trade, 'product_id'),
    ingestion_timestamp: receivedMicros,
    market,
    native_id: textField(trade, 'uid'),
    extra: extraOf(trade, futuresPlaced),
  };
};

const tradesOf = (list: JsonText | undefined, field: string): JsonText[] => {
  if (!Array.isArray(list)) throw new FrameError(`trade frame: expected a list as ${field}`);
  return list;
};

const hasBook = (value: JsonText | undefined): boolean => isObject(value) && 'asks' in value && 'bids' in value;

const parseObjectFrame = (frame: JsonTextObject, market: string, receivedMicros: number): ParsedFrame => {
  const { event, channel, method, feed } = frame;
  // Before the feed: the answer to a futures subscription has `feed: trade` and is no trade.
  if (typeof event === 'string') {
    if (frame['status'] === 'error' || 'errorMessage' in frame) return { kind: 'error' };
    return { kind: kindOfEvent.get(event) ?? 'other' };
  }
  if (typeof method === 'string') {
    if (frame['success'] === false) return { kind: 'error' };
    return { kind: method === 'ping' || method === 'pong' ? method : method.endsWith('subscribe') ? 'subscription' : 'other' };
  }
  if (channel === 'trade') {
    return { kind: 'trade', trades: tradesOf(frame['data'], 'data').map((trade) => parseV2Trade(trade, market, receivedMicros)) };
  }
  if (typeof channel === 'string') return { kind: kindOfChannel.get(channel) ?? 'other' };
  if (feed === 'trade') return { kind: 'trade', trades: [parseFuturesTrade(frame, market, receivedMicros)] };
  if (feed === 'trade_snapshot') {
    return { kind: 'trade', trades: tradesOf(frame['trades'], 'trades').map((trade) => parseFuturesTrade(trade, market, receivedMicros)) };
  }
  if (typeof feed === 'string') return { kind: kindOfChannel.get(feed) ?? 'other' };
  // REST answers say `error: []` when there is none.
  const { error, result } = frame;
  if (error !== undefined && !(Array.isArray(error) && error.length === 0)) return { kind: 'error' };
  if (hasBook(frame['orderBook']) || (isObject(result) && Object.values(result).some(hasBook))) return { kind: 'book_snapshot' };
  return { kind: 'other' };
};

/** Reads a frame of Kraken's spot v1 or v2, or futures API: each frame shows by its shape which one it is of. */
export const parseKrakenFrame = (frame: JsonText, market: string, receivedMicros: number): ParsedFrame => {
  if (Array.isArray(frame)) return parseV1List(frame, market, receivedMicros);
  return isObject(frame) ? parseObjectFrame(frame, market, receivedMicros) : { kind: 'other' };
};
