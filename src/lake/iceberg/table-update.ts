import { randomBytes, randomUUID } from 'node:crypto';
import { TidemarkError, invariant } from '../../domain/errors.ts';
import type { Coverage } from '../../domain/offsets.ts';
import { planMerge } from '../merge-plan.ts';
import type { ObjectStore } from '../object-store.ts';
import type { PartitionTuple } from '../schema.ts';
import { cleanUpOf } from '../table.ts';
import type { CommitRequest, SnapshotInfo } from '../table.ts';
import { LoadedTable } from './loaded-table.ts';
import { encodeManifestList, liveFilesCount, type ManifestFile } from './manifest-list.ts';
import { entryStatus, type ManifestEntry } from './manifest.ts';
import {
  attemptProperty, commitIdKey, coverageToProperties, currentSnapshotOf, mainBranch, parentAttemptProperty, type SnapshotJson, type TableMetadata,
} from './metadata.ts';

export interface UpdateLimits {
  /** Manifests of one order of magnitude that a commit merges into one. */
  manifestsMergedAt: number;
  /** Live files from which on a manifest is left alone, and at which a written one is split. */
  manifestFilesMax: number;
  /** Newest snapshots that a commit keeps, beside the tagged ones. */
  snapshotsKept: number;
  /** Earlier metadata files that the metadata names. */
  metadataLogMax: number;
}

/** What one call of commit keeps over its attempts, so that a retry writes only what the conflict changed. */
export interface PreparedCommit {
  /** Identity of the call. Every version that it tries to write carries it. */
  attempt: string;
  snapshotId: number;
  added: ManifestEntry[] | undefined;
  /** The manifests with exactly the added files, once one attempt has written them, on a version that knew of that clean-up. */
  addedManifests: WrittenManifest[] | undefined;
  cleanUp: string | undefined;
}
interface WrittenManifest { location: string; length: number; entries: readonly ManifestEntry[] }

/** Snapshot ids fit a double, so that JSON and Avro carry them without loss. */
export const newPreparedCommit = (): PreparedCommit => ({
  attempt: randomUUID(),
  snapshotId: Number(randomBytes(8).readBigUInt64BE() >> 12n) + 1,
  added: undefined,
  addedManifests: undefined,
  cleanUp: undefined,
});

export type Verdict = { verdict: 'proceed' } | { verdict: 'alreadyCommitted'; snapshotId: bigint | null };

/** Checks what the commit depends on against one version of the table. See {@link CommitRequest}. */
export async function checkRequirements(base: LoadedTable, request: CommitRequest): Promise<Verdict> {
  const done = base.metadata.snapshots.find(({ summary }) => summary[commitIdKey] === request.commitId);
  if (done) return { verdict: 'alreadyCommitted', snapshotId: BigInt(done['snapshot-id']) };
  const { coverageAbsent, coveragePresent, bucketsUnchangedSince, preparedSince = bucketsUnchangedSince?.base } = request;
  if (coverageAbsent && !coverageAbsent.isEmpty) {
    const present = coverageAbsent.intersect(base.coverage);
    if (present.equals(coverageAbsent)) return { verdict: 'alreadyCommitted', snapshotId: null };
    if (!present.isEmpty) {
      throw new TidemarkError('COVERAGE_CONFLICT', `commit ${request.commitId} to ${base.name}: expected ${describe(coverageAbsent)} to be absent, found ${describe(present)} covered at version ${base.version}`);
    }
  }
  if (coveragePresent) {
    const missing = coveragePresent.subtract(base.coverage);
    if (!missing.isEmpty) {
      throw new TidemarkError('COVERAGE_CONFLICT', `commit ${request.commitId} to ${base.name}: expected ${describe(coveragePresent)} to be covered, found ${describe(missing)} absent at version ${base.version}`);
    }
  }
  if (preparedSince && cleanUpOf(preparedSince) !== cleanUpOf(base)) {
    throw new TidemarkError('COMMIT_CONFLICT', `commit ${request.commitId} to ${base.name}: expected its files to be younger than the last clean-up of orphan files, found that one has run since version ${preparedSince.version}`);
  }
  if (bucketsUnchangedSince) {
    const since = bucketsUnchangedSince.base;
    invariant(since instanceof LoadedTable, 'bucketsUnchangedSince.base is not a version that a catalog loaded');
    await checkBuckets(base, request.commitId, since, bucketsUnchangedSince.partitions);
  }
  request.check?.(base);
  return { verdict: 'proceed' };
}

