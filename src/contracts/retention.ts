// Retention sweeps: inputs and results, plain JSON. Lists that grow with the data (planned files, manifests) lie in the
// store and travel by key.

export const retentionSweepWorkflowType = 'retentionSweepWorkflow';
/** A Schedule adds the time. */
export const retentionSweepWorkflowId = (table: string): string => `retention-sweep/${table}`;

export interface RetentionSweepInput {
  table: string;
  /** Only continue-as-new passes it on. */
  carried?: { planned: PlannedSweep; nextBatch: number; archived: ArchivedTotals; leftBatches: number; damaged: string[] };
}
export interface ArchivedTotals { batches: number; files: number; rows: number; bytes: number }

/** Why rows that are due stay where they are. */
export type HoldReason = 'unrefined' | 'reprocess' | 'open-dlq' | 'restored';
export const holdReasons: Readonly<Record<HoldReason, string>> = {
  'unrefined': 'not every offset is in Silver, the DLQ and Gold yet',
  'reprocess': 'a backfill or a DLQ replay of the source is running',
  'open-dlq': 'refused records of it are open in the DLQ, and would be refined again from it',
  'restored': 'it was restored, and its time is not up',
};

export interface HeldRows {
  reason: HoldReason;
  /** Who or what needs them: tags, offsets, damage. Cut to fit. */
  detail: string;
  files: number;
  rows: number;
  bytes: number;
}

export interface PlannedPartition {
  /** `timestamp_hour=2026-11-20-13`, as in the data folder. */
  partition: string;
  /** Day that the rows count their age from, `2026-11-20`; the youngest of the partition's due rows. */
  lastDay: string;
  files: number;
  /** Rows that are due. */
  rows: number;
  bytes: number;
  /** Files of which only some rows are due. */
  splitFiles: number;
}

/** What `--dry-run` prints and a sweep does. JSON object in the store; its batches are in it. */
export interface SweepPlan {
  sweepId: string;
  table: string;
  plannedAtMs: number;
  /** `<hot days>/<purge days>` or `keep`. */
  policy: string;
  /** Rows of days before this one are due, `2026-10-21`; null: none ever. */
  archiveBefore: string | null;
  /** Archived rows of days before this one are purged; null: none ever. */
  purgeBefore: string | null;
  partitions: PlannedPartition[];
  held: HeldRows[];
  batches: SweepBatch[];
  purges: { manifestId: string; lastDay: string; rows: number; bytes: number; files: number }[];
}

/** Files that are archived, and leave their table, together. */
export interface SweepBatch {
  filePaths: string[];
  lastDay: number;
}

export interface SweepRef {
  table: string;
  sweepId: string;
}

export interface PlannedSweep extends SweepRef {
  batches: number;
  purges: number;
  files: number;
  rows: number;
  bytes: number;
  /** What an earlier sweep had left in the middle, and this one has ended. Absent in histories that are older than it. */
  settled?: ArchivedTotals;
  /** At most a few. */
  held: HeldRows[];
}

export interface SweptBatch {
  manifestId: string | null;
  /** `nothing`: no file of the batch is in the table any more. `held`, `conflict`: left for the next sweep. */
  outcome: 'archived' | 'nothing' | 'held' | 'conflict';
  files: number;
  rows: number;
  bytes: number;
}

export interface PurgedArchive {
  manifests: number;
  files: number;
  rows: number;
  bytes: number;
}

export interface TidiedTable {
  expiredSnapshots: number;
  expiredMetadataFiles: number;
  orphanFiles: number;
  orphanBytes: number;
  /** Why orphan files, or some of them, were left alone; null: none was. */
  heldBack: string | null;
}

export interface RetentionSweepResult {
  table: string;
  sweepId: string;
  archived: ArchivedTotals;
  leftBatches: number;
  purged: PurgedArchive;
  held: HeldRows[];
  /** Files that cannot be read back as they were written, and were left alone: the first ones, with the cause. */
  damaged: string[];
  tidied: TidiedTable;
}

/** Each is idempotent: the table, the manifests and the listing decide what is done. */
export interface RetentionActivities {
  planSweep(input: { table: string; sweepId: string }): Promise<PlannedSweep>;
  /** Copies a batch into the archive, and reads the copies back. */
  archiveBatch(input: SweepRef & { batch: number }): Promise<SweptBatch & { damaged: string[] }>;
  /** Takes the rows of an archived batch out of the table. */
  removeBatch(input: SweepRef & { manifestId: string }): Promise<SweptBatch>;
  purgeArchive(input: SweepRef): Promise<PurgedArchive>;
  /** Snapshots, metadata files, orphan files; forgets the sweep's plan. */
  tidyTable(input: SweepRef): Promise<TidiedTable>;
}
