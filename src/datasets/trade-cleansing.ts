import type { BinanceRawTrade } from './binance-trades.ts';
import type { CleanseFunction } from './cleanse.ts';
import { defineCleanse, keep, purge } from './cleanse.ts';
import type { KrakenRawTrade } from './kraken-trades.ts';

// Cleanse functions of the shipped datasets, by the names that `replay-dlq --cleanse` takes.

/** `1,234.50`, `1 234.50` and `1_234.50` as `1234.50`; undefined: nothing to mend. */
const withoutSeparators = (text: string): string | undefined => {
  const mended = text.trim().replaceAll(/(?<=\d)[,_ \u00A0\u202F](?=\d{3}(?!\d))/g, '');
  return mended === text || !/^-?\d+(\.\d+)?$/.test(mended) ? undefined : mended;
};

const sideLetters: Readonly<Record<string, string>> = { buy: 'b', bid: 'b', b: 'b', sell: 's', ask: 's', s: 's' };

export const tradeCleansing: Readonly<Record<string, CleanseFunction>> = {
  'price-separators': defineCleanse<BinanceRawTrade | KrakenRawTrade>({
    description: 'Takes thousands separators and outer spaces out of prices and quantities',
    sources: ['binance-trades', 'kraken-trades'],
    cleanse: (record) => {
      if (record === null) return keep;
      const amount = 'quantity' in record ? record.quantity : record.volume;
      const price = withoutSeparators(record.price);
      const mended = withoutSeparators(amount);
      if (price === undefined && mended === undefined) return keep;
      const amounts = mended === undefined ? {} : 'quantity' in record ? { quantity: mended } : { volume: mended };
      return { ...record, ...(price === undefined ? {} : { price }), ...amounts };
    },
  }),

  'kraken-side-words': defineCleanse<KrakenRawTrade>({
    description: 'Reads sides that are written out (buy, SELL, bid, ask) as b and s',
    sources: ['kraken-trades'],
    cleanse: (record) => {
      const side = record === null ? undefined : sideLetters[record.side.trim().toLowerCase()];
      return record === null || side === undefined || side === record.side ? keep : { ...record, side };
    },
  }),

  'binance-no-trades': defineCleanse<BinanceRawTrade>({
    description: 'Purges frames of the futures feed that are no trades: price and quantity of 0, order type NA',
    sources: ['binance-trades'],
    cleanse: (record) => (record !== null && record.extra['X'] === 'NA' && Number(record.price) === 0 && Number(record.quantity) === 0
      ? purge('no trade: the feed reports order type NA with a price of 0')
      : keep),
  }),
};
