#!/usr/bin/env node
import '../src/config/require-node.ts';
import { command, exitFailed, exitOk, megabytes, milliseconds, runCommand, table, thousands, wholeNumber } from '../scripts/cli.ts';
import type { BackfillResult } from '../src/contracts/backfill.ts';
import { backfillWorkflowId } from '../src/contracts/backfill.ts';
import type { FreshnessJson } from '../src/domain/freshness.ts';
import { freshnessQuantile } from '../src/domain/freshness.ts';
import type { ScriptProcess } from '../scripts/wire/child-process.ts';
import { benchSource, eventMs, withBackfillBench } from './backfill-pipeline.ts';
import type { BackfillBench } from './backfill-pipeline.ts';

interface Options {
  rows: number;
  threads: number;
  rate: number;
  rateSeconds: number;
  json?: boolean;
}

const program = command('bench-backfill', 'Backfills everything from Bronze to published Gold on one and on two Temporal Workers, beside the first way from Kafka, and measures the live stream with and without a backfill')
  .option('--rows <n>', 'Records of the load', wholeNumber(1_000), 2_000_000)
  .option('--threads <n>', 'Backfill threads of each Temporal Worker', wholeNumber(1), 1)
  .option('--rate <n>', 'Records a second of the live stream; 0 leaves it out', wholeNumber(0), 5_000)
  .option('--rate-seconds <n>', 'How long each of its two measurements lasts', wholeNumber(5), 40)
  .option('--json', 'Print one JSON object');

const symbols = ['BTCUSDT', 'ETHUSDT', 'SOLUSDT', 'XRPUSDT', 'DOGEUSDT', 'BNBUSDT'];

interface Figure {
  what: string;
  rows: number;
  seconds: number;
  rowsPerSecond: number;
  /** Of the Temporal Workers together. */
  cpuSecondsPerMillion: number;
  peakRssBytes: number;
}

const cpuOf = async (workers: readonly ScriptProcess[]): Promise<number> => {
  await Promise.all(workers.map((worker) => worker.sample()));
  return workers.reduce((sum, worker) => sum + worker.cpuSeconds, 0);
};

/** What a measurement added to the histogram of delays. */
const since = (after: FreshnessJson, before: FreshnessJson): FreshnessJson =>
  Object.fromEntries(Object.entries(after).map(([bucket, count]): [string, number] => [bucket, count - (before[bucket] ?? 0)]).filter(([, count]) => count > 0));

await runCommand<Options>(program, (options) => withBackfillBench({ BACKFILL_THREADS: String(options.threads) }, symbols, (bench) => measure(bench, options)));

