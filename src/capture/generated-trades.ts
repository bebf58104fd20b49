import type { KrakenRawTrade } from '../datasets/kraken-trades.ts';
import type { Exchange } from './feed.ts';
import type { CapturedBinanceTrade, CapturedTrade } from './frame.ts';
import type { MarketEvent, MarketModelOptions } from './market-model.ts';
import { marketEvents } from './market-model.ts';

export interface GeneratedTradesOptions extends MarketModelOptions {
  exchange: Exchange;
  /** How long after its event time a trade is received, µs. Default 0; negative is a receive clock that runs behind. */
  delayMicros?: number;
  /** Share of trades that come a second time, unchanged but for the time they are received. On top of `trades`. Default 0. */
  repeatRatio?: number;
}

/** How many events lie between a trade and its repetition. */
const repeatDistance = 64;

/** Microseconds → `sec.micros`. */
export const secondsText = (micros: number): string => {
  const digits = String(micros);
  return `${digits.slice(0, -6)}.${digits.slice(-6)}`;
};

const binanceTrades = ({ symbol, timeMicros, isBuyerMaker, firstId, prices, quantities }: MarketEvent, receivedMicros: number): CapturedBinanceTrade[] => {
  const millis = Math.floor(timeMicros / 1_000);
  return prices.map((price, i) => ({
    event_type: 'trade', event_time_ms: millis + 1, symbol, trade_id: firstId + i, price, quantity: quantities[i]!, trade_time_ms: millis,
    is_buyer_maker: isBuyerMaker, is_best_match: true, ingestion_timestamp: receivedMicros, market: 'spot', native_id: null,
    extra: { b: String(firstId * 2 + i), a: String(firstId * 2 + i + 1) },
  }));
};

const krakenTrades = ({ symbol, timeMicros, isBuyerMaker, firstId, prices, quantities }: MarketEvent, receivedMicros: number): KrakenRawTrade[] => {
  const timestamp = secondsText(timeMicros);
  return prices.map((price, i) => ({
    channel_id: 0, price, volume: quantities[i]!, timestamp, side: isBuyerMaker ? 's' : 'b', order_type: i % 3 === 0 ? 'm' : 'l', misc: '', pair: symbol,
    ingestion_timestamp: receivedMicros, market: 'spot', native_id: String(firstId + i), extra: {},
  }));
};

/**
 * Trades of the market model as raw records, without a frame and a socket in between: what a benchmark loads a topic
 * with. They come in the batches of the model's events.
 *
 * @returns How many trades there were, and how many of them came twice.
 */
export function* generateTrades({ exchange, delayMicros = 0, repeatRatio = 0, ...model }: GeneratedTradesOptions): Generator<CapturedTrade[], { trades: number; repeated: number }, undefined> {
  const tradesOf = exchange === 'binance' ? binanceTrades : krakenTrades;
  const recent: MarketEvent[] = [];
  let trades = 0;
  let repeated = 0;
  for (const event of marketEvents(model)) {
    yield tradesOf(event, event.timeMicros + delayMicros);
    trades += event.prices.length;
    if (repeatRatio > 0) {
      recent.push(event);
      const earlier = recent.length > repeatDistance ? recent.shift()! : undefined;
      if (earlier && repeated < trades * repeatRatio) {
        yield tradesOf(earlier, event.timeMicros + delayMicros);
        repeated += earlier.prices.length;
      }
    }
  }
  return { trades, repeated };
}
