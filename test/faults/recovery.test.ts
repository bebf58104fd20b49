import { afterAll, beforeAll, describe, expect, inject, test, vi } from 'vitest';
import { createRandom } from '../../src/capture/random.ts';
import { microBatchWorkflowId } from '../../src/contracts/micro-batch.ts';
import { streamWorkflowId } from '../../src/contracts/stream.ts';
import { exact, outcomeOf, startArmedPipeline } from '../support/armed-pipeline.ts';
import type { ArmedPipeline } from '../support/armed-pipeline.ts';
import { startHttpFaultProxy } from '../support/fault-proxy.ts';
import type { HttpFaultProxy } from '../support/fault-proxy.ts';
import { resetWorkflow } from '../support/fault-run.ts';
import { runCommitZombies } from '../support/commit-zombies.ts';
import { seed } from '../support/seed.ts';

const minutes = 60_000;
const source = 'binance-trades';

describe('the pipeline stays exact', () => {
  let s3: HttpFaultProxy;
  let pipeline: ArmedPipeline;
  beforeAll(async () => {
    const endpoints = inject('stack');
    s3 = await startHttpFaultProxy(endpoints.s3.endpoint);
    pipeline = await startArmedPipeline({ processEndpoints: { ...endpoints, s3: { ...endpoints.s3, endpoint: s3.url } } });
  }, 2 * minutes);
  afterAll(async () => {
    await pipeline?.stop();
    await s3?.close();
  }, minutes);

  test('while every third object is stored and its answer lost', async () => {
    let puts = 0;
    s3.onRequest = ({ method, path }) => (method === 'PUT' && path.includes('/market_data/') && (puts += 1) % 3 === 0 ? puts % 2 === 0 ? 'lostAnswer' : 'cutAnswer' : undefined);
    await Promise.all([pipeline.load('binance', 800), pipeline.load('kraken', 800)]);
    expect(await outcomeOf(pipeline)).toEqual(exact);
    s3.onRequest = undefined;
    expect(s3.struck['lostAnswer']).toBeGreaterThan(0);
    expect(s3.struck['cutAnswer']).toBeGreaterThan(0);
  }, 8 * minutes);

  test('when its stream workflow is reset to an earlier Workflow Task', async () => {
    await pipeline.load('binance', 400);
    await resetWorkflow(pipeline.running, streamWorkflowId(source), createRandom(3));
    await pipeline.load('binance', 400);
    expect(await outcomeOf(pipeline)).toEqual(exact);
  }, 8 * minutes);

  test('when a micro-batch that was published is reset, and runs again', async () => {
    // Gold has the rows of a micro-batch a moment before the stream workflow knows that it has ended.
    const { batch } = await vi.waitFor(async () => {
      const last = (await pipeline.running.state(source)).recent.at(-1);
      expect(last).toBeDefined();
      return last!;
    }, { timeout: 60_000, interval: 200 });
    const workflowId = microBatchWorkflowId(source, batch);
    const handle = pipeline.running.temporal.workflow.getHandle(workflowId);
    const { runId } = await handle.describe();
    await resetWorkflow(pipeline.running, workflowId, createRandom(5));
    await handle.result();
    expect((await handle.describe()).runId).not.toBe(runId);
    await pipeline.load('binance', 200);
    expect(await outcomeOf(pipeline)).toEqual(exact);
  }, 8 * minutes);

  test('when its stream workflow is terminated with the feed at its end', async () => {
    await pipeline.load('binance', 400);
    await pipeline.running.temporal.workflow.getHandle(streamWorkflowId(source)).terminate('a test');
    expect(await outcomeOf(pipeline)).toEqual(exact);
  }, 8 * minutes);

  test('when a streaming worker sleeps with a Bronze file on its way until others own its topic partitions, and wakes', async () => {
    const { streamingWorker } = pipeline.running;
    const held = Promise.withResolvers<void>();
    const caught = new Promise<string>((resolve) => {
      s3.onRequest = ({ method, path }) => {
        if (method !== 'PUT' || !path.includes('/bronze_binance_trades/data/')) return undefined;
        s3.onRequest = undefined;
        resolve(path);
        return { until: held.promise };
      };
    });
    await pipeline.load('binance', 400);
    const late = await caught;
    process.kill(streamingWorker.pid!, 'SIGSTOP');
    const other = pipeline.running.startProcess('other-streaming-worker', 'run-streaming-worker.ts');
    try {
      await pipeline.load('binance', 400);
      expect(await outcomeOf(pipeline)).toEqual(exact);
    } finally {
      // The file lands now, under an epoch that is long over, and its owner reports it.
      held.resolve();
      process.kill(streamingWorker.pid!, 'SIGCONT');
    }
    await pipeline.load('binance', 400);
    expect(await outcomeOf(pipeline)).toEqual(exact);
    const [, epoch] = /-(\d+)\.parquet/.exec(late)!;
    const files = await (await pipeline.running.lake.catalog.load('bronze_binance_trades')).scan();
    expect(files.filter(({ filePath }) => late.includes(filePath.slice(filePath.indexOf('/data/')))), `no file of epoch ${epoch}`).toEqual([]);
    await other.stop();
    await pipeline.load('binance', 100);
    expect(await outcomeOf(pipeline)).toEqual(exact);
  }, 8 * minutes);
});

test('two processes that sleep inside table commits while old versions are deleted lose nothing and repeat nothing', async () => {
  expect(await runCommitZombies({ s3: inject('stack').s3, seed, sleeps: 8 })).toMatchObject({ ok: true, problems: [], lost: 0, twice: 0 });
}, 8 * minutes);
