#!/usr/bin/env node
import '../src/config/require-node.ts';
import { Client, WorkflowNotFoundError } from '@temporalio/client';
import type { WorkflowHandle } from '@temporalio/client';
import { Argument } from 'commander';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { dlqReplayWorkflowId, dlqStates, pauseReplaySignal, replayProgressQuery, resumeReplaySignal } from '../src/contracts/dlq-replay.ts';
import type { DlqReplayProgress } from '../src/contracts/dlq-replay.ts';
import { knownDataset } from '../src/dlq/plan-replay.ts';
import { DlqSelector, parseRecordPlace } from '../src/dlq/selection.ts';
import { showDlqRow } from '../src/dlq/show.ts';
import type { ShownRow } from '../src/dlq/show.ts';
import { listDlq, summarizeDlq } from '../src/dlq/summary.ts';
import type { DlqEntry, DlqSummary } from '../src/dlq/summary.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { DecoderCache } from '../src/refine/decoders.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { createSchemaStore } from '../src/schema-registry/schema-store.ts';
import { command, exitFailed, exitOk, runCommand, stopSignal, table, thousands, wholeNumber } from './cli.ts';
import { selectionOf, withSelection } from './wire/dlq-options.ts';
import type { SelectionOptions } from './wire/dlq-options.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { connectTemporal } from './wire/temporal.ts';

const actions = ['summary', 'list', 'show', 'progress', 'pause', 'resume', 'cancel'] as const;
type Action = (typeof actions)[number];

type Options = Partial<SelectionOptions> & { limit: number; days: number; json?: boolean };

