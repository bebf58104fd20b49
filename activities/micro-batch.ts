import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { MergeResult, MicroBatchActivities, MicroBatchInput, PublishInput, PublishResult, RefinedBatch } from '../src/contracts/micro-batch.ts';
import { microBatchWorkflowId } from '../src/contracts/micro-batch.ts';
import { batchMaxProperty, goldSummary } from '../src/contracts/properties.ts';
import type { Dataset } from '../src/datasets/dataset.ts';
import { unknownError } from '../src/datasets/dataset.ts';
import { datasetOf } from '../src/datasets/pipeline.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { TidemarkError, isTidemarkError } from '../src/domain/errors.ts';
import { addDelay } from '../src/domain/freshness.ts';
import type { FreshnessJson } from '../src/domain/freshness.ts';
import { Coverage } from '../src/domain/offsets.ts';
import type { CoverageJson } from '../src/domain/offsets.ts';
import type { DataFile } from '../src/lake/data-file.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import type { Catalog, LiveFile, TableVersion } from '../src/lake/table.ts';
import { bronzeLineage, filesOfOffsets, rowLineage } from '../src/refine/lineage-files.ts';
import type { RefinePool } from '../src/refine/refine-pool.ts';
import type { RefineResult } from '../src/refine/refine.ts';
import type { ProducedHistogram } from '../src/refine/transform.ts';
import type { MicroBatchEvent } from '../src/telemetry/micro-batch-metrics.ts';
import { asActivity } from './edge.ts';
import { publishResult } from './stream.ts';

export interface MicroBatchDeps {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  refinePool: Pick<RefinePool, 'run'>;
  mergePool: Pick<RefinePool, 'run'>;
  now?: () => number;
  /** Told of each commit that this process made, not of one that was found made: the place for metrics. */
  onEvent?: (event: MicroBatchEvent) => void;
}


/** What refining leaves for the steps after it, as JSON in the store. */
interface StagedBatch {
  /** Offsets that the prepared files of each table hold: those that it did not cover when the batch was refined. */
  plan: { silver: CoverageJson; dlq: CoverageJson };
  silverFiles: DataFile[];
  dlqFiles: DataFile[];
  produced: ProducedHistogram;
  startedAtMs: number;
}

type StagedRefine = Pick<RefineResult, 'silverFiles' | 'dlqFiles' | 'bronzeRows' | 'silverRows' | 'dlqRows' | 'dlqByType' | 'produced'>;
const emptyRefine: StagedRefine = {
  silverFiles: [], dlqFiles: [], bronzeRows: 0, silverRows: 0, dlqRows: 0, dlqByType: {}, produced: { bucketMs: 10, buckets: [] },
};

const delaysOf = ({ bucketMs, buckets }: ProducedHistogram, committedAtMs: number): FreshnessJson => {
  const histogram: FreshnessJson = {};
  for (const [startMs, count] of buckets) addDelay(histogram, committedAtMs - startMs - bucketMs / 2, count);
  return histogram;
};

const holdPollMs = 200;

/** A replacement of Gold rows keeps merges out of its buckets for some seconds: waited for here, where no thread is kept by it. */
const whileNotHeld = async <T>(signal: AbortSignal, merge: () => Promise<T>): Promise<T> => {
  for (;;) {
    try {
      return await merge();
    } catch (error) {
      if (!isTidemarkError(error, 'BUCKET_HELD')) throw error;
      await sleep(holdPollMs, undefined, { signal });
    }
  }
};

