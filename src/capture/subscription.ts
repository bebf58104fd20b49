import { TidemarkError } from '../domain/errors.ts';
import type { Feed } from './feed.ts';
import { feedOf } from './feed.ts';

/** What a live socket connects to, what it sends once connected, and what it answers. */
export interface Subscription {
  feed: Feed;
  url: string;
  /** Sent after each connect, so a reconnect subscribes again. */
  requests: string[];
}

export interface SubscriptionRequest {
  exchange: string;
  /** Default spot. */
  market?: string;
  /** Binance: trade (default) or aggTrade. Kraken spot: v1 or v2 (default). */
  feed?: string;
  /** As the exchange writes them: btcusdt; XBT/USD (Kraken v1), BTC/USD (v2), PI_XBTUSD (futures). At least one. */
  symbols: readonly string[];
  /** Instead of the exchange's own address: the simulator's, for one. */
  baseUrl?: string;
}

/**
 * Binance splits the addresses of USD-M futures by traffic since 2026-03; trades are in "market".
 * https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Important-WebSocket-Change-Notice
 */
const binanceUrls: Readonly<Record<string, string>> = {
  spot: 'wss://stream.binance.com:9443',
  usdm: 'wss://fstream.binance.com/market',
  coinm: 'wss://dstream.binance.com',
  us: 'wss://stream.binance.us:9443',
};
const krakenUrls: Readonly<Record<string, string>> = {
  v1: 'wss://ws.kraken.com',
  v2: 'wss://ws.kraken.com/v2',
  futures: 'wss://futures.kraken.com/ws/v1',
};

const oneOf = (what: string, found: string, known: readonly string[]): void => {
  if (!known.includes(found)) throw new TidemarkError('BAD_INPUT', `${what}: expected ${known.join(' or ')}, found ${JSON.stringify(found)}`);
};

/** @throws TidemarkError BAD_INPUT with what was expected. */
export const subscriptionOf = ({ exchange, market = 'spot', feed, symbols, baseUrl }: SubscriptionRequest): Subscription => {
  if (symbols.length === 0) throw new TidemarkError('BAD_INPUT', 'symbols: expected at least one, found none');
  const described = (name: string): Feed => feedOf(exchange, market, name, baseUrl ?? 'live');
  if (exchange === 'binance') {
    const name = feed ?? 'trade';
    const known = described(name);
    oneOf('feed of binance', name, ['trade', 'aggTrade']);
    const streams = symbols.map((symbol) => `${symbol.toLowerCase()}@${name}`);
    return { feed: known, url: `${baseUrl ?? binanceUrls[market]}/stream?streams=${streams.join('/')}`, requests: [] };
  }
  if (market === 'futures') {
    const known = described('v1');
    oneOf('feed of kraken futures', feed ?? 'v1', ['v1']);
    return {
      feed: known,
      url: baseUrl ?? krakenUrls['futures']!,
      requests: [
        JSON.stringify({ event: 'subscribe', feed: 'heartbeat' }),
        JSON.stringify({ event: 'subscribe', feed: 'trade', product_ids: symbols }),
      ],
    };
  }
  const name = feed ?? 'v2';
  const known = described(name);
  oneOf('feed of kraken', name, ['v1', 'v2']);
  return name === 'v1'
    ? { feed: known, url: baseUrl ?? krakenUrls['v1']!, requests: [JSON.stringify({ event: 'subscribe', pair: symbols, subscription: { name: 'trade' } })] }
    : { feed: known, url: baseUrl ?? krakenUrls['v2']!, requests: [JSON.stringify({ method: 'subscribe', params: { channel: 'trade', symbol: symbols, snapshot: true } })] };
};

/** The answer to an application's ping; pings of the websocket protocol are answered below this. */
export const answerTo = (text: string): string | undefined => {
  if (text.length > 200 || !text.includes('"ping"')) return undefined;
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    return undefined;
  }
  const { event, method, reqid, req_id: requestId } = (frame ?? {}) as Record<string, unknown>;
  if (event === 'ping') return JSON.stringify({ event: 'pong', reqid });
  if (method === 'ping') return JSON.stringify({ method: 'pong', req_id: requestId });
  return undefined;
};
