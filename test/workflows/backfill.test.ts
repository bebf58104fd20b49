import { tsToMs } from '@temporalio/common/lib/time.js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FakeBackfill } from '../support/fake-backfill.ts';
import type { FakeBackfillOptions } from '../support/fake-backfill.ts';
import type { Environment } from './environment.ts';
import { startEnvironment } from './environment.ts';

let environment: Environment;
beforeAll(async () => {
  environment = await startEnvironment();
}, 180_000);
afterAll(() => environment.temporal.teardown());

/** Seconds of the Workflow's own time from its first chunk on; the server skips those in which nothing happens. */
const secondsOf = (options: FakeBackfillOptions): Promise<number> => FakeBackfill.run(environment, options, async (backfill) => {
  await backfill.result();
  const times = (await backfill.histories()).flatMap(({ events }) => events ?? []);
  const from = times.find(({ startChildWorkflowExecutionInitiatedEventAttributes: attributes }) => attributes)!;
  expect(backfill.refined).toHaveLength(options.chunks);
  return (tsToMs(times.at(-1)!.eventTime) - tsToMs(from.eventTime)) / 1_000;
});

test('a rate is kept within 5 % over an hour, whatever the parallelism', async () => {
  const seconds = await secondsOf({ chunks: 60, chunkRows: 60_000, rowsPerSecond: 1_000, parallelism: 4 });
  expect(seconds).toBeGreaterThan(3_600 * 0.95);
  expect(seconds).toBeLessThan(3_600 * 1.05);
}, 300_000);

test('a rate that is changed half-way is kept within 5 % from then on', async () => {
  const seconds = await secondsOf({
    chunks: 60, chunkRows: 60_000, rowsPerSecond: 1_000, parallelism: 1, onChunk: async (chunk, backfill) => {
      if (chunk === 30) await backfill.throttle({ rowsPerSecond: 500 });
    },
  });
  expect(seconds).toBeGreaterThan((1_800 + 3_600) * 0.95);
  expect(seconds).toBeLessThan((1_800 + 3_600) * 1.05);
}, 300_000);

test('a rate is kept within 5 % across runs that continue as new', async () => {
  const seconds = await secondsOf({ chunks: 60, chunkRows: 60_000, rowsPerSecond: 1_000, parallelism: 1, historyEventsMax: 60 });
  expect(seconds).toBeGreaterThan(3_600 * 0.95);
  expect(seconds).toBeLessThan(3_600 * 1.05);
}, 300_000);
