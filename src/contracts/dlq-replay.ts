// The DLQ replay Workflow, its activities, and what commands ask for: plain JSON. Lists of records wait in objects under
// `dlq-replay/<id>/` and travel by the replay's id.

export const dlqReplayWorkflowType = 'dlqReplayWorkflow';
export const dlqReplayWorkflowId = (id: string): string => `dlq-replay/${id}`;
/** Pins the DLQ's snapshot for as long as the replay runs: on the DLQ's table, under this name. */
export const dlqReplayTag = (id: string): string => `dlq-replay/${id}`;
export const replayIdPattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$/;

export const pauseReplaySignal = 'pause';
export const resumeReplaySignal = 'resume';
export const replayProgressQuery = 'progress';

/** The state of a DLQ row: `open` without a resolution, or when the last one is an attempt that failed. */
export const dlqStates = ['open', 'recovered', 'purged', 'flagged', 'quarantined'] as const;
export type DlqState = (typeof dlqStates)[number];

/** Which rows: every given condition holds. */
export interface DlqSelection {
  source: string;
  /** Kafka timestamp, ISO 8601, half-open [from, until). */
  from?: string;
  until?: string;
  errorTypes?: string[];
  /** One of the row's reasons. */
  reasons?: string[];
  schemaIds?: number[];
  /** `<topic>/<partition>/<offset>` each. Rows that are named are taken in every state but `recovered`. */
  records?: string[];
  /** Default: `open`. Never `recovered`: those rows are in Silver. */
  states?: DlqState[];
}

export type ReplayMode =
  /** Validate with the rules as they are now. */
  | { mode: 'rules' }
  /** Decode with this schema id in place of the one that the bytes name. */
  | { mode: 'schema'; schemaId: number }
  /** A function of the pipeline, by its name. */
  | { mode: 'cleanse'; cleanse: string }
  /** Never to be refined again. */
  | { mode: 'purge'; reason: string }
  /** Looked at, and left where it is. */
  | { mode: 'flag'; reason: string };

/** Attempts after which a record that is refused again is quarantined: left out unless it is named. */
export const replayAttemptsMaxDefault = 5;
/** Records that are refined and staged together. */
export const replayChunkRowsDefault = 20_000;
/** More chunks would fill the Workflow's history: select less, or larger chunks. */
export const replayChunksMax = 500;
/** Records that one selection may name. */
export const selectedRecordsMax = 500;

export interface DlqReplayInput {
  id: string;
  selection: DlqSelection;
  mode: ReplayMode;
  /** Who asked. */
  actor: string;
  attemptsMax?: number;
  chunkRows?: number;
}

/** What became of the selected records; together they are `selected`. */
export interface ReplayCounts {
  selected: number;
  recovered: number;
  /** Refused again, and open still. */
  refused: number;
  /** Refused again past the limit of attempts. */
  quarantined: number;
  purged: number;
  flagged: number;
  /** Left as they were by the cleanse function. */
  kept: number;
  /** Of the refused and quarantined ones: the deciding reason of the new refusal. */
  refusedByReason: Record<string, number>;
}
export const noReplayCounts: ReplayCounts = { selected: 0, recovered: 0, refused: 0, quarantined: 0, purged: 0, flagged: 0, kept: 0, refusedByReason: {} };

export const sumReplayCounts = (a: ReplayCounts, b: ReplayCounts): ReplayCounts => {
  const refusedByReason = { ...a.refusedByReason };
  for (const [reason, count] of Object.entries(b.refusedByReason)) refusedByReason[reason] = (refusedByReason[reason] ?? 0) + count;
  return {
    selected: a.selected + b.selected, recovered: a.recovered + b.recovered, refused: a.refused + b.refused, quarantined: a.quarantined + b.quarantined,
    purged: a.purged + b.purged, flagged: a.flagged + b.flagged, kept: a.kept + b.kept, refusedByReason,
  };
};
export const replayOutcomes = (counts: ReplayCounts): number => counts.recovered + counts.refused + counts.quarantined + counts.purged + counts.flagged + counts.kept;

export interface ReplayPlan {
  /** Decimal text; null: the DLQ has no snapshot. */
  snapshotId: string | null;
  rows: number;
  chunks: number;
  /** Rows that fit and whose micro-batch is not wholly published: they stay for the next replay. */
  notRefined: number;
  /** Rows that fit and were quarantined before: left out, as they were not named. */
  quarantined: number;
}

export interface ReplayMerge {
  goldRows: number;
  duplicates: number;
}

export type ReplayPhase = 'planning' | 'waiting for the claim' | 'staging' | 'publishing' | 'completed' | 'cancelled' | 'failed';
export interface DlqReplayProgress {
  id: string;
  source: string;
  mode: ReplayMode;
  phase: ReplayPhase;
  paused: boolean;
  plan: ReplayPlan | null;
  rowsTotal: number;
  rowsRefined: number;
  chunksTotal: number;
  chunksRefined: number;
  startedAtMs: number;
  /** Of the chunks that are refined. */
  counts: ReplayCounts;
  /** What recovered rows became in Gold, once merged. */
  gold: ReplayMerge | null;
}
export type DlqReplayResult = ReplayCounts & ReplayMerge & Pick<ReplayPlan, 'notRefined'> & { leftQuarantined: number };

/** Each is idempotent: what is staged is found again, and the lake decides what is published. */
export interface DlqReplayActivities {
  planReplay(input: DlqReplayInput): Promise<ReplayPlan>;
  /** Takes the offsets; waits, as a failure that is retried, while a backfill or another replay has some of them. */
  claimReplay(input: DlqReplayInput): Promise<void>;
  stageReplayChunk(input: DlqReplayInput & { chunk: number }): Promise<ReplayCounts>;
  publishReplayResolutions(input: DlqReplayInput): Promise<{ rows: number }>;
  publishReplaySilver(input: DlqReplayInput): Promise<{ rows: number }>;
  mergeReplayGold(input: DlqReplayInput): Promise<ReplayMerge>;
  /** Gives the offsets and the pin back; of a replay that is not published the staged files go too. */
  closeReplay(input: DlqReplayInput & { isPublished: boolean }): Promise<void>;
}
