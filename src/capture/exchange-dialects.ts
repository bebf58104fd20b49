import { createHash } from 'node:crypto';
import { secondsText } from './generated-trades.ts';
import type { Feed } from './feed.ts';
import type { MarketEvent } from './market-model.ts';

/** How an exchange writes a market: for the simulator. */
export interface Dialect {
  /** The trade frames of an event, and how many trades each holds. */
  tradeFrames(event: MarketEvent): { text: string; trades: number }[];
  /** What comes between trades: book updates, tickers, quotes. */
  otherFrame(event: MarketEvent, n: number): string;
  /** What is sent each second while nothing else is; undefined where the exchange sends nothing. */
  heartbeat: string | undefined;
  greeting: string | undefined;
  /** The answers to a request, and the symbols it subscribes trades of. */
  answer(request: unknown): { frames: string[]; symbols: string[] };
  /** Trades that come again after a reconnect, in the way this exchange repeats them. */
  repeat(frames: readonly string[]): string[];
  /** A frame of this exchange that nobody can read, of several kinds. */
  rubbish(n: number): string;
}

const rubbishOf = (brokenTrade: string, n: number): string => {
  const kinds = ['<html><body>502 Bad Gateway</body></html>', '{"e":"trade","E":16806528', '\u0000\u0001\u0002', brokenTrade];
  return kinds[n % kinds.length]!;
};

const textsOf = (value: unknown): string[] => (Array.isArray(value) ? value.filter((item) => typeof item === 'string') : []);

const binance = ({ market, feed }: Feed): Dialect => {
  const isSpot = market === 'spot' || market === 'us';
  const rest = isSpot ? ',"M":true' : '';
  return {
    tradeFrames: ({ symbol, timeMicros, isBuyerMaker, firstId, prices, quantities }) => {
      const millis = Math.floor(timeMicros / 1_000);
      const stream = `${symbol.toLowerCase()}@${feed}`;
      return prices.map((price, i) => {
        const id = firstId + i;
        const fields = feed === 'aggTrade'
          ? `"a":${id},"p":"${price}","q":"${quantities[i]}","f":${id * 2},"l":${id * 2 + 1}`
          : `"t":${id},"p":"${price}","q":"${quantities[i]}",${isSpot ? `"b":${firstId * 2 + i},"a":${firstId * 2 + i + 1}` : '"X":"MARKET"'}`;
        return { trades: 1, text: `{"stream":"${stream}","data":{"e":"${feed}","E":${millis + 1},"s":"${symbol}",${fields},"T":${millis},"m":${isBuyerMaker}${rest}}}` };
      });
    },
    otherFrame: ({ symbol, timeMicros, prices }, n) => {
      const stream = symbol.toLowerCase();
      const price = prices[0]!;
      return n % 2 === 0
        ? `{"stream":"${stream}@bookTicker","data":{"u":${36_090_299_876 + n},"s":"${symbol}","b":"${price}","B":"7.98680000","a":"${price}","A":"3.26888000"}}`
        : `{"stream":"${stream}@depth@100ms","data":{"e":"depthUpdate","E":${Math.floor(timeMicros / 1_000)},"s":"${symbol}","U":${n},"u":${n + 2},"b":[["${price}","7.00000000"],["${price}","0.00000000"]],"a":[]}}`;
    },
    heartbeat: undefined,
    greeting: undefined,
    answer: () => ({ frames: [], symbols: [] }),
    repeat: (frames) => [...frames],
    rubbish: (n) => rubbishOf('{"e":"trade","E":1680652800000,"s":"BTCUSDT","t":1,"q":"1","T":1680652800000,"m":true}', n),
  };
};

const krakenV1: Dialect = {
  // All trades of an event are one frame: equal ones among them are different trades.
  tradeFrames: ({ symbol, timeMicros, isBuyerMaker, prices, quantities }) => {
    const time = secondsText(timeMicros);
    const side = isBuyerMaker ? 's' : 'b';
    return [{ trades: prices.length, text: `[321,[${prices.map((price, i) => `["${price}","${quantities[i]}","${time}","${side}","${i % 3 === 0 ? 'm' : 'l'}",""]`).join(',')}],"trade","${symbol}"]` }];
  },
  otherFrame: ({ symbol, timeMicros, prices }, n) => (n % 2 === 0
    ? `[320,{"b":[["${prices[0]}","7.26106570","${secondsText(timeMicros)}"]],"c":"2040672112"},"book-25","${symbol}"]`
    : '{"event":"heartbeat"}'),
  heartbeat: '{"event":"heartbeat"}',
  greeting: '{"connectionID":13935949241502919679,"event":"systemStatus","status":"online","version":"1.8.3"}',
  answer: (request) => {
    const { event, pair, subscription } = (request ?? {}) as { event?: unknown; pair?: unknown; subscription?: { name?: unknown } };
    if (event === 'ping') return { frames: ['{"event":"pong"}'], symbols: [] };
    if (event !== 'subscribe' || subscription?.name !== 'trade') return { frames: ['{"errorMessage":"Malformed request","event":"subscriptionStatus","status":"error"}'], symbols: [] };
    const symbols = textsOf(pair);
    return { symbols, frames: symbols.map((symbol) => `{"channelID":321,"channelName":"trade","event":"subscriptionStatus","pair":"${symbol}","status":"subscribed","subscription":{"name":"trade"}}`) };
  },
  repeat: (frames) => [...frames],
  rubbish: (n) => rubbishOf('[321,[["1.0"]],"trade","XBT/USD"]', n),
};

