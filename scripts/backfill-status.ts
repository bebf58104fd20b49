#!/usr/bin/env node
import '../src/config/require-node.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, WorkflowFailedError, WorkflowNotFoundError } from '@temporalio/client';
import type { WorkflowHandle } from '@temporalio/client';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../src/contracts/backfill.ts';
import type { ReprocessProgress, Throttle } from '../src/contracts/reprocess.ts';
import { progressQuery, reprocessSignals } from '../src/contracts/reprocess.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { failureCause } from '../src/domain/failure-cause.ts';
import { ProgressLine, command, exitFailed, exitOk, runCommand, stopSignal, table, wholeNumber } from './cli.ts';
import { progressText, watchBackfill } from './wire/backfill.ts';
import { connectTemporal } from './wire/temporal.ts';

interface Options {
  id?: string;
  watch?: boolean;
  rate?: string;
  parallelism?: number;
  limit: number;
  json?: boolean;
}

const actions = ['status', 'list', 'pause', 'resume', 'throttle', 'cancel'] as const;
type Action = (typeof actions)[number];
const parallelismMax = 16;
const listMax = 1_000;

const program = command('backfill-status', 'Look at backfills and steer them. Start one with npm run start-backfill.')
  .argument('[action]', `One of ${actions.join(', ')}`, 'status')
  .option('--id <id>', 'Which one; all actions but list want it')
  .option('--watch', 'status: show progress until it has ended; exit code 1 if it failed')
  .option('--rate <rows>', 'throttle: rows a second at most, or "none"')
  .option('--parallelism <number>', 'throttle: chunks refined at once', wholeNumber(1, parallelismMax))
  .option('--limit <number>', 'list: the latest so many', wholeNumber(1, listMax), 20)
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\ncancel leaves every table as it was, unless the backfill publishes already: then it only rolls forward.\nThe same from the Temporal Web UI: the Signals pause, resume, throttle and Cancel of backfill/<id>.\nExit code: 0, 1 if it failed or there is none, 2 for a bad command line.\n\n${environmentHelp()}`);

const pollMs = 100;
const deadlineMs = 30_000;

const rateOf = (text: string): number | null => {
  if (text === 'none') return null;
  const value = Number(text);
  if (!Number.isFinite(value) || value <= 0) throw new TidemarkError('BAD_INPUT', `--rate: expected rows a second or "none", found ${JSON.stringify(text)}`);
  return value;
};

const found = async <T>(id: string, ask: () => Promise<T>): Promise<T> => {
  try {
    return await ask();
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) throw new TidemarkError('WORKFLOW_NOT_FOUND', `${backfillWorkflowId(id)}: no such Workflow Execution that runs`, { cause: error });
    throw error;
  }
};

const outcomeOf = async (handle: WorkflowHandle): Promise<{ ok: boolean; outcome: string }> => {
  try {
    await handle.result();
    return { ok: true, outcome: 'completed' };
  } catch (error) {
    if (!(error instanceof WorkflowFailedError)) throw error;
    return { ok: false, outcome: failureCause(error) };
  }
};

/** Whether the Workflow has taken the Signal. */
const isTaken: Record<'pause' | 'resume' | 'throttle', (progress: ReprocessProgress, wanted: Throttle) => boolean> = {
  pause: ({ phase }) => phase !== 'refining',
  resume: ({ phase }) => phase !== 'paused',
  throttle: ({ rowsPerSecondLimit, parallelism }, wanted) =>
    (wanted.rowsPerSecond === undefined || rowsPerSecondLimit === wanted.rowsPerSecond) && (wanted.parallelism === undefined || parallelism === wanted.parallelism),
};

await runCommand<Options>(program, async ({ id, watch, rate, parallelism, limit, json }, [given = 'status']) => {
  const action = actions.find((one) => one === given) as Action | undefined;
  if (!action) throw new TidemarkError('BAD_INPUT', `expected one of ${actions.join(', ')}, found ${given}`);
  if (action !== 'list' && id === undefined) throw new TidemarkError('BAD_INPUT', `${action}: expected --id <id>, found none`);
  if (action === 'throttle' && rate === undefined && parallelism === undefined) throw new TidemarkError('BAD_INPUT', 'throttle: expected --rate, --parallelism or both, found neither');
  const wanted: Throttle = { ...(rate === undefined ? {} : { rowsPerSecond: rateOf(rate) }), ...(parallelism === undefined ? {} : { parallelism }) };
  const config = loadConfig();
  const signal = stopSignal();
  const connection = await connectTemporal(config);
  const temporal = new Client({ connection, namespace: config.temporal.namespace });
  const print = (one: Record<string, unknown>, text: string): void => { process.stdout.write(json ? `${JSON.stringify(one)}\n` : `${text}\n`); };
  try {
    if (action === 'list') {
      const list: { id: string; status: string; started: string; ended: string | null }[] = [];
      for await (const { workflowId, status, startTime, closeTime } of temporal.workflow.list({ query: `WorkflowType = '${backfillWorkflowType}'`, pageSize: limit })) {
        list.push({ id: workflowId.slice(backfillWorkflowId('').length), status: status.name, started: startTime.toISOString(), ended: closeTime?.toISOString() ?? null });
        if (list.length === limit) break;
      }
      print({ backfills: list }, list.length === 0 ? 'no backfills' : table(['id', 'status', 'started', 'ended'], list.map((one) => [one.id, one.status, one.started, one.ended])));
      return exitOk;
    }
    const handle = temporal.workflow.getHandle(backfillWorkflowId(id!));
    const askProgress = (): Promise<ReprocessProgress> => found(id!, () => handle.query<ReprocessProgress>(progressQuery));
    if (action === 'status') {
      const line = new ProgressLine();
      const { status } = await found(id!, () => handle.describe());
      if (watch && status.name === 'RUNNING') await watchBackfill({ temporal, id: id!, signal, show: (text) => line.show(text) });
      if ((await handle.describe()).status.name === 'RUNNING') {
        const progress = await askProgress();
        line.done('');
        print({ id, status: 'RUNNING', progress }, progressText(progress));
        return exitOk;
      }
      const { ok, outcome } = await outcomeOf(handle);
      line.done('');
      const progress = await askProgress().catch(() => null);
      print({ id, status: ok ? 'COMPLETED' : 'FAILED', outcome, progress }, `${handle.workflowId} ${outcome}${progress ? `; ${progressText(progress)}` : ''}`);
      return ok ? exitOk : exitFailed;
    }
    const sentMs = Date.now();
    if (action === 'cancel') {
      await found(id!, () => handle.cancel());
      let status = 'RUNNING';
      while (Date.now() - sentMs < deadlineMs && !signal.aborted) {
        status = (await handle.describe()).status.name;
        if (status !== 'RUNNING' || (await askProgress().catch(() => null))?.isPublishing) break;
        await sleep(pollMs);
      }
      const isCancelled = status === 'CANCELLED';
      print({ id, action, status, afterMs: Date.now() - sentMs }, isCancelled ? `${handle.workflowId} is cancelled: every table is as it was` : `${handle.workflowId} publishes already and rolls forward (${status})`);
      return isCancelled ? exitOk : exitFailed;
    }
    await found(id!, () => (action === 'throttle' ? handle.signal(reprocessSignals.throttle, wanted) : handle.signal(reprocessSignals[action])));
    for (;;) {
      signal.throwIfAborted();
      const progress = await askProgress();
      if (progress.isPublishing) {
        print({ id, action, afterMs: Date.now() - sentMs, progress }, `${handle.workflowId} publishes already: ${action} changes nothing any more; ${progressText(progress)}`);
        return exitFailed;
      }
      if (isTaken[action](progress, wanted)) {
        print({ id, action, afterMs: Date.now() - sentMs, progress }, progressText(progress));
        return exitOk;
      }
      if (Date.now() - sentMs > deadlineMs) throw new TidemarkError('TEMPORAL_UNAVAILABLE', `${handle.workflowId} did not take the Signal within ${deadlineMs / 1_000} s: does a Temporal Worker run?`);
      await sleep(pollMs);
    }
  } finally {
    await connection.close();
  }
});
