import type { Coverage } from '../domain/offsets.ts';
import type { DataFile } from './data-file.ts';
import type { Field, PartitionTuple, TableDefinition } from './schema.ts';

/** A live data file of a snapshot. */
export interface LiveFile extends DataFile {
  /** The snapshot that added it; null when unknown. */
  addedSnapshotId: bigint | null;
  dataSequenceNumber: bigint;
}

export interface SnapshotInfo {
  snapshotId: bigint;
  parentSnapshotId: bigint | null;
  sequenceNumber: bigint;
  timestampMs: number;
  operation: 'append' | 'overwrite' | 'delete' | 'replace';
  summary: Record<string, string>;
}

/** A column predicate that manifests and bounds can prune by: keep files whose [lower, upper] meets [min, max], both inclusive. */
export interface BoundsFilter {
  column: string;
  min?: bigint | number | string;
  max?: bigint | number | string;
}

export interface ScanOptions {
  /** Keeps only files of these partition values (by source column name, as in {@link PartitionTuple}); every given one must match. */
  partition?: Partial<PartitionTuple>;
  bounds?: readonly BoundsFilter[];
  snapshotId?: bigint;
}

/** One loaded version of a table. Immutable: a later commit does not change it. */
export interface TableVersion {
  readonly name: string;
  readonly version: number;
  readonly metadataLocation: string;
  readonly location: string;
  readonly fields: readonly Field[];
  readonly properties: Readonly<Record<string, string>>;
  readonly currentSnapshot: SnapshotInfo | null;
  readonly snapshots: readonly SnapshotInfo[];
  /** Snapshots pinned by name: they are kept until {@link Catalog.untag}. */
  readonly tags: Readonly<Record<string, bigint>>;
  /** Offsets that the table covers, from its properties. */
  readonly coverage: Coverage;
  scan(options?: ScanOptions): Promise<LiveFile[]>;
}

/**
 * Table property that each clean-up of orphan files changes before it deletes any. So a commit that was asleep meanwhile conflicts, and sees
 * that what it had written, and no metadata named yet, may be gone.
 */
export const cleanUpProperty = 'tidemark.clean-up';

/** The last clean-up that a version of the table knows of. */
export const cleanUpOf = ({ properties }: Pick<TableVersion, 'properties'>): string | undefined => properties[cleanUpProperty];

/**
 * What a commit depends on, checked again on each attempt after a reload. All given requirements must hold.
 * - coverageAbsent: none of these offsets is covered yet (an append). If ALL of them are covered already the commit is
 *   a repetition: it succeeds as `alreadyCommitted`. If a part is covered: COVERAGE_CONFLICT.
 * - coveragePresent: all of these offsets are covered (a replace).
 * - bucketsUnchangedSince: no file was added to or removed from these partitions since `baseVersion` (compare the live
 *   files of the partitions): else COMMIT_CONFLICT, without a retry: the caller prepares again.
 * Removed files must still be live: else COMMIT_CONFLICT.
 */
export interface CommitRequest {
  /** Identity of the work: the same id is never committed twice while its snapshot is retained; it goes to the summary as `tidemark.commit-id`. */
  commitId: string;
  add: readonly DataFile[];
  /** Paths of live files that the commit removes (copy-on-write). */
  remove?: readonly string[];
  /** Offsets added to the covered set in the same commit. With nothing to add or remove, only the properties change (no snapshot). */
  cover?: Coverage;
  coverageAbsent?: Coverage;
  coveragePresent?: Coverage;
  bucketsUnchangedSince?: { base: TableVersion; partitions: readonly PartitionTuple[] };
  /**
   * A version that was loaded before the first added file was begun (default: `bucketsUnchangedSince.base`). If orphan files were cleaned up
   * since: COMMIT_CONFLICT, without a retry: the caller prepares again, for a clean-up may have taken its files. For all files that nothing
   * names before the commit: no staging object, no manifest of the archive, no stream's checkpoint.
   */
  preparedSince?: TableVersion;
  /** `replace`: the same rows in other files (a compaction). Absent: append, delete or overwrite, by what is added and removed. */
  operation?: 'replace';
  /** Goes to the snapshot's summary. Never secrets. */
  summary?: Record<string, string>;
  /** Null takes the property away. */
  setProperties?: Record<string, string | null>;
  /**
   * What else the commit depends on, asked on each attempt of the version that it would build on: throws if that does not hold.
   * Not asked when the commit turns out to be a repetition.
   */
  check?: (base: TableVersion) => void;
  attemptsMax?: number;
  signal?: AbortSignal;
}

export interface CommitResult {
  status: 'committed' | 'alreadyCommitted';
  version: TableVersion;
  /** The snapshot of the commit; null when only properties changed, or a repetition whose snapshot is no longer retained. */
  snapshotId: bigint | null;
  attempts: number;
}

/** The room's interface: an embedded object-store catalog now, an Iceberg REST catalog later. */
export interface Catalog {
  /** Creates the table unless it is there; the existing one must agree in fields and partitioning (else TABLE_CORRUPT with what differs). */
  ensureTable(definition: TableDefinition): Promise<TableVersion>;
  /** The current version; TABLE_NOT_FOUND. */
  load(name: string): Promise<TableVersion>;
  commit(name: string, request: CommitRequest): Promise<CommitResult>;
  /** Pins a snapshot under a name, so that no commit expires it. The same name on the same snapshot is a success; on another: COMMIT_CONFLICT. */
  tag(name: string, tag: string, snapshotId: bigint): Promise<TableVersion>;
  /** Takes the pin away; a tag that is not there is a success. */
  untag(name: string, tag: string): Promise<TableVersion>;
  listTables(): Promise<string[]>;
  /** Where a new data file of this table goes: `<location>/data/<suffix>` as a location. */
  dataLocation(name: string, suffix: string): string;
}