const describe = (coverage: Coverage): string => coverage.entries().map(([key, set]) => `${key} [${set.toString()}]`).join(', ');

/** Compares the live files of the partitions, and reads only manifests that one version has and the other has not. */
async function checkBuckets(current: LoadedTable, commitId: string, base: LoadedTable, partitions: readonly PartitionTuple[]): Promise<void> {
  if (base.metadata['current-snapshot-id'] === current.metadata['current-snapshot-id']) return;
  const [before, after] = await Promise.all([base.manifests(), current.manifests()]);
  const shared = new Set(before.map((manifest) => manifest.manifest_path).filter((path) => after.some((manifest) => manifest.manifest_path === path)));
  const wanted = new Set(partitions.map((tuple) => tupleKey(current, tuple)));
  const livePaths = async (table: LoadedTable, manifests: readonly ManifestFile[]): Promise<Set<string>> => {
    const paths = new Set<string>();
    for (const manifest of manifests) {
      if (shared.has(manifest.manifest_path)) continue;
      for (const entry of await table.cache.entries(table.codec, manifest)) {
        if (entry.status !== entryStatus.deleted && wanted.has(tupleKey(table, table.codec.partitionTuple(entry)))) paths.add(entry.filePath);
      }
    }
    return paths;
  };
  const [old, live] = await Promise.all([livePaths(base, before), livePaths(current, after)]);
  const added = [...live].filter((path) => !old.has(path)).length;
  const gone = [...old].filter((path) => !live.has(path)).length;
  if (added > 0 || gone > 0) {
    throw new TidemarkError('COMMIT_CONFLICT', `commit ${commitId} to ${current.name}: expected ${partitions.length} table partitions unchanged since version ${base.version}, found ${added} files added and ${gone} removed at version ${current.version}`);
  }
}

const tupleKey = (table: LoadedTable, tuple: PartitionTuple): string =>
  JSON.stringify(table.partition.map(({ sourceName }) => tuple[sourceName] ?? null));

/**
 * Writes the manifests and the manifest list of the commit on top of `base`, and returns the metadata of the next version.
 * Throws COMMIT_CONFLICT when a file to remove is no longer live. What an abandoned attempt has written stays as an orphan file.
 */
export async function stageUpdate(
  store: ObjectStore, base: LoadedTable, request: CommitRequest, prepared: PreparedCommit, limits: UpdateLimits, nowMs: number,
): Promise<TableMetadata> {
  const snapshot = request.add.length > 0 || (request.remove?.length ?? 0) > 0
    ? await stageSnapshot(store, base, request, prepared, limits, nowMs)
    : null;
  return nextMetadata(base, prepared, limits, nowMs, {
    snapshot,
    properties: {
      ...request.setProperties,
      ...(request.cover && !request.cover.isEmpty ? coverageToProperties(base.coverage.union(request.cover)) : {}),
    },
  });
}

/** The metadata of the version after `base`: bounded snapshots and logs, and the chain of attempts. */
export function nextMetadata(
  base: LoadedTable, prepared: PreparedCommit, limits: UpdateLimits, nowMs: number,
  change: { snapshot?: SnapshotJson | null; properties?: Record<string, string | null>; refs?: TableMetadata['refs']; expired?: ReadonlySet<number> },
): TableMetadata {
  const { metadata } = base;
  const { snapshot } = change;
  const timestampMs = snapshot?.['timestamp-ms'] ?? Math.max(nowMs, metadata['last-updated-ms']);
  const refs = { ...(change.refs ?? metadata.refs) };
  if (snapshot) refs[mainBranch] = { 'snapshot-id': snapshot['snapshot-id'], 'type': 'branch' };
  const referenced = new Set(Object.values(refs).map((ref) => ref['snapshot-id']));
  const all = snapshot ? [...metadata.snapshots, snapshot] : metadata.snapshots;
  const snapshots = all.filter((candidate, index) => referenced.has(candidate['snapshot-id'])
    || (index >= all.length - limits.snapshotsKept && !change.expired?.has(candidate['snapshot-id'])));
  const kept = new Set(snapshots.map((candidate) => candidate['snapshot-id']));
  const log = snapshot ? [...metadata['snapshot-log'], { 'timestamp-ms': timestampMs, 'snapshot-id': snapshot['snapshot-id'] }] : metadata['snapshot-log'];
  // The log must not name a snapshot that is gone, nor skip one: it begins after the last that expired.
  const logFrom = log.findLastIndex((entry) => !kept.has(entry['snapshot-id'])) + 1;
  return {
    ...metadata,
    'last-sequence-number': snapshot?.['sequence-number'] ?? metadata['last-sequence-number'],
    'last-updated-ms': timestampMs,
    'properties': { ...withChanges(metadata.properties, change.properties ?? {}), [attemptProperty]: prepared.attempt, [parentAttemptProperty]: base.attempt ?? '' },
    'current-snapshot-id': snapshot?.['snapshot-id'] ?? metadata['current-snapshot-id'],
    snapshots,
    'snapshot-log': log.slice(logFrom),
    'metadata-log': [...metadata['metadata-log'], { 'timestamp-ms': metadata['last-updated-ms'], 'metadata-file': base.metadataLocation }].slice(-limits.metadataLogMax),
    refs,
  };
}

