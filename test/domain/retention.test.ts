import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { archiveBefore, dayMs, dayOfMs, describePolicy, keptForEver, parsePolicy, policyProblems, purgeBefore, tierOf } from '../../src/domain/retention.ts';
import type { RetentionPolicy, RetentionTier } from '../../src/domain/retention.ts';

const policies: fc.Arbitrary<RetentionPolicy> = fc.oneof(
  fc.constant(keptForEver),
  fc.record({ hotDays: fc.integer({ min: 1, max: 400 }), purgeDays: fc.constant(null) }),
  fc.tuple(fc.integer({ min: 1, max: 400 }), fc.integer({ min: 1, max: 400 })).map(([hotDays, more]) => ({ hotDays, purgeDays: hotDays + more })),
);
const days = fc.integer({ min: 0, max: 40_000 });
const order: Record<RetentionTier, number> = { hot: 0, archived: 1, purged: 2 };

test('a row stays hot for at least its full days, whatever the hour it came and the hour of the sweep', () => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 400 }), fc.integer({ min: 0, max: 40_000 * dayMs }), fc.integer({ min: 0, max: 500 * dayMs }), (hotDays, ingestedMs, laterMs) => {
    const isHot = tierOf({ hotDays, purgeDays: null }, dayOfMs(ingestedMs), dayOfMs(ingestedMs + laterMs)) === 'hot';
    expect(isHot || laterMs > hotDays * dayMs).toBe(true);
    expect(isHot && laterMs >= (hotDays + 2) * dayMs).toBe(false);
  }));
});

test('a row only moves from hot to archived to purged, never back, and an older row is never hotter than a younger one', () => {
  fc.assert(fc.property(policies, days, days, days, days, (policy, dayA, dayB, todayA, todayB) => {
    const tier = (day: number, today: number): number => order[tierOf(policy, day, today)];
    expect(tier(dayA, Math.max(todayA, todayB))).toBeGreaterThanOrEqual(tier(dayA, Math.min(todayA, todayB)));
    expect(tier(Math.min(dayA, dayB), todayA)).toBeGreaterThanOrEqual(tier(Math.max(dayA, dayB), todayA));
  }));
});

test('the limits of a day are those of the tiers', () => {
  fc.assert(fc.property(policies, days, days, (policy, day, today) => {
    const archived = archiveBefore(policy, today);
    const purged = purgeBefore(policy, today);
    expect(tierOf(policy, day, today)).toBe(purged !== null && day < purged ? 'purged' : archived !== null && day < archived ? 'archived' : 'hot');
    if (archived !== null && purged !== null) expect(purged).toBeLessThan(archived);
  }));
});

test('a policy reads back as it was written', () => {
  fc.assert(fc.property(policies, (policy) => {
    expect(policyProblems(policy)).toEqual([]);
    expect(parsePolicy(describePolicy(policy))).toEqual(policy);
  }));
});

test.each(['', '30', '30/', '30/90/5', 'a/b', '-1/5', 'never/30'])('%j is no policy', (text) => {
  expect(parsePolicy(text)).toBeUndefined();
});

test('an archive that is shorter than hot, and days that are no days, are problems, each named', () => {
  expect(policyProblems({ hotDays: 30, purgeDays: 30 })).toHaveLength(1);
  expect(policyProblems({ hotDays: 30, purgeDays: 7 })[0]).toContain('expected more than the 30 days');
  expect(policyProblems({ hotDays: 0, purgeDays: 1.5 })).toHaveLength(2);
  expect(policyProblems({ hotDays: null, purgeDays: 90 })).toHaveLength(1);
});
