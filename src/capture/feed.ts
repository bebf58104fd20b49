import { TidemarkError } from '../domain/errors.ts';

export type Exchange = 'binance' | 'kraken';

const markets = { binance: ['spot', 'usdm', 'coinm', 'us'], kraken: ['spot', 'futures'] } as const satisfies Record<Exchange, readonly string[]>;

/** Where frames come from: the market is not in a frame, and BTCUSDT of two markets are different instruments. */
export interface Feed {
  readonly exchange: Exchange;
  /** Binance: spot, usdm, coinm, us. Kraken: spot, futures. */
  readonly market: string;
  /** What was subscribed, or which version of the API: trade, aggTrade; v1, v2. Frames say themselves what they are. */
  readonly feed: string;
  readonly source: string;
}

/** @throws TidemarkError BAD_INPUT for an exchange or market that capture does not know. */
export const feedOf = (exchange: string, market: string, feed: string, source: string): Feed => {
  if (exchange !== 'binance' && exchange !== 'kraken') {
    throw new TidemarkError('BAD_INPUT', `exchange: expected binance or kraken, found ${JSON.stringify(exchange)}`);
  }
  const known: readonly string[] = markets[exchange];
  if (!known.includes(market)) {
    throw new TidemarkError('BAD_INPUT', `market of ${exchange}: expected ${known.join(', ')}, found ${JSON.stringify(market)}`);
  }
  return { exchange, market, feed, source };
};
