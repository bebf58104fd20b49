import binanceTrades from '../src/datasets/binance-trades.ts';
import marketData from '../src/datasets/market-data.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';

/** One source, so that what is measured is one table of each kind. */
const pipeline: Pipeline = { ...marketData, datasets: [binanceTrades] };
export default pipeline;
