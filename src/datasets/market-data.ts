import binanceTrades from './binance-trades.ts';
import krakenTrades from './kraken-trades.ts';
import type { Pipeline } from './pipeline.ts';

/** The shipped pipeline: trades of Binance and Kraken. */
const marketData: Pipeline = {
  namespace: 'market_data',
  dlqTable: 'silver_dlq_trades',
  datasets: [binanceTrades, krakenTrades],
};

export default marketData;
