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
  /** Part of the keys of chunks and staged files: two plans under one id never mix theirs. */
  nonce: string;
  /** What is claimed: the selected offsets, or the hull of many. */
  offsets: CoverageJson;
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
export const replayPlanKey = (id: string): string => `${folder(id)}/plan.json`;
const chunkKey = (id: string, nonce: string, chunk: number): string => `${folder(id)}/chunk-${nonce}-${chunk}.json`;
const stagedKey = (id: string, nonce: string, chunk: number): string => `${folder(id)}/staged-${nonce}-${chunk}.json`;

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
  tryPlan: (id: string) => tryLoad<StoredPlan>(store, replayPlanKey(id)),
  plan: (id: string) => load<StoredPlan>(store, replayPlanKey(id)),
  /** The plan comes last: one that is there has all its chunks. */
  putPlan: (id: string, plan: StoredPlan) => putOnce(store, replayPlanKey(id), plan),
  chunk: (id: string, nonce: string, chunk: number) => load<StoredChunk>(store, chunkKey(id, nonce, chunk)),
  putChunk: async (id: string, nonce: string, chunk: number, content: StoredChunk): Promise<void> => {
    await store.put(chunkKey(id, nonce, chunk), JSON.stringify(content), { contentType: 'application/json' });
  },
  tryStaged: (id: string, nonce: string, chunk: number) => tryLoad<StagedReplay>(store, stagedKey(id, nonce, chunk)),
  putStaged: (id: string, nonce: string, chunk: number, staged: StagedReplay) => putOnce(store, stagedKey(id, nonce, chunk), staged),
  staged: (id: string, { nonce, chunks }: Pick<StoredPlan, 'nonce' | 'chunks'>): Promise<StagedReplay[]> =>
    Promise.all(Array.from({ length: chunks }, (_, chunk) => load<StagedReplay>(store, stagedKey(id, nonce, chunk)))),
  /** The plan goes last: while it is there, so is all that it names. */
  forget: async (id: string, { nonce, chunks }: Pick<StoredPlan, 'nonce' | 'chunks'>): Promise<void> => {
    await store.delete(Array.from({ length: chunks }, (_, chunk) => [stagedKey(id, nonce, chunk), chunkKey(id, nonce, chunk)]).flat());
    await store.delete([replayPlanKey(id)]);
  },
});
export type ReplayStore = ReturnType<typeof replayStore>;
