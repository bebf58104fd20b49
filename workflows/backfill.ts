import { continueAsNew, log, proxyActivities, workflowInfo } from '@temporalio/workflow';
import type { BackfillActivities, BackfillInput, BackfillResult } from '../src/contracts/backfill.ts';
import type { CarriedReprocess } from './reprocess.ts';
import { Reprocess } from './reprocess.ts';

const { planBackfill } = proxyActivities<BackfillActivities>({
  startToCloseTimeout: '12 hours', heartbeatTimeout: '10 seconds', priority: { priorityKey: 5 },
  retry: { initialInterval: '200 milliseconds', backoffCoefficient: 2, maximumInterval: '10 seconds' },
});

export interface BackfillRun extends BackfillInput {
  /** Only continue-as-new passes it on. */
  carried?: CarriedReprocess;
}

/**
 * Refines a range of one source again, from Bronze, with the code as it is now, and replaces its rows of Silver, the DLQ and Gold.
 * Workflow ID `backfill/<id>`: one that was terminated after it had published Silver goes on where it was when it is started again.
 */
export async function backfillWorkflow(input: BackfillRun): Promise<BackfillResult> {
  const { carried, source, rowsPerSecond, parallelism } = input;
  const reprocessId = workflowInfo().workflowId;
  const reprocess = new Reprocess({ reprocessId, source, rowsPerSecond, parallelism, ...(carried ? { carried } : {}) });
  let planned = carried?.planned;
  if (!planned) {
    const { figures, ...plan } = await planBackfill({ ...input, reprocessId });
    planned = plan;
    if (figures && planned.rows === 0) log.warn('the range holds no refined row', { offsetsNotRefined: figures.offsetsNotRefined, offsetsWithoutBronze: figures.offsetsWithoutBronze });
  }
  const next = await reprocess.run(planned);
  if (next) await continueAsNew<typeof backfillWorkflow>({ ...input, carried: next });
  const { rowsRefined: rows, silverRows, dlqRows, dlqByType, published } = reprocess.progress;
  return { rows, silverRows, dlqRows, dlqByType, ...published };
}
