import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import binanceTrades from '../../src/datasets/binance-trades.ts';
import { currencyBySuffix, tradeReasons } from '../../src/datasets/crypto-trades.ts';
import type { Dataset, Row } from '../../src/datasets/dataset.ts';
import krakenTrades from '../../src/datasets/kraken-trades.ts';
import { binanceRaw, krakenRaw } from '../support/raw-records.ts';

const context = { topic: 't', partition: 0, messageId: 'id' };
const binance = (given: Parameters<typeof binanceRaw>[0] = {}): Row => binanceTrades.map(binanceRaw(given), context);
const kraken = (given: Parameters<typeof krakenRaw>[0] = {}): Row => krakenTrades.map(krakenRaw(given), context);

describe('Binance', () => {
  test('a trade keeps the time, the texts and the ids of its frame', () => {
    expect(binance()).toEqual({
      message_id: 'id', trade_id: 'BINANCE-3071245454', symbol: 'BTCUSDT', exchange: 'BINANCE', asset_class: 'crypto', timestamp: 1_680_652_799_999_000,
      price: 2_816_547_000_000, quantity: 56_000, currency: 'USDT', side: 'SELL', trade_conditions: [], source_sequence: 3_071_245_454,
      ingestion_timestamp: 1_680_652_800_004_107, platform_sequence: null,
      vendor_data: '{"event_time_ms":1680652800000,"event_type":"trade","extra":{"a":"20720542592","b":"20720542158"},"is_best_match":true,"market":"spot","native_id":null}',
    });
  });

  test.each([['spot', 'BINANCE', 'crypto'], ['usdm', 'BINANCE_USDM', 'futures'], ['coinm', 'BINANCE_COINM', 'futures'], ['us', 'BINANCE_US', 'crypto']])('market %s is the venue %s', (market, exchange, assetClass) => {
    expect(binance({ market })).toMatchObject({ exchange, asset_class: assetClass });
  });

  test('a market that nobody knows is no trade of another venue', () => {
    expect(() => binance({ market: 'options' })).toThrow('market: expected spot, usdm, coinm, us, found "options"');
  });

  test('aggregate trades count in an id space of their own', () => {
    expect(binance({ event_type: 'aggTrade', trade_id: 7 })['trade_id']).toBe('BINANCE-AGG-7');
  });

  test('the buyer is the taker unless it is the maker', () => {
    expect(binance({ is_buyer_maker: false })['side']).toBe('BUY');
  });

  test('X of a futures frame becomes a condition and stays in vendor_data', () => {
    const row = binance({ market: 'usdm', extra: { X: 'INSURANCE_FUND' }, is_best_match: null });
    expect(row['trade_conditions']).toEqual(['insurance_fund']);
    expect(JSON.parse(row['vendor_data'] as string)).toMatchObject({ extra: { X: 'INSURANCE_FUND' }, is_best_match: null });
  });

  test.each([['BTCUSDT', 'USDT'], ['ETHBTC', 'BTC'], ['BTCUSD_210625', 'USD'], ['BTCUSD_PERP', 'USD'], ['BTCUSDT_210625', 'USDT'], ['BNBFDUSD', 'FDUSD'], ['BTCEUR', 'EUR'], ['USDT', 'UNKNOWN'], ['', 'UNKNOWN'], ['XYZ', 'UNKNOWN']])('the quote currency of %s is %s', (symbol, currency) => {
    expect(currencyBySuffix(symbol)).toBe(currency);
  });
});

describe('Kraken', () => {
  test('a v1 trade has an id of every field', () => {
    expect(kraken()).toEqual({
      message_id: 'id', trade_id: 'KRAKEN-XBT/USD|58721.20000|0.02798644|1617666461.465618|s|m|', symbol: 'BTCUSD', exchange: 'KRAKEN', asset_class: 'crypto',
      timestamp: 1_617_666_461_465_618, price: 5_872_120_000_000, quantity: 2_798_644, currency: 'USD', side: 'SELL', trade_conditions: ['market'], source_sequence: null,
      ingestion_timestamp: 1_617_666_461_507_299, platform_sequence: null,
      vendor_data: '{"channel_id":321,"extra":{},"market":"spot","misc":"","native_id":null,"pair":"XBT/USD"}',
    });
  });

  test('two v1 trades that differ in any field, or in their ordinal among equal ones, never share an id', () => {
    const text = fc.constantFrom('', '|', '%', '%7C', 'a', '1', '|1', 's', 'm');
    const trade = fc.record({ pair: text, price: text, volume: text, timestamp: text, side: text, order_type: text, misc: text, extra: fc.constantFrom<Record<string, string>>({}, { frame_ordinal: '1' }, { frame_ordinal: '2' }) });
    fc.assert(fc.property(trade, trade, (a, b) => {
      expect(kraken(a)['trade_id'] === kraken(b)['trade_id']).toBe(JSON.stringify(a) === JSON.stringify(b));
    }), { numRuns: 2_000 });
  });

  test('equal trades of one frame are told apart by their ordinal', () => {
    const extras: Record<string, string>[] = [{}, { frame_ordinal: '1' }, { frame_ordinal: '2' }];
    const ids = extras.map((extra) => kraken({ extra })['trade_id']);
    expect(ids).toEqual(['', '|1', '|2'].map((ordinal) => `KRAKEN-XBT/USD|58721.20000|0.02798644|1617666461.465618|s|m|${ordinal}`));
  });

  test('a v2 trade is called what the feed calls it', () => {
    expect(kraken({ native_id: '66819466', pair: 'ETH/USD', channel_id: 0 })).toMatchObject({ trade_id: 'KRAKEN-66819466', source_sequence: 66_819_466, symbol: 'ETHUSD' });
  });

  test('a futures trade is of another venue, its product without XBT', () => {
    expect(kraken({ market: 'futures', native_id: 'e706a8bd-f88d', pair: 'PI_XBTUSD', order_type: '', extra: { type: 'fill', seq: '28479' } })).toMatchObject({
      trade_id: 'KRAKEN_FUTURES-e706a8bd-f88d', exchange: 'KRAKEN_FUTURES', asset_class: 'futures', symbol: 'PI_BTCUSD', currency: 'USD', trade_conditions: ['fill'], source_sequence: null,
    });
  });

  test.each([['FI_BCHUSD_210625', 'FI_BCHUSD_210625', 'USD'], ['ALGO/XBT', 'ALGOBTC', 'BTC'], ['DASH/EUR', 'DASHEUR', 'EUR'], ['', '', 'UNKNOWN'], ['/', '', 'UNKNOWN']])('the pair %s is %s in %s', (pair, symbol, currency) => {
    expect(kraken({ pair })).toMatchObject({ symbol, currency });
  });

  test('b buys, s sells, and anything else stays what it is for the rules to refuse', () => {
    expect([kraken({ side: 'b' })['side'], kraken({ side: 's' })['side'], kraken({ side: 'x' })['side']]).toEqual(['BUY', 'SELL', 'x']);
  });
});

