// The reprocess engine: offsets of one source are refined again from Bronze, staged, and published once, in Silver, the DLQ
// and Gold. A backfill and a DLQ replay differ in how they choose the offsets, and in what becomes of the DLQ rows.
//
//   plan (your own activity: choose offsets, then writePlan of src/reprocess/plan.ts)
//   └▶ claimOffsets ▶ refineChunk × n (child Workflows) ▶ replaceSilver ▶ replaceDlq ▶ replaceGold ▶ finishReprocess
//   a failure or a cancellation before replaceSilver: abandonReprocess; from replaceSilver on it only rolls forward.
//
// workflows/reprocess.ts runs these steps with pause, resume, throttle and progress; a Workflow of its own calls it.
// Crosses Temporal as JSON: lists that grow with the data lie in the store and travel by key.
import type { CoverageJson } from '../domain/offsets.ts';

/** `backfill/<id>` or `dlq-replay/<id>`: the parent's Workflow ID, the name of its tags and claims. */
export interface ReprocessRef {
  reprocessId: string;
  /** Object key of a {@link ReprocessPlan}; its folder holds everything that this run stages. */
  planKey: string;
}

/**
 * JSON object in the store. `offsets` are refined (covered by Silver, the DLQ and Gold) when the plan is made, and their Bronze
 * rows are in the pinned snapshot; what the live stream refines later lies outside of it.
 */
export interface ReprocessPlan {
  reprocessId: string;
  source: string;
  offsets: CoverageJson;
  /**
   * `replace`: the offsets' DLQ rows give way to what refining refuses now, except those that a resolution closed (recovered,
   * purged). `keep`: no DLQ row is touched, as a DLQ replay wants it; what is refused is in the chunk's staged DLQ files only.
   */
  dlq: 'replace' | 'keep';
  /** Decimal text; pinned on Bronze by a tag named like the reprocessId. Null: Bronze is empty. */
  bronzeSnapshotId: string | null;
  /** Every chunk is refined under it, or not at all: a new release in the middle must not make a mixture. */
  ruleVersion: string;
  /**
   * Object with `Resolution[]` (src/refine/transform.ts) that refining meets beside those of the table dlq_resolutions, and
   * which win over them; null: only the table's. This is how a DLQ replay refines under resolutions that it has not published.
   */
  resolutionsKey: string | null;
  chunks: number;
  rows: number;
  /** Of every chunk but the last, which may have less. */
  chunkRows: number;
  bronzeFiles: number;
  bronzeBytes: number;
}

/** JSON object in the store, `<folder of the plan>/chunk-<n>.json`, n from 0. */
export interface ReprocessChunk {
  offsets: CoverageJson;
  rows: number;
  bronzeFiles: { filePath: string; recordCount: number; fileSizeBytes: number }[];
}

export interface ChunkRef extends ReprocessRef {
  chunk: number;
}

/** What refining a chunk gave. Its files are named in `<folder of the plan>/chunk-<n>.staged.json`, a {@link StagedChunk}. */
export interface RefinedChunk {
  rows: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  /** For the person who looks at it in the Web UI. */
  durationMs: number;
}

export interface ReprocessPublished {
  status: 'committed' | 'alreadyCommitted';
  snapshotId: string | null;
  addedRows: number;
  /** Rows that gave way. */
  removedRows: number;
  attempts: number;
}

export interface PlannedReprocess extends ReprocessRef {
  source: string;
  chunks: number;
  /** Of every chunk but the last, which may have less. */
  chunkRows: number;
  rows: number;
  /** Silver of this plan was published by an earlier run: only the roll-forward is left. */
  isPublished: boolean;
  /** Events of one run of the Workflow before it continues as new. */
  historyEventsMax?: number;
}

/** Each is idempotent: the lake decides what is done. */
export interface ReprocessActivities {
  /**
   * Takes the plan's offsets for this reprocess: claims on Silver and the DLQ that no overlapping claim of another one is beside.
   * While there is one it fails retryably with OFFSETS_CLAIMED, naming the other.
   */
  claimOffsets(input: ReprocessRef): Promise<void>;
  refineChunk(input: ChunkRef): Promise<RefinedChunk>;
  /** The point of no return: one commit replaces the offsets' Silver rows by the staged ones. */
  replaceSilver(input: ReprocessRef): Promise<ReprocessPublished>;
  /** One commit; without effect for a plan that keeps the DLQ. */
  replaceDlq(input: ReprocessRef): Promise<ReprocessPublished>;
  /** One commit: Gold is the least lineage of each key of Silver again, in every bucket that had or gets a row of the offsets. */
  replaceGold(input: ReprocessRef): Promise<ReprocessPublished>;
  /** Gives claims and tags back, and forgets the staging objects. */
  finishReprocess(input: ReprocessRef): Promise<void>;
  /**
   * The same before anything was published, and removes the staged data files that no table version names.
   * `isPublished`: it is too late, the reprocess must roll forward.
   */
  abandonReprocess(input: ReprocessRef): Promise<{ isPublished: boolean; filesRemoved: number }>;
}

/** Signals of a Workflow that reprocesses. `throttle` takes a {@link Throttle}. */
export const reprocessSignals = { pause: 'pause', resume: 'resume', throttle: 'throttle' } as const;
export interface Throttle {
  /** Rows a second over the whole run; null: as fast as it goes. Absent: as it is. */
  rowsPerSecond?: number | null;
  /** Chunks refined at once. */
  parallelism?: number;
}

/** Query of a Workflow that reprocesses. */
export const progressQuery = 'progress';
export interface ReprocessProgress {
  reprocessId: string;
  source: string;
  phase: 'planning' | 'waiting for the claim' | 'refining' | 'paused' | 'publishing Silver' | 'publishing the DLQ' | 'replacing Gold' | 'finishing' | 'completed' | 'abandoning';
  planKey: string | null;
  rowsTotal: number;
  rowsRefined: number;
  chunksTotal: number;
  chunksRefined: number;
  chunksRunning: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  published: { silver: ReprocessPublished | null; dlq: ReprocessPublished | null; gold: ReprocessPublished | null };
  rowsPerSecondLimit: number | null;
  parallelism: number;
  startedAtMs: number;
  /** Time spent refining and not paused, up to `asOfMs`. */
  refiningMs: number;
  /** When this was true, ms since the epoch: the Workflow's last task. */
  asOfMs: number;
  /** Past the point of no return: a cancellation changes nothing any more. */
  isPublishing: boolean;
}

export const reprocessChunkWorkflowType = 'reprocessChunkWorkflow';
export const reprocessChunkWorkflowId = ({ reprocessId, chunk }: Pick<ChunkRef, 'reprocessId' | 'chunk'>): string => `${reprocessId}/chunk/${chunk}`;
