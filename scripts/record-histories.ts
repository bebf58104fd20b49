#!/usr/bin/env node
import '../src/config/require-node.ts';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Client } from '@temporalio/client';
import { loadGeneratedTrades } from '../src/capture/load-generated.ts';
import { badRecordKinds, produceBadRecords } from '../src/capture/bad-records.ts';
import { auditWorkflowId, auditWorkflowType } from '../src/contracts/audit.ts';
import { compactionWorkflowId, compactionWorkflowType } from '../src/contracts/compaction.ts';
import type { CompactionInput } from '../src/contracts/compaction.ts';
import { dlqReplayWorkflowId, dlqReplayWorkflowType, pauseReplaySignal, resumeReplaySignal } from '../src/contracts/dlq-replay.ts';
import type { DlqReplayInput } from '../src/contracts/dlq-replay.ts';
import type { BackfillInput } from '../src/contracts/backfill.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../src/contracts/backfill.ts';
import { microBatchWorkflowId } from '../src/contracts/micro-batch.ts';
import { retentionSweepWorkflowId } from '../src/contracts/retention.ts';
import { extendRetentionWorkflowId, extendRetentionWorkflowType } from '../src/contracts/retention-extension.ts';
import type { ExtendRetentionInput } from '../src/contracts/retention-extension.ts';
import type { Throttle } from '../src/contracts/reprocess.ts';
import { reprocessChunkWorkflowId, reprocessSignals } from '../src/contracts/reprocess.ts';
import { divertBatchSignal, pauseSignal, resumeSignal, retryBatchSignal, streamWorkflowId } from '../src/contracts/stream.ts';
import type { StreamState } from '../src/contracts/stream.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { startStack } from '../src/stack/index.ts';
import { startPipelineOn } from '../test/support/pipeline-processes.ts';
import { sweepAhead } from '../test/support/sweep-ahead.ts';
import { ProgressLine, command, exitOk, runCommand, stopSignal } from './cli.ts';
import { historyToJson } from './wire/history-json.ts';

const folderDefault = fileURLToPath(new URL('../test/histories', import.meta.url));

const program = command('record-histories', 'Run a small pipeline on real servers and store the histories of every Workflow Type, for the history replay in npm test.\nRecord them again when Workflows have changed on purpose and no older run has to go on.')
  .option('--folder <path>', 'Where to', folderDefault)
  .option('--json', 'Print one JSON object');

const source = 'binance-trades';
const stepDeadlineMs = 120_000;

/** What is of one machine or one run only, and nothing that a replay looks at. */
const impersonal = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(impersonal);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).flatMap(([key, inner]): [string, unknown][] => {
    if (key === 'identity') return [[key, 'worker']];
    if (key === 'binaryChecksum' || key === 'stackTrace') return [];
    if (key === 'workerVersion' || key === 'deploymentName') return [];
    return [[key, impersonal(inner)]];
  }));
};

