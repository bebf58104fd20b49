import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  boundsLengthMax, compareBytes, compareSingleValues, decodeSingleValue, encodeSingleValue, truncateLowerBound, truncateUpperBound,
} from '../../../src/lake/iceberg/single-value.ts';
import type { PrimitiveType } from '../../../src/lake/schema.ts';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');

test('single values are serialised as the Iceberg specification lays down', () => {
  expect(hex(encodeSingleValue('boolean', true))).toBe('01');
  expect(hex(encodeSingleValue('int', 34))).toBe('22000000');
  expect(hex(encodeSingleValue('long', -2n))).toBe('feffffffffffffff');
  expect(hex(encodeSingleValue('decimal(18,8)', 1420n))).toBe('058c');
  expect(hex(encodeSingleValue('decimal(18,8)', -1n))).toBe('ff');
  expect(hex(encodeSingleValue('decimal(18,8)', 128n))).toBe('0080');
  expect(hex(encodeSingleValue('decimal(18,8)', -128n))).toBe('80');
  expect(hex(encodeSingleValue('decimal(18,8)', 0n))).toBe('00');
  expect(hex(encodeSingleValue('string', 'aé'))).toBe('61c3a9');
});

test('every single value survives its serialisation', () => {
  const cases: fc.Arbitrary<[PrimitiveType, bigint | number | string | boolean]>[] = [
    fc.tuple(fc.constantFrom<PrimitiveType>('long', 'timestamp', 'timestamptz', 'decimal(18,8)'), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n })),
    fc.tuple(fc.constantFrom<PrimitiveType>('int', 'date'), fc.integer()),
    fc.tuple(fc.constant<PrimitiveType>('double'), fc.double({ noNaN: true })),
    fc.tuple(fc.constant<PrimitiveType>('string'), fc.string({ unit: 'grapheme' })),
    fc.tuple(fc.constant<PrimitiveType>('boolean'), fc.boolean()),
  ];
  fc.assert(fc.property(fc.oneof(...cases), ([type, value]) => {
    expect(decodeSingleValue(type, encodeSingleValue(type, value))).toEqual(value);
  }));
});

/** An upper bound is not below the value, and if it was cut, above any longer value with the same prefix. */
const enclosesFromAbove = (upper: Uint8Array | undefined, text: string): boolean => {
  const bytes = encodeSingleValue('string', text);
  const prefix = [...text].slice(0, boundsLengthMax);
  if (upper === undefined) return prefix.every((character) => character === '\u{10ffff}');
  if (compareBytes(upper, bytes) === 0) return prefix.length === [...text].length;
  const codePoints = [...new TextDecoder('utf-8', { fatal: true }).decode(upper)].length;
  return codePoints <= boundsLengthMax && compareBytes(upper, encodeSingleValue('string', `${prefix.join('')}\u{10ffff}`)) > 0;
};

test('a bound cut to 16 code points still encloses the value it was cut from', () => {
  const texts = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 40 }),
    fc.string({ unit: fc.constantFrom('\u{10ffff}', '\ud7ff', 'z', '\u{1f600}', '￿'), minLength: 10, maxLength: 24 }),
  );
  fc.assert(fc.property(texts, (text) => {
    const bytes = encodeSingleValue('string', text);
    const lower = truncateLowerBound('string', bytes);
    const upper = truncateUpperBound('string', bytes);
    expect(compareBytes(lower, bytes)).toBeLessThanOrEqual(0);
    expect([...new TextDecoder().decode(lower)].length).toBeLessThanOrEqual(boundsLengthMax);
    expect(enclosesFromAbove(upper, text)).toBe(true);
  }));
});

test('a binary bound that is all 0xff has no short upper bound', () => {
  expect(truncateUpperBound('binary', new Uint8Array(20).fill(0xff))).toBeUndefined();
  const bytes = new Uint8Array(20).fill(0xff);
  bytes[3] = 7;
  expect(hex(truncateUpperBound('binary', bytes)!)).toBe('ffffff08');
});

test('strings are ordered by code point, not by UTF-16 code unit', () => {
  expect(compareSingleValues('\u{1f600}', '￿')).toBeGreaterThan(0);
});
