import type { ChunkRef, RefinedChunk, ReprocessActivities, ReprocessPublished, ReprocessRef } from '../src/contracts/reprocess.ts';
import { refuseRecovered } from '../src/dlq/refuse-recovered.ts';
import { loadLastResolutions, loadRefineResolutions } from '../src/dlq/resolutions.ts';
import type { LastResolutions } from '../src/dlq/resolutions.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { TidemarkError, isTidemarkError } from '../src/domain/errors.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../src/domain/offsets.ts';
import type { DataFile } from '../src/lake/data-file.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import type { Catalog } from '../src/lake/table.ts';
import type { RefinePool } from '../src/refine/refine-pool.ts';
import type { Resolution } from '../src/refine/transform.ts';
import { OffsetsClaimedError, dropClaim, takeClaim } from '../src/reprocess/claims.ts';
import { forgetRun, loadChunk, loadPlan, loadStagedChunk, stageChunk, stagedChunks } from '../src/reprocess/staging.ts';
import type { StagedChunk } from '../src/reprocess/staging.ts';
import { asActivity } from './edge.ts';

export interface ReprocessDeps {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  /** Threads of its own: nothing of the live stream queues behind a reprocess. */
  pool: Pick<RefinePool, 'run'>;
  /** Whether the Workflow Execution of another reprocess runs: the claim of one that does not, and has published nothing, is taken over. */
  isRunning(reprocessId: string): Promise<boolean>;
  now?: () => number;
}

const filesNamed = 20;

