import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { microsOfSeconds, unscaledOf } from '../../src/datasets/decimal.ts';

const unscaled = (text: string | null) => unscaledOf(text, 18, 8);

describe('decimal(18,8)', () => {
  test.each([
    ['28165.47000000', 2_816_547_000_000], ['0.00056000', 56_000], ['1', 100_000_000], ['0', 0], ['-0', 0], ['-1.5', -150_000_000], ['+1', 100_000_000],
    ['0.000023750', 2_375], ['.5', 50_000_000], ['5.', 500_000_000], ['007.10', 710_000_000], ['1e-8', 1], ['2.14E+4', 2_140_000_000_000], ['0e9999', 0],
    ['90071992.54740991', 9_007_199_254_740_991], ['90071992.54740992', 9_007_199_254_740_992n], ['9999999999.99999999', 999_999_999_999_999_999n], ['-9999999999.99999999', -999_999_999_999_999_999n],
  ])('%s is %s', (text, value) => {
    expect(unscaled(text)).toBe(value);
  });

  test.each(['0.000000001', '1.123456789', '10000000000', '9999999999.999999999', '1e10', '1e-9', 'abc', '1,5', '0x10', '1 ', ' 1', '.', '-', '1.2.3', '1e', 'NaN', 'Infinity', '1e99999', '１'])('%s cannot be held, and is not rounded', (text) => {
    expect(unscaled(text)).toBeNaN();
  });

  test('an empty text and null have no value', () => {
    expect(unscaled('')).toBeNull();
    expect(unscaled(null)).toBeNull();
  });

  test('every unscaled value comes back from its text', () => {
    fc.assert(fc.property(fc.bigInt({ min: -(10n ** 18n) + 1n, max: 10n ** 18n - 1n }), fc.nat(8), (value, places) => {
      const scaled = value / 10n ** BigInt(8 - places) * 10n ** BigInt(8 - places);
      const digits = String(scaled < 0n ? -scaled : scaled).padStart(9, '0');
      const fraction = digits.slice(-8).slice(0, places);
      const text = `${scaled < 0n ? '-' : ''}${digits.slice(0, -8)}${fraction === '' ? '' : `.${fraction}`}`;
      expect(BigInt(unscaled(text) as number | bigint)).toBe(scaled);
    }));
  });
});

describe('seconds as text', () => {
  test.each([['1617666461.465618', 1_617_666_461_465_618], ['1617666461', 1_617_666_461_000_000], ['1617666461.4', 1_617_666_461_400_000], ['1617666461.4656189', 1_617_666_461_465_618], ['0.000001', 1]])('%s is %i µs', (text, micros) => {
    expect(microsOfSeconds(text)).toBe(micros);
  });

  test.each(['', '.', '1.', '.5', '-1', '1e9', '99999999999', '1617666461.46a', 'now', '9999999999.0'])('%s is no time', (text) => {
    expect(microsOfSeconds(text)).toBeNaN();
  });

  test('no time passes through a double: every µs of a second is told apart', () => {
    fc.assert(fc.property(fc.nat(4_102_444_800), fc.nat(999_999), (seconds, micros) => {
      expect(microsOfSeconds(`${seconds}.${String(micros).padStart(6, '0')}`)).toBe(seconds * 1_000_000 + micros);
    }));
  });
});
