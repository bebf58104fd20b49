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
