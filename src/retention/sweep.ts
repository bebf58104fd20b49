import { hash, randomUUID } from 'node:crypto';
import type { PurgedArchive, SweepPlan, SweptBatch } from '../contracts/retention.ts';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { Coverage } from '../domain/offsets.ts';
import type { Day } from '../domain/retention.ts';
import { archiveBefore, dayOfMs } from '../domain/retention.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import { readColumns } from '../lake/parquet-reader.ts';
import type { LiveFile, TableVersion } from '../lake/table.ts';
import type { ArchiveManifest, ArchivedFile, StoredManifest } from './archive.ts';
import { hashObject } from './archive.ts';
import { loadDlqState, loadHolds, refuseReprocessed } from './holds.ts';
import type { DlqState } from './holds.ts';
import { dueByIngestion, dueByResolution, ingestionColumn, withoutHeld } from './plan-sweep.ts';
import type { DueRows, SweepDeps } from './plan-sweep.ts';
import type { RetainedTable } from './policies.ts';
import { settleRestore } from './restore.ts';
import { declaredOffsets, lineageOf, offsetsOfRows, openDataFile } from './row-offsets.ts';
import { dataFileOf, splitFile } from './split-file.ts';

/** Object metadata: SHA-256 of the object's bytes, hex, as the streaming worker puts it. */
const checksumMetadata = 'sha256';
const parquetType = 'application/vnd.apache.parquet';

export const manifestIdOf = (sweepId: string, batch: number): string => `${sweepId}-${String(batch).padStart(4, '0')}`;

const sum = (files: readonly ArchivedFile[], of: (file: DataFile) => number): number => files.reduce((total, { dataFile }) => total + of(dataFile), 0);
/** What a manifest says of its files. */
const withFiles = (files: readonly ArchivedFile[]): Pick<ArchiveManifest, 'files' | 'rows' | 'bytes' | 'offsets'> => ({
  files: [...files], rows: sum(files, ({ recordCount }) => recordCount), bytes: sum(files, ({ fileSizeBytes }) => fileSizeBytes),
  offsets: Coverage.of(files.flatMap(({ offsets }) => Coverage.fromJson(offsets).entries())).toJson(),
});

const nothing: SweptBatch = { manifestId: null, outcome: 'nothing', files: 0, rows: 0, bytes: 0 };
const sweptBatch = ({ manifestId, files, rows, bytes }: ArchiveManifest, outcome: SweptBatch['outcome']): SweptBatch => ({ manifestId, outcome, files: files.length, rows, bytes });

/** Which rows of the file are due, from its rows themselves. */
const dueRowsOf = async (table: RetainedTable, file: ParquetFile, before: Day, dlqState: DlqState | undefined): Promise<DueRows | null> => {
  if (!dlqState) {
    const column = ingestionColumn(table);
    const { columns, rowCount } = await readColumns(file, { columns: [column] });
    return dueByIngestion(columns[column]!, rowCount, before);
  }
  const { topic, partition, offset } = lineageOf('dlq');
  const { columns, rowCount } = await readColumns(file, { columns: [topic, partition, offset] });
  return dueByResolution(columns, rowCount, before, dlqState);
};

