import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { FakeLake } from '../../support/fake-lake.ts';
import type { Environment } from '../environment.ts';
import { StreamUnderTest, connectEnvironment, range } from '../environment.ts';

let environment: Environment;
beforeAll(async () => {
  environment = await connectEnvironment(inject('stack').temporal.address);
}, 180_000);
afterAll(() => environment.temporal.teardown());

test('thousands of reports, and what follows from them, stay under 5,000 events in every run', async () => {
  const lake = new FakeLake();
  await StreamUnderTest.run(environment, lake, async (stream) => {
    const keys = Array.from({ length: 100 }, (_, partition) => `trades/${partition}`);
    const claims = await stream.claim('worker-1', ...keys);
    const cycles = 25;
    for (let cycle = 0; cycle < cycles; cycle += 1) {
      await Promise.all(keys.map((name) => stream.report('worker-1', claims, range(name, cycle * 10, cycle * 10 + 10))));
      await stream.until(({ totals }) => totals.goldRows === (cycle + 1) * keys.length * 10, 60_000);
    }
    const lengths = (await stream.histories()).map(({ events }) => events?.length ?? 0);
    expect(lengths.length).toBeGreaterThanOrEqual(2);
    expect(Math.max(...lengths)).toBeLessThan(5_000);
  });
}, 300_000);