const isoMicros = (micros: number): string => `${new Date(Math.floor(micros / 1_000)).toISOString().slice(0, -1)}${String(micros % 1_000).padStart(3, '0')}Z`;

const krakenV2: Dialect = {
  tradeFrames: ({ symbol, timeMicros, isBuyerMaker, firstId, prices, quantities }) => {
    const time = isoMicros(timeMicros);
    const side = isBuyerMaker ? 'sell' : 'buy';
    const trades = prices.map((price, i) => `{"symbol":"${symbol}","side":"${side}","price":${price},"qty":${quantities[i]},"ord_type":"${i % 3 === 0 ? 'market' : 'limit'}","trade_id":${firstId + i},"timestamp":"${time}"}`);
    return [{ trades: trades.length, text: `{"channel":"trade","type":"update","data":[${trades.join(',')}]}` }];
  },
  otherFrame: ({ symbol, prices }, n) => (n % 2 === 0
    ? `{"channel":"book","type":"update","data":[{"symbol":"${symbol}","bids":[{"price":${prices[0]},"qty":0.50000000}],"asks":[],"checksum":2439117997}]}`
    : '{"channel":"heartbeat"}'),
  heartbeat: '{"channel":"heartbeat"}',
  greeting: '{"channel":"status","type":"update","data":[{"version":"2.0.10","system":"online","api_version":"v2","connection_id":16763580994566763544}]}',
  answer: (request) => {
    const { method, params } = (request ?? {}) as { method?: unknown; params?: { channel?: unknown; symbol?: unknown } };
    if (method === 'ping') return { frames: ['{"method":"pong","time_in":"2026-09-26T18:09:11.775238Z","time_out":"2026-09-26T18:09:11.775279Z"}'], symbols: [] };
    if (method !== 'subscribe' || params?.channel !== 'trade') return { frames: ['{"error":"Malformed request","method":"subscribe","success":false}'], symbols: [] };
    const symbols = textsOf(params.symbol);
    return { symbols, frames: symbols.map((symbol) => `{"method":"subscribe","result":{"channel":"trade","snapshot":true,"symbol":"${symbol}"},"success":true,"time_in":"2026-09-26T18:09:11.775238Z","time_out":"2026-09-26T18:09:11.775279Z"}`) };
  },
  // A subscription starts with a snapshot of the last trades, so a reconnect sees them twice.
  repeat: (frames) => frames.map((frame) => frame.replace('"type":"update"', '"type":"snapshot"')),
  rubbish: (n) => rubbishOf('{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD"}]}', n),
};

/** A UUID that is the trade's own, and the same in every run. */
const uidOf = (symbol: string, id: number): string => {
  const hex = createHash('md5').update(`${symbol} ${id}`).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
};

const krakenFutures: Dialect = {
  tradeFrames: ({ symbol, timeMicros, isBuyerMaker, firstId, prices, quantities }) => prices.map((price, i) => ({
    trades: 1,
    text: `{"feed":"trade","product_id":"${symbol}","uid":"${uidOf(symbol, firstId + i)}","side":"${isBuyerMaker ? 'sell' : 'buy'}","type":"fill","seq":${firstId + i},"time":${Math.floor(timeMicros / 1_000)},"qty":${quantities[i]},"price":${price}}`,
  })),
  otherFrame: ({ symbol, timeMicros, prices }, n) => (n % 2 === 0
    ? `{"feed":"book","product_id":"${symbol}","side":"buy","seq":${n},"price":${prices[0]},"qty":0.0,"timestamp":${Math.floor(timeMicros / 1_000)}}`
    : `{"feed":"heartbeat","time":${Math.floor(timeMicros / 1_000)}}`),
  heartbeat: '{"feed":"heartbeat","time":1618678101493}',
  greeting: '{"event":"info","version":1}',
  answer: (request) => {
    const { event, feed, product_ids: products } = (request ?? {}) as { event?: unknown; feed?: unknown; product_ids?: unknown };
    if (event !== 'subscribe') return { frames: ['{"event":"error","message":"Invalid request"}'], symbols: [] };
    const symbols = feed === 'trade' ? textsOf(products) : [];
    return { symbols, frames: [JSON.stringify({ event: 'subscribed', feed, ...(feed === 'trade' ? { product_ids: symbols } : {}) })] };
  },
  // A snapshot for each product, newest first.
  repeat: (frames) => {
    const products = Map.groupBy(frames, (frame) => /"product_id":"([^"]*)"/.exec(frame)?.[1] ?? '');
    return [...products].map(([product, trades]) => `{"feed":"trade_snapshot","product_id":"${product}","trades":[${trades.toReversed().join(',')}]}`);
  },
  rubbish: (n) => rubbishOf('{"feed":"trade","product_id":"PI_XBTUSD","side":"buy"}', n),
};

export const dialectOf = (feed: Feed): Dialect => {
  if (feed.exchange === 'binance') return binance(feed);
  if (feed.market === 'futures') return krakenFutures;
  return feed.feed === 'v1' ? krakenV1 : krakenV2;
};
