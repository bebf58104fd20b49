import type { Exchange } from '../../src/capture/feed.ts';
import type { CapturedTrade } from '../../src/capture/frame.ts';
import type { TradeSink } from '../../src/capture/trade-sink.ts';

/** Keeps what is written. */
export const memorySink = (): TradeSink & { trades: { exchange: Exchange; trade: CapturedTrade }[] } => {
  const trades: { exchange: Exchange; trade: CapturedTrade }[] = [];
  return {
    trades,
    write: (exchange, batch) => {
      for (const trade of batch) trades.push({ exchange, trade });
      return Promise.resolve();
    },
    flush: () => Promise.resolve(),
    abort: () => undefined,
    produced: () => ({ records: trades.length, offsets: {} }),
  };
};
