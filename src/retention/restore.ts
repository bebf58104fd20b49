import { randomUUID } from 'node:crypto';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { Coverage } from '../domain/offsets.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { Archive, ArchiveManifest, ArchivedFile, StoredManifest } from './archive.ts';
import { archivedOffsets, hashObject, restoredPath } from './archive.ts';
import type { SweepDeps } from './plan-sweep.ts';
import type { RetainedTable } from './policies.ts';
import { liveOffsets } from './row-offsets.ts';

export interface RestoreOptions {
  /** Only rows of these offsets; default: everything archived. Whole files go back. */
  offsets?: Coverage;
  /** Only these manifests. */
  manifestIds?: readonly string[];
  /** Until when no sweep takes the rows again, ms since the epoch. */
  untilMs: number;
  dryRun?: boolean;
  onProgress?: (progress: { manifestId: string; files: number; bytes: number }) => void;
}

export interface RestoredRows {
  manifests: string[];
  files: number;
  rows: number;
  bytes: number;
  /** Files left out because the table has rows of their offsets: restored before, or written anew by a backfill. */
  alreadyThereFiles: number;
  /** Asked for, and gone for ever. */
  purged: Coverage;
}

/** Of these offsets, those that the archive holds instead of the table, and those whose copies are purged. */
export const archivedIntervals = async (archive: Archive, table: string, offsets: Coverage): Promise<{ archived: Coverage; purged: Coverage }> => {
  const { archived, purged } = archivedOffsets(await archive.list(table));
  // Rows that were purged once and archived again from a backfill can be had.
  return { archived: archived.intersect(offsets), purged: purged.subtract(archived).intersect(offsets) };
};

/** In the table's properties while rows are put back: whoever wrote it last may commit them, once. */
const ticketOf = (manifestId: string): string => `tidemark.restore.${manifestId}`;

/**
 * Puts archived files back into their table: the very bytes, under a new name, checked by their SHA-256, in one table commit for
 * each manifest, the latest manifest first. A file whose offsets have rows in the table is left out, so that restoring
 * twice, or after a backfill, gives no row twice. Safe to repeat after any failure.
 *
 * @throws TidemarkError CHECKSUM_MISMATCH if a copy is not what was archived; COMMIT_CONFLICT if a sweep changes the same manifest.
 */
export const restoreArchive = async (deps: SweepDeps, table: RetainedTable, options: RestoreOptions): Promise<RestoredRows> => {
  const { archive, signal } = deps;
  const all = await archive.list(table.name);
  const asked = (offsets: Coverage): boolean => options.offsets === undefined || offsets.overlaps(options.offsets);
  const wanted = all.filter(({ manifest: { state, manifestId, offsets } }) => (state === 'archived' || state === 'restoring')
    && (options.manifestIds?.includes(manifestId) ?? true) && asked(Coverage.fromJson(offsets)));
  const { purged, archived } = archivedOffsets(all);
  const result: RestoredRows = {
    manifests: [], files: 0, rows: 0, bytes: 0, alreadyThereFiles: 0,
    purged: options.manifestIds ? Coverage.empty : purged.subtract(archived).intersect(options.offsets ?? purged),
  };
  for (const stored of wanted.reverse()) {
    signal?.throwIfAborted();
    await restoreManifest(deps, table, stored, options, result);
  }
  return result;
};

