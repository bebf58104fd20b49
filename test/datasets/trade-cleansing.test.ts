import { describe, expect, test } from 'vitest';
import { Purge, keep } from '../../src/datasets/cleanse.ts';
import type { CleanseContext } from '../../src/datasets/cleanse.ts';
import marketData from '../../src/datasets/market-data.ts';
import { cleanseFunctionOf } from '../../src/datasets/pipeline.ts';
import { binanceRaw, krakenRaw } from '../support/raw-records.ts';

const contextOf = (source: string): CleanseContext => ({
  source, topic: 'raw', partition: 0, offset: 1, kafkaTimestamp: 0n, schemaId: 1, errorType: 'price_validation', reasons: ['price_is_null'], rawBytes: null,
});
const [binance, kraken] = ['binance-trades', 'kraken-trades'] as const;
const verdictOf = (name: string, source: string, record: object | null): unknown => cleanseFunctionOf(marketData, name, source).cleanse(record, contextOf(source));

describe('price-separators', () => {
  test.each([
    ['1,234.50', '1234.50'], ['12,345,678', '12345678'], ['1 234.5', '1234.5'], ['1_234', '1234'], [' 7.5 ', '7.5'], ['-1,234', '-1234'],
  ])('reads the price %j as %s, and leaves every other field as it is', (price, mended) => {
    const record = binanceRaw({ price });
    expect(verdictOf('price-separators', binance, record)).toEqual({ ...record, price: mended });
    expect(record.price).toBe(price);
  });

  test.each(['1234.50', '1,23', '1.234,50', 'one', '', '1,234,5', '1e5'])('keeps what it cannot read for sure: %j', (price) => {
    expect(verdictOf('price-separators', binance, binanceRaw({ price }))).toBe(keep);
  });

  test('mends the volume of Kraken and the quantity of Binance', () => {
    expect(verdictOf('price-separators', kraken, krakenRaw({ volume: '1,000.5' }))).toMatchObject({ volume: '1000.5' });
    expect(verdictOf('price-separators', binance, binanceRaw({ quantity: '1,000.5' }))).toMatchObject({ quantity: '1000.5' });
  });
});

test('kraken-side-words reads sides that are written out, and keeps what is right or unknown', () => {
  for (const [side, letter] of [['buy', 'b'], ['SELL', 's'], [' Bid ', 'b'], ['ask', 's']] as const) expect(verdictOf('kraken-side-words', kraken, krakenRaw({ side }))).toEqual(krakenRaw({ side: letter }));
  for (const side of ['b', 's', 'x', '']) expect(verdictOf('kraken-side-words', kraken, krakenRaw({ side }))).toBe(keep);
});

test('binance-no-trades purges only what is no trade in every respect', () => {
  const none = { price: '0', quantity: '0', extra: { X: 'NA' } };
  expect(verdictOf('binance-no-trades', binance, binanceRaw(none))).toBeInstanceOf(Purge);
  for (const given of [{ ...none, price: '1' }, { ...none, quantity: '1' }, { ...none, extra: { X: 'MARKET' } }, { ...none, extra: {} }]) expect(verdictOf('binance-no-trades', binance, binanceRaw(given))).toBe(keep);
});

test('every function keeps a record that does not decode, and takes the sources that it names alone', () => {
  for (const [name, { sources }] of Object.entries(marketData.cleansing!)) {
    for (const source of sources) expect(verdictOf(name, source, null), name).toBe(keep);
  }
  expect(() => cleanseFunctionOf(marketData, 'kraken-side-words', binance)).toThrow('expected one of price-separators, binance-no-trades, found kraken-side-words');
  expect(() => cleanseFunctionOf(marketData, 'constructor', binance)).toThrow('found constructor');
});
