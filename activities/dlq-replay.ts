import type { DlqReplayActivities, ReplayPlan } from '../src/contracts/dlq-replay.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import type { StoredPlan } from '../src/dlq/replay-store.ts';
import { planReplay } from '../src/dlq/plan-replay.ts';
import { claimReplay, closeReplay, loadReplayMerge, publishReplayResolutions, publishReplaySilver } from '../src/dlq/publish-replay.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import type { Catalog } from '../src/lake/table.ts';
import type { RefinePool } from '../src/refine/refine-pool.ts';
import type { RegistryClient } from '../src/schema-registry/registry-client.ts';
import type { SchemaStore } from '../src/schema-registry/schema-store.ts';
import { asActivity } from './edge.ts';

export interface DlqReplayDeps {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  schemas: Pick<SchemaStore, 'load' | 'keep'>;
  registry: Pick<RegistryClient, 'register'>;
  topicPrefix: string;
  /** Whether a Workflow of this ID runs: the claim of one that does not is taken over. */
  isRunning(workflowId: string): Promise<boolean>;
  refinePool: Pick<RefinePool, 'run'>;
  mergePool: Pick<RefinePool, 'run'>;
  now?: () => number;
}

const planOf = ({ snapshotId, rows, chunks, notRefined, quarantined }: StoredPlan): ReplayPlan => ({ snapshotId, rows, chunks, notRefined, quarantined });

export const createDlqReplayActivities = ({ catalog, store, pipeline, schemas, registry, topicPrefix, isRunning, refinePool, mergePool, now = Date.now }: DlqReplayDeps): DlqReplayActivities => {
  const lake = { catalog, store, pipeline };
  return {
    planReplay: (input) => asActivity(async ({ signal, report }) =>
      planOf(await planReplay({ ...lake, schemas, registry, topicPrefix, signal, onProgress: report }, input))),

    claimReplay: ({ id }) => asActivity(({ signal }) => claimReplay({ ...lake, signal, isRunning }, { id })),

    stageReplayChunk: ({ id, selection: { source }, chunk }) => asActivity(({ signal, report }) =>
      refinePool.run('stageReplay', { id, source, chunk, nowMs: now() }, { signal, onProgress: report })),

    publishReplayResolutions: ({ id }) => asActivity(({ signal }) => publishReplayResolutions({ ...lake, signal }, { id })),

    publishReplaySilver: ({ id }) => asActivity(({ signal }) => publishReplaySilver({ ...lake, signal }, { id })),

    mergeReplayGold: ({ id }) => asActivity(async ({ signal, report }) => {
      const merge = await loadReplayMerge(store, { id });
      if (!merge) return { goldRows: 0, duplicates: 0 };
      const { goldRows, alreadyThereRows, duplicates } = await mergePool.run('mergeGold', { ...merge, nowMs: now() }, { signal, onProgress: report });
      return { goldRows: goldRows + alreadyThereRows, duplicates };
    }),

    closeReplay: ({ id, selection: { source }, isPublished }) => asActivity(({ signal }) => closeReplay({ ...lake, signal }, { id, source, isPublished })),
  };
};
