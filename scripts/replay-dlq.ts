#!/usr/bin/env node
import '../src/config/require-node.ts';
import { userInfo } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, WorkflowExecutionAlreadyStartedError, WorkflowFailedError } from '@temporalio/client';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import type { Config } from '../src/config/config.ts';
import {
  dlqReplayWorkflowId, dlqReplayWorkflowType, noReplayCounts, replayAttemptsMaxDefault, replayChunkRowsDefault, replayIdPattern, replayOutcomes, replayProgressQuery, sumReplayCounts,
} from '../src/contracts/dlq-replay.ts';
import type { DlqReplayInput, DlqReplayProgress, DlqReplayResult, ReplayCounts, ReplayMode } from '../src/contracts/dlq-replay.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { knownDataset, prepareMode, selectChunks } from '../src/dlq/plan-replay.ts';
import type { PlannedRows } from '../src/dlq/plan-replay.ts';
import type { ChunkFile } from '../src/dlq/replay-store.ts';
import { DlqSelector, recordPlaceText } from '../src/dlq/selection.ts';
import { refineChunk } from '../src/dlq/stage-replay.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { failureCause } from '../src/domain/failure-cause.ts';
import { jsonBytes, payloadBytesMax } from '../src/domain/payload.ts';
import { DecoderCache } from '../src/refine/decoders.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { createSchemaStore } from '../src/schema-registry/schema-store.ts';
import { ProgressLine, command, exitFailed, exitOk, runCommand, stopSignal, table, thousands, wholeNumber } from './cli.ts';
import { selectionOf, withSelection } from './wire/dlq-options.ts';
import type { SelectionOptions } from './wire/dlq-options.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { connectTemporal } from './wire/temporal.ts';

interface Options extends SelectionOptions {
  rules?: boolean;
  schemaId?: number;
  schemaVersion?: number;
  cleanse?: string;
  purge?: string;
  flag?: string;
  id?: string;
  dryRun?: boolean;
  sample?: number;
  yes?: boolean;
  wait: boolean;
  attemptsMax: number;
  chunkRows: number;
  json?: boolean;
}