const restoreManifest = async (deps: SweepDeps, table: RetainedTable, found: StoredManifest, options: RestoreOptions, result: RestoredRows): Promise<void> => {
  const { archive, store, signal } = deps;
  const { manifestId, files } = found.manifest;
  let stored = found;
  const ticket = randomUUID();
  if (!options.dryRun) {
    // From here on no sweep purges the copies, nor takes what is put back.
    stored = await archive.change(found, { state: 'restoring', restoredUntilMs: options.untilMs });
    await setTicket(deps, table, manifestId, ticket);
  }
  // Looked at under the ticket: whoever had it before has committed by now, or never will.
  const missing = await missingFiles(deps, table, found.manifest);
  result.alreadyThereFiles += files.length - missing.length;
  result.manifests.push(manifestId);
  for (const { dataFile } of missing) {
    result.files += 1;
    result.rows += dataFile.recordCount;
    result.bytes += dataFile.fileSizeBytes;
  }
  if (options.dryRun) return;
  const add: DataFile[] = [];
  for (const file of missing) {
    signal?.throwIfAborted();
    options.onProgress?.({ manifestId, files: add.length, bytes: add.reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0) });
    const filePath = restoredPath(file, manifestId);
    const key = store.keyOf(filePath);
    await copyBack(deps, file, key);
    add.push({ ...file.dataFile, filePath });
  }
  await commitRestored(deps, table, stored, ticket, add);
  await archive.change(stored, { state: 'restored' });
};

/** Files of a manifest none of whose rows are in the table. */
const missingFiles = async ({ catalog, store, signal }: SweepDeps, table: RetainedTable, { files, offsets }: ArchiveManifest): Promise<ArchivedFile[]> => {
  const live = await liveOffsets(store, await catalog.load(table.name), table.role, Coverage.fromJson(offsets), signal);
  return files.filter((file) => !live.overlaps(Coverage.fromJson(file.offsets)));
};

const setTicket = async ({ catalog, signal }: SweepDeps, table: RetainedTable, manifestId: string, ticket: string | null): Promise<void> => {
  await catalog.commit(table.name, { commitId: `restore-ticket/${manifestId}/${ticket ?? 'none'}`, add: [], setProperties: { [ticketOf(manifestId)]: ticket }, ...(signal ? { signal } : {}) });
};

/** A restore that was left in the middle, and whose time is up: its rows are all in the table, or the archive has them still. */
export const settleRestore = async (deps: SweepDeps, table: RetainedTable, stored: StoredManifest): Promise<void> => {
  const { manifest } = stored;
  await setTicket(deps, table, manifest.manifestId, null);
  const missing = await missingFiles(deps, table, manifest);
  if (missing.length === 0) await deps.archive.change(stored, { state: 'restored' });
  else if (missing.length === manifest.files.length) await deps.archive.change(stored, { state: 'archived', restoredUntilMs: null });
};

const copyBack = async ({ archive, store, signal }: SweepDeps, { archiveKey, sha256, dataFile: { fileSizeBytes } }: ArchivedFile, key: string): Promise<void> => {
  await store.copyFrom(archive.store, archiveKey, key, signal ? { signal } : {});
  const { size } = await store.head(key);
  const found = size === fileSizeBytes ? await hashObject(store, key, size, signal) : `${size} bytes`;
  if (found !== sha256) throw new TidemarkError('CHECKSUM_MISMATCH', `restored copy ${key} of ${archiveKey}: expected ${fileSizeBytes} bytes with SHA-256 ${sha256}, found ${found}`);
};

const commitRestored = async ({ catalog, signal }: SweepDeps, table: RetainedTable, { manifest: { manifestId, offsets } }: StoredManifest, ticket: string, add: readonly DataFile[]): Promise<void> => {
  const property = ticketOf(manifestId);
  try {
    await catalog.commit(table.name, {
      commitId: `restore/${table.name}/${manifestId}/${ticket}`, add,
      setProperties: { [property]: null },
      check: ({ properties }) => {
        if (properties[property] !== ticket) throw new TidemarkError('COMMIT_CONFLICT', `restore of ${manifestId} into ${table.name}: another one has begun, or has ended, since; repeated, it looks at the rows`);
      },
      // Whoever asks for the rows goes by the coverage: it must still say that the table knew them.
      coveragePresent: table.role === 'dlq' ? Coverage.empty : Coverage.fromJson(offsets),
      summary: { 'tidemark.archive-manifest': manifestId, 'tidemark.restored': 'true' }, ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (isTidemarkError(error, 'COMMIT_OUTCOME_UNKNOWN')) throw new TidemarkError('COMMIT_CONFLICT', `restore of ${manifestId}: the outcome is unknown; repeated, it looks at the rows`, { cause: error });
    throw error;
  }
};
