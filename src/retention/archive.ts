import { createHash } from 'node:crypto';
import type { SweepPlan } from '../contracts/retention.ts';
import { TidemarkError, invariant, isTidemarkError } from '../domain/errors.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import { Coverage } from '../domain/offsets.ts';
import type { Day } from '../domain/retention.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { CopyingObjectStore, ObjectStore } from '../lake/object-store.ts';
import type { Field, PartitionField } from '../lake/schema.ts';

// The archive: data files as they were, and for each batch of them a manifest that says what they hold. A manifest is
// there, and its copies are verified, before a row leaves its table; it stays after its copies are purged, so that every
// offset that retention took can be accounted for.

/**
 * - `copied`: the copies are verified; the rows may still be in the table.
 * - `archived`: the rows have left the table.
 * - `restoring`, `restored`: the rows go back, or are back, into the table.
 * - `purging`, `purged`: the copies go, or are gone. What the manifest says stays.
 * - `forgetting`: the rows are in the table, or in another manifest. The copies go, and then the manifest.
 */
export type ManifestState = 'copied' | 'archived' | 'restoring' | 'restored' | 'purging' | 'purged' | 'forgetting';

/** States whose rows may be missing from the table with good reason. */
const takenStates: ReadonlySet<ManifestState> = new Set(['copied', 'archived', 'restoring', 'purging', 'purged']);

export interface ArchivedFile {
  /** What the table said of the file that holds these rows, bounds included. Its path is where the rows were. */
  dataFile: DataFile;
  /** Key in the archive's bucket. */
  archiveKey: string;
  /** SHA-256 of the object's bytes, hex. */
  sha256: string;
  /** Offsets of the rows; for Bronze all that the file stands for, sparse ones included. */
  offsets: CoverageJson;
  /** Only some rows of the table's file were due: those that stay were written to this file. Null: the whole file went. */
  kept: DataFile | null;
}

export interface ArchiveManifest {
  manifestVersion: 1;
  manifestId: string;
  namespace: string;
  table: string;
  sources: string[];
  state: ManifestState;
  createdAtMs: number;
  /** When the state was last changed. */
  changedAtMs: number;
  /** Days that the rows count their age from: of the oldest and of the youngest row. */
  firstDay: Day;
  lastDay: Day;
  storageClass: string | null;
  schema: { fields: readonly Field[]; partitionBy: readonly PartitionField[] };
  files: ArchivedFile[];
  rows: number;
  bytes: number;
  offsets: CoverageJson;
  /** While rows that were restored stay in their table; null: they were not. */
  restoredUntilMs: number | null;
}

/** A manifest, and the version of its object that a change must still find. */
export interface StoredManifest {
  manifest: ArchiveManifest;
  etag: string;
}

export interface ArchiveOptions {
  /** The lake's store, or one of another bucket of the same service. */
  store: CopyingObjectStore;
  namespace: string;
  /** Key prefix in the bucket; no slash at its end. */
  prefix: string;
  storageClass?: string;
  now?: () => number;
}

/** Read at once while an object is hashed: whatever its size, no more is held. */
const hashRangeBytes = 8 << 20;
const manifestsAtOnce = 16;

/** SHA-256 of an object's bytes, hex, read in ranges. */
export const hashObject = async (store: ObjectStore, key: string, byteLength: number, signal?: AbortSignal): Promise<string> => {
  const hash = createHash('sha256');
  for (let at = 0; at < byteLength; at += hashRangeBytes) {
    const end = Math.min(byteLength, at + hashRangeBytes);
    const bytes = await store.getRange(key, at, end, signal ? { signal } : {});
    if (bytes.length !== end - at) throw new TidemarkError('CHECKSUM_MISMATCH', `object ${key}, bytes [${at}, ${end}): expected ${end - at}, found ${bytes.length}`);
    hash.update(bytes);
  }
  return hash.digest('hex');
};

export class Archive {
  readonly store: CopyingObjectStore;
  readonly namespace: string;
  readonly storageClass: string | undefined;
  private readonly root: string;
  private readonly now: () => number;

  constructor({ store, namespace, prefix, storageClass, now = Date.now }: ArchiveOptions) {
    this.store = store;
    this.namespace = namespace;
    this.storageClass = storageClass;
    this.root = `${prefix}/${namespace}`;
    this.now = now;
  }

  /** Where all copies of a table lie. */
  tablePrefix(table: string): string {
    return `${this.root}/${table}/files/`;
  }