await runCommand<{ folder: string; json?: boolean }>(program, async ({ folder, json }) => {
  const progress = new ProgressLine();
  const signal = stopSignal();
  const stack = await startStack({ signal, onProgress: ({ server, message }) => progress.show(`${server}: ${message}`) });
  try {
    const running = await startPipelineOn(stack.endpoints, { environment: { COMPACTION_FILES_MIN: '2', COMPACTION_QUIET_MINUTES: '0', BATCH_ROWS_MAX: '400', HISTORY_EVENTS_MAX: '90', LOG_LEVEL: 'warn' } });
    try {
      const { temporal, lake, pipeline, withSink, config } = running;
      const stream = temporal.workflow.getHandle(streamWorkflowId(source));
      const until = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
        progress.done(`Waiting for ${what}`);
        const deadline = Date.now() + stepDeadlineMs;
        while (!(await holds().catch(() => false))) {
          signal.throwIfAborted();
          if (Date.now() > deadline) throw new TidemarkError('WORKFLOW_NOT_FOUND', `expected ${what} within ${stepDeadlineMs / 1000} s`);
          await sleep(100);
        }
      };
      const state = (): Promise<StreamState> => running.state(source);
      const load = (trades: number, seed: number) => withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed, trades, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.05 }));
      const isOf = async (goldRows: number): Promise<boolean> => (await running.rows(pipeline.datasets[0]!.gold.name)) >= goldRows;

      await load(1_000, 1);
      await until('the first trades in Gold', () => isOf(1_000));
      await until('a stream workflow', async () => (await state()).phase === 'running');

      // Two micro-batches that fail for good: a Bronze file is gone. One is refined again once the file is back, one diverted.
      const outcomes: number[] = [];
      for (const [again, seed] of [[retryBatchSignal, 2], [divertBatchSignal, 3]] as const) {
        await stream.signal(pauseSignal);
        await until('a pause', async () => (await state()).phase === 'paused');
        const table = pipeline.datasets.find((dataset) => dataset.source === source)!.bronze.name;
        const before = new Set((await (await lake.catalog.load(table)).scan()).map(({ filePath }) => filePath));
        await load(200, seed);
        await until('committed Bronze files', async () => (await state()).openRecords >= 200 && (await state()).pendingFilesTotal === 0);
        const files = (await (await lake.catalog.load(table)).scan()).map(({ filePath }) => filePath).filter((path) => !before.has(path));
        const kept = await Promise.all(files.map(async (path) => ({ key: lake.store.keyOf(path), ...await lake.store.get(lake.store.keyOf(path)) })));
        await lake.store.delete(kept.map(({ key }) => key));
        await stream.signal(resumeSignal);
        await until('a failed micro-batch', async () => (await state()).failedTotal > 0);
        if (again === retryBatchSignal) for (const { key, body, metadata } of kept) await lake.store.put(key, body, { metadata });
        for (const { batch } of (await state()).failed) {
          outcomes.push(batch);
          await stream.signal(again, batch);
        }
        await until('its end', async () => {
          const { failedTotal, again: waiting, runningTotal, openRecords } = await state();
          return failedTotal === 0 && waiting.length === 0 && runningTotal === 0 && openRecords === 0;
        });
      }
      // The Bronze files of what came before are not all there any more.
      const wholeSinceMs = Date.now();
      for (let seed = 4; (await runsOf(temporal, stream.workflowId)).length < 3; seed += 1) {
        await load(300, seed);
        await until('Gold', async () => (await state()).openRecords === 0 && (await state()).runningTotal === 0);
      }
      // A DLQ replay of records that stay refused, in two chunks, paused and resumed.
      await produceBadRecords({ brokers: config.kafka.brokers, registry: createRegistryClient({ url: config.schemaRegistry.url }), exchange: 'binance', topicPrefix: config.kafka.topicPrefix });
      await running.untilMerged();
      const replay = await temporal.workflow.start(dlqReplayWorkflowType, {
        workflowId: dlqReplayWorkflowId('recorded'), taskQueue: config.temporal.taskQueue,
        args: [{ id: 'recorded', selection: { source }, mode: { mode: 'rules' }, actor: 'recorder', chunkRows: badRecordKinds / 2 } satisfies DlqReplayInput],
      });
      await replay.signal(pauseReplaySignal);
      await replay.signal(resumeReplaySignal);
      await replay.result();

      // A backfill in several chunks, paused, resumed and throttled; and one that fails, its Bronze file away.
      const startBackfill = (id: string, range: BackfillInput['range']) => temporal.workflow.start(backfillWorkflowType, {
        workflowId: backfillWorkflowId(id), taskQueue: config.temporal.taskQueue, args: [{ id, source, range, rowsPerSecond: 800, parallelism: 2 } satisfies BackfillInput],
      });
      const backfill = await startBackfill('recorded', { by: 'kafka-timestamp', startMicros: `${wholeSinceMs}000`, endMicros: `${Date.now() + 60_000}000` });
      await backfill.signal(reprocessSignals.pause);
      await backfill.signal(reprocessSignals.throttle, { rowsPerSecond: 1_000, parallelism: 3 } satisfies Throttle);
      await backfill.signal(reprocessSignals.resume);
      await backfill.result();
      const [bronzeFile] = await (await lake.catalog.load(pipeline.datasets.find((dataset) => dataset.source === source)!.bronze.name)).scan();
      const bronzeKey = lake.store.keyOf(bronzeFile!.filePath);
      const { body: bronzeBody, metadata: bronzeMetadata } = await lake.store.get(bronzeKey);
      await lake.store.delete([bronzeKey]);
      await (await startBackfill('failed', { by: 'all' })).result().catch(() => {});
      await lake.store.put(bronzeKey, bronzeBody, { metadata: bronzeMetadata });

      await temporal.workflow.execute(auditWorkflowType, { workflowId: auditWorkflowId, taskQueue: config.temporal.taskQueue, args: [{ sources: [source] }] });

      const compacted = pipeline.datasets.find((dataset) => dataset.source === source)!.gold.name;
      await temporal.workflow.execute(compactionWorkflowType, { workflowId: compactionWorkflowId(compacted), taskQueue: config.temporal.taskQueue, args: [{ table: compacted } satisfies CompactionInput] });
      const swept = pipeline.datasets.find((dataset) => dataset.source === source)!.silver.name;
      await sweepAhead(running, [swept]);

      const topic = running.topics[0]!;
      await temporal.workflow.execute(extendRetentionWorkflowType, {
        workflowId: extendRetentionWorkflowId(topic), taskQueue: config.temporal.taskQueue,
        args: [{ topic, retentionMs: 30 * 86_400_000, untilMs: Date.now() + 1_000 } satisfies ExtendRetentionInput],
      });

      const last = (await state()).recent.at(-1)!.batch;
      const streamRuns = await runsOf(temporal, stream.workflowId);
      const wanted: [name: string, workflowId: string, runId?: string][] = [
        ...streamRuns.map((runId, n): [string, string, string] => [`stream-run-${n + 1}`, stream.workflowId, runId]),
        ['micro-batch', microBatchWorkflowId(source, 1)],
        ['micro-batch-failed', microBatchWorkflowId(source, outcomes[0]!)],
        ['micro-batch-diverted', microBatchWorkflowId(source, outcomes.at(-1)! + 1)],
        ['micro-batch-last', microBatchWorkflowId(source, last)],
        ['dlq-replay', dlqReplayWorkflowId('recorded')],
        ['backfill', backfillWorkflowId('recorded')],
        ['backfill-chunk', reprocessChunkWorkflowId({ reprocessId: backfillWorkflowId('recorded'), chunk: 0 })],
        ['backfill-failed', backfillWorkflowId('failed')],
        ['audit', auditWorkflowId],
        ['compaction', compactionWorkflowId(compacted)],
        ['retention-sweep', retentionSweepWorkflowId(swept)],
        ['extend-retention', extendRetentionWorkflowId(topic)],
      ];
      await mkdir(folder, { recursive: true });
      for (const name of await readdir(folder)) if (name.endsWith('.json')) await rm(join(folder, name));
      const recorded: Record<string, number> = {};
      for (const [name, workflowId, runId] of wanted) {
        const history = await temporal.workflow.getHandle(workflowId, runId).fetchHistory();
        recorded[name] = history.events?.length ?? 0;
        await writeFile(join(folder, `${name}.json`), `${JSON.stringify({ workflowId, history: impersonal(historyToJson(history)) })}\n`);
      }
      progress.done('Done');
      if (json) process.stdout.write(`${JSON.stringify({ recorded })}\n`);
      else for (const [name, events] of Object.entries(recorded)) process.stdout.write(`${name}.json: ${events} events\n`);
      return exitOk;
    } finally {
      await running.stop();
    }
  } finally {
    await stack.stop();
  }
});

/** Run IDs of a Workflow ID, the first run first. */
async function runsOf(temporal: Client, workflowId: string): Promise<string[]> {
  const runs: string[] = [];
  let runId: string | undefined = (await temporal.workflow.getHandle(workflowId).describe()).runId;
  while (runId) {
    runs.unshift(runId);
    const { events } = await temporal.workflow.getHandle(workflowId, runId).fetchHistory();
    runId = events?.[0]?.workflowExecutionStartedEventAttributes?.continuedExecutionRunId || undefined;
  }
  return runs;
}
