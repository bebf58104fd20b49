import type { Client } from '@temporalio/client';
import { progressQuery } from '../contracts/reprocess.ts';
import type { Metrics } from './metrics.ts';

/** Workflow Types whose failures wake somebody. */
export const watchedWorkflowTypes = [
  'streamWorkflow', 'microBatchWorkflow', 'backfillWorkflow', 'dlqReplayWorkflow', 'retentionSweepWorkflow', 'compactionWorkflow', 'auditWorkflow',
] as const;

const reprocessing = { backfillWorkflow: 'backfill', dlqReplayWorkflow: 'dlq-replay' } as const;
/** What both of them answer to the query for their progress. */
interface Progress { rowsTotal: number; rowsRefined: number }

const hourMs = 3_600_000;
/** Running backfills, or DLQ replays, that are asked at each look. */
const askedMax = 20;
const queryDeadlineMs = 5_000;

/**
 * How many Workflow Executions run and have failed, as Temporal's visibility counts them: true whichever Temporal Worker
 * ran them, and after every restart, which counters of the processes are not; and how far backfills and DLQ replays are.
 * Returns one look, to be repeated.
 */
export const createWorkflowMetrics = (client: Client, metrics: Metrics): (() => Promise<void>) => {
  const lookAtProgress = async (type: keyof typeof reprocessing, running: number): Promise<void> => {
    const kind = reprocessing[type];
    const found: Progress[] = [];
    if (running > 0) {
      for await (const { workflowId, runId } of client.workflow.list({ query: `WorkflowType = '${type}' AND ExecutionStatus = 'Running'`, pageSize: askedMax })) {
        // One that does not answer is still counted as running.
        const progress = await client.withDeadline(Date.now() + queryDeadlineMs, () => client.workflow.getHandle(workflowId, runId).query<Progress>(progressQuery)).catch(() => null);
        if (progress !== null) found.push(progress);
        if (found.length >= askedMax) break;
      }
    }
    metrics.set('reprocess_rows_remaining', { kind }, found.reduce((sum, { rowsTotal, rowsRefined }) => sum + rowsTotal - rowsRefined, 0));
    if (found.length === 0) metrics.remove('reprocess_progress_ratio', { kind });
    else metrics.set('reprocess_progress_ratio', { kind }, Math.min(...found.map(({ rowsTotal, rowsRefined }) => (rowsTotal === 0 ? 0 : rowsRefined / rowsTotal))));
  };
  return async () => {
    const since = new Date(Date.now() - hourMs).toISOString();
    for (const type of watchedWorkflowTypes) {
      const [running, failed] = await Promise.all([
        client.workflow.count(`WorkflowType = '${type}' AND ExecutionStatus = 'Running'`),
        client.workflow.count(`WorkflowType = '${type}' AND ExecutionStatus IN ('Failed', 'TimedOut', 'Terminated') AND CloseTime > '${since}'`),
      ]);
      metrics.set('workflows_running', { workflow_type: type }, running.count);
      metrics.set('workflows_failed_last_hour', { workflow_type: type }, failed.count);
      if (type in reprocessing) await lookAtProgress(type as keyof typeof reprocessing, running.count);
    }
  };
};
