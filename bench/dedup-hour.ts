#!/usr/bin/env node
import '../src/config/require-node.ts';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { command, exitFailed, exitOk, megabytes, ProgressLine, runCommand, stopSignal, thousands, wholeNumber } from '../scripts/cli.ts';
import { ScriptProcess } from '../scripts/wire/child-process.ts';
import { startStack } from '../src/stack/index.ts';
import type { DedupHourPlan, MergedHour } from './dedup-hour-work.ts';
import { memoryChart } from './memory-chart.ts';

interface Options {
  keys: number;
  distance: number;
  every: number;
  batch: number;
  json?: boolean;
}

const program = command('dedup-hour', 'Merges one hour of trades into one Gold bucket, with duplicates that come millions of rows after their first copy, and checks Gold key by key')
  .option('--keys <n>', 'Different keys', wholeNumber(1), 10_000_000)
  .option('--distance <n>', 'Keys between a duplicate and its first copy', wholeNumber(1), 5_000_000)
  .option('--every <n>', 'Once so many keys are in, every nth row is a duplicate', wholeNumber(1), 100)
  .option('--batch <n>', 'Silver rows of one merge', wholeNumber(1), 100_000)
  .option('--json', 'Print one JSON object');

await runCommand<Options>(program, async ({ keys, distance, every, batch, json }) => {
  const signal = stopSignal();
  const progress = new ProgressLine();
  const folder = await mkdtemp(join(tmpdir(), 'tidemark-dedup-'));
  const stack = await startStack({ servers: ['s3'], signal, onProgress: ({ server, message }) => progress.show(`${server}: ${message}`) });
  try {
    const plan: DedupHourPlan = { keys, distance, every, batchRows: batch };
    const { endpoint, region, accessKeyId, secretAccessKey } = stack.endpoints.s3;
    const env = { ...process.env, S3_ENDPOINT: endpoint, S3_REGION: region, AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey, TIDEMARK_BUCKET: `dedup-${randomBytes(4).toString('hex')}` };
    // Silver is made by a process of its own: the memory of the merge is what is measured.
    const run = async (step: 'silver' | 'merge'): Promise<{ result: Record<string, unknown>; worker: ScriptProcess }> => {
      const worker = new ScriptProcess({ name: step, script: '../bench/dedup-hour-work.ts', args: [step, JSON.stringify(plan)], env, restarts: false, logFile: join(folder, `${step}.log`) });
      signal.addEventListener('abort', () => void worker.stop(), { once: true });
      const shown = setInterval(() => {
        const { done } = worker.lastEvent(({ event }) => event === 'progress') ?? {};
        if (typeof done === 'number') progress.show(`${step}: ${thousands(done)} rows`);
      }, 500);
      try {
        const result = await worker.event(({ event }) => event === 'stopped', signal);
        await worker.sample();
        return { result, worker };
      } finally {
        clearInterval(shown);
        await worker.stop();
      }
    };
    await run('silver');
    const { result, worker } = await run('merge');
    const merged = result as unknown as MergedHour;
    const isExact = merged.keysMissing === 0 && merged.rowsTwice === 0 && merged.goldRows === keys && merged.goldRows + merged.duplicates === merged.silverRows;
    const report = { ...merged, isExact, peakRssBytes: worker.peakRssBytes, rowsPerSecond: merged.silverRows / merged.seconds, cpuSecondsPerMillion: (merged.cpuSeconds / merged.silverRows) * 1e6 };
    process.stdout.write(json ? `${JSON.stringify(report)}\n` : `${[
      `${thousands(merged.silverRows)} Silver rows of one hour, ${thousands(merged.duplicates)} of them duplicates ${thousands(distance)} keys after their first copy`,
      `merged at ${thousands(Math.round(report.rowsPerSecond))} rows a second, ${report.cpuSecondsPerMillion.toFixed(2)} CPU s a million, peak ${megabytes(worker.peakRssBytes)}`,
      `Gold: ${thousands(merged.goldRows)} rows in ${thousands(merged.goldFiles)} files; ${isExact ? 'each key once' : `NOT EXACT: ${thousands(merged.keysMissing)} keys missing, ${thousands(merged.rowsTwice)} rows twice`}`,
      memoryChart([{ name: 'merge', samples: worker.rssSamples, peakBytes: worker.peakRssBytes }]),
    ].join('\n')}\n`);
    return isExact ? exitOk : exitFailed;
  } finally {
    await stack.stop();
    await rm(folder, { recursive: true, force: true });
  }
});
