import { Coverage, parseTopicPartitionKey } from '../domain/offsets.ts';
import type { LiveFile } from '../lake/table.ts';
import type { Archive, StoredManifest } from '../retention/archive.ts';
import type { AuditRun } from './audit-run.ts';
import { extentOf, isAsked, markFile } from './audit-run.ts';
import type { LineageColumns } from './lineage.ts';

const examplesMax = 5;
/** Candidates beyond are counted without looking into the retained snapshots. */
const candidatesMax = 100_000;

/**
 * Lists a table's data folder once and compares it with the files that the table names: what is missing or has another
 * size is a finding (of files that may hold asked offsets); what no retained snapshot names, and is older than the grace period, is told.
 */
export const auditListing = async (run: AuditRun, table: string, lineage: LineageColumns | undefined, graceMs: number, nowMs: number): Promise<void> => {
  const { view, store, catalog } = run;
  const version = view.version(table);
  const audited = {
    table, version: version?.version ?? null, snapshotId: version?.currentSnapshot ? String(version.currentSnapshot.snapshotId) : null,
    files: 0, rows: 0, bytes: 0, checksummedFiles: 0, unreferenced: { files: 0, bytes: 0, examples: [] as string[] },
  };
  run.tables.set(table, audited);
  const fields = version?.fields ?? [];
  const mark = (file: LiveFile, text: string): void => {
    if (!lineage || isAsked(run, extentOf(file, fields, lineage))) markFile(run, 'files-intact', table, file, text, lineage);
  };
  const expected = new Map<string, LiveFile>();
  for (const file of await view.scan(table)) {
    audited.files += 1;
    audited.rows += file.recordCount;
    audited.bytes += file.fileSizeBytes;
    if (expected.has(file.filePath)) mark(file, 'named twice by the manifests of one snapshot');
    expected.set(file.filePath, file);
  }
  const present = new Set<string>();
  const strangers = new Map<string, number>();
  for await (const { key, size, lastModifiedMs } of store.list(store.keyOf(catalog.dataLocation(table, '')))) {
    run.signal?.throwIfAborted();
    const location = store.location(key);
    const file = expected.get(location);
    if (!file) {
      if (nowMs - lastModifiedMs < graceMs) continue;
      if (strangers.size < candidatesMax) strangers.set(location, size);
      continue;
    }
    present.add(location);
    if (size !== file.fileSizeBytes) mark(file, `expected ${file.fileSizeBytes} bytes, found ${size}`);
  }
  for (const [location, file] of expected) {
    if (present.has(location)) continue;
    run.missing.add(location);
    mark(file, 'the file is not on S3');
  }
  // Older snapshots and pins name files that the current one does not.
  for (const snapshot of version?.snapshots ?? []) {
    if (strangers.size === 0) break;
    if (snapshot.snapshotId === version?.currentSnapshot?.snapshotId) continue;
    for (const { filePath } of await view.scan(table, { snapshotId: snapshot.snapshotId })) strangers.delete(filePath);
  }
  for (const [location, size] of strangers) {
    audited.unreferenced.files += 1;
    audited.unreferenced.bytes += size;
    if (audited.unreferenced.examples.length < examplesMax) audited.unreferenced.examples.push(location);
  }
};

/** Copies that the archive's manifests say can be restored: each is there, in its size. */
export const auditArchive = async (run: AuditRun, archive: Pick<Archive, 'store' | 'filesPrefix'>, table: string, manifests: readonly StoredManifest[]): Promise<void> => {
  for (const { manifest } of manifests) {
    if (manifest.state !== 'archived' && manifest.state !== 'copied' && manifest.state !== 'restoring') continue;
    const sizes = new Map<string, number>();
    for await (const { key, size } of archive.store.list(archive.filesPrefix(table, manifest.manifestId))) sizes.set(key, size);
    for (const { archiveKey, dataFile, offsets } of manifest.files) {
      const size = sizes.get(archiveKey);
      if (size === dataFile.fileSizeBytes) continue;
      const [key, set] = Coverage.fromJson(offsets).entries()[0] ?? [];
      const place = key === undefined ? { topic: null, partition: null, startOffset: null, endOffset: null }
        : { ...parseTopicPartitionKey(key), startOffset: String(set!.intervals[0]!.start), endOffset: String(set!.intervals.at(-1)!.end) };
      run.findings.mark({
        promise: 'files-intact', subject: table, ...place,
        detail: `archived copy ${archive.store.location(archiveKey)} of manifest ${manifest.manifestId} (${dataFile.recordCount} rows): expected ${dataFile.fileSizeBytes} bytes, found ${size === undefined ? 'no object' : size}`,
      });
    }
  }
};
