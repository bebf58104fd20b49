import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import type { BackfillInput, BackfillResult } from '../../src/contracts/backfill.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../../src/contracts/backfill.ts';
import { claimsOf } from '../../src/reprocess/claims.ts';
import type { CrashPoint } from '../support/crash-point.ts';
import { crashingLives } from '../support/crashing-lives.ts';
import { startPipelineOn } from '../support/pipeline-processes.ts';
import type { RunningPipeline } from '../support/pipeline-processes.ts';
import { badReleaseVariable } from '../support/strict-market-data.ts';

const minutes = 60_000;
const source = 'binance-trades';
const put = (match: string): CrashPoint => ({ at: 'after', call: 'put', match, nth: 1 });
/** Where one life of the Temporal Worker after the other ends: a table's version is there, and its hint does not know of it yet. */
const points: readonly CrashPoint[] = [
  // claimOffsets, refineChunk
  put('/silver_dlq_trades/metadata/v\\d+'), put('/staging/backfill/steps/.*/chunk-1\\.staged\\.json'),
  // replaceSilver, replaceDlq, replaceGold, finishReprocess
  put('/silver_binance_trades/metadata/v\\d+'), put('/silver_dlq_trades/metadata/v\\d+'), put('/gold_crypto_trades/metadata/v\\d+'), put('/silver_dlq_trades/metadata/v\\d+'),
];

const lives = crashingLives('temporal-worker', points, { [badReleaseVariable]: '1' });
let running: RunningPipeline;
beforeAll(async () => {
  running = await startPipelineOn(inject('stack'), {
    environment: { TIDEMARK_PIPELINE: fileURLToPath(new URL('../support/strict-market-data.ts', import.meta.url)), BATCH_ROWS_MAX: '400' },
    ...lives.hooks,
  });
}, 2 * minutes);
afterAll(() => running?.stop(), minutes);

test('a Temporal Worker that is killed in each step of a backfill loses no row, adds none twice, and leaves nothing behind', async () => {
  const { trades } = await running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed: 5, trades: 1_000, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.05 }));
  await running.untilMerged();
  expect(await running.rows('silver_dlq_trades')).toBeGreaterThan(0);
  expect(await running.rows('gold_crypto_trades')).toBeLessThan(trades);
  lives.arm();
  process.kill(running.temporalWorker.pid!, 'SIGKILL');
  const result = await running.temporal.workflow.execute(backfillWorkflowType, {
    workflowId: backfillWorkflowId('steps'), taskQueue: running.config.temporal.taskQueue,
    args: [{ id: 'steps', source, range: { by: 'all' }, rowsPerSecond: null, parallelism: 2 } satisfies BackfillInput],
  }) as BackfillResult;
  expect(lives.deaths()).toBe(points.length);
  const bronzeRows = await running.rows('bronze_binance_trades');
  expect(result).toMatchObject({ rows: bronzeRows, silverRows: bronzeRows, dlqRows: 0 });
  expect(await running.rows('silver_binance_trades')).toBe(bronzeRows);
  expect(await running.rows('silver_dlq_trades')).toBe(0);
  expect(await running.rows('gold_crypto_trades')).toBe(trades);
  expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  const { catalog, store } = running.lake;
  for (const table of ['silver_binance_trades', 'silver_dlq_trades']) expect(claimsOf(await catalog.load(table))).toEqual([]);
  expect((await catalog.load('bronze_binance_trades')).tags).toEqual({});
  const staged: string[] = [];
  for await (const { key } of store.list('staging/backfill/')) staged.push(key);
  expect(staged).toEqual([]);
}, 20 * minutes);