/** Archives one file: the whole of it as it is, or the due rows as a file of their own. Null: none of its rows is due any more. */
const archiveFile = async (deps: SweepDeps, table: RetainedTable, live: LiveFile, before: Day, archivePrefix: string, dlqState: DlqState | undefined): Promise<{ archived: ArchivedFile; days: [Day, Day] } | null> => {
  const { store, archive, catalog, signal } = deps;
  const key = store.keyOf(live.filePath);
  const parquet = await openDataFile(store, key, live, signal);
  const due = await dueRowsOf(table, parquet, before, dlqState);
  // A Bronze file goes whole or not at all.
  if (!due || (due.isDue && table.role === 'bronze')) return null;
  const suffix = live.filePath.slice(catalog.dataLocation(table.name, '').length);
  const options = signal ? { signal } : {};
  const { addedSnapshotId: _, dataSequenceNumber: __, ...dataFile } = live;
  if (!due.isDue) {
    const { metadata, size } = await store.head(key);
    if (size !== live.fileSizeBytes) throw new TidemarkError('CHECKSUM_MISMATCH', `data file ${live.filePath}: expected ${live.fileSizeBytes} bytes as its table says, found ${size}`);
    const sha256 = await hashObject(store, key, size, signal);
    if (metadata[checksumMetadata] !== undefined && metadata[checksumMetadata] !== sha256) {
      throw new TidemarkError('CHECKSUM_MISMATCH', `data file ${live.filePath}: expected SHA-256 ${metadata[checksumMetadata]} as it was written, found ${sha256}`);
    }
    const archiveKey = archivePrefix + suffix;
    await archive.copyIn(store, key, archiveKey, { byteLength: size, sha256 }, signal);
    const offsets = (table.role === 'bronze' ? declaredOffsets(parquet) : undefined) ?? await offsetsOfRows(parquet, lineageOf(table.role));
    return { archived: { dataFile, archiveKey, sha256, offsets: offsets.toJson(), kept: null }, days: [due.firstDay, due.lastDay] };
  }
  const halves = await splitFile(parquet, table.definition.fields, due.isDue);
  const sha256 = hash('sha256', halves.due.bytes, 'hex');
  const folder = suffix.slice(0, suffix.lastIndexOf('/') + 1);
  const dueName = `${folder}due-${randomUUID()}.parquet`;
  const keptPath = catalog.dataLocation(table.name, `${folder}kept-${randomUUID()}.parquet`);
  const archiveKey = archivePrefix + dueName;
  await archive.store.put(archiveKey, halves.due.bytes, { contentType: parquetType, metadata: { [checksumMetadata]: sha256 }, ...options });
  await archive.verify(archiveKey, { byteLength: halves.due.bytes.length, sha256 }, signal);
  const keptSha256 = hash('sha256', halves.kept.bytes, 'hex');
  await store.put(store.keyOf(keptPath), halves.kept.bytes, { contentType: parquetType, metadata: { [checksumMetadata]: keptSha256 }, ...options });
  if (await hashObject(store, store.keyOf(keptPath), halves.kept.bytes.length, signal) !== keptSha256) throw new TidemarkError('CHECKSUM_MISMATCH', `rows that stay, ${keptPath}: expected SHA-256 ${keptSha256} when read back`);
  return {
    archived: {
      dataFile: dataFileOf(halves.due, live.filePath, live.partition), archiveKey, sha256,
      offsets: (await offsetsOfRows(parquet, lineageOf(table.role), due.isDue)).toJson(), kept: dataFileOf(halves.kept, keptPath, live.partition),
    },
    days: [due.firstDay, due.lastDay],
  };
};

/** A file that cannot be read back as it was written is left where it is, and said: its copy would be no better. */
const isDamage = (error: unknown): boolean =>
  isTidemarkError(error, 'FILE_UNREADABLE') || isTidemarkError(error, 'OBJECT_NOT_FOUND') || isTidemarkError(error, 'CHECKSUM_MISMATCH');

export interface ArchivedBatch extends SweptBatch {
  /** Files that were left alone, each with the cause. */
  damaged: string[];
}

/**
 * Copies the files of one batch into the archive and reads every copy back; then, and only then, puts the manifest. No row
 * leaves the table here. Done again it finds the manifest.
 */
