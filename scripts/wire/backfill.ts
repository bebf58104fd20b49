import { setTimeout as sleep } from 'node:timers/promises';
import { WorkflowNotFoundError } from '@temporalio/client';
import type { Client } from '@temporalio/client';
import { defaultPayloadConverter } from '@temporalio/common';
import type { Payload } from '@temporalio/common';
import { backfillWorkflowId } from '../../src/contracts/backfill.ts';
import type { MicroBatchInput } from '../../src/contracts/micro-batch.ts';
import { microBatchWorkflowId } from '../../src/contracts/micro-batch.ts';
import type { ReprocessProgress } from '../../src/contracts/reprocess.ts';
import { progressQuery } from '../../src/contracts/reprocess.ts';
import { Coverage } from '../../src/domain/offsets.ts';
import { thousands } from '../cli.ts';

/** Whether a Workflow Execution of this ID runs now. */
export const isRunningIn = (temporal: Client) => async (workflowId: string): Promise<boolean> => {
  try {
    return (await temporal.workflow.getHandle(workflowId).describe()).status.name === 'RUNNING';
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
};

/** Offsets that a micro-batch was started with, from its history; undefined: Temporal has forgotten it, or never knew it. */
export const offsetsOfMicroBatchIn = (temporal: Client) => async (source: string, batch: number): Promise<Coverage | undefined> => {
  try {
    const { events } = await temporal.workflow.getHandle(microBatchWorkflowId(source, batch)).fetchHistory();
    const payload = events?.[0]?.workflowExecutionStartedEventAttributes?.input?.payloads?.[0];
    return payload ? Coverage.fromJson(defaultPayloadConverter.fromPayload<MicroBatchInput>(payload as Payload).intervals) : undefined;
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return undefined;
    throw error;
  }
};

/** One line for people: phase, a bar, rows a second, time left. */
export const progressText = ({ phase, rowsRefined, rowsTotal, chunksRefined, chunksTotal, refiningMs, rowsPerSecondLimit }: ReprocessProgress): string => {
  const share = rowsTotal === 0 ? (phase === 'completed' ? 1 : 0) : rowsRefined / rowsTotal;
  const filled = Math.round(share * barWidth);
  const rate = refiningMs > 0 ? rowsRefined / refiningMs * 1_000 : 0;
  const left = phase === 'refining' && rate > 0 ? `, ${Math.ceil((rowsTotal - rowsRefined) / rate)} s left` : '';
  return `${phase} [${'█'.repeat(filled)}${'·'.repeat(barWidth - filled)}] ${thousands(rowsRefined)} of ${thousands(rowsTotal)} rows, ${chunksRefined} of ${chunksTotal} chunks, `
    + `${thousands(Math.round(rate))} rows/s${rowsPerSecondLimit === null ? '' : ` (limit ${thousands(rowsPerSecondLimit)})`}${left}`;
};
const barWidth = 24;
const pollMs = 500;

/** Shows the progress until the Workflow Execution has ended, or the signal aborts. A Temporal Worker that is away is waited for. */
export const watchBackfill = async ({ temporal, id, signal, show, everyMs = pollMs }: {
  temporal: Client; id: string; signal: AbortSignal; show: (text: string, progress: ReprocessProgress | null) => void; everyMs?: number;
}): Promise<void> => {
  const handle = temporal.workflow.getHandle(backfillWorkflowId(id));
  while (!signal.aborted) {
    const { status } = await handle.describe();
    if (status.name !== 'RUNNING') return;
    try {
      const progress = await handle.query<ReprocessProgress>(progressQuery);
      show(progressText(progress), progress);
    } catch (error) {
      if (error instanceof WorkflowNotFoundError) throw error;
      show(`no answer from ${handle.workflowId}: does a Temporal Worker run?`, null);
    }
    await sleep(everyMs, undefined, { signal }).catch(() => {});
  }
};
