import type { DlqReplayInput, ReplayCounts, ReplayPlan } from '../contracts/dlq-replay.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import { isTidemarkError } from '../domain/errors.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { RowFile } from './read-rows.ts';

// What a DLQ replay keeps between its activities: JSON objects under `dlq-replay/<id>/`. Each is put once, so that an attempt
// that is repeated finds what the first one that succeeded has left.

/** The plan: what was selected, on which versions of the tables. */
export interface StoredPlan extends ReplayPlan {
  input: DlqReplayInput;
  /** Part of the chunks' keys: two attempts to plan never mix their chunks. */
  nonce: string;
  /** Data sequence number of Silver when the plan was made; what was added later has a greater one. Decimal text. */
  silverSequence: string;
  /** Schema id of the dataset's raw schema, for a cleanse function's records. */
  encodeSchemaId: number | null;
}

/** Selected rows of one DLQ file, which never changes: by their position in it. */
export interface ChunkFile extends RowFile {
  rows: number[];
  /** Attempts so far, for each row. */
  attempts: number[];
}
export interface StoredChunk {
  files: ChunkFile[];
}

/** The files of a chunk, durable and in no table yet. */
export interface StagedReplay {
  silverFiles: DataFile[];
  resolutionFiles: DataFile[];
  /** Offsets of the Silver rows. */
  recovered: CoverageJson;
  counts: ReplayCounts;
}

const folder = (id: string): string => `dlq-replay/${id}`;
const planKey = (id: string): string => `${folder(id)}/plan.json`;
const chunkKey = (id: string, nonce: string, chunk: number): string => `${folder(id)}/chunk-${nonce}-${chunk}.json`;
const stagedKey = (id: string, chunk: number): string => `${folder(id)}/staged-${chunk}.json`;

const tryLoad = async <T>(store: ObjectStore, key: string): Promise<T | undefined> => {
  try {
    return JSON.parse(Buffer.from((await store.get(key)).body).toString('utf8')) as T;
  } catch (error) {
    if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return undefined;
    throw error;
  }
};
const load = async <T>(store: ObjectStore, key: string): Promise<T> => JSON.parse(Buffer.from((await store.get(key)).body).toString('utf8')) as T;

/** The first to put wins, and everybody goes on with what is there. */
const putOnce = async <T>(store: ObjectStore, key: string, content: T): Promise<T> => {
  try {
    await store.put(key, JSON.stringify(content), { condition: 'absent', contentType: 'application/json' });
    return content;
  } catch (error) {
    if (!isTidemarkError(error, 'PRECONDITION_FAILED')) throw error;
    return load<T>(store, key);
  }
};

export const replayStore = (store: ObjectStore) => ({
  tryPlan: (id: string) => tryLoad<StoredPlan>(store, planKey(id)),
  plan: (id: string) => load<StoredPlan>(store, planKey(id)),
  /** The plan comes last: one that is there has all its chunks. */
  putPlan: (id: string, plan: StoredPlan) => putOnce(store, planKey(id), plan),
  chunk: (id: string, nonce: string, chunk: number) => load<StoredChunk>(store, chunkKey(id, nonce, chunk)),
  putChunk: async (id: string, nonce: string, chunk: number, content: StoredChunk): Promise<void> => {
    await store.put(chunkKey(id, nonce, chunk), JSON.stringify(content), { contentType: 'application/json' });
  },
  tryStaged: (id: string, chunk: number) => tryLoad<StagedReplay>(store, stagedKey(id, chunk)),
  putStaged: (id: string, chunk: number, staged: StagedReplay) => putOnce(store, stagedKey(id, chunk), staged),
  staged: (id: string, chunks: number): Promise<StagedReplay[]> =>
    Promise.all(Array.from({ length: chunks }, (_, chunk) => load<StagedReplay>(store, stagedKey(id, chunk)))),
});
export type ReplayStore = ReturnType<typeof replayStore>;
