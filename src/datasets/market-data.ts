import binanceTrades from './binance-trades.ts';
import krakenTrades from './kraken-trades.ts';
import type { Pipeline } from './pipeline.ts';
import { tradeCleansing } from './trade-cleansing.ts';

/** The shipped pipeline: trades of Binance and Kraken. */
const marketData: Pipeline = {
  namespace: 'market_data',
  dlqTable: 'silver_dlq_trades',
  datasets: [binanceTrades, krakenTrades],
  cleansing: tradeCleansing,
};

export default marketData;
