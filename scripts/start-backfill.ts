#!/usr/bin/env node
import '../src/config/require-node.ts';
import { randomBytes } from 'node:crypto';
import { Client } from '@temporalio/client';
import { WorkflowExecutionAlreadyStartedError, WorkflowFailedError } from '@temporalio/client';
import { InvalidArgumentError } from 'commander';
import { chunkRowsOf, withKnownOffsets } from '../activities/backfill.ts';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import type { BackfillFigures, BackfillInput, BackfillResult, ReprocessRange } from '../src/contracts/backfill.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../src/contracts/backfill.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { failureCause } from '../src/domain/failure-cause.ts';
import { Coverage } from '../src/domain/offsets.ts';
import { utcMs } from '../src/domain/utc-time.ts';
import { estimateSeconds, planBackfill } from '../src/reprocess/plan-backfill.ts';
import { createBackfillArchive } from '../src/retention/backfill-archive.ts';
import { ProgressLine, command, exitFailed, exitOk, megabytes, runCommand, stopSignal, table, thousands, wholeNumber } from './cli.ts';
import { offsetsOfMicroBatchIn, watchBackfill } from './wire/backfill.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { parseRanges } from './wire/audit.ts';
import { loadRetainedTables, openArchive } from './wire/retention.ts';
import { connectTemporal } from './wire/temporal.ts';

interface Options {
  source: string;
  id?: string;
  all?: boolean;
  offsets?: string[];
  kafkaTime?: string;
  eventTime?: string;
  refined?: string;
  ruleVersion?: string;
  batch?: number[];
  rate?: number;
  parallelism: number;
  dryRun?: boolean;
  wait?: boolean;
  json?: boolean;
}

const number = (max: number) => (text: string): number => {
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0 || value > max) throw new InvalidArgumentError(`Expected a number above 0, at most ${max}.`);
  return value;
};
const repeated = (text: string, values: string[] = []): string[] => [...values, text];
const batches = (text: string, numbers: number[] = []): number[] => [...numbers, wholeNumber(1)(text)];
const parallelismMax = 16;
const rateMax = 10_000_000;

