import { afterEach, describe, expect, test } from 'vitest';
import { RefinePool } from '../../src/refine/refine-pool.ts';
import type { RefineInput } from '../../src/refine/refine.ts';

const pools: RefinePool[] = [];
afterEach(async () => { for (const pool of pools.splice(0)) await pool.close(); });

const config = {
  s3: { endpoint: undefined, region: 'r', accessKeyId: 'a', secretAccessKey: 's', bucket: 'b' }, schemaRegistry: { url: 'http://127.0.0.1:1' }, pipelineUrl: 'data:text/javascript,export default {}',
};
const poolOf = (threads: number, options: { threadHeapMiB?: number; idleMsMax?: number } = {}) => {
  const lost: string[] = [];
  const pool = new RefinePool({ ...config, microBatch: { threads } }, { warn: (_, message) => { lost.push(message); } }, { threadUrl: new URL('pool-thread.ts', import.meta.url), ...options });
  pools.push(pool);
  return { pool, lost };
};
/** The test thread does what the batch id says, and answers with the batch id and its thread's id. */
const run = (pool: RefinePool, batchId: string, options?: Parameters<RefinePool['refine']>[1]) =>
  pool.refine({ batchId } as RefineInput, options) as unknown as Promise<{ batchId: string; threadId: number }>;

describe('a pool of threads', () => {
  test('answers each task with its own result, on no more threads than it has', async () => {
    const { pool } = poolOf(2);
    const results = await Promise.all(Array.from({ length: 12 }, (_, i) => run(pool, `batch ${i}`)));
    expect(results.map(({ batchId }) => batchId)).toEqual(Array.from({ length: 12 }, (_, i) => `batch ${i}`));
    expect(new Set(results.map(({ threadId }) => threadId)).size).toBeLessThanOrEqual(2);
  });

  test('a thread that was idle for so long ends without being called lost, and the next task has a new one', async () => {
    const { pool, lost } = poolOf(1, { idleMsMax: 1 });
    const { threadId } = await run(pool, 'a');
    await expect.poll(async () => (await run(pool, 'b')).threadId, { timeout: 20_000 }).not.toBe(threadId);
    expect(lost).toEqual([]);
  });

  test('hands progress to the task that makes it', async () => {
    const { pool } = poolOf(1);
    const progress: unknown[] = [];
    await run(pool, 'a', { onProgress: (step) => { progress.push(step); } });
    await run(pool, 'b');
    expect(progress).toEqual([{ rows: 7 }]);
  });

  test('an error keeps its code, whether it may be retried, and its cause', async () => {
    const { pool } = poolOf(1);
    await expect(run(pool, 'refuse')).rejects.toMatchObject({ name: 'TidemarkError', code: 'REGISTRY_UNAVAILABLE', retryable: true, message: 'no answer', cause: { message: 'ECONNREFUSED' } });
  });

  test.each(['exit', 'throw'])('a thread that dies (%s) rejects its task, retryable, and is replaced', async (death) => {
    const { pool, lost } = poolOf(1);
    const waiting = run(pool, 'after');
    const dying = run(pool, death);
    const later = run(pool, 'later');
    await expect(dying).rejects.toMatchObject({ code: 'REFINE_THREAD_LOST', retryable: true });
    expect((await waiting).batchId).toBe('after');
    expect((await later).batchId).toBe('later');
    expect(lost).toHaveLength(1);
  });

  test('a thread that grows past its heap dies alone, not the process', async () => {
    const { pool } = poolOf(1, { threadHeapMiB: 32 });
    await expect(run(pool, 'fill memory')).rejects.toMatchObject({ code: 'REFINE_THREAD_LOST' });
    expect((await run(pool, 'next')).batchId).toBe('next');
  });

  test('an abort rejects at once with the signal\'s reason, and the thread goes on with the next task', async () => {
    const { pool } = poolOf(1);
    const abort = new AbortController();
    const started = Promise.withResolvers<void>();
    const aborted = run(pool, 'wait', { signal: abort.signal, onProgress: () => { started.resolve(); } });
    const next = run(pool, 'next');
    await started.promise;
    abort.abort(new Error('cancelled by the operator'));
    await expect(aborted).rejects.toThrow('cancelled by the operator');
    expect((await next).batchId).toBe('next');
  });

  test('a task that is aborted while it waits is never run', async () => {
    const { pool, lost } = poolOf(1);
    const first = new AbortController();
    const second = new AbortController();
    const started = Promise.withResolvers<void>();
    const running = run(pool, 'wait', { signal: first.signal, onProgress: () => { started.resolve(); } });
    const waiting = run(pool, 'exit', { signal: second.signal });
    await started.promise;
    second.abort(new Error('not needed'));
    await expect(waiting).rejects.toThrow('not needed');
    first.abort(new Error('stop'));
    await expect(running).rejects.toThrow('stop');
    expect((await run(pool, 'alive')).batchId).toBe('alive');
    expect(lost).toEqual([]);
  });

  test('an aborted signal runs nothing', async () => {
    const { pool } = poolOf(1);
    await expect(run(pool, 'exit', { signal: AbortSignal.abort(new Error('too late')) })).rejects.toThrow('too late');
  });

  test('closing ends the threads and rejects what runs or waits', async () => {
    const { pool, lost } = poolOf(1);
    const started = Promise.withResolvers<void>();
    const running = run(pool, 'wait', { onProgress: () => { started.resolve(); } });
    const waiting = run(pool, 'next');
    const outcomes = Promise.allSettled([running, waiting]);
    await started.promise;
    await pool.close();
    expect((await outcomes).map((outcome) => (outcome.status === 'rejected' ? (outcome.reason as { code: string }).code : 'fulfilled'))).toEqual(['REFINE_THREAD_LOST', 'REFINE_THREAD_LOST']);
    await expect(run(pool, 'again')).rejects.toMatchObject({ code: 'REFINE_THREAD_LOST' });
    expect(lost).toEqual([]);
  });
});
