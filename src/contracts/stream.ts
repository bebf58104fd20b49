// What streaming workers, the stream workflow and its readers agree on. Crosses Temporal as JSON: offsets are decimal
// strings here, bigint inside. Names of Signals, Queries and Updates are part of the contract.
import type { BatchLimit } from '../domain/adaptive-limits.ts';
import type { AgainBatch, CarriedLedger, LedgerTotals, RefusedFile } from '../domain/ledger.ts';
import type { CoverageJson } from '../domain/offsets.ts';

export const streamWorkflowId = (source: string): string => `stream/${source}`;
export const streamWorkflowType = 'streamWorkflow';

/**
 * Topic partitions that one claim or one {@link ledgerQuery} names at most, so that neither it nor its answer grows past a
 * payload. Kafka's longest topic name has 249 characters; an entry of the answer adds some 150 bytes.
 */
export const topicPartitionsAtOnceMax = 150;

/** Update with start. Reads the lake before it answers, and waits while the lake does not. */
export const claimUpdate = 'claim';
export interface ClaimRequest {
  /** Unique for one streaming worker process. */
  owner: string;
  /** `<topic>/<partition>` each; at most {@link topicPartitionsAtOnceMax}. */
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
/** The streaming worker reads no further; everything before `offset` was reported. */
export interface HaltedRange {
  topicPartition: string;
  offset: string;
  /** Code and message. */
  cause: string;
}
/** What a streaming worker says of itself; each report replaces what it said before. */
export interface WorkerHealth {
  atMs: number;
  /** Of its byte budget, how much its buffers and uploads hold: 0 to 1. */
  budgetShare: number;
  /** How long its buffers stay open, and why. */
  flushIntervalMs: number;
  flushReason: string;
  /** When retention will overtake the reader, as things go: the soonest ones within a day. */
  losses: { topicPartition: string; lossAtMs: number }[];
}
export const workerLossesMax = 10;

/** Signal: no answer; the worker reads the ledger back by {@link ledgerQuery}. Ranges and gaps are in offset order for each topic partition. */
export const reportSignal = 'reportCheckpoint';
export interface CheckpointReport {
  owner: string;
  /** The claim's epoch for each topic partition named in ranges or gaps. */
  epochs: Record<string, number>;
  ranges: CheckpointRange[];
  gaps: GapRange[];
  halts?: HaltedRange[];
  health?: WorkerHealth;
}

/** Query: where the ledger stands for the named topic partitions; without names for the first ones by name. */
export const ledgerQuery = 'ledger';
export interface LedgerQuery {
  /** At most {@link topicPartitionsAtOnceMax}. */
  topicPartitions?: string[];
}
export interface LedgerView {
  ready: boolean;
  topicPartitions: Record<string, { owner: string | null; epoch: number; nextOffset: string | null; /** Absent in what an older Workflow answers. */ halted?: boolean }>;
}

export const pauseSignal = 'pause';
export const resumeSignal = 'resume';
/** Its argument is the number of a failed micro-batch: it goes again under a new number, with the same intervals and no others. */
export const retryBatchSignal = 'retryBatch';
/** The same, but nothing is refined: every record of it goes to the DLQ, from where a DLQ replay can take it up. */
export const divertBatchSignal = 'divertBatch';

/**
 * Query `state`: what the operator sees of a stream. Its lists are cut to fit a payload; the numbers beside them, and
 * `totals`, are exact.
 */
export const stateQuery = 'state';
export interface StateQuery {
  /** Lists the topic partitions behind this name: `topicPartitionsAfter` of the answer before. */
  after?: string;
}
export interface StreamState {
  source: string;
  phase: 'rebuilding' | 'running' | 'paused';
  /** Of `topicPartitionsTotal`, in the order of their names. */
  topicPartitions: Record<string, {
    owner: string | null;
    epoch: number;
    nextOffset: string | null;
    /** Accepted files that wait for their table commit. */
    pendingFiles: number;
    /** Why it is not read until it is claimed again; null: it is. */
    halted: string | null;
  }>;
  topicPartitionsTotal: number;
  /** Ask again with this name for the next ones; null: these were the last. */
  topicPartitionsAfter: string | null;
  /** Halted ones among all topic partitions. */
  haltedTotal: number;
  pendingFilesTotal: number;
  /** In the Bronze table, not yet refined, not in a running micro-batch: the first intervals of `openRecords` records. */
  open: CoverageJson;
  openRecords: number;
  running: (BatchIntervals & { startedAtMs: number; divert?: string })[];
  runningTotal: number;
  /** Failed for good: out of the way until {@link retryBatchSignal} or {@link divertBatchSignal}. The latest of `failedTotal`. */
  failed: (BatchIntervals & { cause: string; failedAtMs: number })[];
  failedTotal: number;
  /** Failed ones that were told to go again, and have not started yet. */
  again: Pick<AgainBatch, 'batch' | 'divert'>[];
  /** The latest files that the Bronze table could not take. */
  refused: RefusedFile[];
  recent: MicroBatchSummary[];
  gaps: GapRange[];
  /** How much the next micro-batch may hold, and why; null before the lake was read. */
  batchLimit: (BatchLimit & { triggerMs: number | null }) | null;
  /** By owner, those that claim topic partitions; as each one last reported. */
  workers: Record<string, WorkerHealth>;
  totals: StreamTotals;
}
export interface BatchIntervals {
  batch: number;
  records: number;
  /** The first ones; all of them are the input of the micro-batch's Workflow. */
  intervals: CoverageJson;
}
/** `freshness`: Kafka timestamp → Gold table commit, counts by logarithmic bucket, see src/domain/freshness.ts. */
export type StreamTotals = LedgerTotals;

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
  /** Most records in one micro-batch, whatever was measured. */
  batchRecordsMax: number;
  /** How the limit follows what was measured, see src/domain/adaptive-limits.ts; without it the limit is `batchRecordsMax`. */
  adaptive?: { batchRecordsMin: number; batchTriggerMs: number };
  /** Most micro-batches that run at once. */
  runningMax: number;
  /** Events in one run's history before it continues as new, where the server does not suggest it earlier. */
  historyEventsMax: number;
}

/** Workflow input. Only continue-as-new passes the ledger on; a first run rebuilds it from the lake. */
export interface StreamWorkflowInput {
  source: string;
  carried?: { ledger: CarriedLedger; limits: StreamLimits; paused: boolean; batchLimit?: BatchLimit };
}

/** For a run that has not seen its limits yet. */
export const historyEventsMaxDefault = 4_000;
