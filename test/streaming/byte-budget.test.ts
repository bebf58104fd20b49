import { expect, test } from 'vitest';
import { ByteBudget } from '../../src/streaming/byte-budget.ts';

const a = {};
const b = {};

test('at the limit it is full until the low-water mark, and tells both', () => {
  const told: boolean[] = [];
  const budget = new ByteBudget(100, (full) => told.push(full));
  expect(budget.tryTake(60, a)).toBe(true);
  expect(budget.tryTake(30, b)).toBe(true);
  expect(budget.tryTake(11, b)).toBe(false);
  expect(budget.full).toBe(true);
  expect(budget.mayRead(a)).toBe(false);
  budget.give(15);
  expect(budget.full).toBe(true);
  budget.give(10);
  expect(budget.full).toBe(false);
  expect(told).toEqual([true, false]);
  expect(budget.peakBytes).toBe(90);
});

test('a record larger than the budget passes alone, when all else is gone', () => {
  const budget = new ByteBudget(100);
  expect(budget.tryTake(20, b)).toBe(true);
  expect(budget.tryTake(20, b)).toBe(true);
  expect(budget.tryTake(500, a)).toBe(false);
  expect(budget.tryTake(1, b), 'others must not starve it').toBe(false);
  budget.give(20);
  expect(budget.mayRead(a), 'it would only be fetched in vain').toBe(false);
  budget.give(20);
  expect(budget.mayRead(b)).toBe(false);
  expect(budget.mayRead(a)).toBe(true);
  expect(budget.tryTake(500, a)).toBe(true);
  expect(budget.usedBytes).toBe(500);
  budget.give(500);
  expect(budget.mayRead(b)).toBe(true);
  expect(budget.tryTake(1, b)).toBe(true);
});

test('a topic partition that was taken away no longer holds the budget back for its large record', () => {
  const budget = new ByteBudget(100);
  budget.tryTake(20, b);
  budget.tryTake(500, a);
  budget.forget(a);
  expect(budget.full).toBe(false);
  expect(budget.tryTake(10, b)).toBe(true);
});

test('who waited for the whole budget and needs less by now takes what fits, and what does not fit pauses: it never asks in vain', () => {
  const budget = new ByteBudget(100);
  budget.tryTake(50, a);
  budget.tryTake(50, b);
  expect(budget.tryTake(60, a)).toBe(false);
  // Both buffers become files, which their store does not take.
  budget.give(50);
  budget.give(50);
  budget.take(40);
  budget.take(40);
  expect(budget.mayRead(a)).toBe(true);
  expect(budget.tryTake(10, a)).toBe(true);
  expect(budget.tryTake(20, a)).toBe(false);
  expect(budget.full).toBe(true);
  budget.give(40);
  expect(budget.full).toBe(false);
  expect(budget.mayRead(b)).toBe(true);
});
