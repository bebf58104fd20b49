#!/usr/bin/env node
import '../src/config/require-node.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import type { WorkflowHandle } from '@temporalio/client';
import { command, exitFailed, exitOk, runCommand, table, thousands, wholeNumber } from '../scripts/cli.ts';
import { produceBadRecords } from '../src/capture/bad-records.ts';
import type { BackfillInput, BackfillResult } from '../src/contracts/backfill.ts';
import type { DlqReplayInput, DlqReplayResult } from '../src/contracts/dlq-replay.ts';
import { dlqReplayWorkflowId, dlqReplayWorkflowType } from '../src/contracts/dlq-replay.ts';
import type { ReprocessProgress, Throttle } from '../src/contracts/reprocess.ts';
import { progressQuery, reprocessSignals } from '../src/contracts/reprocess.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { benchSource, eventMs, withBackfillBench } from './backfill-pipeline.ts';
import type { BackfillBench } from './backfill-pipeline.ts';

interface Options {
  rows: number;
  limit: number;
  rate: number;
  rateSeconds: number;
  json?: boolean;
}

const program = command('bench-backfill-steering', 'How exactly a backfill keeps to its rate, how soon it heeds pause, resume, throttle and cancel, and how long it publishes over the current hour beside a live stream with DLQ resolutions in between')
  .option('--rows <n>', 'Records of the load', wholeNumber(10_000), 400_000)
  .option('--limit <n>', 'Rows a second that backfills are held to', wholeNumber(1_000), 20_000)
  .option('--rate <n>', 'Records a second of the live stream', wholeNumber(1), 5_000)
  .option('--rate-seconds <n>', 'How long it flows', wholeNumber(5), 40)
  .option('--json', 'Print one JSON object');

const symbols = ['BTCUSDT', 'ETHUSDT', 'SOLUSDT'];
const pollMs = 25;

await runCommand<Options>(program, (options) => withBackfillBench({}, symbols, (bench) => measure(bench, options)));

async function measure({ running, line, load, start }: BackfillBench, { rows, limit, rate, rateSeconds, json }: Options): Promise<number> {
  const { temporal, config } = running;
  const progressOf = (handle: WorkflowHandle): Promise<ReprocessProgress> => handle.query<ReprocessProgress>(progressQuery);
  const until = async (handle: WorkflowHandle, holds: (progress: ReprocessProgress) => boolean): Promise<ReprocessProgress> => {
    for (;;) {
      const progress = await progressOf(handle);
      if (holds(progress)) return progress;
      await sleep(pollMs);
    }
  };

  await load(rows, 1);
  await running.untilMerged();

  line.done(`a backfill at ${thousands(limit)} rows a second …`);
  const paced = await start('paced', { rowsPerSecond: limit });
  await paced.result();
  const { rowsRefined, refiningMs } = await progressOf(paced);
  const kept = rowsRefined / refiningMs * 1_000;

  line.done('steering …');
  const steered = await start('steered', { rowsPerSecond: limit });
  await until(steered, ({ chunksRefined }) => chunksRefined > 0);
  const effects: { what: string; ms: number }[] = [];
  const effect = async (what: string, send: () => Promise<unknown>, isThere: (handle: WorkflowHandle) => Promise<unknown>): Promise<void> => {
    const from = performance.now();
    await send();
    await isThere(steered);
    effects.push({ what, ms: Math.round(performance.now() - from) });
  };
  await effect('pause: no chunk runs', () => steered.signal(reprocessSignals.pause), (handle) => until(handle, ({ phase, chunksRunning }) => phase === 'paused' && chunksRunning === 0));
  await effect('resume: a chunk runs', () => steered.signal(reprocessSignals.resume), (handle) => until(handle, ({ chunksRunning }) => chunksRunning > 0));
  await effect('throttle: the new limit is in force', () => steered.signal(reprocessSignals.throttle, { rowsPerSecond: limit / 2 } satisfies Throttle), (handle) => until(handle, ({ rowsPerSecondLimit }) => rowsPerSecondLimit === limit / 2));
  await effect('cancel: ended, the tables are as they were', () => steered.cancel(), (handle) => handle.result().catch(() => {}));

  line.done(`backfills of the current hour beside ${thousands(rate)} records a second …`);
  const loaded = new AbortController();
  const published: number[] = [];
  let resolved = 0;
  const hour = (): BackfillInput['range'] => ({ by: 'kafka-timestamp', startMicros: `${Date.now() - 3_600_000}000`, endMicros: `${Date.now() + 3_600_000}000` });
  const backfills = async (): Promise<void> => {
    for (let n = 1; !loaded.signal.aborted; n += 1) {
      const handle = await start(`hour-${n}`, { range: hour() });
      await (handle.result() as Promise<BackfillResult>);
      const { events } = await handle.fetchHistory();
      const staged = events?.find(({ activityTaskScheduledEventAttributes: scheduled }) => scheduled?.activityType?.name === 'replaceSilver');
      published.push((eventMs(events?.at(-1)) - eventMs(staged)) / 1_000);
    }
  };
  const resolutions = async (): Promise<void> => {
    for (let n = 1; !loaded.signal.aborted; n += 1) {
      await produceBadRecords({ brokers: config.kafka.brokers, registry: createRegistryClient({ url: config.schemaRegistry.url }), exchange: 'binance', topicPrefix: config.kafka.topicPrefix, seed: n });
      await sleep(2_000);
      const { selected } = await temporal.workflow.execute(dlqReplayWorkflowType, {
        workflowId: dlqReplayWorkflowId(`flag-${n}`), taskQueue: config.temporal.taskQueue,
        args: [{ id: `flag-${n}`, selection: { source: benchSource }, mode: { mode: 'flag', reason: 'bench' }, actor: 'bench' } satisfies DlqReplayInput],
      }) as DlqReplayResult;
      resolved += selected;
    }
  };
  await Promise.all([load(rate * rateSeconds, 2, rate).finally(() => { loaded.abort(); }), backfills(), resolutions()]);
  await running.untilMerged();

  const { ok, findings } = await running.audit();
  const report = {
    limit, rowsPerSecond: Math.round(kept), deviationPercent: Number(((kept / limit - 1) * 100).toFixed(2)), effects,
    publishSeconds: published.map((seconds) => Number(seconds.toFixed(2))), resolved, audit: { ok, findings: findings.length },
  };
  if (json) process.stdout.write(`${JSON.stringify(report)}\n`);
  else {
    process.stdout.write(`limited to ${thousands(limit)} rows a second: ${thousands(report.rowsPerSecond)} (${report.deviationPercent} %)\n\n${table(['command', 'ms'], effects.map(({ what, ms }) => [what, ms]))}\n\n`
      + `${published.length} backfills of the current hour, ${thousands(resolved)} DLQ rows resolved in between: staged to published ${published.map((seconds) => `${seconds.toFixed(1)} s`).join(', ')}\naudit: ${ok ? 'every promise holds' : `${findings.length} findings`}\n`);
  }
  return ok ? exitOk : exitFailed;
}