const program = command('start-backfill', 'Refine a range of one source again from Bronze, with the code as it is now, and replace its rows in Silver, the DLQ and Gold.\nKafka is not read. Every range is half-open: <start>..<end> holds start and not end.')
  .requiredOption('--source <name>', 'The source')
  .option('--all', 'Everything that Bronze has')
  .option('--offsets <range>', '<topic>/<partition>:<start>-<end>[,…], or <start>-<end>[,…] of every topic partition; repeatable', repeated)
  .option('--kafka-time <start..end>', 'Records produced in this time: ISO 8601, UTC without a zone, e.g. 2026-03-01T06:00..2026-03-01T12:00')
  .option('--event-time <start..end>', 'Trades that happened in this time (rejected records: produced in it)')
  .option('--refined <start..end>', 'Rows refined in this time: from the bad release to its fix')
  .option('--rule-version <version>', 'Rows refined under this rule version; with --refined: both')
  .option('--batch <number>', 'What this micro-batch refined; repeatable', batches)
  .option('--id <id>', 'The Workflow ID will be backfill/<id>; the same id runs once. Default: a random one')
  .option('--rate <rows>', 'Rows a second at most, over the whole run', number(rateMax))
  .option('--parallelism <number>', 'Chunks refined at once', wholeNumber(1, parallelismMax), 2)
  .option('--dry-run', 'Print the plan and change nothing')
  .option('--wait', 'Wait until it has ended, with progress; exit code 1 if it failed. Ctrl-C leaves it running')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\nSteer it with npm run backfill-status -- pause|resume|throttle|cancel --id <id>, or by Signals in the Temporal Web UI.\nExit code: 0 when it was started (with --wait: completed), 1 if it failed, 2 for a bad command line.\n\n${environmentHelp()}`);

const microsOf = (option: string, text: string): string => {
  const ms = utcMs(text);
  if (ms === undefined) throw new TidemarkError('BAD_INPUT', `${option}: expected an ISO 8601 time, found ${JSON.stringify(text)}`);
  return String(BigInt(ms) * 1_000n);
};
const timesOf = (option: string, text: string): { startMicros: string; endMicros: string } => {
  const [start, end, ...rest] = text.split('..');
  if (!start || !end || rest.length > 0) throw new TidemarkError('BAD_INPUT', `${option}: expected <start>..<end>, found ${JSON.stringify(text)}`);
  const times = { startMicros: microsOf(option, start), endMicros: microsOf(option, end) };
  if (BigInt(times.startMicros) >= BigInt(times.endMicros)) throw new TidemarkError('BAD_INPUT', `${option}: expected a start before the end, found ${text}`);
  return times;
};

/** Everything but --offsets, which names topic partitions that the lake tells. */
const rangesOf = ({ all, kafkaTime, eventTime, refined, ruleVersion, batch }: Options): ReprocessRange[] => [
  ...(all ? [{ by: 'all' } as const] : []),
  ...(kafkaTime === undefined ? [] : [{ by: 'kafka-timestamp', ...timesOf('--kafka-time', kafkaTime) } as const]),
  ...(eventTime === undefined ? [] : [{ by: 'event-time', ...timesOf('--event-time', eventTime) } as const]),
  ...(refined === undefined && ruleVersion === undefined ? [] : [{
    by: 'refined', ...(refined === undefined ? {} : timesOf('--refined', refined)), ...(ruleVersion === undefined ? {} : { ruleVersion }),
  } as const]),
  ...(batch ? [{ by: 'micro-batches', batches: batch } as const] : []),
];

const figuresTable = (figures: BackfillFigures): string => [
  table(['plan', ''], [
    ['source', figures.source], ['Bronze files', figures.bronzeFiles], ['Bronze rows', figures.bronzeRows], ['Bronze bytes', megabytes(figures.bronzeBytes)],
    ['offset intervals', figures.intervals], ['Gold buckets', figures.goldBuckets], ['chunks', figures.chunks], ['estimated time', `${thousands(figures.estimatedSeconds)} s`],
    ['not refined yet, left out', BigInt(figures.offsetsNotRefined)], ['without a live Bronze row', BigInt(figures.offsetsWithoutBronze)], ['of these in the archive, restored first', BigInt(figures.offsetsArchived)],
    ['Silver and DLQ rows in the archive, restored first', BigInt(figures.offsetsRefinedArchived)],
  ]),
  '', table(['topic partition', 'offsets'], Object.entries(figures.offsets)),
  ...(figures.goldBucketNames.length === 0 ? [] : ['', `Gold: ${figures.goldBucketNames.join('\n      ')}${figures.goldBuckets > figures.goldBucketNames.length ? '\n      …' : ''}`]), '',
].join('\n');

await runCommand<Options>(program, async (options) => {
  const { source, rate, parallelism, dryRun, wait, json } = options;
  const ranges = rangesOf(options);
  if (ranges.length + (options.offsets ? 1 : 0) !== 1) {
    throw new TidemarkError('BAD_INPUT', 'expected one of --all, --offsets, --kafka-time, --event-time, --refined (with or without --rule-version), --rule-version, --batch');
  }
  const id = options.id ?? randomBytes(4).toString('hex');
  if (!/^[\w.-]{1,80}$/.test(id)) throw new TidemarkError('BAD_INPUT', `--id: expected letters, digits, ".", "_" or "-", found ${JSON.stringify(id)}`);
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  if (!pipeline.datasets.some((dataset) => dataset.source === source)) {
    throw new TidemarkError('BAD_INPUT', `--source: expected one of ${pipeline.datasets.map((dataset) => dataset.source).join(', ')}, found ${source}`);
  }
  const signal = stopSignal();
  const { store, catalog } = openLakeReadOnly(config, pipeline);
  const range: ReprocessRange = ranges[0] ?? { by: 'offsets', offsets: (await parseRanges(options.offsets!, catalog, pipeline, [source])).toJson() };
  const rowsPerSecond = rate ?? null;
  const connection = await connectTemporal(config);
  const temporal = new Client({ connection, namespace: config.temporal.namespace });
  try {
    if (dryRun) {
      const line = new ProgressLine();
      const { archive, store: archiveStore } = openArchive(config, { store }, pipeline);
      const archived = createBackfillArchive({ catalog, store, archive, pipeline, tables: loadRetainedTables(config, pipeline), dryRun });
      const known = await withKnownOffsets(source, range, offsetsOfMicroBatchIn(temporal));
      const { figures: planned, offsets, withoutBronze } = await planBackfill({
        store, catalog, dataset: datasetOf(pipeline, source), dlqTable: pipeline.dlqTable, signal,
        onProgress: ({ files, filesTotal }) => line.show(`planning: ${files} of ${filesTotal} files`),
      }, {
        source, range: known, archived: (await archived.offsetsOf(source, known, signal)).toJson(), rowsPerSecond, write: null, chunkRowsMax: chunkRowsOf(rowsPerSecond, config.microBatch.rowsMax),
      });
      const bronze = await archived.restoreBronze(source, Coverage.fromJson(withoutBronze), signal);
      const refined = await archived.restoreRefined(source, Coverage.fromJson(offsets).union(bronze), signal);
      if (archiveStore !== store) archiveStore.close();
      const figures: BackfillFigures = { ...planned, estimatedSeconds: estimateSeconds(planned.bronzeRows + Number(bronze.size), rowsPerSecond), offsetsArchived: String(bronze.size), offsetsRefinedArchived: String(refined.size) };
      process.stdout.write(json ? `${JSON.stringify({ dryRun: true, ...figures })}\n` : figuresTable(figures));
      return exitOk;
    }
    const workflowId = backfillWorkflowId(id);
    const input: BackfillInput = { id, source, range, rowsPerSecond, parallelism };
    let isNew = true;
    try {
      await temporal.workflow.start(backfillWorkflowType, {
        workflowId, taskQueue: config.temporal.taskQueue, args: [input], priority: { priorityKey: 5 },
        // One that completed is done; one that failed, was cancelled or terminated may go again under its id.
        workflowIdReusePolicy: 'ALLOW_DUPLICATE_FAILED_ONLY', workflowIdConflictPolicy: 'FAIL',
        staticSummary: `Backfill of ${source}: ${range.by}`, staticDetails: `Started by scripts/start-backfill.ts: ${JSON.stringify(range).slice(0, 2_000)}`,
      });
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
      isNew = false;
    }
    if (!wait) {
      if (json) process.stdout.write(`${JSON.stringify({ workflowId, id, started: isNew })}\n`);
      else process.stdout.write(`${workflowId} ${isNew ? 'started' : 'was started before: it runs once'}. Watch it: npm run backfill-status -- --watch --id ${id}${config.temporal.uiUrl ? `, or ${config.temporal.uiUrl}/namespaces/${config.temporal.namespace}/workflows/${encodeURIComponent(workflowId)}` : ''}\n`);
      return exitOk;
    }
    const line = new ProgressLine();
    await watchBackfill({ temporal, id, signal, show: (text) => line.show(text) });
    if (signal.aborted) {
      line.done(`${workflowId} goes on`);
      return exitOk;
    }
    const startedMs = (await temporal.workflow.getHandle(workflowId).describe()).startTime.getTime();
    const result = await temporal.workflow.getHandle(workflowId).result() as BackfillResult;
    const seconds = (Date.now() - startedMs) / 1_000;
    line.done(`${workflowId} completed`);
    if (json) process.stdout.write(`${JSON.stringify({ workflowId, id, started: isNew, ok: true, seconds, ...result })}\n`);
    else {
      process.stdout.write(`${thousands(result.rows)} Bronze rows refined: ${thousands(result.silverRows)} to Silver, ${thousands(result.dlqRows)} to the DLQ\n${
        table(['table', 'rows added', 'rows replaced'], [['Silver', result.silver], ['DLQ', result.dlq], ['Gold', result.gold]].map(([name, one]) => {
          const published = one as BackfillResult['silver'];
          return [name as string, published?.addedRows ?? 0, published?.removedRows ?? 0];
        }))}\n`);
    }
    return exitOk;
  } catch (error) {
    if (!(error instanceof WorkflowFailedError)) throw error;
    const cause = failureCause(error);
    if (json) process.stdout.write(`${JSON.stringify({ workflowId: backfillWorkflowId(id), id, ok: false, cause })}\n`);
    else process.stderr.write(`start-backfill: ${backfillWorkflowId(id)} did not complete: ${cause}\n`);
    return exitFailed;
  } finally {
    await connection.close();
    store.close();
  }
});
