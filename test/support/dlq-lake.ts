import { randomUUID } from 'node:crypto';
import { ApplicationFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { createBackfillActivities } from '../../activities/backfill.ts';
import { createReprocessActivities } from '../../activities/reprocess.ts';
import type { DlqReplayInput, DlqReplayResult, ReplayMode } from '../../src/contracts/dlq-replay.ts';
import { noReplayCounts, sumReplayCounts } from '../../src/contracts/dlq-replay.ts';
import { bronzeFileSuffix } from '../../src/contracts/bronze.ts';
import { auditConservation } from '../../src/audit/conservation.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import type { Dataset } from '../../src/datasets/dataset.ts';
import { bronzeTable } from '../../src/datasets/dataset.ts';
import marketData from '../../src/datasets/market-data.ts';
import { pipelineTables } from '../../src/datasets/pipeline.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { planReplay } from '../../src/dlq/plan-replay.ts';
import { claimReplay, closeReplay, loadReplayMerge, publishReplayResolutions, publishReplaySilver } from '../../src/dlq/publish-replay.ts';
import { loadRefineResolutions } from '../../src/dlq/resolutions.ts';
import { stageReplayChunk } from '../../src/dlq/stage-replay.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../../src/domain/offsets.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import type { ObjectStore } from '../../src/lake/object-store.ts';
import { objectSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import { DecoderCache } from '../../src/refine/decoders.ts';
import { GoldKeyCache } from '../../src/refine/gold-key-cache.ts';
import { mergeGold } from '../../src/refine/merge-gold.ts';
import { refineBronze } from '../../src/refine/refine.ts';
import type { RefinePool } from '../../src/refine/refine-pool.ts';
import { createTaskRunners } from '../../src/refine/refine-tasks.ts';
import type { TaskName } from '../../src/refine/refine-tasks.ts';
import { createSchemaStore } from '../../src/schema-registry/schema-store.ts';
import { createMemoryObjectStore } from './memory-object-store.ts';
import { noArchive } from './no-archive.ts';

export const rawSchemaId = 7;
const microsPerDay = 86_400_000_000n;
/** Columns that hold a processing time. */
const processingTimes: ReadonlySet<string> = new Set(['validation_timestamp', 'error_timestamp', 'gold_ingestion_timestamp', 'resolved_at']);

export type LakeRow = Record<string, unknown>;

/** The shipped pipeline with other rules for one of its datasets, as another release has them; without the quick way of the old ones. */
export const withRules = (source: string, change: (dataset: Dataset) => Partial<Dataset>): Pipeline => ({
  ...marketData,
  datasets: marketData.datasets.map((dataset) => {
    if (dataset.source !== source) return dataset;
    const { columnar: _quick, ...rest } = dataset;
    return { ...rest, ...change(dataset) };
  }),
});

/** A lake in memory, with every step of the way to Gold and of a DLQ replay at hand; no Temporal, no Kafka. */
export const createDlqLake = async (store: ObjectStore = createMemoryObjectStore('lake'), { snapshotsKept = 100 } = {}) => {
  const catalog = createObjectStoreCatalog({ store, namespace: marketData.namespace, snapshotsKept });
  for (const table of pipelineTables(marketData)) await catalog.ensureTable(table);
  const registered = new Map<number, string>();
  const unused = () => Promise.reject(new Error('unused'));
  const registry = {
    register: () => Promise.resolve(rawSchemaId), setCompatibility: unused, versions: unused, version: unused,
    schemaById: (id: number) => (registered.has(id) ? Promise.resolve(registered.get(id)!) : Promise.reject(new TidemarkError('SCHEMA_NOT_FOUND', `schema id ${id}`))),
  };
  const schemas = createSchemaStore({ store, registry });
  const decoders = new Map<string, DecoderCache>();
  const decodersOf = (dataset: Dataset): DecoderCache => {
    const known = decoders.get(`${dataset.source} ${dataset.ruleVersion}`) ?? new DecoderCache(dataset, schemas);
    decoders.set(`${dataset.source} ${dataset.ruleVersion}`, known);
    return known;
  };
  const cache = new GoldKeyCache(store);
  const dataLocation = (table: string, suffix: string): string => catalog.dataLocation(table, suffix);
  const datasetIn = (pipeline: Pipeline, source: string): Dataset => pipeline.datasets.find((dataset) => dataset.source === source)!;
  const columnRows = async (table: string, files?: readonly { filePath: string; fileSizeBytes: number }[]): Promise<LakeRow[]> => {
    const version = await catalog.load(table);
    const rows: LakeRow[] = [];
    for (const { filePath, fileSizeBytes } of files ?? await version.scan()) {
      const { rowCount, columns } = await readColumns(await openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes)), { columns: version.fields.map(({ name }) => name) });
      for (let i = 0; i < rowCount; i += 1) rows.push(Object.fromEntries(version.fields.map(({ name }) => [name, columns[name]![i]])));
    }
    const key = (row: LakeRow): string => `${String(row['kafka_topic'] ?? row['topic'])}/${String(row['kafka_partition'] ?? row['partition'])}/${String(row['kafka_offset'] ?? row['offset']).padStart(20)}`;
    return rows.sort((a, b) => (key(a) < key(b) ? -1 : 1));
  };
  /** Rows without what two refinings of the same may differ in. */
  const comparable = (rows: readonly LakeRow[]): LakeRow[] => rows.map((row) => Object.fromEntries(Object.entries(row).filter(([name]) => !processingTimes.has(name))));
  const refineInputOf = async (pipeline: Pipeline, dataset: Dataset, wanted: Coverage) => {
    const files = await (await catalog.load(dataset.bronze.name)).scan();
    return refineBronze({ store, dataset, decoders: decodersOf(dataset), dlqTable: pipeline.dlqTable, dataLocation }, {
      source: dataset.source, batchId: 'batch', nowMs: Date.now(), silver: wanted.toJson(), dlq: wanted.toJson(),
      bronzeFiles: files.map(({ filePath, recordCount, fileSizeBytes }) => ({ filePath, recordCount, fileSizeBytes })),
      resolutions: await loadRefineResolutions({ store, catalog }, dataset.source, wanted),
    });
  };

  const lake = {
    store, catalog, registered, schemas, registry, decodersOf, comparable,
    rows: (table: string) => columnRows(table),
    /** One Bronze file; offsets go on from `start`. */
    async ingest(dataset: Dataset, values: readonly (Uint8Array | null)[], { partition = 0, start = 0, ingestionMs = 1_767_323_045_000 } = {}): Promise<void> {
      const ingestion = BigInt(ingestionMs) * 1_000n;
      const offsets = values.map((_, i) => BigInt(start + i));
      const { bytes, metrics } = encodeDataFile({
        fields: bronzeTable('bronze').fields,
        batch: {
          rowCount: values.length,
          columns: {
            raw_bytes: values, topic: { constant: dataset.topic }, partition: { constant: partition }, offset: BigInt64Array.from(offsets), key: { constant: null }, headers: { constant: null },
            kafka_timestamp: BigInt64Array.from(offsets, (offset) => ingestion - 500_000n + offset), ingestion_timestamp: { constant: ingestion }, ingestion_date: { constant: Number(ingestion / microsPerDay) },
          },
        },
      });
      const end = BigInt(start + values.length);
      const filePath = dataLocation(dataset.bronze.name, bronzeFileSuffix({ topic: dataset.topic, partition, start: BigInt(start), end, epoch: 1 }));
      await store.put(store.keyOf(filePath), bytes);
      await catalog.commit(dataset.bronze.name, {
        commitId: randomUUID(), add: [{ ...metrics, filePath, partition: { ingestion_timestamp: Number(ingestion / microsPerDay) } }],
        cover: Coverage.of([[topicPartitionKey(dataset.topic, partition), IntervalSet.of({ start: BigInt(start), end })]]),
      });
    },
    /** What micro-batches would do with everything that is not refined yet. */
    async refine(source: string, pipeline: Pipeline = marketData): Promise<void> {
      const dataset = datasetIn(pipeline, source);
      const wanted = (await catalog.load(dataset.bronze.name)).coverage.subtract((await catalog.load(dataset.silver.name)).coverage);
      const { silverFiles, dlqFiles } = await refineInputOf(pipeline, dataset, wanted);
      await catalog.commit(dataset.silver.name, { commitId: randomUUID(), add: silverFiles, cover: wanted, coverageAbsent: wanted });
      await catalog.commit(pipeline.dlqTable, { commitId: randomUUID(), add: dlqFiles, cover: wanted, coverageAbsent: wanted });
      await mergeGold({ store, catalog, dataset, cache }, { commitId: randomUUID(), coverage: wanted.toJson(), silverFiles, nowMs: Date.now() });
    },
    /** What a backfill over everything would stage. */
    async refineAgain(source: string, pipeline: Pipeline = marketData): Promise<{ silver: LakeRow[]; dlq: LakeRow[] }> {
      const dataset = datasetIn(pipeline, source);
      const { silverFiles, dlqFiles } = await refineInputOf(pipeline, dataset, (await catalog.load(dataset.bronze.name)).coverage);
      return { silver: comparable(await columnRows(dataset.silver.name, silverFiles)), dlq: comparable(await columnRows(pipeline.dlqTable, dlqFiles)) };
    },
    input: (source: string, mode: ReplayMode, given: Partial<DlqReplayInput> = {}): DlqReplayInput => ({ id: randomUUID(), selection: { source }, mode, actor: 'test', ...given }),
    /** The steps of a replay, in the order of its Workflow. */
    steps: (input: DlqReplayInput, pipeline: Pipeline = marketData) => {
      const deps = { store, catalog, pipeline };
      const dataset = datasetIn(pipeline, input.selection.source);
      return {
        plan: () => planReplay({ ...deps, schemas, registry, topicPrefix: '' }, input),
        claim: ({ isRunning = true } = {}) => claimReplay({ ...deps, isRunning: () => Promise.resolve(isRunning) }, input),
        stage: (chunk: number) => stageReplayChunk({ ...deps, decoders: decodersOf(dataset) }, { id: input.id, chunk, nowMs: Date.now() }),
        resolutions: () => publishReplayResolutions(deps, input),
        silver: () => publishReplaySilver(deps, input),
        gold: async () => {
          const merge = await loadReplayMerge(store, input);
          return merge === undefined ? { goldRows: 0, duplicates: 0, alreadyThereRows: 0 } : mergeGold({ store, catalog, dataset, cache }, { ...merge, nowMs: Date.now() });
        },
        close: (isPublished: boolean) => closeReplay(deps, { id: input.id, source: input.selection.source, isPublished }),
      };
    },
    async replay(input: DlqReplayInput, pipeline: Pipeline = marketData): Promise<DlqReplayResult> {
      const steps = lake.steps(input, pipeline);
      const { chunks, notRefined, quarantined } = await steps.plan();
      await steps.claim();
      let counts = noReplayCounts;
      for (let chunk = 0; chunk < chunks; chunk += 1) counts = sumReplayCounts(counts, await steps.stage(chunk));
      await steps.resolutions();
      await steps.silver();
      const { goldRows, duplicates } = await steps.gold();
      await steps.close(true);
      return { ...counts, goldRows, duplicates, notRefined, leftQuarantined: quarantined };
    },
    /** A backfill over everything, by the product's activities; `between` runs before each of its steps, and after the last. */
    async backfill(source: string, pipeline: Pipeline = marketData, between: (step: string) => Promise<void> = () => Promise.resolve()): Promise<void> {
      const tasks = createTaskRunners({ store, catalog, pipeline, schemas });
      const pool = { run: (name: TaskName, input: never) => tasks[name](input, { signal: new AbortController().signal, onProgress: () => {} }) } as unknown as Pick<RefinePool, 'run'>;
      const backfill = createBackfillActivities({
        catalog, store, pipeline, pool, chunkRowsMax: 10, offsetsOfMicroBatch: () => Promise.resolve(undefined), archive: noArchive,
      });
      const activities = createReprocessActivities({ catalog, store, pipeline, pool, isRunning: () => Promise.resolve(true) });
      const id = randomUUID();
      const environment = new MockActivityEnvironment();
      /** Tried again as Temporal would. */
      const run = async <Input, Result>(activity: (input: Input) => Promise<Result>, input: Input): Promise<Result> => {
        for (let attempts = 1; ; attempts += 1) {
          try {
            return await environment.run(activity, input);
          } catch (error) {
            if (!(error instanceof ApplicationFailure) || error.nonRetryable || attempts > 3) throw error;
          }
        }
      };
      const ref = await run(backfill.planBackfill, { id, reprocessId: `backfill/${id}`, source, range: { by: 'all' }, rowsPerSecond: null, parallelism: 1 } as const);
      await run(activities.claimOffsets, ref);
      for (let chunk = 0; chunk < ref.chunks; chunk += 1) await run(activities.refineChunk, { ...ref, chunk });
      for (const step of ['replaceSilver', 'replaceDlq', 'replaceGold', 'finishReprocess'] as const) {
        await between(step);
        await run<typeof ref, unknown>(activities[step], ref);
      }
      await between('end');
    },
    audit: ({ now }: { now?: () => number } = {}): Promise<AuditReport> => auditConservation({ catalog, store, pipeline: marketData, ...(now ? { now } : {}) }),
  };
  return lake;
};
export type DlqLake = Awaited<ReturnType<typeof createDlqLake>>;