  /** Where the copies of one manifest lie: no other manifest names a key beneath it. */
  filesPrefix(table: string, manifestId: string): string {
    return `${this.tablePrefix(table)}${manifestId}/`;
  }

  private manifestKey(table: string, manifestId: string): string {
    return `${this.root}/${table}/manifests/${manifestId}.json`;
  }

  private planKey(table: string, sweepId: string): string {
    return `${this.root}/${table}/plans/${sweepId}.json`;
  }

  /** Keeps the plan of a sweep while it runs. The first one counts: what an earlier attempt planned may be half done. */
  async keepPlan(plan: SweepPlan): Promise<SweepPlan> {
    try {
      await this.store.put(this.planKey(plan.table, plan.sweepId), JSON.stringify(plan), { condition: 'absent', contentType: 'application/json' });
      return plan;
    } catch (error) {
      if (!isTidemarkError(error, 'PRECONDITION_FAILED')) throw error;
      return this.loadPlan(plan.table, plan.sweepId);
    }
  }

  async loadPlan(table: string, sweepId: string): Promise<SweepPlan> {
    return JSON.parse(Buffer.from((await this.store.get(this.planKey(table, sweepId))).body).toString()) as SweepPlan;
  }

  async forgetPlan(table: string, sweepId: string): Promise<void> {
    await this.store.delete([this.planKey(table, sweepId)]);
  }

  async find(table: string, manifestId: string): Promise<StoredManifest | null> {
    const key = this.manifestKey(table, manifestId);
    try {
      const { body, etag } = await this.store.get(key);
      return { manifest: parseManifest(key, body), etag };
    } catch (error) {
      if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return null;
      throw error;
    }
  }

  /** All manifests of a table, by their ids. */
  async list(table: string): Promise<StoredManifest[]> {
    const keys: string[] = [];
    for await (const { key } of this.store.list(`${this.root}/${table}/manifests/`)) if (key.endsWith('.json')) keys.push(key);
    const found: StoredManifest[] = [];
    for (let at = 0; at < keys.length; at += manifestsAtOnce) {
      found.push(...(await Promise.all(keys.slice(at, at + manifestsAtOnce).map((key) => this.find(table, key.slice(key.lastIndexOf('/') + 1, -'.json'.length))))).filter((one) => one !== null));
    }
    return found;
  }

  /** Puts a new manifest; one that is there already wins, and is returned. */
  async create(manifest: ArchiveManifest): Promise<StoredManifest> {
    const { table, manifestId } = manifest;
    try {
      const { etag } = await this.store.put(this.manifestKey(table, manifestId), JSON.stringify(manifest), { condition: 'absent', contentType: 'application/json' });
      return { manifest, etag };
    } catch (error) {
      if (!isTidemarkError(error, 'PRECONDITION_FAILED') && !isTidemarkError(error, 'OBJECT_STORE_UNAVAILABLE')) throw error;
      const found = await this.find(table, manifestId);
      if (!found) throw error;
      return found;
    }
  }

  /**
   * Changes a manifest on condition that nobody did meanwhile. @throws TidemarkError COMMIT_CONFLICT if somebody did: look
   * again. A lost answer to this very change is a success.
   */
  async change({ manifest, etag }: StoredManifest, change: Partial<Pick<ArchiveManifest, 'state' | 'files' | 'rows' | 'bytes' | 'offsets' | 'restoredUntilMs'>>): Promise<StoredManifest> {
    const next: ArchiveManifest = { ...manifest, ...change, changedAtMs: this.now() };
    const body = JSON.stringify(next);
    try {
      return { manifest: next, etag: (await this.store.put(this.manifestKey(manifest.table, manifest.manifestId), body, { condition: { etag }, contentType: 'application/json' })).etag };
    } catch (error) {
      if (!isTidemarkError(error, 'PRECONDITION_FAILED') && !isTidemarkError(error, 'OBJECT_STORE_UNAVAILABLE')) throw error;
      const found = await this.find(manifest.table, manifest.manifestId);
      if (found && JSON.stringify(found.manifest) === body) return found;
      throw new TidemarkError('COMMIT_CONFLICT', `archive manifest ${manifest.manifestId} of ${manifest.table}: expected it in state ${manifest.state}, found ${found?.manifest.state ?? 'nothing'}, changed by another`, { cause: error });
    }
  }

