import binanceTrades from '../../src/datasets/binance-trades.ts';
import krakenTrades from '../../src/datasets/kraken-trades.ts';
import marketData from '../../src/datasets/market-data.ts';
import { z } from 'zod';
import type { Pipeline } from '../../src/datasets/pipeline.ts';

/** Set to 1 for a release with a bug: it takes every trade of ETHUSDT for one without a symbol. */
export const badReleaseVariable = 'TIDEMARK_TEST_BAD_RELEASE';

const isBad = process.env[badReleaseVariable] === '1';
const noEther = z.any().check((payload) => {
  if ((payload.value as { symbol: string }).symbol !== 'ETHUSDT') return;
  payload.issues.push({ code: 'custom', message: 'symbol_required', input: payload.value, path: ['symbol'], continue: true });
});

// The quick way of the shipped rules knows nothing of others.
const { columnar: _quick, ...binance } = binanceTrades;

/** The shipped pipeline, with the rules of a bad release while {@link badReleaseVariable} is set. */
const pipeline: Pipeline = {
  ...marketData,
  datasets: [isBad ? { ...binance, rules: binance.rules.and(noEther), ruleVersion: 'binance-trades/bad' } : binanceTrades, krakenTrades],
};

export default pipeline;