async function measure({ running, line, load, start }: BackfillBench, { rows, rate, rateSeconds, threads, json }: Options): Promise<number> {
  const { temporal } = running;
  const figures: Figure[] = [];
  const timed = async (what: string, workers: readonly ScriptProcess[], work: () => Promise<number>): Promise<void> => {
    line.done(`${what} …`);
    const cpu = await cpuOf(workers);
    const startedMs = performance.now();
    const count = await work();
    const seconds = (performance.now() - startedMs) / 1_000;
    figures.push({
      what, rows: count, seconds, rowsPerSecond: Math.round(count / seconds), cpuSecondsPerMillion: (await cpuOf(workers) - cpu) / count * 1e6, peakRssBytes: Math.max(...workers.map(({ peakRssBytes }) => peakRssBytes)),
    });
  };
  /** Seconds of each step, by the history of the Workflow. */
  const stepsOf = async (id: string): Promise<Record<string, number>> => {
    const { events } = await temporal.workflow.getHandle(backfillWorkflowId(id)).fetchHistory();
    const steps: Record<string, number> = {};
    const scheduled = new Map((events ?? []).flatMap((event) => (event.activityTaskScheduledEventAttributes ? [[String(event.eventId), { name: event.activityTaskScheduledEventAttributes.activityType?.name ?? '', ms: eventMs(event) }] as const] : [])));
    for (const event of events ?? []) {
      const step = scheduled.get(String(event.activityTaskCompletedEventAttributes?.scheduledEventId ?? ''));
      if (step) steps[step.name] = (steps[step.name] ?? 0) + (eventMs(event) - step.ms) / 1_000;
    }
    const chunks = (events ?? []).filter(({ startChildWorkflowExecutionInitiatedEventAttributes: started, childWorkflowExecutionCompletedEventAttributes: ended }) => started || ended).map(eventMs);
    steps['refine'] = (Math.max(...chunks) - Math.min(...chunks)) / 1_000;
    return steps;
  };
  /** Each thread has a chunk to go on with. */
  const backfill = async (id: string, workers = 1): Promise<number> => (await (await start(id, { parallelism: workers * threads * 2 })).result() as BackfillResult).rows;

  const first = [running.temporalWorker];
  const loadedFrom = performance.now();
  await load(rows, 1);
  line.done(`${thousands(rows)} records loaded in ${((performance.now() - loadedFrom) / 1_000).toFixed(1)} s`);
  await running.untilMerged();
  figures.push({ what: 'Kafka to Gold, load included', rows, seconds: (performance.now() - loadedFrom) / 1_000, rowsPerSecond: Math.round(rows / (performance.now() - loadedFrom) * 1_000), cpuSecondsPerMillion: await cpuOf(first) / rows * 1e6, peakRssBytes: first[0]!.peakRssBytes });
  await timed('backfill, one Temporal Worker', first, () => backfill('one'));
  const steps: Record<string, Record<string, number>> = { one: await stepsOf('one') };
  const second = running.startProcess('temporal-worker-2', 'run-temporal-worker.ts');
  await second.event((event) => event['event'] === 'ready');
  await timed('backfill, two Temporal Workers', [...first, second], () => backfill('two', 2));
  steps['two'] = await stepsOf('two');
  await second.stop();

  const delays: { what: string; p50: number | null; p99: number | null }[] = [];
  if (rate > 0) {
    let seed = 10;
    for (const withBackfill of [false, true]) {
      const what = `live stream at ${thousands(rate)} a second, ${withBackfill ? 'beside a backfill' : 'alone'}`;
      line.done(`${what} …`);
      const before = (await running.state(benchSource)).totals.freshness;
      seed += 1;
      const loaded = new AbortController();
      const beside = async (): Promise<void> => {
        for (let n = 1; !loaded.signal.aborted; n += 1) await backfill(`beside-${n}`);
      };
      await Promise.all([load(rate * rateSeconds, seed, rate).finally(() => { loaded.abort(); }), withBackfill ? beside() : Promise.resolve()]);
      await running.untilMerged();
      const freshness = since((await running.state(benchSource)).totals.freshness, before);
      delays.push({ what, p50: freshnessQuantile(freshness, 0.5), p99: freshnessQuantile(freshness, 0.99) });
    }
  }
  const { ok, findings } = await running.audit();
  const report = { rows, threads, figures, steps, delays, audit: { ok, findings: findings.length } };
  if (json) process.stdout.write(`${JSON.stringify(report)}\n`);
  else {
    process.stdout.write(`${table(['', 'rows', 'seconds', 'rows/s', 'CPU s/M', 'peak RSS'], figures.map((one) => [one.what, one.rows, one.seconds.toFixed(1), one.rowsPerSecond, one.cpuSecondsPerMillion.toFixed(1), megabytes(one.peakRssBytes)]))}\n`);
    const names = [...new Set(Object.values(steps).flatMap((some) => Object.keys(some)))];
    process.stdout.write(`\n${table(['seconds of', 'one Temporal Worker', 'two'], names.map((name) => [name, ...Object.values(steps).map((some) => (some[name] ?? 0).toFixed(1))]))}\n`);
    if (delays.length > 0) process.stdout.write(`\n${table(['Kafka to Gold', 'p50', 'p99'], delays.map(({ what, p50, p99 }) => [what, milliseconds(p50), milliseconds(p99)]))}\n`);
    process.stdout.write(`audit: ${ok ? 'every promise holds' : `${findings.length} findings`}\n`);
  }
  return ok ? exitOk : exitFailed;
}
