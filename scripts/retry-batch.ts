#!/usr/bin/env node
import '../src/config/require-node.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/common';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { divertBatchSignal, retryBatchSignal, stateQuery, streamWorkflowId } from '../src/contracts/stream.ts';
import type { StreamState } from '../src/contracts/stream.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { command, exitFailed, exitOk, runCommand, stopSignal, table, wholeNumber } from './cli.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { connectTemporal } from './wire/temporal.ts';

interface Options {
  source: string;
  batch?: number[];
  all?: boolean;
  divert?: boolean;
  json?: boolean;
}

const batchNumber = (text: string, numbers: number[] = []): number[] => [...numbers, wholeNumber(1)(text)];

const program = command('retry-batch', 'Let failed micro-batches go again under new numbers, for example with new code; or divert them to the DLQ whole.\nWithout --batch and --all it lists them.')
  .requiredOption('--source <name>', 'The source whose stream workflow holds them')
  .option('--batch <number>', 'The failed micro-batch; repeatable', batchNumber)
  .option('--all', 'Every failed micro-batch of the source')
  .option('--divert', 'Do not refine: every record goes to the DLQ, its bytes as far as the Bronze files give them, for a DLQ replay later')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\nThe same from the Temporal Web UI: send the Signal ${retryBatchSignal} or ${divertBatchSignal} with the number to stream/<source>.`
    + `\nExit code: 0 when they go again, 1 if one of them is not among the failed ones, 2 for a bad command line.\n\n${environmentHelp()}`);

const pollMs = 100;
const deadlineMs = 30_000;

await runCommand<Options>(program, async ({ source, batch, all, divert, json }) => {
  if (batch && all) throw new TidemarkError('BAD_INPUT', '--batch and --all: expected one of them, found both');
  if (divert && !batch && !all) throw new TidemarkError('BAD_INPUT', '--divert: expected --batch or --all with it, found neither');
  const config = loadConfig();
  const { datasets } = await loadPipeline(config);
  if (!datasets.some((dataset) => dataset.source === source)) {
    throw new TidemarkError('BAD_INPUT', `--source: expected one of ${datasets.map((dataset) => dataset.source).join(', ')}, found ${source}`);
  }
  const signal = stopSignal();
  const connection = await connectTemporal(config);
  try {
    const handle = new Client({ connection, namespace: config.temporal.namespace }).workflow.getHandle(streamWorkflowId(source));
    const askState = async (): Promise<StreamState> => {
      try {
        return await handle.query<StreamState>(stateQuery);
      } catch (error) {
        if (error instanceof WorkflowNotFoundError) throw new TidemarkError('WORKFLOW_NOT_FOUND', `${streamWorkflowId(source)}: no such Workflow Execution in namespace ${config.temporal.namespace}`, { cause: error });
        throw new TidemarkError('TEMPORAL_UNAVAILABLE', `${streamWorkflowId(source)} does not answer: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
      }
    };
    const state = await askState();
    const { failed, failedTotal } = state;
    if (!batch && !all) {
      if (json) process.stdout.write(`${JSON.stringify({ source, failedTotal, failed })}\n`);
      else if (failedTotal === 0) process.stdout.write(`${source}: no failed micro-batches\n`);
      else process.stdout.write(`${table(['micro-batch', 'records', 'failed at', 'cause'], failed.map((one) => [one.batch, one.records, new Date(one.failedAtMs).toISOString(), one.cause]))}\n${failed.length < failedTotal ? `the latest ${failed.length} of ${failedTotal}\n` : ''}`);
      return exitOk;
    }

    // The state lists as many failed ones as a payload has room for: of a longer list, --all comes back for the next ones.
    const sent: number[] = [];
    let wanted = batch ?? failed.map((one) => one.batch);
    const unknown = batch && failed.length === failedTotal ? batch.filter((number) => !failed.some((one) => one.batch === number)) : [];
    wanted = wanted.filter((number) => !unknown.includes(number));
    while (wanted.length > 0) {
      for (const number of wanted) await handle.signal(divert ? divertBatchSignal : retryBatchSignal, number);
      sent.push(...wanted);
      const deadline = Date.now() + deadlineMs;
      let left: StreamState['failed'];
      for (;;) {
        signal.throwIfAborted();
        left = (await askState()).failed;
        if (!left.some((one) => sent.includes(one.batch))) break;
        if (Date.now() > deadline) throw new TidemarkError('TEMPORAL_UNAVAILABLE', `${streamWorkflowId(source)} did not take the Signals within ${deadlineMs / 1000} s: does a Temporal Worker run?`);
        await sleep(pollMs);
      }
      wanted = all ? left.filter((one) => one.failedAtMs <= (state.failed.at(-1)?.failedAtMs ?? 0)).map((one) => one.batch) : [];
    }
    if (json) process.stdout.write(`${JSON.stringify({ source, action: divert ? 'divert' : 'retry', sent, unknown })}\n`);
    else {
      if (sent.length > 0) process.stdout.write(`${source}: micro-batch ${sent.join(', ')} ${divert ? 'goes to the DLQ' : 'is refined again'} under a new number; see npm run status, or ${streamWorkflowId(source)} in the Web UI\n`);
      for (const number of unknown) process.stderr.write(`retry-batch: micro-batch ${number} of ${source} is not among the failed ones\n`);
    }
    return unknown.length > 0 ? exitFailed : exitOk;
  } finally {
    await connection.close();
  }
});
