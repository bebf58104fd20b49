#!/usr/bin/env node
import '../src/config/require-node.ts';
import './wire/as-service.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { collectGarbage } from '../src/config/collect-garbage.ts';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import type { Config } from '../src/config/config.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { TidemarkError, isTidemarkError } from '../src/domain/errors.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { SchemaKeeper } from '../src/schema-registry/schema-keeper.ts';
import { createSchemaStore } from '../src/schema-registry/schema-store.ts';
import { startStreamingWorker } from '../src/streaming/streaming-worker.ts';
import type { StreamingState } from '../src/streaming/streaming-worker.ts';
import { createTemporalCheckpointClient } from '../src/streaming/temporal-checkpoint-client.ts';
import { createStreamingMetrics } from '../src/telemetry/streaming-metrics.ts';
import type { Logger } from '../src/telemetry/logger.ts';
import { ProgressLine, command, exitFailed, exitOk, megabytes, runCommand, stopSignal, table, thousands } from './cli.ts';
import { openLake } from './wire/lake.ts';
import type { Lake } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { startTelemetry } from './wire/telemetry.ts';
import type { Readiness } from './wire/telemetry.ts';

interface Options { source?: string[]; json?: boolean }

const progressEveryMs = 1_000;
const retryMs = 2_000;

const program = command('run-streaming-worker', 'Consume sources from Kafka without pause into Bronze files on S3, and report checkpoints to their stream workflows. More processes share the topic partitions.')
  .option('--source <name>', 'Source to consume; repeatable (default: all of the pipeline)', (name: string, names: string[] = []) => [...names, name])
  .option('--json', 'Print one JSON object when it is ready, and one with the final counters')
  .addHelpText('after', `\n${environmentHelp()}`);

await runCommand<Options>(program, async ({ source: names, json }) => {
  const config = loadConfig();
  const stop = stopSignal();
  const telemetry = await startTelemetry(config, 'streaming-worker');
  const { log } = telemetry;
  const pipeline = await loadPipeline(config);
  const datasets = names === undefined ? pipeline.datasets : [...new Set(names)].map((name) => {
    if (!pipeline.datasets.some(({ source }) => source === name)) {
      throw new TidemarkError('BAD_INPUT', `--source: expected one of ${pipeline.datasets.map(({ source }) => source).join(', ')}, found ${name}`);
    }
    return datasetOf(pipeline, name);
  });
  const lake = await openLakeWhenThere(config, pipeline, log, stop);
  if (lake === null) {
    await telemetry.close();
    return exitOk;
  }
  const connection = Connection.lazy({ address: config.temporal.address });
  const { topicPrefix } = config.kafka;
  const { flushIntervalMs, flushIntervalMaxMs, flushBytes, flushRows, bufferBudgetBytes, sessionTimeoutMs, gapPolicy } = config.streaming;
  const figures = createStreamingMetrics(telemetry.metrics, datasets.map(({ source }) => source));
  const schemas = new SchemaKeeper({ schemas: createSchemaStore({ store: lake.store, registry: createRegistryClient({ url: config.schemaRegistry.url, attemptsMax: 1 }) }), log, signal: stop });
  const worker = startStreamingWorker({
    onEvent: figures.onEvent,
    onSchemaIds: (ids) => schemas.see(ids),
    ...(telemetry.tracing ? { tracing: telemetry.tracing } : {}),
    sources: datasets.map(({ source, topic, bronze }) => ({ source, topics: [`${topicPrefix}${topic}`], groupId: `${topicPrefix}tidemark-${source}`, bronze })),
    kafka: { brokers: config.kafka.brokers, sessionTimeoutMs },
    catalog: lake.catalog,
    store: lake.store,
    checkpoints: createTemporalCheckpointClient({ client: new Client({ connection, namespace: config.temporal.namespace }), taskQueue: config.temporal.taskQueue }),
    log,
    budgetBytes: bufferBudgetBytes,
    flush: { intervalMs: flushIntervalMs, intervalMaxMs: flushIntervalMaxMs, bytesMax: flushBytes, rowsMax: flushRows },
    gapPolicy,
  });
  // Half of the heap is what loading the modules left behind, and so early V8 would let it stay.
  collectGarbage();
  const sources = datasets.map(({ source }) => source);
  figures.watch(worker.state);
  telemetry.setReadiness(() => readinessOf(worker.state()));
  if (json) process.stdout.write(`${JSON.stringify({ event: 'ready', pid: process.pid, sources, http: telemetry.http?.url ?? null })}\n`);
  else process.stdout.write(`Streaming worker ready: ${sources.join(', ')}${telemetry.http ? `, metrics ${telemetry.http.url}/metrics` : ''}. Ctrl-C stops it.\n`);

  const progress = new ProgressLine();
  let before = { atMs: Date.now(), records: 0 };
  const timer = setInterval(() => {
    const state = worker.state();
    const now = { atMs: Date.now(), records: state.totals.records };
    progress.show(progressOf(state, (now.records - before.records) * 1000 / (now.atMs - before.atMs)));
    before = now;
  }, progressEveryMs);
  stop.addEventListener('abort', () => void worker.stop().catch(() => undefined), { once: true });
  let code = exitOk;
  try {
    await worker.done;
  } catch (error) {
    log.error({ err: error }, 'the streaming worker failed');
    code = exitFailed;
  } finally {
    clearInterval(timer);
  }
  const final = worker.state();
  lake.store.close();
  await connection.close();
  await telemetry.close();
  const maxRssBytes = process.resourceUsage().maxRSS * 1024;
  if (json) {
    process.stdout.write(`${JSON.stringify({ event: 'stopped', ...final.totals, budgetPeakBytes: final.budget.peakBytes, maxRssBytes })}\n`);
  } else {
    const { records, rows, files, fileBytes, recoveredFiles, gaps, claimsLost, budgetPauses } = final.totals;
    process.stdout.write(`${table(['records', 'Bronze rows', 'files', 'MB', 'recovered files', 'gaps', 'claims lost', 'pauses at the budget', 'peak memory'],
      [[records, rows, files, megabytes(fileBytes), recoveredFiles, gaps, claimsLost, budgetPauses, megabytes(maxRssBytes)]])}\n`);
  }
  return code;
});

