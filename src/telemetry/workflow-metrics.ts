import type { Client } from '@temporalio/client';
import type { Metrics } from './metrics.ts';

/** Workflow Types whose failures wake somebody. */
export const watchedWorkflowTypes = [
  'streamWorkflow', 'microBatchWorkflow', 'backfillWorkflow', 'dlqReplayWorkflow', 'retentionSweepWorkflow', 'compactionWorkflow', 'auditWorkflow',
] as const;

const hourMs = 3_600_000;

/**
 * How many Workflow Executions run and have failed, as Temporal's visibility counts them: true whichever Temporal Worker
 * ran them, and after every restart, which counters of the processes are not. Returns one look, to be repeated.
 */
export const createWorkflowMetrics = (client: Pick<Client, 'workflow'>, metrics: Metrics): (() => Promise<void>) => async () => {
  const since = new Date(Date.now() - hourMs).toISOString();
  for (const type of watchedWorkflowTypes) {
    const [running, failed] = await Promise.all([
      client.workflow.count(`WorkflowType = '${type}' AND ExecutionStatus = 'Running'`),
      client.workflow.count(`WorkflowType = '${type}' AND ExecutionStatus IN ('Failed', 'TimedOut', 'Terminated') AND CloseTime > '${since}'`),
    ]);
    metrics.set('workflows_running', { workflow_type: type }, running.count);
    metrics.set('workflows_failed_last_hour', { workflow_type: type }, failed.count);
  }
};