export const createMicroBatchActivities = ({ catalog, store, pipeline, refinePool, mergePool, now = Date.now, onEvent }: MicroBatchDeps): MicroBatchActivities => {
  const loadStaged = async (key: string): Promise<StagedBatch> =>
    JSON.parse(Buffer.from((await store.get(key)).body).toString('utf8')) as StagedBatch;
  const summaryOf = ({ source, batch }: MicroBatchInput) => ({ [goldSummary.source]: source, [goldSummary.batch]: String(batch) });

  /** Appends the prepared files of one table, unless the offsets are covered already. */
  const publish = async (
    tableName: string, input: PublishInput, files: readonly DataFile[], offsets: Coverage, signal: AbortSignal,
    setProperties: Record<string, string> = {},
  ): Promise<PublishResult> => {
    if (offsets.isEmpty) return { status: 'alreadyCommitted', snapshotId: null, attempts: 0 };
    return publishResult(await catalog.commit(tableName, {
      commitId: `${microBatchWorkflowId(input.source, input.batch)}/${input.stagedKey}`,
      add: files,
      cover: offsets,
      coverageAbsent: offsets,
      summary: summaryOf(input),
      setProperties,
      signal,
    }));
  };

  const planOf = async (dataset: Dataset, intervals: CoverageJson): Promise<{ silver: Coverage; dlq: Coverage }> => {
    const requested = Coverage.fromJson(intervals);
    const [silver, dlq] = await Promise.all([catalog.load(dataset.silver.name), catalog.load(pipeline.dlqTable)]);
    return { silver: requested.subtract(silver.coverage), dlq: requested.subtract(dlq.coverage) };
  };

  /** Every record that neither table has goes to the DLQ; Silver covers the offsets without a row for them. */
  const divert = async (
    dataset: Dataset, input: MicroBatchInput, plan: { silver: Coverage; dlq: Coverage }, bronzeFiles: readonly LiveFile[], options: { signal: AbortSignal },
  ): Promise<StagedRefine> => {
    if (!plan.dlq.contains(plan.silver)) {
      // An earlier attempt put its refused rows into the DLQ: the valid ones belong into Silver, and the DLQ takes an offset once.
      throw new TidemarkError('BAD_INPUT', `micro-batch ${input.batch} of ${input.source}: expected offsets that the DLQ lacks, found some that only Silver lacks: it can be retried, not diverted`);
    }
    const silverHas = plan.dlq.subtract(plan.silver);
    const silverFiles = silverHas.isEmpty ? [] : await filesOfOffsets(await catalog.load(dataset.silver.name), silverHas, rowLineage);
    const { dlqFiles, bronzeRows, dlqRows } = await refinePool.run('divert', {
      source: input.source,
      batchId: `${input.source}-${input.batch}`,
      reason: input.divert ?? '',
      offsets: plan.dlq.toJson(),
      bronzeFiles: bronzeFiles.map(({ filePath, recordCount, fileSizeBytes, lowerBounds, upperBounds }) => ({ filePath, recordCount, fileSizeBytes, lowerBounds, upperBounds })),
      silverFiles: silverFiles.map(({ filePath, fileSizeBytes }) => ({ filePath, fileSizeBytes })),
      nowMs: now(),
    }, options);
    return { ...emptyRefine, dlqFiles, bronzeRows, dlqRows, dlqByType: dlqRows === 0 ? {} : { [unknownError]: dlqRows } };
  };

  return {
    refineBatch: (input) => asActivity(async ({ signal, report }): Promise<RefinedBatch> => {
      const startedAtMs = now();
      const dataset = datasetOf(pipeline, input.source);
      const plan = await planOf(dataset, input.intervals);
      const wanted = plan.silver.union(plan.dlq);
      const bronzeFiles = wanted.isEmpty ? [] : await filesOfOffsets(await catalog.load(dataset.bronze.name), wanted, bronzeLineage);
      const refined = wanted.isEmpty ? emptyRefine : input.divert !== undefined ? await divert(dataset, input, plan, bronzeFiles, { signal }) : await refinePool.run('refine', {
        source: input.source,
        batchId: `${input.source}-${input.batch}`,
        bronzeFiles: bronzeFiles.map(({ filePath, recordCount, fileSizeBytes }) => ({ filePath, recordCount, fileSizeBytes })),
        silver: plan.silver.toJson(),
        dlq: plan.dlq.toJson(),
        nowMs: now(),
      }, { signal, onProgress: report });
      const { silverFiles, dlqFiles, produced, bronzeRows, silverRows, dlqRows, dlqByType } = refined;
      const staged: StagedBatch = { plan: { silver: plan.silver.toJson(), dlq: plan.dlq.toJson() }, silverFiles, dlqFiles, produced, startedAtMs };
      const stagedKey = `staging/${input.source}/${input.batch}-${randomUUID()}.json`;
      await store.put(stagedKey, JSON.stringify(staged), { condition: 'absent', contentType: 'application/json', signal });
      return { stagedKey, bronzeRows, silverRows, dlqRows, dlqByType, silverFiles: silverFiles.length, dlqFiles: dlqFiles.length };
    }),

    publishSilver: (input) => asActivity(async ({ signal }) => {
      const { silver, eventTime } = datasetOf(pipeline, input.source);
      const { plan, silverFiles, produced, startedAtMs } = await loadStaged(input.stagedKey);
      const { properties } = await catalog.load(silver.name);
      const batchMax = Math.max(input.batch, Number(properties[batchMaxProperty] ?? 0));
      const published = await publish(silver.name, input, silverFiles, Coverage.fromJson(plan.silver), signal, { [batchMaxProperty]: String(batchMax) });
      if (published.status === 'committed') {
        const { source, batch } = input;
        onEvent?.({ type: 'silverPublished', source, batch, files: silverFiles, eventTime, produced, startedAtMs, committedAtMs: now() });
      }
      return published;
    }),

    publishDlq: (input) => asActivity(async ({ signal }) => {
      const { plan, dlqFiles } = await loadStaged(input.stagedKey);
      const published = await publish(pipeline.dlqTable, input, dlqFiles, Coverage.fromJson(plan.dlq), signal);
      if (published.status === 'committed') {
        const rowsByType: Record<string, number> = {};
        for (const { partition, recordCount } of dlqFiles) rowsByType[String(partition['error_type'])] = (rowsByType[String(partition['error_type'])] ?? 0) + recordCount;
        onEvent?.({ type: 'dlqPublished', source: input.source, batch: input.batch, rowsByType });
      }
      return published;
    }),

    mergeGold: (input) => asActivity(async ({ signal, report }): Promise<MergeResult> => {
      const dataset = datasetOf(pipeline, input.source);
      const requested = Coverage.fromJson(input.intervals);
      const gold = await catalog.load(dataset.gold.name);
      const offsets = requested.subtract(gold.coverage);
      if (offsets.isEmpty) return { status: 'alreadyCommitted', snapshotId: null, attempts: 0, ...countsOfCommit(gold, input), freshness: {} };
      const { plan, silverFiles, produced, startedAtMs } = await loadStaged(input.stagedKey);
      // The prepared files hold what Silver lacked. If Silver had a part already, its own live files hold the rest.
      const candidates = Coverage.fromJson(plan.silver).contains(offsets)
        ? silverFiles
        : await filesOfOffsets(await catalog.load(dataset.silver.name), offsets, rowLineage);
      const merged = await whileNotHeld(signal, () => mergePool.run('mergeGold', {
        source: input.source,
        commitId: `${microBatchWorkflowId(input.source, input.batch)}/${input.stagedKey}`,
        coverage: offsets.toJson(),
        silverFiles: candidates,
        summary: summaryOf(input),
        nowMs: now(),
      }, { signal, onProgress: report }));
      const committedAtMs = now();
      const { status, snapshotId, attempts, goldRows, duplicates } = merged;
      const freshness = delaysOf(produced, committedAtMs);
      if (status === 'committed') {
        onEvent?.({ type: 'goldMerged', source: input.source, batch: input.batch, table: dataset.gold.name, rows: goldRows, duplicates, freshness, attempts, commitMs: merged.commitMs, startedAtMs, committedAtMs });
      }
      return { status, snapshotId, attempts, goldRows, duplicates, freshness };
    }),
  };
};

/** Counts of a merge that was committed before, from its snapshot while that is kept. */
const countsOfCommit = (gold: TableVersion, { source, batch }: MicroBatchInput): { goldRows: number; duplicates: number } => {
  const summary = gold.snapshots.find((snapshot) =>
    snapshot.summary[goldSummary.source] === source && snapshot.summary[goldSummary.batch] === String(batch))?.summary;
  return { goldRows: Number(summary?.[goldSummary.rows] ?? 0), duplicates: Number(summary?.[goldSummary.duplicates] ?? 0) };
};