const program = withSelection(command('replay-dlq', 'Refine rejected records again and publish what is recovered, once: in Silver and Gold, with a resolution for each record.\nWithout --dry-run it starts a Workflow, dlq-replay/<id>, which can be paused, resumed and cancelled.'))
  .option('--rules', 'Validate with the rules as they are now')
  .option('--schema-id <id>', 'Decode with this schema id in place of the one that the bytes name', wholeNumber(1))
  .option('--schema-version <number>', 'The same, by the version of the source\'s subject in the registry', wholeNumber(1))
  .option('--cleanse <name>', 'Mend the records with this function of the pipeline module')
  .option('--purge <reason>', 'Do not refine: the records are closed for good, for this reason (wants --yes)')
  .option('--flag <reason>', 'Do not refine: the records are looked at and left, for this reason (wants --yes)')
  .option('--dry-run', 'Print what would become of them; no Workflow is started, and no table is touched')
  .option('--sample <rows>', 'With --dry-run: only so many records, the first ones', wholeNumber(1))
  .option('--yes', 'Confirm --purge or --flag')
  .option('--id <id>', 'Names the replay; one id completes once, and one that failed goes on. Default: from the time')
  .option('--no-wait', 'Do not wait for its end')
  .option('--attempts-max <number>', 'A record that is refused this often is quarantined: left out unless it is named', wholeNumber(1), replayAttemptsMaxDefault)
  .option('--chunk-rows <number>', 'Records that are refined and staged together', wholeNumber(1), replayChunkRowsDefault)
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\nExit code: 0 when every selected record has an outcome, 1 when the replay failed or was cancelled, 2 for a bad command line.\n\n${environmentHelp()}`);

/** Exactly one of the modes is given. */
const modeOf = async ({ rules, schemaId, schemaVersion, cleanse, purge, flag }: Options, subject: string, config: Config): Promise<ReplayMode> => {
  const given = Object.entries({ '--rules': rules, '--schema-id': schemaId, '--schema-version': schemaVersion, '--cleanse': cleanse, '--purge': purge, '--flag': flag }).filter(([, value]) => value !== undefined);
  if (given.length !== 1) throw new TidemarkError('BAD_INPUT', `expected one of --rules, --schema-id, --schema-version, --cleanse, --purge, --flag; found ${given.map(([name]) => name).join(', ') || 'none'}`);
  if (schemaVersion !== undefined) return { mode: 'schema', schemaId: (await createRegistryClient({ url: config.schemaRegistry.url }).version(subject, schemaVersion)).id };
  if (schemaId !== undefined) return { mode: 'schema', schemaId };
  if (cleanse !== undefined) return { mode: 'cleanse', cleanse };
  if (purge !== undefined) return { mode: 'purge', reason: purge };
  if (flag !== undefined) return { mode: 'flag', reason: flag };
  return { mode: 'rules' };
};

interface DryRun extends Omit<PlannedRows, 'rows'> {
  dryRun: true;
  /** All that fit. */
  rows: number;
  /** Those that were refined: all, or the sample. */
  counts: ReplayCounts;
  examples: { record: string; before: string; after: string; detail: string | null }[];
}
const examplesShown = 10;

class SampleFull extends Error {}

/** Refines in memory as the replay would; writes nothing. */
const dryRunOf = async (config: Config, pipeline: Pipeline, input: DlqReplayInput, sample: number | undefined, signal: AbortSignal): Promise<DryRun> => {
  const { store, catalog } = openLakeReadOnly(config, pipeline);
  const progress = new ProgressLine();
  try {
    const registry = createRegistryClient({ url: config.schemaRegistry.url });
    const schemas = createSchemaStore({ store, registry });
    const dataset = knownDataset(pipeline, input.selection.source);
    const encodeSchemaId = await prepareMode({ pipeline, schemas, registry, topicPrefix: config.kafka.topicPrefix }, dataset, input);
    const decoders = new DecoderCache(dataset, schemas);
    let counts = noReplayCounts;
    const examples: DryRun['examples'] = [];
    const take = async (files: ChunkFile[]): Promise<void> => {
      const { rows, refined } = await refineChunk({ store, catalog, pipeline, decoders, signal }, { input, encodeSchemaId }, files, Date.now());
      counts = sumReplayCounts(counts, refined.counts);
      for (const [i, row] of rows.entries()) {
        const outcome = refined.outcomes[i]!;
        if (examples.length === examplesShown) break;
        examples.push({
          record: recordPlaceText(row), before: row.reason, detail: outcome.outcome === 'refused' ? outcome.detail : null,
          after: outcome.outcome === 'refused' ? `refused: ${outcome.reason}` : outcome.outcome === 'purged' ? `purged: ${outcome.reason}` : outcome.outcome,
        });
      }
      progress.show(`${thousands(counts.selected)} records refined`);
      if (sample !== undefined && counts.selected >= sample) throw new SampleFull();
    };
    const version = await catalog.load(pipeline.dlqTable);
    const chunkRows = sample === undefined ? input.chunkRows ?? replayChunkRowsDefault : Math.max(1, Math.min(sample, input.chunkRows ?? replayChunkRowsDefault));
    let planned: PlannedRows;
    try {
      planned = await selectChunks({ catalog, store, pipeline, signal }, { ...input, chunkRows }, version, take);
    } catch (error) {
      if (!(error instanceof SampleFull)) throw error;
      // The rest is counted, not refined.
      planned = await selectChunks({ catalog, store, pipeline, signal }, input, version, () => Promise.resolve());
    }
    return { dryRun: true, ...planned, counts, examples };
  } finally {
    store.close();
  }
};

const countsTable = (counts: ReplayCounts): string => table(['outcome', 'records'], [
  ['recovered', counts.recovered], ['refused again', counts.refused], ['quarantined', counts.quarantined], ['purged', counts.purged], ['flagged', counts.flagged], ['kept', counts.kept],
].filter(([, count]) => count !== 0) as [string, number][]);
const refusedTable = ({ refusedByReason }: ReplayCounts): string => {
  const rows = Object.entries(refusedByReason).sort(([, a], [, b]) => b - a);
  return rows.length === 0 ? '' : `\n\n${table(['refused again, by new reason', 'records'], rows)}`;
};
const leftLines = (notRefined: number, quarantined: number): string =>
  `${notRefined > 0 ? `${thousands(notRefined)} more fit, and their micro-batch is still publishing: they stay for the next replay\n` : ''}`
  + `${quarantined > 0 ? `${thousands(quarantined)} more fit and are quarantined: --record or --state quarantined names them\n` : ''}`;

const printedDryRun = ({ rows, counts, notRefined, quarantined, examples }: DryRun): string => [
  `${thousands(rows)} records fit${counts.selected < rows ? `, ${thousands(counts.selected)} were refined as a sample` : ''}`, '',
  countsTable(counts) + refusedTable(counts), '',
  table(['record', 'refused for', 'would be', 'detail'], examples.map(({ record, before, after, detail }) => [record, before, after, detail ?? ''])), '',
  leftLines(notRefined, quarantined),
].join('\n').trimEnd();

const pollMs = 500;
const idText = (now: Date): string => `${now.toISOString().replaceAll(/[-:]/g, '').slice(0, 15)}-${Math.random().toString(36).slice(2, 6)}`;

await runCommand<Options>(program, async (options) => {
  const { dryRun, sample, yes, wait, json, attemptsMax, chunkRows } = options;
  if ((options.purge !== undefined || options.flag !== undefined) && !yes && !dryRun) throw new TidemarkError('BAD_INPUT', '--purge and --flag close records: confirm with --yes, or look with --dry-run');
  if (sample !== undefined && !dryRun) throw new TidemarkError('BAD_INPUT', '--sample: expected --dry-run with it, found none');
  if (attemptsMax < 1 || chunkRows < 1) throw new TidemarkError('BAD_INPUT', `--attempts-max and --chunk-rows: expected at least 1, found ${Math.min(attemptsMax, chunkRows)}`);
  const id = options.id ?? idText(new Date());
  if (!replayIdPattern.test(id)) throw new TidemarkError('BAD_INPUT', `--id: expected at most 80 letters, digits, dots, dashes and underscores, found ${JSON.stringify(id)}`);
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  const selection = selectionOf(options);
  const { subject } = knownDataset(pipeline, selection.source);
  if (new DlqSelector(selection).states.has('recovered')) throw new TidemarkError('BAD_INPUT', '--state: expected a state other than recovered: those records are in Silver');
  const input: DlqReplayInput = { id, selection, mode: await modeOf(options, `${config.kafka.topicPrefix}${subject}`, config), actor: userInfo().username, attemptsMax, chunkRows };
  if (jsonBytes(input) > payloadBytesMax / 2) throw new TidemarkError('BAD_INPUT', 'the selection is too long to travel: name fewer records, or select them by reason or time');
  const signal = stopSignal();

  if (dryRun) {
    const planned = await dryRunOf(config, pipeline, input, sample, signal);
    process.stdout.write(`${json ? JSON.stringify(planned) : printedDryRun(planned)}\n`);
    return exitOk;
  }

  const workflowId = dlqReplayWorkflowId(id);
  const connection = await connectTemporal(config);
  try {
    const client = new Client({ connection, namespace: config.temporal.namespace });
    const { workflow } = client;
    try {
      await workflow.start(dlqReplayWorkflowType, {
        workflowId, taskQueue: config.temporal.taskQueue, args: [input], workflowIdReusePolicy: 'ALLOW_DUPLICATE_FAILED_ONLY',
        staticSummary: `${selection.source}: ${input.mode.mode}, asked for by ${input.actor}`,
      });
    } catch (error) {
      if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
      process.stderr.write(`replay-dlq: ${workflowId} was started before, and one id runs once: its outcome follows\n`);
    }
    const link = config.temporal.uiUrl === undefined ? '' : ` (${config.temporal.uiUrl}/namespaces/${config.temporal.namespace}/workflows/${encodeURIComponent(workflowId)})`;
    if (!wait) {
      process.stdout.write(json ? `${JSON.stringify({ id, workflowId })}\n` : `started ${workflowId}${link}; npm run dlq -- progress ${id}\n`);
      return exitOk;
    }
    process.stderr.write(`started ${workflowId}${link}\n`);
    const handle = workflow.getHandle(workflowId);
    const progress = new ProgressLine();
    const outcome = handle.result() as Promise<DlqReplayResult>;
    const end = outcome.then(() => true, () => true);
    let ended = false;
    while (!ended && !signal.aborted) {
      ended = await Promise.race([end, sleep(pollMs, false)]);
      const now = ended ? undefined : await handle.query<DlqReplayProgress>(replayProgressQuery).catch(() => undefined);
      if (now) progress.show(`${now.phase}${now.paused ? ' (paused)' : ''}: ${thousands(now.rowsRefined)} of ${thousands(now.rowsTotal)} records, ${thousands(now.counts.recovered)} recovered`);
    }
    if (!ended) {
      process.stderr.write(`replay-dlq: no longer watched, it runs on: npm run dlq -- progress ${id}, or cancel ${id}\n`);
      return exitFailed;
    }
    try {
      const result = await outcome;
      process.stdout.write(json ? `${JSON.stringify({ id, workflowId, ...result })}\n`
        : `${thousands(replayOutcomes(result))} of ${thousands(result.selected)} records have an outcome\n\n${countsTable(result)}${refusedTable(result)}\n\nGold has ${thousands(result.goldRows)} rows more, ${thousands(result.duplicates)} duplicates were dropped\n${leftLines(result.notRefined, result.leftQuarantined)}`);
      return exitOk;
    } catch (error) {
      if (!(error instanceof WorkflowFailedError)) throw error;
      process.stderr.write(`replay-dlq: ${workflowId} did not complete: ${failureCause(error)}\n`);
      return exitFailed;
    }
  } finally {
    await connection.close();
  }
});
