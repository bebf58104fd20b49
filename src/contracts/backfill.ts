// The backfill Workflow: a range of one source is refined again from Bronze. Plain JSON; offsets and microseconds are decimal texts.
import type { CoverageJson } from '../domain/offsets.ts';
import type { PlannedReprocess, ReprocessPublished } from './reprocess.ts';

export const backfillWorkflowType = 'backfillWorkflow';
export const backfillWorkflowId = (id: string): string => `backfill/${id}`;

/** Half-open everywhere. Times are µs since the epoch. */
export type ReprocessRange =
  | { by: 'all' }
  /** As the text of Coverage: topic partition → "0-100,150-200". */
  | { by: 'offsets'; offsets: CoverageJson }
  /** When the records were produced. */
  | { by: 'kafka-timestamp'; startMicros: string; endMicros: string }
  /** When the trade happened; of rejected records, which have no such time, when they were produced. */
  | { by: 'event-time'; startMicros: string; endMicros: string }
  /** When the rows were refined, under which rules, or both. */
  | { by: 'refined'; startMicros?: string; endMicros?: string; ruleVersion?: string }
  | { by: 'micro-batches'; batches: number[] };

export interface BackfillInput {
  /** Of the Workflow ID. */
  id: string;
  source: string;
  range: ReprocessRange;
  /** Rows a second over the whole run; null: as fast as it goes. */
  rowsPerSecond: number | null;
  /** Chunks refined at once. */
  parallelism: number;
}

export interface BackfillResult {
  rows: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  silver: ReprocessPublished | null;
  dlq: ReprocessPublished | null;
  gold: ReprocessPublished | null;
}

/** What a plan resolves to, for people and for `--dry-run`. */
export interface BackfillFigures {
  source: string;
  /** Cut to fit a payload; `offsetsTotal` and `intervals` are exact. */
  offsets: CoverageJson;
  offsetsTotal: string;
  intervals: number;
  /** Offsets of the range that no live Bronze row has: sparse at the broker, or archived. Their rows stay as they are. */
  offsetsWithoutBronze: string;
  /** Of these, offsets that the archive has: the backfill restores their Bronze files first. Of a plan that was made: restored. */
  offsetsArchived: string;
  /** Offsets whose Silver or DLQ rows the archive has: they come back first, so that they are replaced like any other. Of a plan that was made: restored. */
  offsetsRefinedArchived: string;
  /** Offsets of the range that the live stream has not refined and merged yet: it will, with the rules as they are now. */
  offsetsNotRefined: string;
  bronzeFiles: number;
  bronzeRows: number;
  bronzeBytes: number;
  /** Gold buckets with rows of the range now; new rows may touch others. */
  goldBuckets: number;
  goldBucketNames: string[];
  chunks: number;
  estimatedSeconds: number;
}

export interface PlannedBackfillRun extends PlannedReprocess {
  /** Null: planned by an earlier run, which has published Silver. */
  figures: BackfillFigures | null;
}

export interface BackfillActivities {
  /** Pins Bronze, resolves the range, writes plan and chunks to the store. */
  planBackfill(input: BackfillInput & { reprocessId: string }): Promise<PlannedBackfillRun>;
}
