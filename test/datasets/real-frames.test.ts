import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { runCapture } from '../../src/capture/capture.ts';
import { captureFileSource } from '../../src/capture/capture-file.ts';
import binanceTrades from '../../src/datasets/binance-trades.ts';
import krakenTrades from '../../src/datasets/kraken-trades.ts';
import { equal, exact } from '../capture/exact-decimal.ts';
import { exchangeData, unlessAbsent } from '../capture/exchange-data.ts';
import { memorySink } from '../capture/memory-sink.ts';

interface Truth {
  trades: number;
  not_positive: number;
  symbols: Record<string, { trades: number; distinct_ids: number | null; quantity: string; notional: string }>;
}
const truths = (exchangeData ? JSON.parse(readFileSync(join(exchangeData, 'TRUTH.json'), 'utf8')) : {}) as Record<string, Truth>;
const files = exchangeData ? readdirSync(exchangeData).filter((name) => name.endsWith('.frames.gz')).sort() : [];

describe.runIf(exchangeData)(`real captures${unlessAbsent}`, () => {
  test.each(files)('%s: every trade is valid, and ids and exact sums are those worked out apart from the project', async (name) => {
    const truth = truths[name]!;
    const sink = memorySink();
    await runCapture({ source: captureFileSource([join(exchangeData!, name)]), sink });
    const sums = new Map<string, { trades: number; quantity: bigint; notional: bigint; ids: Set<string> }>();
    const refused: string[] = [];
    for (const { trade } of sink.trades) {
      const dataset = 'symbol' in trade ? binanceTrades : krakenTrades;
      const row = dataset.map(trade, { topic: dataset.topic, partition: 0, messageId: 'id' });
      const verdict = dataset.rules.safeParse(row);
      if (!verdict.success) refused.push(verdict.error.issues.map(({ message }) => message).join());
      const symbol = 'symbol' in trade ? trade.symbol : trade.pair;
      const sum = sums.get(symbol) ?? { trades: 0, quantity: 0n, notional: 0n, ids: new Set<string>() };
      sums.set(symbol, sum);
      const quantity = BigInt(row['quantity'] as number | bigint);
      sum.trades += 1;
      sum.quantity += quantity;
      sum.notional += quantity * BigInt(row['price'] as number | bigint);
      sum.ids.add(row['trade_id'] as string);
    }
    expect(refused).toHaveLength(truth.not_positive);
    expect([...sums.keys()].sort()).toEqual(Object.keys(truth.symbols).sort());
    for (const [symbol, expected] of Object.entries(truth.symbols)) {
      const sum = sums.get(symbol)!;
      expect(sum.trades).toBe(expected.trades);
      // v1 names no trades: all of them are different ones, so that the ids that are built must be as well.
      expect(sum.ids.size).toBe(expected.distinct_ids ?? expected.trades);
      expect(equal({ digits: sum.quantity, scale: 8 }, exact(expected.quantity))).toBe(true);
      expect(equal({ digits: sum.notional, scale: 16 }, exact(expected.notional))).toBe(true);
    }
  });
});
