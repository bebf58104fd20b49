import { continueAsNew, proxyActivities, setCurrentDetails, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { PlannedSweep, RetentionActivities, RetentionSweepInput, RetentionSweepResult } from '../src/contracts/retention.ts';
import { holdReasons } from '../src/contracts/retention.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';

const { planSweep, archiveBatch, removeBatch, purgeArchive, tidyTable } = proxyActivities<RetentionActivities>({
  startToCloseTimeout: '6 hours',
  heartbeatTimeout: '10 seconds',
  retry: { initialInterval: '1 second', backoffCoefficient: 2, maximumInterval: '1 minute', maximumAttempts: 50 },
});

const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);
const rowsKey = defineSearchAttributeKey(searchAttributes.rows.name, searchAttributes.rows.type);
/** A batch takes some fifteen events. */
const batchesInRunMax = 200;
const damagedMax = 20;

/**
 * Takes due rows of one table into the archive, batch by batch: copied, read back, then removed in a table commit. Then purges
 * what has been in the archive for long enough, and tidies the table. What stays although it is due is in the result, with the reason.
 */
export async function retentionSweepWorkflow(input: RetentionSweepInput): Promise<RetentionSweepResult> {
  const { table, carried } = input;
  const { startTime, runId } = workflowInfo();
  const planned = carried?.planned ?? await planSweep({ table, sweepId: `${startTime.toISOString().replaceAll(/[-:]|\.\d+/g, '')}-${runId.slice(0, 8)}` });
  const { sweepId } = planned;
  const archived = carried?.archived ?? { ...planned.settled ?? { batches: 0, files: 0, rows: 0, bytes: 0 } };
  let leftBatches = carried?.leftBatches ?? 0;
  const damaged = carried?.damaged ?? [];
  const first = carried?.nextBatch ?? 0;
  upsertSearchAttributes([{ key: stateKey, value: 'sweeping' }]);
  for (let batch = first; batch < planned.batches; batch += 1) {
    if (batch - first >= batchesInRunMax || workflowInfo().continueAsNewSuggested) {
      await continueAsNew<typeof retentionSweepWorkflow>({ table, carried: { planned, nextBatch: batch, archived, leftBatches, damaged } });
    }
    setCurrentDetails(`${describe(planned)}\n\nBatch ${batch + 1} of ${planned.batches}: ${number(archived.rows)} rows archived so far.`);
    const { manifestId, damaged: found } = await archiveBatch({ table, sweepId, batch });
    damaged.push(...found.slice(0, damagedMax - damaged.length));
    const swept = manifestId === null ? null : await removeBatch({ table, sweepId, manifestId });
    if (swept?.outcome === 'archived') {
      archived.batches += 1;
      archived.files += swept.files;
      archived.rows += swept.rows;
      archived.bytes += swept.bytes;
    } else {
      leftBatches += 1;
    }
  }
  const purged = planned.purges > 0 ? await purgeArchive({ table, sweepId }) : { manifests: 0, files: 0, rows: 0, bytes: 0 };
  const tidied = await tidyTable({ table, sweepId });
  const result: RetentionSweepResult = { table, sweepId, archived, leftBatches, purged, held: planned.held, damaged, tidied };
  setCurrentDetails(`${describe(planned)}\n\n${summary(result)}`);
  upsertSearchAttributes([{ key: stateKey, value: damaged.length > 0 ? 'failing' : planned.held.length > 0 || leftBatches > 0 ? 'swept, rows held' : 'swept' }, { key: rowsKey, value: archived.rows }]);
  return result;
}

const number = (value: number): string => String(value).replaceAll(/\B(?=(\d{3})+(?!\d))/g, ',');

/** Markdown for the Temporal Web UI. */
const describe = ({ table, files, rows, batches, purges, held }: PlannedSweep): string => [
  `**${table}**: ${number(rows)} rows in ${number(files)} files are due, in ${batches} batches; ${purges} manifests of the archive are due to be purged.`,
  ...held.map((one) => `- held back: ${number(one.rows)} rows in ${number(one.files)} files, because ${holdReasons[one.reason]} (${one.detail})`),
].join('\n');

const summary = ({ archived, leftBatches, purged, damaged, tidied }: RetentionSweepResult): string => [
  `Archived ${number(archived.rows)} rows in ${number(archived.files)} files${leftBatches > 0 ? `; ${leftBatches} batches are left for the next sweep` : ''}.`,
  ...damaged.map((text) => `**Left alone, damaged**: ${text}`),
  `Purged ${number(purged.rows)} rows of ${purged.manifests} manifests.`,
  `Expired ${tidied.expiredSnapshots} snapshots and ${tidied.expiredMetadataFiles} metadata files, deleted ${number(tidied.orphanFiles)} orphan files of ${number(tidied.orphanBytes)} bytes.`,
  ...(tidied.heldBack === null ? [] : [`Left alone: ${tidied.heldBack}.`]),
].join('\n\n');
