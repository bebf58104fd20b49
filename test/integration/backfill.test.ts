import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { WorkflowFailedError } from '@temporalio/client';
import type { WorkflowHandle } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { configToEnvironment } from '../../src/config/config.ts';
import type { BackfillInput, BackfillResult } from '../../src/contracts/backfill.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../../src/contracts/backfill.ts';
import type { ReprocessProgress } from '../../src/contracts/reprocess.ts';
import { progressQuery, reprocessSignals } from '../../src/contracts/reprocess.ts';
import { deleteRecords, fetchOffsetBounds } from '../../src/kafka/topics.ts';
import { claimsOf } from '../../src/reprocess/claims.ts';
import { exact, outcomeOf, startArmedPipeline } from '../support/armed-pipeline.ts';
import type { ArmedPipeline } from '../support/armed-pipeline.ts';
import { rowTexts } from '../support/table-rows.ts';

const minutes = 60_000;
const source = 'binance-trades';
const tables = ['silver_binance_trades', 'silver_kraken_trades', 'silver_dlq_trades', 'gold_crypto_trades'] as const;

let pipeline: ArmedPipeline;
beforeAll(async () => {
  pipeline = await startArmedPipeline({}, inject('stack'));
  await Promise.all([pipeline.load('binance', 2_000), pipeline.load('kraken', 300)]);
  await pipeline.running.untilMerged();
}, 8 * minutes);
afterAll(() => pipeline.stop());

