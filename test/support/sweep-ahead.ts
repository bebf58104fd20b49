import { randomUUID } from 'node:crypto';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { createRetentionActivities } from '../../activities/retention.ts';
import { openRetention } from '../../scripts/wire/retention.ts';
import { loadWorkflowBundle } from '../../scripts/wire/workflow-bundle.ts';
import { retentionSweepWorkflowId, retentionSweepWorkflowType } from '../../src/contracts/retention.ts';
import type { RetentionSweepResult } from '../../src/contracts/retention.ts';
import { dayMs } from '../../src/domain/retention.ts';
import type { RunningPipeline } from './pipeline-processes.ts';

const aheadMs = 40 * dayMs;
let runtimeInstalled = false;

/**
 * Sweeps tables as Workflows on the real Temporal, with a clock that is 40 days ahead for what is due, and right for what is in flight:
 * a test does not wait 30 days for its rows.
 */
export const sweepAhead = async ({ config, lake, pipeline, temporal }: Pick<RunningPipeline, 'config' | 'lake' | 'pipeline' | 'temporal'>, tables: readonly string[]): Promise<Map<string, RetentionSweepResult>> => {
  if (!runtimeInstalled) Runtime.install({ logger: new DefaultLogger('ERROR'), shutdownSignals: [] });
  runtimeInstalled = true;
  const taskQueue = `${config.temporal.taskQueue}-sweeps-${randomUUID().slice(0, 8)}`;
  const connection = await NativeConnection.connect({ address: config.temporal.address });
  const deps = await openRetention(config, pipeline, lake, temporal);
  const [ahead, today] = [createRetentionActivities({ ...deps, now: () => Date.now() + aheadMs }), createRetentionActivities(deps)];
  const worker = await Worker.create({
    connection, namespace: config.temporal.namespace, taskQueue, workflowBundle: await loadWorkflowBundle(), activities: { ...ahead, tidyTable: today.tidyTable },
    // Deadlocks are looked for against the wall clock: a machine under load must not look like one.
    debugMode: true,
  });
  try {
    return await worker.runUntil(async () => new Map(await Promise.all(tables.map(async (table) => {
      const result = await temporal.workflow.execute(retentionSweepWorkflowType, { workflowId: retentionSweepWorkflowId(table), taskQueue, args: [{ table }] }) as RetentionSweepResult;
      return [table, result] as const;
    }))));
  } finally {
    await connection.close();
  }
};