export const archiveBatch = async (deps: SweepDeps, table: RetainedTable, plan: SweepPlan, batch: number, onProgress?: (files: number) => void): Promise<ArchivedBatch> => {
  const { catalog, archive, now = Date.now, signal } = deps;
  const manifestId = manifestIdOf(plan.sweepId, batch);
  const known = await archive.find(table.name, manifestId);
  if (known) return { ...sweptBatch(known.manifest, 'archived'), damaged: [] };
  const version = await catalog.load(table.name);
  const before = archiveBefore(table.policy, dayOfMs(plan.plannedAtMs));
  const wanted = new Set(plan.batches[batch]?.filePaths);
  const live = (await version.scan()).filter(({ filePath }) => wanted.has(filePath));
  if (live.length === 0 || before === null) return { ...nothing, damaged: [] };
  const files: ArchivedFile[] = [];
  const damaged: string[] = [];
  const dlqStates = new Map<string, DlqState>();
  if (table.role === 'dlq') for (const source of table.sources) dlqStates.set(source, await loadDlqState(deps, source, false));
  let firstDay = Number.MAX_SAFE_INTEGER;
  let lastDay = 0;
  for (const file of live) {
    signal?.throwIfAborted();
    onProgress?.(files.length);
    try {
      const done = await archiveFile(deps, table, file, before, archive.filesPrefix(table.name, manifestId), dlqStates.get(String(file.partition['bronze_source'])));
      if (!done) continue;
      files.push(done.archived);
      firstDay = Math.min(firstDay, done.days[0]);
      lastDay = Math.max(lastDay, done.days[1]);
    } catch (error) {
      if (!isDamage(error)) throw error;
      damaged.push((error as Error).message);
    }
  }
  if (files.length === 0) return { ...nothing, damaged };
  const createdAtMs = now();
  const { manifest } = await archive.create({
    manifestVersion: 1, manifestId, namespace: archive.namespace, table: table.name, sources: [...table.sources], state: 'copied', createdAtMs, changedAtMs: createdAtMs,
    firstDay, lastDay, storageClass: archive.storageClass ?? null,
    schema: { fields: table.definition.fields, partitionBy: table.definition.partitionBy },
    ...withFiles(files), restoredUntilMs: null,
  });
  return { ...sweptBatch(manifest, 'archived'), damaged };
};

/**
 * In the table's properties from the very commit that takes the rows of a manifest out: so the table tells, whatever became of the answer.
 * It goes with a later such commit, when its manifest no longer depends on it.
 */
const markPrefix = 'tidemark.archived.';

/**
 * What became of a manifest whose removal has no known outcome: the table's mark tells. Without it nothing was taken out; and once a file
 * of the manifest has left the table otherwise (a compaction, a backfill, another sweep), nothing can be any more, also not by a process
 * that was asleep and wakes up now. Only then the copies are given up.
 */
const settle = async ({ catalog, archive }: SweepDeps, table: RetainedTable, stored: StoredManifest): Promise<SweptBatch> => {
  const { manifest } = stored;
  const version = await catalog.load(table.name);
  if (version.properties[markPrefix + manifest.manifestId] !== undefined) return sweptBatch((await archive.change(stored, { state: 'archived' })).manifest, 'archived');
  const live = new Set((await version.scan()).map(({ filePath }) => filePath));
  if (!manifest.files.every(({ dataFile }) => live.has(dataFile.filePath))) await archive.forget(stored);
  return sweptBatch(manifest, 'conflict');
};

/**
 * Takes the rows of an archived batch out of the table, in one table commit, if still nobody needs them; else the copies wait for the next
 * sweep. The files stay on the store until no snapshot names them. Done again it changes nothing.
 */
