import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { applyTransform, dayOf, floorDiv, hourOf } from '../../../src/lake/iceberg/transforms.ts';

test('times before 1970 fall into the day and hour that contain them', () => {
  expect(dayOf(-1n)).toBe(-1);
  expect(hourOf(-1n)).toBe(-1);
  expect(hourOf(-3_600_000_000n)).toBe(-1);
  expect(hourOf(0n)).toBe(0);
  expect(dayOf(86_400_000_000n)).toBe(1);
  expect(applyTransform('hour', 'timestamptz', 7_200_000_000n)).toBe(2);
  expect(applyTransform('identity', 'string', 'a')).toBe('a');
  expect(applyTransform('day', 'timestamptz', null)).toBeNull();
});

test('floor division puts every value between its quotient and the next', () => {
  fc.assert(fc.property(fc.bigInt(), fc.bigInt({ min: 1n }), (value, divisor) => {
    const quotient = floorDiv(value, divisor);
    expect(quotient * divisor <= value && value < (quotient + 1n) * divisor).toBe(true);
  }));
});
