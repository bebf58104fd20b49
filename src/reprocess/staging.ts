import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { ReprocessChunk, ReprocessPlan } from '../contracts/reprocess.ts';
import { isTidemarkError } from '../domain/errors.ts';

/** What refining a chunk leaves for publishing: JSON in the store. */
export interface StagedChunk {
  silverFiles: DataFile[];
  dlqFiles: DataFile[];
  rows: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  durationMs: number;
}

const folderOf = (planKey: string): string => planKey.slice(0, planKey.lastIndexOf('/') + 1);
const chunkKey = (planKey: string, chunk: number): string => `${folderOf(planKey)}chunk-${chunk}.json`;
const stagedKey = (planKey: string, chunk: number): string => `${folderOf(planKey)}chunk-${chunk}.staged.json`;

const loadJson = async <T>(store: ObjectStore, key: string): Promise<T> => JSON.parse(Buffer.from((await store.get(key)).body).toString('utf8')) as T;

export const loadPlan = (store: ObjectStore, planKey: string): Promise<ReprocessPlan> => loadJson<ReprocessPlan>(store, planKey);
export const loadChunk = (store: ObjectStore, planKey: string, chunk: number): Promise<ReprocessChunk> => loadJson<ReprocessChunk>(store, chunkKey(planKey, chunk));

/** Null: not refined yet. */
export const loadStagedChunk = async (store: ObjectStore, planKey: string, chunk: number): Promise<StagedChunk | null> => {
  try {
    return await loadJson<StagedChunk>(store, stagedKey(planKey, chunk));
  } catch (error) {
    if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return null;
    throw error;
  }
};

const json = { contentType: 'application/json' } as const;

export const putChunk = async (store: ObjectStore, planKey: string, chunk: number, content: ReprocessChunk): Promise<void> => {
  await store.put(chunkKey(planKey, chunk), JSON.stringify(content), json);
};

/** The plan comes last: one that is there has all its chunks. */
export const putPlan = async (store: ObjectStore, planKey: string, plan: ReprocessPlan): Promise<void> => {
  await store.put(planKey, JSON.stringify(plan), json);
};

/** The first attempt to stage a chunk counts: what a later one has refined is left to the sweep of orphan files. */
export const stageChunk = async (store: ObjectStore, planKey: string, chunk: number, staged: StagedChunk): Promise<StagedChunk> => {
  try {
    await store.put(stagedKey(planKey, chunk), JSON.stringify(staged), { ...json, condition: 'absent' });
    return staged;
  } catch (error) {
    if (!isTidemarkError(error, 'PRECONDITION_FAILED')) throw error;
    return (await loadStagedChunk(store, planKey, chunk)) ?? staged;
  }
};

/** All staged chunks of a plan, in their order; a few are read at once. */
export async function* stagedChunks(store: ObjectStore, planKey: string, chunks: number): AsyncGenerator<StagedChunk> {
  const atOnce = 16;
  for (let from = 0; from < chunks; from += atOnce) {
    const part = await Promise.all(Array.from({ length: Math.min(atOnce, chunks - from) }, (_, i) => loadJson<StagedChunk>(store, stagedKey(planKey, from + i))));
    yield* part;
  }
}

const forget = async (store: ObjectStore, prefix: string, isMeant: (key: string) => boolean = () => true): Promise<void> => {
  let keys: string[] = [];
  for await (const { key } of store.list(prefix)) {
    if (!isMeant(key)) continue;
    keys.push(key);
    if (keys.length === 1_000) {
      await store.delete(keys);
      keys = [];
    }
  }
  if (keys.length > 0) await store.delete(keys);
};

/** Every staging object of one plan. */
export const forgetStaging = (store: ObjectStore, planKey: string): Promise<void> => forget(store, folderOf(planKey));

const planFolder = /^[\da-f-]{36}\//;

/** The same, and before it those of plans that the reprocess made and never came to know, because the process that made them died. */
export const forgetRun = async (store: ObjectStore, { reprocessId, planKey }: { reprocessId: string; planKey: string }): Promise<void> => {
  const prefix = `staging/${reprocessId}/`;
  await forget(store, prefix, (key) => planFolder.test(key.slice(prefix.length)) && !key.startsWith(folderOf(planKey)));
  await forgetStaging(store, planKey);
};
