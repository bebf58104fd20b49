import { compactGroup } from '../compaction/compact.ts';
import { compactedTableOf } from '../compaction/tables.ts';
import type { CompactionPolicy } from '../compaction/tables.ts';
import type { CompactedGroup, CompactionGroupId } from '../contracts/compaction.ts';
import type { ReplayCounts } from '../contracts/dlq-replay.ts';
import type { Dataset } from '../datasets/dataset.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { datasetOf } from '../datasets/pipeline.ts';
import { stageReplayChunk } from '../dlq/stage-replay.ts';
import { createObjectStoreCatalog } from '../lake/object-store-catalog.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { createS3ObjectStore } from '../lake/s3-object-store.ts';
import type { Catalog } from '../lake/table.ts';
import type { PlanBackfillInput, PlannedBackfill } from '../reprocess/plan-backfill.ts';
import { planBackfill } from '../reprocess/plan-backfill.ts';
import type { ReplaceRowsInput } from '../reprocess/replace-rows.ts';
import { replaceRows } from '../reprocess/replace-rows.ts';
import type { ReprocessPublished } from '../contracts/reprocess.ts';
import { createRegistryClient } from '../schema-registry/registry-client.ts';
import { createSchemaStore } from '../schema-registry/schema-store.ts';
import type { SchemaStore } from '../schema-registry/schema-store.ts';
import { DecoderCache } from './decoders.ts';
import type { DivertInput, DivertResult } from './divert.ts';
import { divertBronze } from './divert.ts';
import { GoldKeyCache } from './gold-key-cache.ts';
import type { MergeGoldInput, MergeGoldResult, ReplaceGoldInput } from './merge-gold.ts';
import { mergeGold, replaceGold } from './merge-gold.ts';
import type { RefineInput, RefineResult } from './refine.ts';
import { refineBronze } from './refine.ts';

/** What a thread opens for itself; a part of the process's config, plain JSON. Never logged: it holds the store's keys. */
export interface ThreadConfig {
  readonly s3: { readonly endpoint: string | undefined; readonly region: string; readonly accessKeyId: string; readonly secretAccessKey: string; readonly bucket: string };
  readonly schemaRegistry: { readonly url: string };
  readonly pipelineUrl: string;
  /** Nice value of the threads, 0 to 19: what is greater gives way to other work. Linux only, where each thread has its own. */
  readonly niceness?: number;
}

/** Progress of a task, for heartbeats. */
export type TaskProgress = Record<string, string | number>;

export interface TaskOptions {
  signal: AbortSignal;
  onProgress(progress: TaskProgress): void;
  /** Called when a task has let go of much memory and goes on. */
  onReleased?(): void;
}

/** Tasks that a thread can run: input and result are plain JSON. */
export interface RefineTasks {
  refine: { input: RefineInput; result: RefineResult };
  divert: { input: DivertInput; result: DivertResult };
  /** Does nothing: a thread that has done it has loaded its modules. */
  open: { input: null; result: null };
  /** One chunk of a DLQ replay; see src/dlq/stage-replay.ts. */
  stageReplay: { input: { id: string; source: string; chunk: number; nowMs: number }; result: ReplayCounts };
  mergeGold: { input: MergeGoldInput & { source: string }; result: MergeGoldResult };
  planBackfill: { input: PlanBackfillInput; result: PlannedBackfill };
  replaceRows: { input: ReplaceRowsInput; result: ReprocessPublished };
  replaceGold: { input: ReplaceGoldInput & { source: string }; result: MergeGoldResult };
  compact: { input: CompactionGroupId & { table: string; policy: CompactionPolicy }; result: CompactedGroup };
}
export type TaskName = keyof RefineTasks;

export type TaskRunners = { [Name in TaskName]: (input: RefineTasks[Name]['input'], options: TaskOptions) => Promise<RefineTasks[Name]['result']> };

export interface TaskContext {
  store: ObjectStore;
  catalog: Catalog;
  pipeline: Pipeline;
  schemas: SchemaStore;
}

/** What a thread runs, over one store and one pipeline. */
export const createTaskRunners = ({ store, catalog, pipeline, schemas }: TaskContext): TaskRunners => {
  const decoders = new Map<string, DecoderCache>();
  const goldKeys = new GoldKeyCache(store);
  const decodersOf = (dataset: Dataset): DecoderCache => {
    const cache = decoders.get(dataset.source) ?? new DecoderCache(dataset, schemas);
    decoders.set(dataset.source, cache);
    return cache;
  };
  return {
    open: () => Promise.resolve(null),
    stageReplay: ({ id, source, chunk, nowMs }, { signal, onProgress }) => stageReplayChunk({
      store, catalog, pipeline, decoders: decodersOf(datasetOf(pipeline, source)), signal, onProgress: (progress) => { onProgress({ ...progress }); },
    }, { id, chunk, nowMs }),
    divert: (input, { signal }) => divertBronze({
      store, dataset: datasetOf(pipeline, input.source), dlqTable: pipeline.dlqTable, dataLocation: (table, suffix) => catalog.dataLocation(table, suffix), signal,
    }, input),
    mergeGold: (input, { signal, onProgress }) => mergeGold({
      store, catalog, dataset: datasetOf(pipeline, input.source), cache: goldKeys, signal, onProgress,
    }, input),
    planBackfill: (input, { signal, onProgress }) => planBackfill({
      store, catalog, dataset: datasetOf(pipeline, input.source), dlqTable: pipeline.dlqTable, signal, onProgress: (progress) => { onProgress({ ...progress }); },
    }, input),
    replaceRows: (input, { signal, onProgress }) => replaceRows({
      store, catalog, dataset: datasetOf(pipeline, input.source), dlqTable: pipeline.dlqTable, signal, onProgress: (progress) => { onProgress({ ...progress }); },
    }, input),
    replaceGold: (input, { signal, onProgress }) => replaceGold({
      store, catalog, dataset: datasetOf(pipeline, input.source), cache: goldKeys, signal, onProgress,
    }, input),
    compact: ({ table, policy, ...group }, { signal, onProgress }) => compactGroup({
      store, catalog, table: compactedTableOf(pipeline, table), policy, signal, onProgress: (progress) => { onProgress({ ...progress }); },
    }, group),
    refine: (input, { signal, onProgress, onReleased }) => {
      const dataset = datasetOf(pipeline, input.source);
      return refineBronze({
        store, dataset, decoders: decodersOf(dataset), dlqTable: pipeline.dlqTable, dataLocation: (table, suffix) => catalog.dataLocation(table, suffix), signal,
        onProgress: (progress) => { onProgress({ ...progress }); },
        ...(onReleased ? { onReleased } : {}),
      }, input);
    },
  };
};

/** Opens what a thread needs from its config: one S3 client, one catalog, the pipeline module. */
export const openTaskContext = async ({ s3, schemaRegistry, pipelineUrl }: ThreadConfig): Promise<TaskContext> => {
  const { default: pipeline } = await import(pipelineUrl) as { default: Pipeline };
  const store = createS3ObjectStore({
    bucket: s3.bucket,
    region: s3.region,
    ...(s3.endpoint === undefined ? {} : { endpoint: s3.endpoint }),
    credentials: { accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey },
  });
  return {
    store, pipeline, catalog: createObjectStoreCatalog({ store, namespace: pipeline.namespace }),
    schemas: createSchemaStore({ store, registry: createRegistryClient({ url: schemaRegistry.url }) }),
  };
};
