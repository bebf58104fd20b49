import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { decimalText, marketEvents } from '../../src/capture/market-model.ts';
import { createRandom } from '../../src/capture/random.ts';
import { TradeTruth } from '../../src/capture/trade-truth.ts';

const startMicros = 1_700_000_000_000_000;
const spanMicros = 3_600_000_000;

test('the same seed gives the same market, on every machine and in every release', () => {
  const random = createRandom(1);
  expect(Array.from({ length: 4 }, () => random.uint32())).toEqual([2_442_144_158, 3_238_099_751, 3_819_917_871, 2_104_621_829]);
  const digest = createHash('sha256');
  for (const event of marketEvents({ seed: 1, trades: 10_000, symbols: ['A', 'B', 'C'], startMicros, spanMicros })) digest.update(JSON.stringify(event));
  expect(digest.digest('hex').slice(0, 16)).toBe('bbf5fa1bd811229d');
});

test('a market has as many trades as were asked for, ids without holes, and each symbol strictly in time order', () => {
  fc.assert(fc.property(fc.nat(2 ** 31), fc.integer({ min: 1, max: 3_000 }), fc.integer({ min: 1, max: 8 }), fc.double({ min: 0, max: 1, noNaN: true }), (seed, trades, symbolCount, burstRatio) => {
    const symbols = Array.from({ length: symbolCount }, (_, i) => `S${i}`);
    const last = new Map<string, { id: number; micros: number }>();
    const wrong: string[] = [];
    let count = 0;
    let latest = startMicros;
    for (const { symbol, timeMicros, firstId, prices, quantities } of marketEvents({ seed, trades, symbols, startMicros, spanMicros, burstRatio })) {
      const before = last.get(symbol);
      if (before && (firstId !== before.id + 1 || timeMicros <= before.micros)) wrong.push(`${symbol} ${firstId} ${timeMicros}`);
      if (quantities.length !== prices.length) wrong.push(`${symbol} ${firstId}: ${quantities.length} quantities`);
      // Decimal(18,8), and greater than nothing.
      for (const text of [...prices, ...quantities]) if (!/^\d{1,10}\.\d{8}$/.test(text) || !/[1-9]/.test(text)) wrong.push(text);
      last.set(symbol, { id: firstId + prices.length - 1, micros: timeMicros });
      latest = Math.max(latest, timeMicros);
      count += prices.length;
    }
    expect(wrong).toEqual([]);
    expect(count).toBe(trades);
    expect(latest).toBeLessThanOrEqual(startMicros + spanMicros + trades);
  }), { numRuns: 60 });
});

test('bursts of up to hundreds of trades share one moment', () => {
  const sizes = [...marketEvents({ seed: 5, trades: 50_000, symbols: ['A'], startMicros, spanMicros })].map(({ prices }) => prices.length);
  expect(Math.max(...sizes)).toBeGreaterThan(150);
  expect(sizes.filter((size) => size === 1).length).toBeGreaterThan(sizes.length * 0.9);
});

test.each([[1, 2, '0.01000000'], [123456, 2, '1234.56000000'], [5, 0, '5.00000000'], [123456789n, 8, '1.23456789'], [0, 6, '0.00000000']] as const)('%d units of 10^-%d are %s', (units, decimals, text) => {
  expect(decimalText(units, decimals)).toBe(text);
});

test('the truth of what was generated sums quantities exactly', () => {
  const truth = new TradeTruth();
  truth.add('A', ['0.10000000', '0.20000000', '90071992.54740993']);
  truth.add('B', ['3']);
  expect(truth.trades).toBe(4);
  expect(truth.bySymbol()).toEqual({ A: { trades: 3, quantity: '90071992.84740993' }, B: { trades: 1, quantity: '3.00000000' } });
});
