import type { BackfillActivities, ReprocessRange } from '../src/contracts/backfill.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { Coverage } from '../src/domain/offsets.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import type { Catalog } from '../src/lake/table.ts';
import type { RefinePool } from '../src/refine/refine-pool.ts';
import { claimOf } from '../src/reprocess/claims.ts';
import { newPlanKey } from '../src/reprocess/plan.ts';
import { forgetStaging, loadPlan } from '../src/reprocess/staging.ts';
import { asActivity } from './edge.ts';

export interface BackfillDeps {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  pool: Pick<RefinePool, 'run'>;
  /** Most Bronze rows of one chunk. */
  chunkRowsMax: number;
  /** Events of one run of the Workflow before it continues as new; default: the Workflow's own. */
  historyEventsMax?: number;
  /** Offsets of a micro-batch by its Workflow Execution; undefined: Temporal does not know it any more. */
  offsetsOfMicroBatch(source: string, batch: number): Promise<Coverage | undefined>;
  archive: BackfillArchive;
}

/** What a backfill needs of the archive. Restored rows stay for as long as a backfill may take. */
export interface BackfillArchive {
  /** Offsets of archived rows that the range means. */
  offsetsOf(source: string, range: ReprocessRange, signal: AbortSignal): Promise<Coverage>;
  /** Puts archived Bronze files of the offsets back. Returns which offsets the archive had. */
  restoreBronze(source: string, offsets: Coverage, signal: AbortSignal): Promise<Coverage>;
  /** The same for Silver and the DLQ. */
  restoreRefined(source: string, offsets: Coverage, signal: AbortSignal): Promise<Coverage>;
}

const chunkRowsMin = 1_000;
/** A limited backfill refines chunks of so many seconds of its rate, so that it neither bursts nor starts a Workflow for every few rows. */
const chunkSeconds = 2;

/** Micro-batches become the offsets that they refined; any other range stays as it is. */
export const withKnownOffsets = async (source: string, range: ReprocessRange, offsetsOfMicroBatch: BackfillDeps['offsetsOfMicroBatch']): Promise<ReprocessRange> => {
  if (range.by !== 'micro-batches') return range;
  let offsets = Coverage.empty;
  for (const batch of range.batches) {
    const found = await offsetsOfMicroBatch(source, batch);
    if (!found) {
      throw new TidemarkError('BAD_INPUT', `micro-batch ${batch} of ${source}: expected its Workflow Execution in Temporal, found none; choose its offsets, or the time at which it refined`);
    }
    offsets = offsets.union(found);
  }
  return { by: 'offsets', offsets: offsets.toJson() };
};

export const chunkRowsOf = (rowsPerSecond: number | null, chunkRowsMax: number): number =>
  (rowsPerSecond === null ? chunkRowsMax : Math.min(chunkRowsMax, Math.max(chunkRowsMin, Math.round(rowsPerSecond * chunkSeconds))));

export const createBackfillActivities = ({ catalog, store, pipeline, pool, chunkRowsMax, historyEventsMax, offsetsOfMicroBatch, archive }: BackfillDeps): BackfillActivities => ({
  planBackfill: ({ reprocessId, source, range, rowsPerSecond }) => asActivity(async ({ signal, report }) => {
    const dataset = datasetOf(pipeline, source);
    const limits = historyEventsMax === undefined ? {} : { historyEventsMax };
    // An earlier run under this name was ended by force after it had published Silver: the rest of it is done first.
    const claim = claimOf(await catalog.load(dataset.silver.name), reprocessId);
    if (claim?.phase === 'published') {
      const { chunks, chunkRows, rows } = await loadPlan(store, claim.planKey);
      return { reprocessId, planKey: claim.planKey, source, chunks, chunkRows, rows, isPublished: true, ...limits, figures: null };
    }
    const known = await withKnownOffsets(source, range, offsetsOfMicroBatch);
    const inArchive = await archive.offsetsOf(source, known, signal);
    const planned = async (planKey: string) => pool.run('planBackfill', {
      source, range: known, archived: inArchive.toJson(), rowsPerSecond, chunkRowsMax: chunkRowsOf(rowsPerSecond, chunkRowsMax), write: { reprocessId, planKey },
    }, { signal, onProgress: report });
    let planKey = newPlanKey(reprocessId);
    let { plan, figures, withoutBronze } = await planned(planKey);
    const missing = Coverage.fromJson(withoutBronze);
    const archived = missing.isEmpty ? missing : await archive.restoreBronze(source, missing, signal);
    if (!archived.isEmpty) {
      await forgetStaging(store, planKey);
      planKey = newPlanKey(reprocessId);
      ({ plan, figures, withoutBronze } = await planned(planKey));
    }
    const { chunks, chunkRows, rows, offsets } = plan!;
    // Rows of these offsets that the archive had would come back beside the new ones one day; and of an archived file that only a part of is
    // replaced, the rest could not be restored any more. The plan's tag keeps sweeps from them now.
    const refinedArchived = await archive.restoreRefined(source, Coverage.fromJson(offsets), signal);
    return { reprocessId, planKey, source, chunks, chunkRows, rows, isPublished: false, ...limits, figures: { ...figures, offsetsArchived: String(archived.size), offsetsRefinedArchived: String(refinedArchived.size) } };
  }),
});
