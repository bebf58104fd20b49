#!/usr/bin/env node
import '../src/config/require-node.ts';
import type { Client } from '@temporalio/client';
import { WorkflowFailedError } from '@temporalio/client';
import { plannedCompaction } from '../src/compaction/plan.ts';
import { compactedTables } from '../src/compaction/tables.ts';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { compactionWorkflowId, compactionWorkflowType } from '../src/contracts/compaction.ts';
import type { CompactionInput, CompactionResult, PlannedCompaction } from '../src/contracts/compaction.ts';
import { TidemarkError, isTidemarkError } from '../src/domain/errors.ts';
import { command, exitFailed, exitOk, fileSize, runCommand, stopSignal, table } from './cli.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';

interface Options {
  table?: string[];
  dryRun?: boolean;
  wait: boolean;
  json?: boolean;
}

const collect = (value: string, values: string[] = []): string[] => [...values, value];

const program = command('start-compaction', 'Make many small data files few, sorted, near the target size: the same rows, by a Workflow for each table.\nFiles that were written recently wait. What a snapshot names stays readable until it expires.')
  .option('--table <name>', 'Only this table; repeatable. Default all', collect)
  .option('--dry-run', 'Print what is due by table and partition, and start nothing')
  .option('--no-wait', 'Return once the Workflows are started')
  .option('--json', 'Print one JSON object on stdout')
  .addHelpText('after', `\nExit code: 0 when all was compacted, 1 if something could not be, 2 for a bad command line.\n\n${environmentHelp()}`);

const printPlans = (plans: readonly PlannedCompaction[]): void => {
  process.stdout.write(`${table(['table', 'files', 'due', 'rows', 'size', 'written recently', 'too few of a size', 'not told apart'], plans.map((plan) => [
    plan.table, plan.filesTotal, plan.files, plan.rows, fileSize(plan.bytes), plan.heldBack['written recently'] ?? 0, plan.heldBack['too few'] ?? 0, plan.heldBack['not told apart'] ?? 0,
  ]))}\n`);
  const groups = plans.flatMap((plan) => plan.groups.map((group) => [plan.table, group.folder, group.group, group.files, group.rows, fileSize(group.bytes)] as const));
  if (groups.length > 0) process.stdout.write(`\n${table(['table', 'partition', 'group', 'files', 'rows', 'size'], groups)}\n`);
  const hidden = plans.reduce((sum, plan) => sum + plan.groupsTotal - plan.groups.length, 0);
  if (hidden > 0) process.stdout.write(`… ${hidden} more groups\n`);
};

const printResults = (results: readonly CompactionResult[]): void => {
  process.stdout.write(`${table(['table', 'commits', 'files before', 'files after', 'rows', 'size before', 'size after', 'failed'], results.map((one) => [
    one.table, one.groups, one.filesIn, one.filesOut, one.rows, fileSize(one.bytesIn), fileSize(one.bytesOut), one.failed.length,
  ]))}\n`);
  for (const { table: name, failed } of results) for (const { folder, group, cause } of failed) process.stderr.write(`start-compaction: ${name} ${folder} ${group}: ${cause}\n`);
};

/** A compaction of the table that runs already is joined. */
const compact = async (temporal: Client, taskQueue: string, name: string) => temporal.workflow.start(compactionWorkflowType, {
  workflowId: compactionWorkflowId(name), taskQueue, args: [{ table: name } satisfies CompactionInput], workflowIdConflictPolicy: 'USE_EXISTING', staticSummary: `Compaction of ${name}`,
});

/** What a Workflow that could not compact everything tells of itself. */
const incompleteResult = (error: unknown): CompactionResult => {
  const details = error instanceof WorkflowFailedError && error.cause && 'details' in error.cause ? error.cause.details as unknown[] | undefined : undefined;
  if (!details?.[0]) throw error;
  return details[0] as CompactionResult;
};

await runCommand<Options>(program, async (options) => {
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  const known = compactedTables(pipeline).map(({ definition }) => definition.name);
  for (const name of options.table ?? []) {
    if (!known.includes(name)) throw new TidemarkError('BAD_INPUT', `--table: expected one of ${known.join(', ')}, found ${name}`);
  }
  const names = [...new Set(options.table ?? known)];
  const signal = stopSignal();

  if (options.dryRun) {
    const { catalog, store } = openLakeReadOnly(config, pipeline);
    try {
      const plans: PlannedCompaction[] = [];
      for (const name of names) {
        signal.throwIfAborted();
        try {
          plans.push(await plannedCompaction({ catalog, pipeline, policies: config.compaction }, name));
        } catch (error) {
          // A pipeline that has never run has no tables, and nothing to compact.
          if (!isTidemarkError(error, 'TABLE_NOT_FOUND')) throw error;
        }
      }
      if (options.json) process.stdout.write(`${JSON.stringify({ tables: plans })}\n`);
      else printPlans(plans);
      return exitOk;
    } finally {
      store.close();
    }
  }

  const [{ Client: TemporalClient }, { connectTemporal }] = await Promise.all([import('@temporalio/client'), import('./wire/temporal.ts')]);
  const connection = await connectTemporal(config);
  try {
    const temporal = new TemporalClient({ connection, namespace: config.temporal.namespace });
    const handles: Awaited<ReturnType<typeof compact>>[] = [];
    for (const name of names) handles.push(await compact(temporal, config.temporal.taskQueue, name));
    process.stderr.write(`start-compaction: ${handles.map(({ workflowId }) => workflowId).join(', ')}${config.temporal.uiUrl ? `, Web UI ${config.temporal.uiUrl}` : ''}\n`);
    if (!options.wait) {
      if (options.json) process.stdout.write(`${JSON.stringify({ started: handles.map(({ workflowId }) => workflowId) })}\n`);
      return exitOk;
    }
    const results = await temporal.withAbortSignal(signal, () => Promise.all(handles.map((handle) => (handle.result() as Promise<CompactionResult>).catch(incompleteResult))));
    if (options.json) process.stdout.write(`${JSON.stringify({ tables: results })}\n`);
    else printResults(results);
    return results.some(({ failed }) => failed.length > 0) ? exitFailed : exitOk;
  } finally {
    await connection.close();
  }
});
