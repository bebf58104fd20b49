import { WorkflowFailedError } from '@temporalio/client';
import { Worker } from '@temporalio/worker';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { createRandom } from '../../../src/capture/random.ts';
import { FakeBackfill } from '../../support/fake-backfill.ts';
import type { Environment } from '../environment.ts';
import { connectEnvironment } from '../environment.ts';
import { seed } from '../../support/seed.ts';

let environment: Environment;
beforeAll(async () => {
  environment = await connectEnvironment(inject('stack').temporal.address);
}, 180_000);
afterAll(() => environment.temporal.teardown());

const chunkNumbers = (count: number): number[] => Array.from({ length: count }, (_, n) => n);
const published = ['silver', 'dlq', 'gold', 'finish'];

describe('while a chunk is refined', () => {
  test('a pause is seen, starts no other chunk, and holds for as long as it is not resumed', async () => {
    let running = 0;
    let most = 0;
    await FakeBackfill.run(environment, { chunks: 8, chunkRows: 10, parallelism: 2, onChunk: async (chunk, backfill) => {
      most = Math.max(most, running += 1);
      if (chunk === 3) {
        await backfill.pause();
        await backfill.until(({ phase, chunksRunning }) => phase === 'paused' && chunksRunning > 0);
      }
      running -= 1;
    } }, async (backfill) => {
      const paused = await backfill.until(({ phase, chunksRunning, chunksRefined }) => phase === 'paused' && chunksRunning === 0 && chunksRefined >= 4);
      // What a resumed one would do at once: it has many turns to do so.
      for (let turn = 0; turn < 10; turn += 1) await backfill.throttle({ parallelism: 2 });
      expect(await backfill.progress()).toMatchObject({ phase: 'paused', chunksRefined: paused.chunksRefined, chunksRunning: 0 });
      await backfill.resume();
      expect(await backfill.result()).toMatchObject({ rows: 80 });
      expect([...backfill.refined].sort((a, b) => a - b)).toEqual(chunkNumbers(8));
      expect(most).toBeLessThanOrEqual(2);
    });
  });

  test('a pause during the last one holds back the publishing, and a cancellation then leaves every table as it was', async () => {
    await FakeBackfill.run(environment, { chunks: 2, chunkRows: 10, parallelism: 1, onChunk: async (chunk, backfill) => {
      if (chunk === 1) await backfill.pause();
    } }, async (backfill) => {
      await backfill.until(({ phase, chunksRefined }) => phase === 'paused' && chunksRefined === 2);
      await backfill.throttle({ parallelism: 2 });
      await backfill.handle.cancel();
      await expect(backfill.result()).rejects.toThrow(WorkflowFailedError);
      expect(backfill.steps).toEqual(['plan', 'claim', 'refine 0', 'refine 1', 'abandon']);
    });
  });

  test('a rate and a parallelism are seen: what is started next keeps to them', async () => {
    let running = 0;
    const beside: number[] = [];
    let allThree: (() => void) | undefined;
    const three = new Promise<void>((resolve) => { allThree = resolve; });
    await FakeBackfill.run(environment, { chunks: 9, chunkRows: 10, parallelism: 1, onChunk: async (chunk, backfill) => {
      beside[chunk] = running += 1;
      if (chunk === 2) await backfill.throttle({ rowsPerSecond: 1e6, parallelism: 3 });
      if (running === 3) allThree!();
      if (chunk >= 2 && chunk <= 4) await three;
      running -= 1;
    } }, async (backfill) => {
      await backfill.result();
      // Chunks 3 and 4 are children that are started together: which of them gets to its activity first says nothing.
      expect([...beside.slice(0, 3), ...beside.slice(3, 5).sort()]).toEqual([1, 1, 1, 2, 3]);
      expect(Math.max(...beside)).toBe(3);
      expect(await backfill.progress()).toMatchObject({ rowsPerSecondLimit: 1e6, parallelism: 3 });
    });
  });

  test('a cancellation is seen at once: the chunk is not waited for, and nothing is published', async () => {
    let letGo: (() => void) | undefined;
    const held = new Promise<void>((resolve) => { letGo = resolve; });
    await FakeBackfill.run(environment, { chunks: 4, chunkRows: 10, parallelism: 1, onChunk: async (chunk, backfill) => {
      if (chunk !== 1) return;
      await backfill.handle.cancel();
      await held;
    } }, async (backfill) => {
      await expect(backfill.result()).rejects.toThrow(WorkflowFailedError);
      expect((await backfill.handle.describe()).status.name).toBe('CANCELLED');
      expect(backfill.steps).toEqual(['plan', 'claim', 'refine 0', 'refine 1', 'abandon']);
      letGo!();
    });
  });
});