const withChanges = (properties: Readonly<Record<string, string>>, changes: Readonly<Record<string, string | null>>): Record<string, string> => {
  const next: Record<string, string> = { ...properties };
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) delete next[name];
    else next[name] = value;
  }
  return next;
};

/** A manifest of the new snapshot: carried over, or entries that are still to be written. */
type StagedManifest = { liveFiles: number } & ({ carried: ManifestFile; entries: undefined } | { carried: undefined; entries: readonly ManifestEntry[] });

const entriesOf = async (base: LoadedTable, { carried, entries }: StagedManifest): Promise<readonly ManifestEntry[]> =>
  (carried ? carriedOver(await base.cache.entries(base.codec, carried)) : entries);

async function stageSnapshot(
  store: ObjectStore, base: LoadedTable, request: CommitRequest, prepared: PreparedCommit, limits: UpdateLimits, nowMs: number,
): Promise<SnapshotJson> {
  const { metadata, codec, cache } = base;
  const parent = currentSnapshotOf(metadata);
  const sequenceNumber = metadata['last-sequence-number'] + 1;
  const { snapshotId } = prepared;
  const folder = `${metadata.location}/metadata`;
  // Manifests and their list are put at once: the list needs only their names and lengths.
  const puts: Promise<unknown>[] = [];
  const put = (location: string, body: Buffer): void => {
    puts.push(store.put(store.keyOf(location), body, { contentType: 'avro/binary', ...(request.signal ? { signal: request.signal } : {}) }));
  };
  const write = (entries: readonly ManifestEntry[]): WrittenManifest => {
    const body = codec.encode(entries);
    const location = `${folder}/${randomUUID()}-m.avro`;
    put(location, body);
    return { location, length: body.length, entries };
  };
  const listed = ({ location, length, entries }: WrittenManifest): ManifestFile => {
    // Cached as it will be read: with what the entries inherit from the manifest list.
    cache.addEntries(location, entries.map((entry) => ({
      ...entry, sequenceNumber: entry.sequenceNumber ?? sequenceNumber, fileSequenceNumber: entry.fileSequenceNumber ?? sequenceNumber,
    })));
    return codec.describe(entries, location, length, snapshotId, sequenceNumber);
  };

  if (prepared.cleanUp !== cleanUpOf(base)) Object.assign(prepared, { addedManifests: undefined, cleanUp: cleanUpOf(base) });
  prepared.added ??= request.add.map((file) => codec.addedEntry(file, snapshotId));
  const { kept, removed } = await withoutRemoved(base, request, snapshotId);
  const staged: StagedManifest[] = [
    ...(prepared.added.length > 0 ? [{ carried: undefined, entries: prepared.added, liveFiles: prepared.added.length }] : []),
    ...kept,
  ];
  const groups = planMerge(staged.map(({ liveFiles }) => liveFiles), { mergedAt: limits.manifestsMergedAt, sizeMax: limits.manifestFilesMax });
  const merged = await Promise.all(groups.map(async (group) => {
    const members = group.map((index) => staged[index]!);
    return { members, entries: members.length === 1 ? members[0]!.entries : (await Promise.all(members.map((member) => entriesOf(base, member)))).flat() };
  }));
  const manifests = merged.flatMap(({ members, entries }): ManifestFile[] => {
    if (!entries) return members.map(({ carried }) => carried!);
    if (entries !== prepared.added) return chunks(entries, limits.manifestFilesMax).map(write).map(listed);
    prepared.addedManifests ??= chunks(entries, limits.manifestFilesMax).map(write);
    return prepared.addedManifests.map(listed);
  });

  const timestampMs = Math.max(nowMs, metadata['last-updated-ms']);
  const listLocation = `${folder}/snap-${snapshotId}-${randomUUID()}.avro`;
  put(listLocation, encodeManifestList(manifests, { snapshotId, parentSnapshotId: parent?.['snapshot-id'] ?? null, sequenceNumber }));
  await Promise.all(puts);
  cache.addList(listLocation, manifests);
  return {
    'snapshot-id': snapshotId,
    ...(parent ? { 'parent-snapshot-id': parent['snapshot-id'] } : {}),
    'sequence-number': sequenceNumber,
    'timestamp-ms': timestampMs,
    'summary': summarize(request, removed, parent),
    'manifest-list': listLocation,
    'schema-id': metadata['current-schema-id'],
  };
}

