// The micro-batch Workflow and its activities: inputs and results, plain JSON. Lists that grow with the data (prepared
// files) wait in a staging object and travel by its key.
import type { LakeState } from '../domain/ledger.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import type { GapRange, StreamLimits } from './stream.ts';

export const microBatchWorkflowType = 'microBatchWorkflow';
export const microBatchWorkflowId = (source: string, batch: number): string => `micro-batch/${source}/${batch}`;

export interface MicroBatchInput {
  source: string;
  batch: number;
  /** Bronze offsets of this micro-batch by topic partition. */
  intervals: CoverageJson;
  /** Nothing is refined: every record goes to the DLQ with this reason, its bytes as far as they can be read. */
  divert?: string;
}

export interface MicroBatchResult {
  bronzeRows: number;
  silverRows: number;
  dlqRows: number;
  /** By error type. */
  dlqByType: Record<string, number>;
  goldRows: number;
  duplicates: number;
  freshness: Record<string, number>;
}

/** What refining left in the staging object `stagedKey`. */
export interface RefinedBatch {
  stagedKey: string;
  bronzeRows: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  silverFiles: number;
  dlqFiles: number;
}

export interface PublishInput extends MicroBatchInput {
  stagedKey: string;
}

export interface PublishResult {
  status: 'committed' | 'alreadyCommitted';
  /** Decimal text; null when only properties changed. */
  snapshotId: string | null;
  attempts: number;
}

export interface MergeResult extends PublishResult {
  goldRows: number;
  duplicates: number;
  freshness: Record<string, number>;
}

export interface CommitBronzeFile {
  topicPartition: string;
  fileEpoch: number;
  startOffset: string;
  endOffset: string;
}

/** Where a page of the lake's state begins: a topic partition, and an offset of it. */
export interface LakeCursor {
  topicPartition: string;
  offset: string;
}

export interface StreamStart {
  /** One page: of the topic partitions from the cursor on, as many as fit a payload. */
  lake: LakeState;
  /** Where the next page begins; null: this was the last. */
  next: LakeCursor | null;
  limits: StreamLimits;
}

export interface BronzeCommit extends PublishResult {
  rowCount: number;
  /**
   * By topic partition, the first file that the table cannot take, ever: neither it nor what follows it in its topic
   * partition was committed. All other files were.
   */
  refused: Record<string, { startOffset: string; cause: string }>;
}

export type MicroBatchOutcome =
  | { status: 'completed'; result: MicroBatchResult }
  | { status: 'failed'; cause: string }
  | { status: 'lost'; cause: string };

/** Activities of the stream workflow. Each is idempotent: the lake decides whether the work is done. */
export interface StreamActivities {
  loadLakeState(input: { source: string; from?: LakeCursor }): Promise<StreamStart>;
  commitBronze(input: { source: string; files: CommitBronzeFile[] }): Promise<BronzeCommit>;
  recordGaps(input: { source: string; gaps: GapRange[] }): Promise<PublishResult>;
  /** Waits for a micro-batch that an earlier run of the stream workflow started. */
  awaitMicroBatch(input: { source: string; batch: number }): Promise<MicroBatchOutcome>;
}

export interface MicroBatchActivities {
  refineBatch(input: MicroBatchInput): Promise<RefinedBatch>;
  publishSilver(input: PublishInput): Promise<PublishResult>;
  publishDlq(input: PublishInput): Promise<PublishResult>;
  mergeGold(input: PublishInput): Promise<MergeResult>;
}