export const removeBatch = async (deps: SweepDeps, table: RetainedTable, manifestId: string): Promise<SweptBatch> => {
  const { catalog, archive, now = Date.now, signal } = deps;
  const stored = await archive.find(table.name, manifestId);
  if (!stored) return nothing;
  const { manifest } = stored;
  if (manifest.state === 'forgetting') {
    await archive.forget(stored);
    return sweptBatch(manifest, 'conflict');
  }
  if (manifest.state !== 'copied') return sweptBatch(manifest, 'archived');
  const version = await catalog.load(table.name);
  const live = new Map((await version.scan()).map((file) => [file.filePath, file]));
  const isLive = manifest.files.map(({ dataFile }) => live.has(dataFile.filePath));
  if (isLive.includes(false)) return settle(deps, table, stored);
  const manifests = await archive.list(table.name);
  const holds = await loadHolds(deps, table, manifests, now());
  const { held } = await withoutHeld(deps, table, version, holds, manifest.files.map(({ dataFile }) => ({ file: live.get(dataFile.filePath)!, rows: dataFile.recordCount })));
  // Somebody came in between. An earlier attempt that is only asleep may still take the rows out: so their copies stay.
  if (held.length > 0) return sweptBatch(manifest, 'held');
  await checkKept(deps, manifest);
  try {
    await catalog.commit(table.name, {
      commitId: `retention/${table.name}/${manifestId}`,
      add: manifest.files.flatMap(({ kept }) => (kept ? [kept] : [])),
      remove: manifest.files.map(({ dataFile }) => dataFile.filePath),
      setProperties: { ...settledMarks(version, manifests), [markPrefix + manifestId]: String(now()) },
      check: (base) => { refuseReprocessed(base); },
      summary: { 'tidemark.archive-manifest': manifestId },
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (!isTidemarkError(error, 'COMMIT_CONFLICT') && !isTidemarkError(error, 'COMMIT_OUTCOME_UNKNOWN')) throw error;
    return settle(deps, table, stored);
  }
  return sweptBatch((await archive.change(stored, { state: 'archived' })).manifest, 'archived');
};

/** Marks whose manifests have left `copied`, which none comes back to: they go. */
const settledMarks = ({ properties }: Pick<TableVersion, 'properties'>, manifests: readonly StoredManifest[]): Record<string, null> => {
  const copied = new Set(manifests.filter(({ manifest: { state } }) => state === 'copied').map(({ manifest: { manifestId } }) => markPrefix + manifestId));
  return Object.fromEntries(Object.keys(properties).filter((name) => name.startsWith(markPrefix) && !copied.has(name)).map((name) => [name, null]));
};

/** The rows that stay of split files are where the manifest says: they go into the table by the commit that takes the files out. */
const checkKept = async ({ store }: SweepDeps, { manifestId, table, files }: ArchiveManifest): Promise<void> => {
  for (const { kept } of files) {
    if (!kept) continue;
    const { size } = await store.head(store.keyOf(kept.filePath));
    if (size !== kept.fileSizeBytes) throw new TidemarkError('CHECKSUM_MISMATCH', `archive manifest ${manifestId} of ${table}: expected ${kept.fileSizeBytes} bytes in ${kept.filePath}, which holds the rows that stay, found ${size}`);
  }
};

/**
 * Manifests of earlier sweeps that were left in the middle, and of restores whose time is up: each is brought to an end by looking at the
 * rows.
 */
export const settleLeftovers = async (deps: SweepDeps, table: RetainedTable, sweepId: string): Promise<SweptBatch[]> => {
  const { archive, now = Date.now } = deps;
  const settled: SweptBatch[] = [];
  for (const stored of await archive.list(table.name)) {
    const { state, manifestId, restoredUntilMs } = stored.manifest;
    if (manifestId.startsWith(`${sweepId}-`)) continue;
    if (state === 'copied' || state === 'forgetting') settled.push(await removeBatch(deps, table, manifestId));
    else if (state === 'restoring' && (restoredUntilMs ?? 0) <= now()) await settleRestore(deps, table, stored);
  }
  return settled;
};

/** Deletes the copies of manifests whose time in the archive is up. The manifests stay: they account for the offsets. */
export const purgeArchive = async ({ archive }: Pick<SweepDeps, 'archive'>, table: RetainedTable, plan: Pick<SweepPlan, 'purges'>): Promise<PurgedArchive> => {
  const purged: PurgedArchive = { manifests: 0, files: 0, rows: 0, bytes: 0 };
  for (const { manifestId, files } of plan.purges) {
    let stored = await archive.find(table.name, manifestId);
    if (stored?.manifest.state === 'restored') {
      // Its rows went back into the table, and whatever took them out again has a manifest of its own.
      await archive.forget(stored);
      continue;
    }
    if (!stored || (stored.manifest.state !== 'archived' && stored.manifest.state !== 'purging')) continue;
    if (stored.manifest.state === 'archived') stored = await archive.change(stored, { state: 'purging' });
    await archive.deleteCopies(stored.manifest);
    const { manifest } = await archive.change(stored, { state: 'purged', files: [] });
    purged.manifests += 1;
    purged.files += files;
    purged.rows += manifest.rows;
    purged.bytes += manifest.bytes;
  }
  return purged;
};