const program = withSelection(command('dlq', [
  'Look at rejected records, and at the replays that recover them.',
  '',
  '  summary                            by error type, reason, source and day; the last hours; how many were recovered',
  '  list --source <name> […]           records that fit',
  '  show <topic>/<partition>/<offset>  one record: its bytes, what decodes of them, schemas, the refusal, its resolutions',
  '  progress|pause|resume|cancel <id>  a replay that npm run replay-dlq has started; cancelled before it publishes it leaves the tables as they were',
].join('\n')), { wantsSource: false })
  .addArgument(new Argument('<action>', 'What to do').choices(actions))
  .addArgument(new Argument('[subject]', 'A record, or the id of a replay'))
  .option('--limit <rows>', 'List at most so many', wholeNumber(1), 50)
  .option('--days <number>', 'Summarise this many days, by Kafka timestamp', wholeNumber(1), 7)
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\nExit code: 0, 1 if there is no such record or replay, 2 for a bad command line.\n\n${environmentHelp()}`);

const reasonsShown = 10;
const barWidth = 40;

const printedSummary = ({ rows, byState, recoveredPercent, byType, byReason, byDay, hourly }: DlqSummary, days: number): string => {
  const most = Math.max(1, ...hourly.map(({ rows: count }) => count));
  return [
    `${thousands(rows)} records were refused in ${days} days, by their Kafka timestamp: ${dlqStates.map((state) => `${state} ${thousands(byState[state])}`).join(', ')}${recoveredPercent === null ? '' : ` (${recoveredPercent.toFixed(1)} % recovered)`}`, '',
    table(['source', 'error type', 'rows', 'open'], byType.map((one) => [one.source, one.errorType, one.rows, one.open])), '',
    table(['source', `reason (the first ${reasonsShown})`, 'error type', 'rows', 'open'], byReason.slice(0, reasonsShown).map((one) => [one.source, one.reason, one.errorType, one.rows, one.open])), '',
    table(['day', 'source', 'rows', 'open'], byDay.map((one) => [one.day, one.source, one.rows, one.open])), '',
    table(['hour of refusing', 'rows', ''], hourly.map(({ hour, rows: count }) => [hour.slice(0, 13).replace('T', ' '), count, '▆'.repeat(Math.ceil((barWidth * count) / most))])),
  ].join('\n');
};

const printedList = (entries: readonly DlqEntry[], more: boolean): string => [
  table(['record', 'state', 'attempts', 'error type', 'reason', 'schema id', 'Kafka timestamp', 'detail'], entries.map((one) => [
    `${one.topic}/${one.partition}/${one.offset}`, one.state, one.attempts, one.errorType, one.reason, one.schemaId === null ? '–' : String(one.schemaId), one.kafkaTimestamp, one.detail ?? '',
  ])),
  ...(more ? [`… more: --limit shows them`] : []),
].join('\n');

const bytesShown = 32;
const hexLines = (hex: string): string[] => (hex.match(new RegExp(`.{1,${bytesShown * 2}}`, 'g')) ?? []).map((line, i) => `  ${String(i * bytesShown).padStart(6)}  ${line.replaceAll(/(.{2})/g, '$1 ').trimEnd()}`);

const printedRow = (row: ShownRow): string => {
  const { schema, decoded, today } = row;
  const lines = [
    `${row.topic}/${row.partition}/${row.offset} of ${row.source} is ${row.state}`,
    `refused ${row.errorTimestamp} by ${row.ruleVersion}: ${row.errorType}: ${row.reason}${row.detail === null ? '' : ` (${row.detail})`}`,
    `today ${today.ruleVersion} says: ${today.outcome}${today.reason === null ? '' : `, ${today.reason}`}${today.detail === null ? '' : ` (${today.detail})`}`,
    `Kafka timestamp ${row.kafkaTimestamp}`, '',
  ];
  if (row.rawHex === null) lines.push('no bytes: a tombstone, or bytes that Bronze did not give');
  else lines.push(`${row.rawHex.length / 2} bytes`, ...hexLines(row.rawHex));
  lines.push('');
  if (schema) {
    const { id, lake, registry, registryProblem } = schema;
    const known = lake === null && registry === null ? 'neither the lake nor the registry knows it'
      : lake !== null && registry !== null ? (lake === registry ? 'the lake and the registry know it, by the same schema' : 'THE LAKE AND THE REGISTRY KNOW IT BY DIFFERENT SCHEMAS: the lake\'s counts')
        : lake !== null ? 'the lake knows it, the registry does not' : 'the registry knows it, the lake does not yet';
    lines.push(`schema id ${id}: ${registryProblem === null ? known : `${lake === null ? 'the lake does not know it' : 'the lake knows it'}; the registry does not answer: ${registryProblem}`}`);
  } else {
    lines.push('the bytes name no schema id');
  }
  if (decoded) {
    const end = decoded.stoppedAt === null ? (decoded.trailingBytes === 0 ? 'decodes' : `decodes, and ${decoded.trailingBytes} bytes follow it`) : `decodes up to byte ${decoded.stoppedAt}${decoded.stoppedIn === null ? '' : `, in the field ${decoded.stoppedIn}`}`;
    lines.push(`the record ${end}`, JSON.stringify(decoded.fields, null, 2));
  }
  if (row.resolutions.length > 0) {
    lines.push('', table(['resolved at', 'action', 'attempt', 'replay', 'actor', 'reason', 'schema id', 'replacement'], row.resolutions.map((one) => [
      one.resolvedAt, one.action, one.attempt, one.replayId, one.actor, one.reason ?? '', one.schemaId === null ? '–' : String(one.schemaId), one.replacementHex === null ? '–' : `${one.replacementHex.length / 2} bytes`,
    ])));
  }
  return lines.join('\n');
};

const printedProgress = ({ id, source, mode, phase, paused, rowsRefined, rowsTotal, counts, gold }: DlqReplayProgress): string => [
  `${dlqReplayWorkflowId(id)} of ${source} (${mode.mode}): ${phase}${paused ? ', paused' : ''}; ${thousands(rowsRefined)} of ${thousands(rowsTotal)} records refined`,
  table(['recovered', 'refused again', 'quarantined', 'purged', 'flagged', 'kept'], [[counts.recovered, counts.refused, counts.quarantined, counts.purged, counts.flagged, counts.kept]]),
  ...(gold ? [`Gold has ${thousands(gold.goldRows)} rows more, ${thousands(gold.duplicates)} duplicates were dropped`] : []),
].join('\n');

const subjectOf = (subject: string | undefined, action: Action, what: string): string => {
  if (subject === undefined) throw new TidemarkError('BAD_INPUT', `${action}: expected ${what}, found nothing`);
  return subject;
};

const control = async (handle: WorkflowHandle, action: 'progress' | 'pause' | 'resume' | 'cancel'): Promise<DlqReplayProgress> => {
  if (action === 'pause') await handle.signal(pauseReplaySignal);
  else if (action === 'resume') await handle.signal(resumeReplaySignal);
  else if (action === 'cancel') await handle.cancel();
  return handle.query<DlqReplayProgress>(replayProgressQuery);
};

await runCommand<Options>(program, async ({ limit, days, json, ...selection }, [given, subject]) => {
  const action = given as Action;
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  const print = (value: object, text: () => string): void => void process.stdout.write(`${json ? JSON.stringify(value) : text()}\n`);
  const signal = stopSignal();

  if (action === 'progress' || action === 'pause' || action === 'resume' || action === 'cancel') {
    const id = subjectOf(subject, action, 'the id of a replay');
    const connection = await connectTemporal(config);
    try {
      const { workflow } = new Client({ connection, namespace: config.temporal.namespace });
      const progress = await control(workflow.getHandle(dlqReplayWorkflowId(id)), action);
      print(progress, () => printedProgress(progress));
      return exitOk;
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      throw new TidemarkError('WORKFLOW_NOT_FOUND', `${dlqReplayWorkflowId(id)}: ${action === 'progress' ? 'no such Workflow Execution' : 'none that runs'} in namespace ${config.temporal.namespace}`, { cause: error });
    } finally {
      await connection.close();
    }
  }

  const { store, catalog } = openLakeReadOnly(config, pipeline);
  try {
    if (action === 'show') {
      const place = parseRecordPlace(subjectOf(subject, action, '<topic>/<partition>/<offset>'));
      const registry = createRegistryClient({ url: config.schemaRegistry.url });
      const schemas = createSchemaStore({ store, registry });
      const row = await showDlqRow({ store, catalog, pipeline, registry, decodersOf: (source) => new DecoderCache(datasetOf(pipeline, source), schemas) }, place);
      if (!row) {
        process.stderr.write(`dlq: ${subject} is not in the DLQ\n`);
        return exitFailed;
      }
      print(row, () => printedRow(row));
      return exitOk;
    }
    if (action === 'list') {
      if (selection.source === undefined) throw new TidemarkError('BAD_INPUT', 'list: expected --source, found none');
      knownDataset(pipeline, selection.source);
      const selector = new DlqSelector(selectionOf({ ...selection, source: selection.source, state: selection.state ?? [...dlqStates] }));
      const { entries, more } = await listDlq({ store, catalog, pipeline, signal }, selector, limit);
      print({ entries, more }, () => printedList(entries, more));
      return exitOk;
    }
    const nowMs = Date.now();
    const sources = pipeline.datasets.map(({ source }) => source).filter((source) => selection.source === undefined || source === selection.source);
    if (sources.length === 0) throw new TidemarkError('BAD_INPUT', `--source: expected one of ${pipeline.datasets.map(({ source }) => source).join(', ')}, found ${selection.source}`);
    const from = selection.from ?? new Date(nowMs - days * 86_400_000).toISOString();
    const summary = await summarizeDlq({ store, catalog, pipeline, signal }, { sources, from, nowMs, ...(selection.until === undefined ? {} : { until: selection.until }) });
    print(summary, () => printedSummary(summary, days));
    return exitOk;
  } finally {
    store.close();
  }
});