export const createReprocessActivities = ({ catalog, store, pipeline, pool, isRunning, now = Date.now }: ReprocessDeps): ReprocessActivities => {
  const tablesOf = (source: string): { silver: string; dlq: string } => ({ silver: datasetOf(pipeline, source).silver.name, dlq: pipeline.dlqTable });

  /** A run that ended without giving its claim back must not stand in the way of others for ever. */
  const takeOver = async (table: string, { claim }: OffsetsClaimedError): Promise<boolean> => {
    if (claim.phase === 'published' || await isRunning(claim.reprocessId)) return false;
    return dropClaim(catalog, table, claim, { unlessPublished: true });
  };

  const resolutionsOf = async (source: string, offsets: Coverage, resolutionsKey: string | null, signal: AbortSignal): Promise<Resolution[]> => {
    const published = await loadRefineResolutions({ store, catalog, signal }, source, offsets);
    if (resolutionsKey === null) return published;
    const own = (JSON.parse(Buffer.from((await store.get(resolutionsKey, { signal })).body).toString('utf8')) as Resolution[])
      .filter(({ topic, partition, offset }) => offsets.of(topicPartitionKey(topic, partition)).has(BigInt(offset)));
    // Of one offset the last one given counts.
    return [...published, ...own];
  };

  const countsOf = ({ rows, silverRows, dlqRows, dlqByType, durationMs }: StagedChunk): RefinedChunk => ({ rows, silverRows, dlqRows, dlqByType, durationMs });

  const refineChunk = async ({ reprocessId, planKey, chunk }: ChunkRef, signal: AbortSignal, report: (progress: Record<string, string | number>) => void): Promise<RefinedChunk> => {
    const staged = await loadStagedChunk(store, planKey, chunk);
    if (staged) return countsOf(staged);
    const [plan, { offsets, rows, bronzeFiles }] = await Promise.all([loadPlan(store, planKey), loadChunk(store, planKey, chunk)]);
    try {
      const dataset = datasetOf(pipeline, plan.source);
      if (dataset.ruleVersion !== plan.ruleVersion) {
        throw new TidemarkError('RULES_CHANGED', `expected rule version ${plan.ruleVersion}, which the plan was made under, found ${dataset.ruleVersion}; start it again`);
      }
      const startedMs = now();
      const refined = await pool.run('refine', {
        source: plan.source, batchId: `${reprocessId.replaceAll('/', '-')}-${chunk}`, bronzeFiles, silver: offsets, dlq: offsets,
        resolutions: await resolutionsOf(plan.source, Coverage.fromJson(offsets), plan.resolutionsKey, signal), nowMs: startedMs,
      }, { signal, onProgress: report });
      if (refined.bronzeRows !== rows) throw new TidemarkError('TABLE_CORRUPT', `expected ${rows} Bronze rows, found ${refined.bronzeRows}`);
      const { silverFiles, dlqFiles, silverRows, dlqRows, dlqByType } = refined;
      return countsOf(await stageChunk(store, planKey, chunk, { silverFiles, dlqFiles, rows, silverRows, dlqRows, dlqByType, durationMs: now() - startedMs }));
    } catch (error) {
      if (!isTidemarkError(error) || error.retryable) throw error;
      const named = bronzeFiles.slice(0, filesNamed).map(({ filePath }) => filePath).join(', ');
      throw new TidemarkError(error.code, `chunk ${chunk} of ${reprocessId}, ${rows} rows of ${bronzeFiles.length} Bronze files: ${error.message}. Its files: ${named}${bronzeFiles.length > filesNamed ? ', …' : ''}`);
    }
  };

  /** Offsets that a DLQ replay recovered: their DLQ row and its resolution tell what became of the record. */
  const recoveredIn = (last: LastResolutions): Coverage => {
    const recovered: [string, IntervalSet][] = [];
    for (const { topic, partition, offset, row } of last.entries()) {
      if (row.action === 'recovered') recovered.push([topicPartitionKey(topic, partition), IntervalSet.of({ start: BigInt(offset), end: BigInt(offset) + 1n })]);
    }
    const places = Map.groupBy(recovered, ([key]) => key);
    return Coverage.of([...places].map(([key, sets]) => [key, IntervalSet.of(...sets.flatMap(([, set]) => set.intervals))] as const));
  };

  const nothing: ReprocessPublished = { status: 'alreadyCommitted', snapshotId: null, addedRows: 0, removedRows: 0, attempts: 0 };

  const giveBack = async ({ reprocessId, planKey }: ReprocessRef, source: string): Promise<void> => {
    // The name of the run is free again only when nothing of it is left.
    await catalog.untag(datasetOf(pipeline, source).bronze.name, reprocessId);
    await forgetRun(store, { reprocessId, planKey });
  };

  /** Null: finished before, and forgotten. */
  const planOrNull = async (planKey: string) => {
    try {
      return await loadPlan(store, planKey);
    } catch (error) {
      if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return null;
      throw error;
    }
  };

  return {
    claimOffsets: (ref) => asActivity(async ({ signal }) => {
      const { source, offsets } = await loadPlan(store, ref.planKey);
      const { silver, dlq } = tablesOf(source);
      for (const table of [silver, dlq]) {
        try {
          await takeClaim(catalog, table, ref, Coverage.fromJson(offsets), signal);
        } catch (error) {
          if (!(error instanceof OffsetsClaimedError) || !await takeOver(table, error)) throw error;
          await takeClaim(catalog, table, ref, Coverage.fromJson(offsets), signal);
        }
      }
    }),

    refineChunk: (input) => asActivity(({ signal, report }) => refineChunk(input, signal, report)),

    replaceSilver: (ref) => asActivity(async ({ signal, report }) => {
      const { source, offsets, chunks } = await loadPlan(store, ref.planKey);
      return pool.run('replaceRows', { ...ref, source, table: 'silver', chunks, offsets }, { signal, onProgress: report });
    }),

    replaceDlq: (ref) => asActivity(async ({ signal, report }) => {
      const { source, offsets, chunks, dlq } = await loadPlan(store, ref.planKey);
      if (dlq === 'keep') return nothing;
      const last = await loadLastResolutions({ store, catalog, signal }, source, { coverage: Coverage.fromJson(offsets) });
      const keep = recoveredIn(last);
      if (!keep.isEmpty) {
        const dlqFiles: DataFile[] = [];
        for await (const staged of stagedChunks(store, ref.planKey, chunks)) dlqFiles.push(...staged.dlqFiles);
        await refuseRecovered({ catalog, store, signal }, { source, reprocessId: ref.reprocessId, commitId: `${ref.planKey}/resolutions`, dlqFiles, last, nowMs: now() });
      }
      return pool.run('replaceRows', { ...ref, source, table: 'dlq', chunks, offsets, keep: keep.toJson() }, { signal, onProgress: report });
    }),

    replaceGold: (ref) => asActivity(async ({ signal, report }): Promise<ReprocessPublished> => {
      const { source, offsets } = await loadPlan(store, ref.planKey);
      const { gold } = datasetOf(pipeline, source);
      const { status, snapshotId, attempts, goldRows, replacedRows } = await pool.run('replaceGold', {
        source, commitId: `${ref.planKey}/gold`, coverage: offsets, holder: ref.reprocessId, nowMs: now(),
        silverTables: [...new Set(pipeline.datasets.filter((dataset) => dataset.gold.name === gold.name).map(({ silver }) => silver.name))],
        summary: { 'tidemark.source': source, 'tidemark.reprocess': ref.reprocessId },
      }, { signal, onProgress: report });
      return { status, snapshotId, attempts, addedRows: goldRows + replacedRows, removedRows: replacedRows };
    }),

    finishReprocess: (ref) => asActivity(async () => {
      const plan = await planOrNull(ref.planKey);
      if (!plan) return;
      const { silver, dlq } = tablesOf(plan.source);
      await dropClaim(catalog, dlq, ref, { unlessPublished: false });
      await dropClaim(catalog, silver, ref, { unlessPublished: false });
      await giveBack(ref, plan.source);
    }),

    abandonReprocess: (ref) => asActivity(async () => {
      const plan = await planOrNull(ref.planKey);
      if (!plan) return { isPublished: false, filesRemoved: 0 };
      const { silver, dlq } = tablesOf(plan.source);
      if (!await dropClaim(catalog, silver, ref, { unlessPublished: true })) return { isPublished: true, filesRemoved: 0 };
      await dropClaim(catalog, dlq, ref, { unlessPublished: false });
      // Without its claim no commit of this plan can succeed any more, so what is not live now never was and never will be.
      const live = new Set<string>();
      for (const table of [silver, dlq]) for (const { filePath } of await (await catalog.load(table)).scan()) live.add(filePath);
      let filesRemoved = 0;
      for (let chunk = 0; chunk < plan.chunks; chunk += 1) {
        const staged = await loadStagedChunk(store, ref.planKey, chunk);
        const paths = staged ? [...staged.silverFiles, ...staged.dlqFiles].map(({ filePath }) => filePath) : [];
        if (paths.length === 0 || paths.some((path) => live.has(path))) continue;
        await store.delete(paths.map((path) => store.keyOf(path)));
        filesRemoved += paths.length;
      }
      await giveBack(ref, plan.source);
      return { isPublished: false, filesRemoved };
    }),
  };
};