describe('a backfill that continues as new again and again', () => {
  test('refines each chunk once and loses no Signal, whenever they come, and every run of it replays', async () => {
    const chunks = 30;
    const roundChunks = 6;
    const random = createRandom(seed);
    let last = 0;
    let sending: Promise<void> = Promise.resolve();
    // One after the other: of two Signals on their way at once nobody knows which comes last.
    const throttle = (backfill: FakeBackfill): Promise<void> => {
      sending = sending.then(() => backfill.throttle({ rowsPerSecond: 1e6 + (last += 1) }));
      return sending;
    };
    const pauses = Array.from({ length: 4 }, () => Promise.withResolvers<void>());
    await FakeBackfill.run(environment, { chunks, chunkRows: 10, parallelism: 3, historyEventsMax: 50, onChunk: async (chunk, backfill) => {
      // A backfill that is faster than this test would else be over before the last pause.
      await pauses[Math.floor(chunk / roundChunks) - 1]?.promise;
      for (let n = random.below(3); n > 0; n -= 1) await throttle(backfill);
    } }, async (backfill) => {
      for (const [round, paused] of pauses.entries()) {
        const at = round * roundChunks + random.below(roundChunks);
        await backfill.until((progress) => progress.chunksRefined >= at);
        await backfill.pause();
        paused.resolve();
        // Nothing of the pause is lost on the way to the next run: it holds until it is taken back.
        const { chunksRefined } = await backfill.until(({ phase, chunksRunning }) => phase === 'paused' && chunksRunning === 0);
        for (let n = random.below(20); n > 0; n -= 1) await throttle(backfill);
        expect(await backfill.progress(), `seed ${seed}`).toMatchObject({ phase: 'paused', chunksRefined, rowsPerSecondLimit: 1e6 + last });
        await backfill.resume();
      }
      expect(await backfill.result(), `seed ${seed}`).toMatchObject({ rows: chunks * 10, silverRows: chunks * 9, dlqRows: chunks, dlqByType: { price_validation: chunks } });
      expect([...backfill.refined].sort((a, b) => a - b), `seed ${seed}`).toEqual(chunkNumbers(chunks));
      expect(backfill.steps.filter((step) => !step.startsWith('refine')), `seed ${seed}`).toEqual(['plan', 'claim', ...published]);
      expect(await backfill.progress()).toMatchObject({ phase: 'completed', chunksTotal: chunks, rowsPerSecondLimit: 1e6 + last });
      const histories = await backfill.histories();
      expect(histories.length).toBeGreaterThan(4);
      for (const history of histories) await Worker.runReplayHistory({ workflowBundle: environment.bundle }, history, backfill.handle.workflowId);
    });
  }, 180_000);

  test('heeds a cancellation, whenever it comes: every table is as it was', async () => {
    const random = createRandom(seed);
    for (let round = 0; round < 3; round += 1) {
      const at = 4 + random.below(20);
      const cancelled = Promise.withResolvers<void>();
      await FakeBackfill.run(environment, { chunks: 30, chunkRows: 10, parallelism: 2, historyEventsMax: 40, onChunk: async (chunk) => {
        // A backfill that is faster than this test would else have published before.
        if (chunk === 29) await cancelled.promise;
      } }, async (backfill) => {
        await backfill.until(({ chunksRefined }) => chunksRefined >= at);
        await backfill.handle.cancel();
        cancelled.resolve();
        await expect(backfill.result(), `seed ${seed}`).rejects.toThrow(WorkflowFailedError);
        expect((await backfill.handle.describe()).status.name).toBe('CANCELLED');
        expect(backfill.steps.filter((step) => !step.startsWith('refine')), `seed ${seed}`).toEqual(['plan', 'claim', 'abandon']);
      });
    }
  }, 180_000);
});
