import { ActivityFailure, ApplicationFailure, continueAsNew, isCancellation, proxyActivities, setCurrentDetails, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { CompactionActivities, CompactionInput, CompactionResult, CompactionTotals, PlannedCompaction } from '../src/contracts/compaction.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';

const { planCompaction, compactGroup } = proxyActivities<CompactionActivities>({
  startToCloseTimeout: '6 hours',
  heartbeatTimeout: '10 seconds',
  retry: { initialInterval: '1 second', backoffCoefficient: 2, maximumInterval: '1 minute', maximumAttempts: 20 },
});

const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);
const rowsKey = defineSearchAttributeKey(searchAttributes.rows.name, searchAttributes.rows.type);

/** A group takes some six events. */
const groupsInRunMax = 500;
/** What one round writes may be due for the next magnitude; more rounds than magnitudes would be a circle. */
const roundsMax = 8;
const failedMax = 20;
const causeCharsMax = 300;

/**
 * Makes many small data files of one table few, group by group, as long as the table has any that are due. Readers see the same rows
 * throughout. A group that cannot be compacted is left as it is, the others go on, and the Workflow fails in the end and names it.
 */
export async function compactionWorkflow({ table, carried }: CompactionInput): Promise<CompactionResult> {
  const totals: CompactionTotals = carried ?? { groups: 0, filesIn: 0, filesOut: 0, rows: 0, bytesIn: 0, bytesOut: 0, failed: [] };
  upsertSearchAttributes([{ key: stateKey, value: 'compacting' }]);
  let inRun = 0;
  let planned = await planCompaction({ table });
  for (let round = 1; round <= roundsMax; round += 1) {
    const due = planned.groups.filter((group) => !totals.failed.some((failed) => failed.folder === group.folder && failed.group === group.group));
    if (due.length === 0) break;
    for (const group of due) {
      if (inRun >= groupsInRunMax || workflowInfo().continueAsNewSuggested) await continueAsNew<typeof compactionWorkflow>({ table, carried: totals });
      inRun += 1;
      setCurrentDetails(`${describe(planned)}\n\n${summary(totals)}\n\nNow ${group.folder} ${group.group}: ${number(group.files)} files.`);
      try {
        const { status, filesIn, filesOut, rows, bytesIn, bytesOut } = await compactGroup({ table, folder: group.folder, group: group.group });
        if (status !== 'committed') continue;
        totals.groups += 1;
        totals.filesIn += filesIn;
        totals.filesOut += filesOut;
        totals.rows += rows;
        totals.bytesIn += bytesIn;
        totals.bytesOut += bytesOut;
      } catch (error) {
        if (isCancellation(error) || !(error instanceof ActivityFailure)) throw error;
        if (totals.failed.length >= failedMax) throw error;
        totals.failed.push({ folder: group.folder, group: group.group, cause: (error.cause?.message ?? error.message).slice(0, causeCharsMax) });
      }
    }
    planned = await planCompaction({ table });
  }
  setCurrentDetails(`${describe(planned)}\n\n${summary(totals)}`);
  upsertSearchAttributes([{ key: stateKey, value: totals.failed.length > 0 ? 'failing' : 'compacted' }, { key: rowsKey, value: totals.rows }]);
  const result: CompactionResult = { table, ...totals, heldBack: planned.heldBack };
  if (totals.failed.length > 0) {
    throw ApplicationFailure.create({
      type: 'COMPACTION_INCOMPLETE', nonRetryable: true, details: [result],
      message: `${table}: ${totals.failed.length} groups of files could not be compacted, first ${totals.failed[0]!.folder} ${totals.failed[0]!.group}: ${totals.failed[0]!.cause}`,
    });
  }
  return result;
}

const number = (value: number): string => String(value).replaceAll(/\B(?=(\d{3})+(?!\d))/g, ',');
const megabytes = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(1)} MB`;

/** Markdown for the Temporal Web UI. */
const describe = ({ table, filesTotal, groupsTotal, files, rows, bytes, heldBack }: PlannedCompaction): string => [
  `**${table}**: ${number(filesTotal)} files; ${number(files)} of them, with ${number(rows)} rows in ${megabytes(bytes)}, are due in ${number(groupsTotal)} groups.`,
  ...Object.entries(heldBack).map(([reason, count]) => `- left for later: ${number(count)} small files, ${reason}`),
].join('\n');

const summary = ({ groups, filesIn, filesOut, rows, bytesIn, bytesOut, failed }: CompactionTotals): string => [
  `Compacted ${number(filesIn)} files into ${number(filesOut)} in ${number(groups)} commits: ${number(rows)} rows, ${megabytes(bytesIn)} → ${megabytes(bytesOut)}.`,
  ...failed.map(({ folder, group, cause }) => `- **could not be compacted**: ${folder} ${group}: ${cause}`),
].join('\n');