let ids = 0;
const start = async (input: Partial<BackfillInput> = {}): Promise<WorkflowHandle> => {
  const { temporal, config } = pipeline.running;
  const id = input.id ?? `test-${(ids += 1)}`;
  return temporal.workflow.start(backfillWorkflowType, {
    workflowId: backfillWorkflowId(id), taskQueue: config.temporal.taskQueue,
    args: [{ id, source, range: { by: 'all' }, rowsPerSecond: null, parallelism: 2, ...input } satisfies BackfillInput],
  });
};
const rowsNow = async (): Promise<Record<string, string[]>> => {
  const { lake } = pipeline.running;
  return Object.fromEntries(await Promise.all(tables.map(async (table) => [table, await rowTexts(lake.store, await lake.catalog.load(table))] as const)));
};
const progressOf = (handle: WorkflowHandle): Promise<ReprocessProgress> => handle.query<ReprocessProgress>(progressQuery);
const untilProgress = async (handle: WorkflowHandle, holds: (progress: ReprocessProgress) => boolean): Promise<ReprocessProgress> => {
  for (;;) {
    const progress = await progressOf(handle).catch(() => null);
    if (progress && holds(progress)) return progress;
    await sleep(50);
  }
};
const runScript = (script: string, args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => new Promise((resolve) => {
  const path = fileURLToPath(new URL(`../../scripts/${script}`, import.meta.url));
  execFile(process.execPath, [path, ...args], { env: { PATH: process.env['PATH'], ...configToEnvironment(pipeline.running.config) } }, (error, stdout, stderr) => {
    resolve({ code: error ? Number(error.code) : 0, stdout, stderr });
  });
});

test('a backfill with unchanged rules leaves every table equal, row for row, and reads nothing of Kafka: the broker has lost the records, Silver and Gold are broken', async () => {
  const { running } = pipeline;
  const before = await rowsNow();
  for (const [key, { high }] of Object.entries(await fetchOffsetBounds(running.config.kafka.brokers, running.topics))) {
    const at = key.lastIndexOf('/');
    if (high > 0n) await deleteRecords(running.config.kafka.brokers, key.slice(0, at), [{ partition: Number(key.slice(at + 1)), offset: high }]);
  }
  for (const table of ['silver_binance_trades', 'gold_crypto_trades']) {
    const files = await (await running.lake.catalog.load(table)).scan();
    const gone = table.startsWith('gold') ? files.filter(({ partition }) => String(partition['exchange']).startsWith('BINANCE')) : files;
    await running.lake.catalog.commit(table, { commitId: `damage ${table}`, add: [], remove: gone.map(({ filePath }) => filePath) });
  }
  expect((await rowsNow())['silver_binance_trades']).toEqual([]);
  const result = await (await start()).result() as BackfillResult;
  expect(result.rows).toBe(before['silver_binance_trades']!.length + before['silver_dlq_trades']!.filter((row) => row.includes(source)).length);
  expect(await rowsNow()).toEqual(before);
}, 4 * minutes);

test('beside the live stream, in the current hour, killed twice in its middle, a backfill loses and doubles nothing', async () => {
  const { running } = pipeline;
  await pipeline.load('binance', 200);
  const handle = await start({ rowsPerSecond: 900, parallelism: 3 });
  const flowing = new AbortController();
  const live = (async () => {
    while (!flowing.signal.aborted) {
      await pipeline.load('binance', 60);
      await sleep(300);
    }
  })();
  await untilProgress(handle, ({ chunksRefined }) => chunksRefined > 0);
  process.kill(running.temporalWorker.pid!, 'SIGKILL');
  await untilProgress(handle, ({ isPublishing }) => isPublishing);
  process.kill(running.temporalWorker.pid!, 'SIGKILL');
  await handle.result();
  flowing.abort();
  await live;
  expect(await outcomeOf(pipeline)).toEqual(exact);
  const { catalog } = running.lake;
  expect([...claimsOf(await catalog.load('silver_binance_trades')), ...claimsOf(await catalog.load('silver_dlq_trades'))]).toEqual([]);
  expect((await catalog.load('bronze_binance_trades')).tags).toEqual({});
}, 8 * minutes);

test('paused it starts no chunk, resumed and throttled it goes on at the new rate, cancelled it leaves every table as it was', async () => {
  const before = await rowsNow();
  // So slow that it is far from its end whenever a command arrives: published it could not be cancelled.
  const handle = await start({ rowsPerSecond: 50, parallelism: 1 });
  await untilProgress(handle, ({ phase }) => phase === 'refining');
  await handle.signal(reprocessSignals.pause);
  const paused = await untilProgress(handle, ({ phase, chunksRunning }) => phase === 'paused' && chunksRunning === 0);
  await sleep(3_000);
  expect((await progressOf(handle)).chunksRefined).toBe(paused.chunksRefined);
  await handle.signal(reprocessSignals.resume);
  await handle.signal(reprocessSignals.throttle, { rowsPerSecond: 40 });
  await untilProgress(handle, ({ phase, rowsPerSecondLimit }) => phase === 'refining' && rowsPerSecondLimit === 40);
  await handle.cancel();
  await expect(handle.result()).rejects.toThrow(WorkflowFailedError);
  expect((await handle.describe()).status.name).toBe('CANCELLED');
  expect(await rowsNow()).toEqual(before);
}, 4 * minutes);

test('a chunk that fails for good is named with its Bronze file, and the backfill fails before it publishes', async () => {
  const { lake } = pipeline.running;
  const before = await rowsNow();
  const [file] = await (await lake.catalog.load('bronze_binance_trades')).scan();
  const key = lake.store.keyOf(file!.filePath);
  const { body, metadata } = await lake.store.get(key);
  await lake.store.delete([key]);
  try {
    const { code, stdout } = await runScript('start-backfill.ts', ['--source', source, '--all', '--id', 'broken', '--wait', '--json']);
    expect({ code, ...JSON.parse(stdout) as object }).toMatchObject({ code: 1, ok: false, cause: expect.stringContaining(file!.filePath) as string });
  } finally {
    await lake.store.put(key, body, { metadata });
  }
  expect(await rowsNow()).toEqual(before);
  const again = await runScript('start-backfill.ts', ['--source', source, '--all', '--id', 'broken', '--wait', '--json']);
  expect({ code: again.code, ...JSON.parse(again.stdout) as object }).toMatchObject({ code: 0, ok: true, started: true });
  // Completed, it does not run again.
  expect(JSON.parse((await runScript('start-backfill.ts', ['--source', source, '--all', '--id', 'broken', '--json'])).stdout)).toMatchObject({ started: false });
  expect((await runScript('backfill-status.ts', ['--id', 'broken'])).stdout).toContain('completed');
  expect(await rowsNow()).toEqual(before);
}, 4 * minutes);

test('the plan of a dry run is exact and changes nothing; a bad command line exits 2', async () => {
  const { lake } = pipeline.running;
  const rows = (await lake.catalog.load('silver_binance_trades')).coverage.size;
  const versions = await Promise.all(tables.map(async (table) => (await lake.catalog.load(table)).version));
  const { code, stdout } = await runScript('start-backfill.ts', ['--source', source, '--all', '--dry-run', '--json']);
  expect({ code, ...JSON.parse(stdout) as object }).toMatchObject({ code: 0, dryRun: true, bronzeRows: Number(rows), offsetsWithoutBronze: '0' });
  expect(await Promise.all(tables.map(async (table) => (await lake.catalog.load(table)).version))).toEqual(versions);
  for (const args of [['--source', source], ['--source', 'nobody', '--all'], ['--source', source, '--event-time', 'yesterday..today'], ['--source', source, '--all', '--rate', '0']]) {
    expect((await runScript('start-backfill.ts', args)).code, args.join(' ')).toBe(2);
  }
  expect((await runScript('backfill-status.ts', ['stop'])).code).toBe(2);
}, 3 * minutes);
