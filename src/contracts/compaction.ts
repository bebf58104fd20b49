// What crosses Temporal about compactions: plain JSON.

/** Files of one table partition that are compacted together. */
export interface CompactionGroupId {
  /** The partition as its folder is called: `exchange=BINANCE/timestamp_hour=2023-04-05-13`. */
  folder: string;
  /** What tells the groups of a partition apart, such as the topic partition in Bronze; empty where there is one. */
  group: string;
}

export interface PlannedGroup extends CompactionGroupId {
  files: number;
  rows: number;
  bytes: number;
}

export interface CompactedGroup {
  /** `alreadyCommitted`: another attempt did the same. `nothingToDo`: the files are no longer due. */
  status: 'committed' | 'alreadyCommitted' | 'nothingToDo';
  attempts: number;
  rows: number;
  filesIn: number;
  filesOut: number;
  bytesIn: number;
  bytesOut: number;
  /** Decimal text. */
  snapshotId: string | null;
}

export const compactionWorkflowType = 'compactionWorkflow';
/** A Schedule adds the time. */
export const compactionWorkflowId = (table: string): string => `compaction/${table}`;

export interface CompactionInput {
  table: string;
  /** Only continue-as-new passes it on. */
  carried?: CompactionTotals;
}

/** A group that could not be compacted: its files are as they were. */
export interface FailedGroup extends CompactionGroupId {
  cause: string;
}

export interface CompactionTotals {
  groups: number;
  filesIn: number;
  filesOut: number;
  rows: number;
  bytesIn: number;
  bytesOut: number;
  failed: FailedGroup[];
}

/** Small files that are left for later, by reason. */
export type HeldBackFiles = Partial<Record<HeldBackReason, number>>;
export type HeldBackReason = 'written recently' | 'too few' | 'not told apart';

export interface PlannedCompaction {
  table: string;
  /** The first ones, as many as a payload has room for. */
  groups: PlannedGroup[];
  groupsTotal: number;
  /** Live files of the table; and those that all groups hold. */
  filesTotal: number;
  files: number;
  rows: number;
  bytes: number;
  heldBack: HeldBackFiles;
}

export interface CompactionResult extends CompactionTotals {
  table: string;
  heldBack: HeldBackFiles;
}

/** Each is idempotent: the table decides what is due. */
export interface CompactionActivities {
  planCompaction(input: { table: string }): Promise<PlannedCompaction>;
  compactGroup(input: CompactionGroupId & { table: string }): Promise<CompactedGroup>;
}
