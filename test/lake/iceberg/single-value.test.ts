import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { PrimitiveType } from '../../../src/lake/schema.ts';
import {
  boundLengthMax, compareUtf8, compareValues, deserializeValue, serializeValue, truncateLowerBound, truncateUpperBound, type SingleValue,
} from '../../../src/lake/iceberg/single-value.ts';

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
const text = fc.string({ unit: 'binary', maxLength: 40 });

describe('single-value serialisation', () => {
  test.each<[PrimitiveType, SingleValue, string]>([
    ['boolean', true, '01'],
    ['int', -2, 'feffffff'],
    ['date', 19_000, '384a0000'],
    ['long', 1n, '0100000000000000'],
    ['timestamptz', -1n, 'ffffffffffffffff'],
    ['double', 1, '000000000000f03f'],
    ['string', 'é', 'c3a9'],
    ['binary', Uint8Array.of(0, 255), '00ff'],
    ['decimal(18,8)', 0n, '00'],
    ['decimal(18,8)', 127n, '7f'],
    ['decimal(18,8)', 128n, '0080'],
    ['decimal(18,8)', -128n, '80'],
    ['decimal(18,8)', -129n, 'ff7f'],
    ['decimal(18,8)', 1420n, '058c'],
  ])('%s %s is %s', (type, value, expected) => {
    expect(hex(serializeValue(type, value))).toBe(expected);
    expect(deserializeValue(type, Buffer.from(expected, 'hex'))).toEqual(value instanceof Uint8Array ? Buffer.from(value) : value);
  });

  test('every decimal, long and string comes back, and a decimal takes as few bytes as it can', () => {
    fc.assert(fc.property(fc.bigInt({ min: -(10n ** 18n), max: 10n ** 18n }), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), text, (decimal, long, string) => {
      const bytes = serializeValue('decimal(18,8)', decimal);
      expect(deserializeValue('decimal(18,8)', bytes)).toBe(decimal);
      expect(bytes.length === 1 || deserializeValue('decimal(18,8)', bytes.subarray(1)) !== decimal).toBe(true);
      expect(deserializeValue('long', serializeValue('long', long))).toBe(long);
      expect(deserializeValue('string', serializeValue('string', string.toWellFormed()))).toBe(string.toWellFormed());
    }));
  });
});

describe('bounds', () => {
  test('a cut lower bound is never above its value, a cut upper bound never below, and neither is longer than 16', () => {
    fc.assert(fc.property(fc.oneof<fc.Arbitrary<string | Uint8Array>[]>(text, fc.uint8Array({ maxLength: 40 })), (value) => {
      const wellFormed = typeof value === 'string' ? value.toWellFormed() : value;
      const lower = truncateLowerBound(value);
      const upper = truncateUpperBound(value);
      expect(compareValues(lower, wellFormed)).toBeLessThanOrEqual(0);
      expect([...lower].length).toBeLessThanOrEqual(boundLengthMax);
      expect(upper === null || (compareValues(upper, wellFormed) >= 0 && [...upper].length <= boundLengthMax)).toBe(true);
    }));
  });

  test('an upper bound steps over surrogates, carries past U+10FFFF, and is absent when nothing is greater', () => {
    expect(truncateUpperBound(`${'a'.repeat(15)}\ud7ff!`)).toBe(`${'a'.repeat(15)}\ue000`);
    expect(truncateUpperBound(`${'a'.repeat(15)}\u{10ffff}!`)).toBe(`${'a'.repeat(14)}b`);
    expect(truncateUpperBound('\u{10ffff}'.repeat(17))).toBeNull();
    expect(truncateUpperBound(new Uint8Array(17).fill(255))).toBeNull();
    expect(truncateUpperBound('x'.repeat(16))).toBe('x'.repeat(16));
  });

  test('strings are ordered as their UTF-8 bytes are', () => {
    fc.assert(fc.property(text, text, (a, b) => {
      const [x, y] = [a.toWellFormed(), b.toWellFormed()];
      expect(Math.sign(compareUtf8(x, y))).toBe(Math.sign(Buffer.compare(Buffer.from(x), Buffer.from(y))));
    }));
    expect(compareUtf8('\uffff', '\u{10000}')).toBe(-1);
  });
});
