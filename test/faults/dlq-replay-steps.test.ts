import { inject } from 'vitest';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { fileURLToPath } from 'node:url';
import { dlqReplayWorkflowId, dlqReplayWorkflowType } from '../../src/contracts/dlq-replay.ts';
import type { DlqReplayInput, DlqReplayResult } from '../../src/contracts/dlq-replay.ts';
import type { CrashPoint } from '../support/crash-point.ts';
import { crashingLives } from '../support/crashing-lives.ts';
import { startPipelineOn } from '../support/pipeline-processes.ts';
import type { RunningPipeline } from '../support/pipeline-processes.ts';
import { badReleaseVariable } from '../support/strict-market-data.ts';

const minutes = 60_000;
const source = 'binance-trades';
const put = (match: string): CrashPoint => ({ at: 'after', call: 'put', match, nth: 1 });
/** Where one life of the Temporal Worker after the other ends. */
const points: readonly CrashPoint[] = [
  put('/dlq-replay/steps/plan\\.json'), put('/dlq-replay/steps/staged-.*-1\\.json'), put('/dlq_resolutions/metadata/v\\d+'), put('/dlq_resolutions/metadata/version-hint'),
  put('/silver_binance_trades/metadata/v\\d+'), put('/silver_binance_trades/metadata/version-hint'), put('/gold_crypto_trades/metadata/version-hint'),
];

const lives = crashingLives('temporal-worker', points, { [badReleaseVariable]: '1' });
let running: RunningPipeline;
beforeAll(async () => {
  running = await startPipelineOn(inject('stack'), {
    environment: { TIDEMARK_PIPELINE: fileURLToPath(new URL('../support/strict-market-data.ts', import.meta.url)) },
    ...lives.hooks,
  });
}, 2 * minutes);
afterAll(() => running?.stop(), minutes);

test('a Temporal Worker that is killed after each step of a DLQ replay loses no record and adds none twice', async () => {
  const { trades } = await running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed: 5, trades: 1_000, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.05 }));
  await running.untilMerged();
  const refused = await running.rows('silver_dlq_trades');
  lives.arm();
  process.kill(running.temporalWorker.pid!, 'SIGKILL');
  const result = await running.temporal.workflow.execute(dlqReplayWorkflowType, {
    workflowId: dlqReplayWorkflowId('steps'), taskQueue: running.config.temporal.taskQueue,
    args: [{ id: 'steps', selection: { source }, mode: { mode: 'rules' }, actor: 'test', chunkRows: Math.ceil(refused / 3) } satisfies DlqReplayInput],
  }) as DlqReplayResult;
  expect(lives.deaths()).toBe(points.length);
  expect(result).toMatchObject({ selected: refused, recovered: refused });
  expect(await running.rows('gold_crypto_trades')).toBe(trades);
  expect(await running.rows('dlq_resolutions')).toBe(refused);
  expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
}, 10 * minutes);
