#!/usr/bin/env node
import '../src/config/require-node.ts';
import { Client, WorkflowExecutionAlreadyStartedError } from '@temporalio/client';
import type { WorkflowHandle } from '@temporalio/client';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { holdReasons, retentionSweepWorkflowId, retentionSweepWorkflowType } from '../src/contracts/retention.ts';
import type { RetentionSweepInput, RetentionSweepResult, SweepPlan } from '../src/contracts/retention.ts';
import { pipelineTables } from '../src/datasets/pipeline.ts';
import { TidemarkError, isTidemarkError } from '../src/domain/errors.ts';
import { planSweep } from '../src/retention/plan-sweep.ts';
import { ProgressLine, command, exitFailed, exitOk, fileSize, runCommand, stopSignal, table, thousands } from './cli.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { loadRetainedTables, openArchive } from './wire/retention.ts';
import { connectTemporal } from './wire/temporal.ts';

interface Options {
  table?: string[];
  dryRun?: boolean;
  wait: boolean;
  json?: boolean;
}

const program = command('start-retention', 'Run retention sweeps now: due rows go to the archive, are read back there, and leave their table; then snapshots expire and orphan files go.\nEach table is one Workflow, retention-sweep/<table>.')
  .option('--table <name>', 'Only this table; repeatable. Default: every table of the pipeline', (name: string, names: string[] = []) => [...names, name])
  .option('--dry-run', 'Print the plan by table and partition, with what is held back and why; change nothing')
  .option('--no-wait', 'Start the Workflows and do not wait for their results')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\nExit code: 0 when every sweep completed, 1 if one failed or met damaged files, 2 for a bad command line or configuration.\n\n${environmentHelp()}`);

const printedPlan = (plans: readonly SweepPlan[]): string => {
  const lines = [table(['table', 'policy', 'due before', 'purged before', 'due files', 'due rows', 'size', 'manifests to purge'], plans.map((plan) => [
    plan.table, plan.policy, plan.archiveBefore ?? '–', plan.purgeBefore ?? '–', plan.partitions.reduce((sum, { files }) => sum + files, 0),
    plan.partitions.reduce((sum, { rows }) => sum + rows, 0), fileSize(plan.partitions.reduce((sum, { bytes }) => sum + bytes, 0)), plan.purges.length,
  ]))];
  const partitions = plans.flatMap((plan) => plan.partitions.map((one) => [plan.table, one.partition, one.lastDay, one.files, one.rows, fileSize(one.bytes), one.splitFiles]));
  if (partitions.length > 0) lines.push('', table(['table', 'partition', 'youngest day', 'files', 'due rows', 'size', 'files to split'], partitions));
  const held = plans.flatMap((plan) => plan.held.map((one) => [plan.table, one.files, one.rows, fileSize(one.bytes), holdReasons[one.reason], one.detail]));
  if (held.length > 0) lines.push('', 'Held back:', table(['table', 'files', 'rows', 'size', 'because', 'needed by'], held));
  const purges = plans.flatMap((plan) => plan.purges.map((one) => [plan.table, one.manifestId, one.lastDay, one.files, one.rows, fileSize(one.bytes)]));
  if (purges.length > 0) lines.push('', 'Purged from the archive:', table(['table', 'manifest', 'youngest day', 'files', 'rows', 'size'], purges));
  return lines.join('\n');
};

const printedResults = (results: readonly RetentionSweepResult[]): string => {
  const lines = [table(['table', 'archived rows', 'files', 'size', 'left for later', 'purged rows', 'snapshots expired', 'orphan files', 'freed'], results.map((one) => [
    one.table, one.archived.rows, one.archived.files, fileSize(one.archived.bytes), one.leftBatches, one.purged.rows, one.tidied.expiredSnapshots, one.tidied.orphanFiles,
    fileSize(one.tidied.orphanBytes + one.purged.bytes),
  ]))];
  for (const { table: name, held, damaged, tidied } of results) {
    for (const one of held) lines.push(`${name}: held back ${thousands(one.rows)} rows in ${thousands(one.files)} files, because ${holdReasons[one.reason]} (${one.detail})`);
    for (const text of damaged) lines.push(`${name}: DAMAGED, left alone: ${text}`);
    if (tidied.heldBack !== null) lines.push(`${name}: orphan files left alone: ${tidied.heldBack}`);
  }
  return lines.join('\n');
};

await runCommand<Options>(program, async ({ table: names, dryRun, wait, json }) => {
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  const retained = loadRetainedTables(config, pipeline);
  const all = pipelineTables(pipeline).map(({ name }) => name);
  for (const name of names ?? []) {
    if (!all.includes(name)) throw new TidemarkError('BAD_INPUT', `--table: expected one of ${all.join(', ')}, found ${name}`);
  }
  const chosen = [...new Set(names ?? all)];
  const signal = stopSignal();

  if (dryRun) {
    const lake = openLakeReadOnly(config, pipeline);
    const { archive, store } = openArchive(config, lake, pipeline);
    const progress = new ProgressLine();
    try {
      const plans: SweepPlan[] = [];
      for (const one of retained.filter(({ name }) => chosen.includes(name))) {
        progress.show(`Planning ${one.name}`);
        try {
          plans.push(await planSweep({ ...lake, archive, pipeline, signal }, one, 'dry-run'));
        } catch (error) {
          // A pipeline that has never run has no tables, and nothing that is due.
          if (!isTidemarkError(error, 'TABLE_NOT_FOUND')) throw error;
        }
      }
      process.stdout.write(`${json ? JSON.stringify({ plans: plans.map(({ batches, ...plan }) => ({ ...plan, batches: batches.length })) }) : printedPlan(plans)}\n`);
      return exitOk;
    } finally {
      store.close();
      lake.store.close();
    }
  }

  const connection = await connectTemporal(config);
  try {
    const temporal = new Client({ connection, namespace: config.temporal.namespace });
    const started: { name: string; handle: WorkflowHandle }[] = [];
    for (const name of chosen) {
      const workflowId = retentionSweepWorkflowId(name);
      try {
        const input: RetentionSweepInput = { table: name };
        started.push({ name, handle: await temporal.workflow.start(retentionSweepWorkflowType, { workflowId, taskQueue: config.temporal.taskQueue, args: [input], staticSummary: `Retention sweep of ${name}` }) });
      } catch (error) {
        if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
        // Twice at once is once: this waits for the one that runs.
        started.push({ name, handle: temporal.workflow.getHandle(workflowId) });
      }
    }
    process.stderr.write(`start-retention: ${started.map(({ handle }) => handle.workflowId).join(', ')}${config.temporal.uiUrl ? `, Web UI ${config.temporal.uiUrl}` : ''}\n`);
    if (!wait) {
      if (json) process.stdout.write(`${JSON.stringify({ started: started.map(({ handle }) => handle.workflowId) })}\n`);
      return exitOk;
    }
    const results: RetentionSweepResult[] = [];
    const failed: { table: string; cause: string }[] = [];
    await temporal.withAbortSignal(signal, async () => {
      for (const { name, handle } of started) {
        try {
          results.push(await handle.result() as RetentionSweepResult);
        } catch (error) {
          signal.throwIfAborted();
          const cause = error instanceof Error && error.cause instanceof Error ? error.cause.cause ?? error.cause : error;
          failed.push({ table: name, cause: cause instanceof Error ? cause.message : String(cause) });
        }
      }
    });
    if (json) process.stdout.write(`${JSON.stringify({ results, failed })}\n`);
    else process.stdout.write(`${printedResults(results)}\n`);
    for (const one of failed) process.stderr.write(`start-retention: ${one.table}: ${one.cause}\n`);
    return failed.length === 0 && results.every(({ damaged }) => damaged.length === 0) ? exitOk : exitFailed;
  } finally {
    await connection.close();
  }
});
