import { afterAll, beforeAll, expect, test } from 'vitest';
import { historyEventsMaxDefault } from '../../src/contracts/stream.ts';
import { FakeLake } from '../support/fake-lake.ts';
import type { Environment } from './environment.ts';
import { StreamUnderTest, range, startEnvironment } from './environment.ts';

// In a file of its own, on a server of its own: the clock of the test server stands still for ever once a Workflow was
// terminated while an activity of it waited for its next attempt ("Unbalanced lock and unlock calls").
let environment: Environment;
beforeAll(async () => {
  environment = await startEnvironment();
}, 180_000);
afterAll(() => environment.temporal.teardown());

test('a month of reports stays under 5,000 events in every run', async () => {
  const lake = new FakeLake();
  await StreamUnderTest.run(environment, lake, async (stream) => {
    const keys = Array.from({ length: 6 }, (_, partition) => `trades/${partition}`);
    const claims = await stream.claim('worker-1', ...keys);
    const cycles = 120;
    for (let cycle = 0; cycle < cycles; cycle += 1) {
      await Promise.all(keys.map((name) => stream.report('worker-1', claims, range(name, cycle * 10, cycle * 10 + 10))));
      await environment.temporal.sleep('6 hours');
    }
    await stream.until(({ totals }) => totals.goldRows === cycles * keys.length * 10);
    const lengths = (await stream.histories()).map(({ events }) => events?.length ?? 0);
    expect(lengths.length).toBeGreaterThanOrEqual(2);
    expect(Math.max(...lengths)).toBeLessThan(5_000);
    expect(Math.max(...lengths)).toBeGreaterThan(historyEventsMaxDefault);
  });
}, 300_000);
