import type { BinanceRawTrade } from '../datasets/binance-trades.ts';
import type { KrakenRawTrade } from '../datasets/kraken-trades.ts';

/** A frame that is no trade is counted by one of these; it is never an error. */
export type FrameKind =
  | 'trade' | 'book' | 'book_snapshot' | 'quote' | 'ticker' | 'candle' | 'mark_price' | 'open_interest' | 'option_trade'
  | 'heartbeat' | 'ping' | 'pong' | 'status' | 'subscription' | 'error' | 'other';

/** `trade_id` is exact: a number while that is safe, a bigint past 2^53. */
export type CapturedBinanceTrade = Omit<BinanceRawTrade, 'trade_id'> & { trade_id: number | bigint };
export type CapturedTrade = CapturedBinanceTrade | KrakenRawTrade;

/** What one frame holds. A trade frame holds any number of trades. */
export type ParsedFrame =
  | { kind: 'trade'; trades: CapturedTrade[] }
  | { kind: Exclude<FrameKind, 'trade'> }
  | { kind: 'unparsable'; reason: string };

/** A frame as received, and when: nanoseconds since the epoch, as text. */
export interface Frame {
  receivedNs: string;
  text: string;
}

/** A frame that claims to hold a trade, and lacks what a trade needs. */
export class FrameError extends Error {}

/** The Kafka key of a trade: its symbol as the feed writes it, so that the trades of one symbol keep their order. */
export const symbolOf = (trade: CapturedTrade): string => ('symbol' in trade ? trade.symbol : trade.pair);