  /**
   * Forgets a manifest whose rows are all in the table, or in another manifest. The state changes first: whoever settled it otherwise
   * meanwhile wins (COMMIT_CONFLICT), and one that died in the middle is found and ended by the next sweep.
   */
  async forget(stored: StoredManifest): Promise<void> {
    const { state, table, manifestId } = stored.manifest;
    invariant(state === 'copied' || state === 'restored' || state === 'forgetting', () => `a manifest in state ${state} is not forgotten`);
    if (state !== 'forgetting') await this.change(stored, { state: 'forgetting' });
    await this.deleteCopies({ table, manifestId });
    await this.store.delete([this.manifestKey(table, manifestId)]);
  }

  async deleteCopies({ table, manifestId }: Pick<ArchiveManifest, 'table' | 'manifestId'>): Promise<void> {
    const keys: string[] = [];
    for await (const { key } of this.store.list(this.filesPrefix(table, manifestId))) keys.push(key);
    await this.store.delete(keys);
  }

  /** Copies an object into the archive and reads the copy back. @throws TidemarkError CHECKSUM_MISMATCH if it differs. */
  async copyIn(source: ObjectStore, sourceKey: string, archiveKey: string, expected: { byteLength: number; sha256: string }, signal?: AbortSignal): Promise<void> {
    await this.store.copyFrom(source, sourceKey, archiveKey, { ...(this.storageClass ? { storageClass: this.storageClass } : {}), ...(signal ? { signal } : {}) });
    await this.verify(archiveKey, expected, signal);
  }

  async verify(archiveKey: string, { byteLength, sha256 }: { byteLength: number; sha256: string }, signal?: AbortSignal): Promise<void> {
    const { size } = await this.store.head(archiveKey);
    const found = size === byteLength ? await hashObject(this.store, archiveKey, size, signal) : null;
    if (found !== sha256) {
      throw new TidemarkError('CHECKSUM_MISMATCH', `archived copy ${archiveKey}: expected ${byteLength} bytes with SHA-256 ${sha256}, found ${size} bytes${found === null ? '' : ` with ${found}`}`);
    }
  }
}

const parseManifest = (key: string, body: Uint8Array): ArchiveManifest => {
  let manifest: Partial<ArchiveManifest>;
  try {
    manifest = JSON.parse(Buffer.from(body).toString()) as typeof manifest;
  } catch (cause) {
    throw new TidemarkError('TABLE_CORRUPT', `archive manifest ${key}: expected JSON, found ${body.length} bytes of something else`, { cause });
  }
  if (manifest.manifestVersion !== 1) throw new TidemarkError('TABLE_CORRUPT', `archive manifest ${key}: expected version 1, found ${String(manifest.manifestVersion)}`);
  return manifest as ArchiveManifest;
};

const offsetsOf = (manifests: readonly ArchiveManifest[]): Coverage =>
  Coverage.of(manifests.flatMap(({ offsets }) => Coverage.fromJson(offsets).entries()));

/**
 * Data files that are in no table yet, or may not be, and that a commit can still bring in: the rows that stay of a file that is only partly
 * due, and what a restore has copied back. They are as old as their manifest, which may be old: no clean-up may take them.
 */
export const pendingFiles = (manifests: readonly StoredManifest[]): Set<string> =>
  new Set(manifests.flatMap(({ manifest: { state, files, manifestId } }) => files.flatMap((file) =>
    (state === 'copied' ? (file.kept ? [file.kept.filePath] : []) : state === 'restoring' ? [restoredPath(file, manifestId)] : []))));

/** A name of its own: a sweep of orphan files may be about to delete the object under the old one. */
export const restoredPath = ({ dataFile: { filePath } }: Pick<ArchivedFile, 'dataFile'>, manifestId: string): string => filePath.replace(/\.parquet$/, `.restored-${manifestId}.parquet`);

/** Offsets whose rows retention took, or is about to take, out of a table: the law of conservation finds them in the archive. */
export const takenOffsets = (manifests: readonly StoredManifest[]): Coverage =>
  offsetsOf(manifests.map(({ manifest }) => manifest).filter(({ state }) => takenStates.has(state)));

/** Offsets that can be restored, and those whose copies are gone for ever. */
export const archivedOffsets = (manifests: readonly StoredManifest[]): { archived: Coverage; purged: Coverage } => {
  const inStates = (...states: ManifestState[]): Coverage => offsetsOf(manifests.map(({ manifest }) => manifest).filter(({ state }) => states.includes(state)));
  return { archived: inStates('archived', 'restoring'), purged: inStates('purging', 'purged') };
};