/** The manifests of `base` that go on; those that hold removed files as entries, the removed ones marked DELETED. */
async function withoutRemoved(base: LoadedTable, request: CommitRequest, snapshotId: number): Promise<{ kept: StagedManifest[]; removed: ManifestEntry[] }> {
  const missing = new Set(request.remove);
  const removed: ManifestEntry[] = [];
  const kept: StagedManifest[] = [];
  // A manifest of DELETED entries alone belongs to the snapshot that removed them, and `manifests` leaves it out.
  for (const manifest of await base.manifests()) {
    const carried = { carried: manifest, entries: undefined, liveFiles: liveFilesCount(manifest) };
    const entries = missing.size > 0 ? await base.cache.entries(base.codec, manifest) : [];
    if (!entries.some(({ filePath, status }) => status !== entryStatus.deleted && missing.has(filePath))) {
      kept.push(carried);
      continue;
    }
    const rewritten = carriedOver(entries).map((entry): ManifestEntry => {
      if (!missing.delete(entry.filePath)) return entry;
      removed.push(entry);
      return { ...entry, status: entryStatus.deleted, snapshotId };
    });
    kept.push({ carried: undefined, entries: rewritten, liveFiles: rewritten.filter(({ status }) => status !== entryStatus.deleted).length });
  }
  if (missing.size > 0) {
    throw new TidemarkError('COMMIT_CONFLICT', `commit ${request.commitId} to ${base.name}: expected ${request.remove!.length} files to be live, found ${missing.size} gone at version ${base.version}, among them ${missing.values().next().value}`);
  }
  return { kept, removed };
}

/** Live entries as a rewritten manifest holds them: EXISTING, with the snapshot id and both sequence numbers that they were added with. */
const carriedOver = (entries: readonly ManifestEntry[]): ManifestEntry[] =>
  entries.filter(({ status }) => status !== entryStatus.deleted).map((entry) => ({ ...entry, status: entryStatus.existing }));

const chunks = <T>(items: readonly T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(items.length / size) }, (_, index) => items.slice(index * size, (index + 1) * size));

/** Iceberg spec, appendix F, "Optional Snapshot Summary Fields". */
function summarize(request: CommitRequest, removed: readonly ManifestEntry[], parent: SnapshotJson | null): SnapshotJson['summary'] {
  const rows = (files: readonly { recordCount: number }[]): number => files.reduce((sum, { recordCount }) => sum + recordCount, 0);
  const bytes = (files: readonly { fileSizeBytes: number }[]): number => files.reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0);
  const operation: SnapshotInfo['operation'] = request.operation
    ?? (removed.length === 0 ? 'append' : request.add.length === 0 ? 'delete' : 'overwrite');
  const previous = (key: string): number => Number(parent?.summary[key] ?? 0);
  return {
    ...request.summary,
    operation,
    [commitIdKey]: request.commitId,
    ...(request.add.length > 0 ? {
      'added-data-files': String(request.add.length), 'added-records': String(rows(request.add)), 'added-files-size': String(bytes(request.add)),
    } : {}),
    ...(removed.length > 0 ? {
      'deleted-data-files': String(removed.length), 'deleted-records': String(rows(removed)), 'removed-files-size': String(bytes(removed)),
    } : {}),
    'total-data-files': String(previous('total-data-files') + request.add.length - removed.length),
    'total-records': String(previous('total-records') + rows(request.add) - rows(removed)),
    'total-files-size': String(previous('total-files-size') + bytes(request.add) - bytes(removed)),
  };
}
