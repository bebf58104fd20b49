import { Context } from '@temporalio/activity';
import type { ArchivedTotals, HeldRows, PlannedSweep, RetentionActivities, SweepPlan, SweptBatch } from '../src/contracts/retention.ts';
import { isTidemarkError } from '../src/domain/errors.ts';
import type { RetainedTable } from '../src/retention/policies.ts';
import { planSweep } from '../src/retention/plan-sweep.ts';
import type { SweepDeps } from '../src/retention/plan-sweep.ts';
import { archiveBatch, purgeArchive, removeBatch, settleLeftovers } from '../src/retention/sweep.ts';
import { tidyTable } from '../src/retention/orphans.ts';
import type { TidyDeps } from '../src/retention/orphans.ts';
import { asActivity } from './edge.ts';

export interface RetentionDeps extends Omit<SweepDeps, 'signal' | 'catalog'>, Omit<TidyDeps, 'signal' | 'store' | 'archive' | 'pipeline' | 'now' | 'oldestWriterMs'> {
  /** Tables that age; all others are only tidied. */
  tables: readonly RetainedTable[];
  /** Of all Workflow Executions but this one. */
  oldestWriterMs(ownWorkflowId: string): Promise<number | null>;
}

/** The result of planning stays small: the plan itself lies in the archive. */
const heldShown = 10;
const detailCharsMax = 500;

const plannedSweep = ({ table, sweepId, batches, purges, partitions, held }: SweepPlan): PlannedSweep => ({
  table, sweepId, batches: batches.length, purges: purges.length,
  files: partitions.reduce((sum, { files }) => sum + files, 0),
  rows: partitions.reduce((sum, { rows }) => sum + rows, 0),
  bytes: partitions.reduce((sum, { bytes }) => sum + bytes, 0),
  held: held.slice(0, heldShown).map((one): HeldRows => ({ ...one, detail: one.detail.slice(0, detailCharsMax) })),
});

const archivedTotals = (batches: readonly SweptBatch[]): ArchivedTotals => {
  const archived = batches.filter(({ outcome }) => outcome === 'archived');
  const sum = (of: (batch: SweptBatch) => number): number => archived.reduce((total, batch) => total + of(batch), 0);
  return { batches: archived.length, files: sum(({ files }) => files), rows: sum(({ rows }) => rows), bytes: sum(({ bytes }) => bytes) };
};

export const createRetentionActivities = (deps: RetentionDeps): RetentionActivities => {
  const { archive, tables } = deps;
  const aged = (name: string): RetainedTable | undefined => tables.find((table) => table.name === name);
  return {
    planSweep: ({ table, sweepId }) => asActivity(async ({ signal }) => {
      const retained = aged(table);
      if (!retained) return { table, sweepId, batches: 0, purges: 0, files: 0, rows: 0, bytes: 0, held: [] };
      const sweep = { ...deps, signal };
      const settled = archivedTotals(await settleLeftovers(sweep, retained, sweepId));
      return { ...plannedSweep(await archive.keepPlan(await planSweep(sweep, retained, sweepId))), settled };
    }),

    archiveBatch: ({ table, sweepId, batch }) => asActivity(async ({ signal, report }) => {
      const { damaged, ...swept } = await archiveBatch({ ...deps, signal }, aged(table)!, await archive.loadPlan(table, sweepId), batch, (files) => report({ files }));
      if (damaged.length > 0) report({ damaged: damaged.length, first: damaged[0]!.slice(0, detailCharsMax) });
      return { ...swept, damaged: damaged.slice(0, heldShown).map((text) => text.slice(0, detailCharsMax)) };
    }),

    removeBatch: ({ table, manifestId }) => asActivity(({ signal }) => removeBatch({ ...deps, signal }, aged(table)!, manifestId)),

    purgeArchive: ({ table, sweepId }) => asActivity(async () => purgeArchive(deps, aged(table)!, await archive.loadPlan(table, sweepId))),

    tidyTable: ({ table, sweepId }) => asActivity(async ({ signal, report }) => {
      const workflowId = Context.current().info.workflowExecution?.workflowId ?? '';
      await archive.forgetPlan(table, sweepId);
      try {
        return await tidyTable({ ...deps, signal, oldestWriterMs: () => deps.oldestWriterMs(workflowId) }, table, report);
      } catch (error) {
        if (isTidemarkError(error, 'TABLE_NOT_FOUND')) return { expiredSnapshots: 0, expiredMetadataFiles: 0, orphanFiles: 0, orphanBytes: 0, heldBack: 'no such table yet' };
        throw error;
      }
    }),
  };
};