describe('vendor_data', () => {
  test('is the JSON of its fields, whatever the texts hold', () => {
    fc.assert(fc.property(fc.dictionary(fc.string().filter((key) => key !== '__proto__'), fc.string({ unit: 'binary' })), fc.string({ unit: 'binary' }), (extra, misc) => {
      const text = kraken({ extra, misc })['vendor_data'] as string;
      expect(JSON.parse(text)).toEqual({ channel_id: 321, extra: { ...extra }, market: 'spot', misc, native_id: null, pair: 'XBT/USD' });
    }));
  });

  test('equal trades have equal texts, in whatever order the fields came', () => {
    expect(binance({ extra: { a: '1', b: '2' } })['vendor_data']).toBe(binance({ extra: { b: '2', a: '1' } })['vendor_data']);
  });
});

describe('rules', () => {
  const now = 1_680_652_800_004_107;
  const reasonsOf = (dataset: Dataset, row: Row): string[] => {
    const verdict = dataset.rules.safeParse(row);
    return verdict.success ? [] : verdict.error.issues.map(({ message }) => message);
  };

  test.each<[string, Parameters<typeof binanceRaw>[0], string[]]>([
    ['a good trade', {}, []],
    ['no price', { price: '' }, ['price_is_null']],
    ['a price of 0, as X=NA has', { price: '0' }, ['price_must_be_positive']],
    ['a negative price', { price: '-1' }, ['price_must_be_positive']],
    ['a price of nine decimals', { price: '0.000000001' }, ['price_not_representable']],
    ['a price of eleven digits before the point', { price: '10000000000' }, ['price_not_representable']],
    ['a price that is no number', { price: 'NaN' }, ['price_not_representable']],
    ['no quantity', { quantity: '' }, ['quantity_is_null']],
    ['a quantity of 0', { quantity: '0.00000000' }, ['quantity_must_be_positive']],
    ['a quantity of nine decimals', { quantity: '1.123456789' }, ['quantity_not_representable']],
    ['a trade at the tolerated skew', { trade_time_ms: (now + 5_000_000 - 107) / 1000 }, []],
    ['a trade past the tolerated skew', { trade_time_ms: (now + 5_000_000 + 893) / 1000 }, ['timestamp_in_future']],
    ['a trade of a year ago', { ingestion_timestamp: 1_680_652_799_999_000 + 365 * 86_400_000_000 }, []],
    ['a trade older than a year', { ingestion_timestamp: 1_680_652_799_999_001 + 365 * 86_400_000_000 }, ['timestamp_too_old']],
    ['a time that no µs count holds', { trade_time_ms: Number.MAX_SAFE_INTEGER }, ['timestamp_not_representable']],
    ['no symbol', { symbol: '' }, ['symbol_required']],
    ['several', { price: '0', quantity: '', symbol: '' }, ['price_must_be_positive', 'quantity_is_null', 'symbol_required']],
  ])('%s', (_, given, reasons) => {
    expect(reasonsOf(binanceTrades, binance(given))).toEqual(reasons);
  });

  test('a side that is neither b nor s is refused', () => {
    expect(reasonsOf(krakenTrades, kraken({ side: '' }))).toEqual(['invalid_side']);
    expect(reasonsOf(krakenTrades, kraken({ timestamp: 'now' }))).toEqual(['timestamp_not_representable']);
  });

  test('"now" is the receive time of the record: an old capture is not refused', () => {
    expect(reasonsOf(krakenTrades, kraken())).toEqual([]);
  });

  test('every reason belongs to one error type', () => {
    const reasons: string[] = Object.values(tradeReasons).flat();
    expect(new Set(reasons).size).toBe(reasons.length);
  });
});