/** S3 may come up later than this process. Null when it was stopped first. */
async function openLakeWhenThere(config: Config, pipeline: Pipeline, log: Logger, stop: AbortSignal): Promise<Lake | null> {
  while (!stop.aborted) {
    try {
      return await openLake(config, pipeline);
    } catch (error) {
      if (!isTidemarkError(error) || !error.retryable) throw error;
      log.warn({ error: error.message }, 'the lake does not answer yet, trying again');
      await sleep(retryMs, undefined, { signal: stop }).catch(() => undefined);
    }
  }
  return null;
}

/** Not ready while it waits for a claim, or paused; a halted topic partition waits for people, and the others go on. */
function readinessOf({ sources, budget }: StreamingState): Readiness {
  const lanes = Object.values(sources).flatMap((source) => Object.values(source));
  const waiting = lanes.filter(({ phase }) => phase === 'claiming' || phase === 'recovering').length;
  return { ready: waiting === 0 && !budget.full, topicPartitions: lanes.length, waiting, halted: lanes.filter(({ phase }) => phase === 'halted').length, pausedAtBudget: budget.full };
}

function progressOf(state: StreamingState, perSecond: number): string {
  const lanes = Object.values(state.sources).flatMap((source) => Object.values(source));
  const lag = lanes.reduce((sum, lane) => sum + (lane.lag ?? 0), 0);
  const phases = (['claiming', 'recovering', 'halted'] as const).map((phase) => [phase, lanes.filter((lane) => lane.phase === phase).length] as const).filter(([, count]) => count > 0);
  return [
    `${thousands(state.totals.records)} records`,
    `${thousands(Math.round(perSecond))}/s`,
    `${thousands(state.totals.files)} Bronze files`,
    `lag ${thousands(lag)}`,
    `${lanes.length} topic partitions`,
    ...phases.map(([phase, count]) => `${count} ${phase}`),
    `buffers ${megabytes(state.budget.usedBytes)}${state.budget.full ? ', paused at the budget' : ''}`,
  ].join(' · ');
}
