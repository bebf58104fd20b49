// What streaming workers, the stream workflow and its readers agree on. Crosses Temporal as JSON: offsets are decimal
// strings here, bigint inside. Names of Signals, Queries and Updates are part of the contract.
import type { LedgerSnapshot } from '../domain/ledger.ts';
import type { CoverageJson } from '../domain/offsets.ts';

export const streamWorkflowId = (source: string): string => `stream/${source}`;
export const streamWorkflowType = 'streamWorkflow';

/** Update with start. Answers at once when the ledger is known; waits while it is rebuilt from the lake. */
export const claimUpdate = 'claim';
export interface ClaimRequest {
  /** Unique for one streaming worker process. */
  owner: string;
  /** `<topic>/<partition>` each. */
  topicPartitions: string[];
}
export interface Claim {
  topicPartition: string;
  /** Fencing token: grows with each claim of the topic partition, also across a lost Temporal database. */
  epoch: number;
  /** The first offset that no accepted file holds; null: never read, start at the log start. */
  nextOffset: string | null;
}
export interface ClaimReply {
  claims: Claim[];
}

/** A Bronze file that is durable: half-open [startOffset, endOffset) of one topic partition. Its object key follows from the range and the epoch. */
export interface CheckpointRange {
  topicPartition: string;
  /** The epoch that wrote the file: that of an earlier owner for a file found again. */
  fileEpoch: number;
  startOffset: string;
  endOffset: string;
  rowCount: number;
  byteCount: number;
  /** SHA-256 of the object, hex. */
  checksum: string;
}
/** [startOffset, endOffset) is gone from the broker: its log start passed the reader. */
export interface GapRange {
  topicPartition: string;
  startOffset: string;
  endOffset: string;
  detectedAtMs: number;
}
/** Signal: no answer; the worker reads the ledger back by {@link ledgerQuery}. Ranges and gaps are in offset order for each topic partition. */
export const reportSignal = 'reportCheckpoint';
export interface CheckpointReport {
  owner: string;
  /** The claim's epoch for each topic partition named in ranges or gaps. */
  epochs: Record<string, number>;
  ranges: CheckpointRange[];
  gaps: GapRange[];
}

/** Query: where the ledger stands for the named topic partitions (all of them when none is named). */
export const ledgerQuery = 'ledger';
export interface LedgerQuery {
  topicPartitions?: string[];
}
export interface LedgerView {
  ready: boolean;
  topicPartitions: Record<string, { owner: string | null; epoch: number; nextOffset: string | null }>;
}

export const pauseSignal = 'pause';
export const resumeSignal = 'resume';
/** Puts the intervals of a failed micro-batch back among the open ones. */
export const retryBatchSignal = 'retryBatch';

/** Query `state`: what the operator sees of a stream. */
export const stateQuery = 'state';
export interface StreamState {
  source: string;
  phase: 'rebuilding' | 'running' | 'paused';
  topicPartitions: Record<string, {
    owner: string | null;
    epoch: number;
    nextOffset: string | null;
    /** Accepted files that wait for their table commit. */
    pendingFiles: number;
    halted: string | null;
  }>;
  /** In the Bronze table, not yet refined, not in a running micro-batch. */
  open: CoverageJson;
  running: { batch: number; intervals: CoverageJson; startedAtMs: number }[];
  failed: { batch: number; intervals: CoverageJson; cause: string; failedAtMs: number }[];
  recent: MicroBatchSummary[];
  gaps: GapRange[];
  totals: StreamTotals;
}
export interface StreamTotals {
  bronzeRows: number;
  bronzeFiles: number;
  bronzeBytes: number;
  refinedRows: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  goldRows: number;
  duplicates: number;
  gapRecords: number;
  batches: number;
  /** Kafka timestamp → Gold table commit: counts by logarithmic bucket, see src/domain/freshness.ts. */
  freshness: Record<string, number>;
}

export interface MicroBatchSummary {
  batch: number;
  bronzeRows: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  goldRows: number;
  duplicates: number;
  startedAtMs: number;
  durationMs: number;
  freshness: Record<string, number>;
}

/** Limits that the Temporal Worker's config sets; read with the lake's state, so that they are recorded in the history. */
export interface StreamLimits {
  /** Most records in one micro-batch. */
  batchRecordsMax: number;
  /** Most micro-batches that run at once. */
  runningMax: number;
}

/** Workflow input. Only continue-as-new passes the ledger on; a first run rebuilds it from the lake. */
export interface StreamWorkflowInput {
  source: string;
  carried?: { ledger: LedgerSnapshot; limits: StreamLimits; paused: boolean };
}

/** Events in one run's history before it continues as new, where the server does not suggest it earlier. */
export const historyEventsMax = 4_000;
