import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { LoadedTable } from './iceberg/loaded-table.ts';
import { ManifestCache } from './iceberg/manifest-cache.ts';
import { entryStatus } from './iceberg/manifest.ts';
import type { ManifestFile } from './iceberg/manifest-list.ts';
import { attemptProperty, currentSnapshotOf, definitionMismatch, initialMetadata, mainBranch, parentAttemptProperty, parseMetadata, type SnapshotJson, type TableMetadata } from './iceberg/metadata.ts';
import { checkRequirements, newPreparedCommit, nextMetadata, stageUpdate, type PreparedCommit, type UpdateLimits } from './iceberg/table-update.ts';
import type { ObjectStore } from './object-store.ts';
import type { TableDefinition } from './schema.ts';
import type { Catalog, CommitRequest, CommitResult, TableVersion } from './table.ts';

/**
 * Tables as files in an object store, with no server beside it.
 *
 * `metadata/vN.metadata.json` is written once, with If-None-Match, by whoever builds on version N−1; `version-hint.text`
 * names the current version and only moves forward, by If-Match. Two rules follow, and everything below serves them:
 *
 * - A version counts once the hint has moved to it or past it. Until then it may lie in the void: a writer that slept
 *   while old versions were deleted can create an old number with success. So a commit is a success only when its own move
 *   of the hint to N succeeds, or the hint stands at N, or version N+1 names this commit as its parent.
 * - A version ahead of the hint is finished, not repeated: its writer died between the two puts, or is about to do the
 *   second. Whoever finds it moves the hint on to it, and takes it as current only if that move succeeds: it proves that
 *   the hint still stood at N−1, hence that no version has been deleted whose number was then used again.
 */
export interface ObjectStoreCatalogOptions {
  store: ObjectStore;
  /** Key prefix of the warehouse. Default `warehouse`. */
  warehouse?: string;
  namespace: string;
  /** Newest snapshots that each commit keeps, beside the tagged ones. Each is 600 bytes in every version file. Default 50. */
  snapshotsKept?: number;
  /** Manifests of one order of magnitude that a commit merges into one. Default 10. */
  manifestsMergedAt?: number;
  /** Live files from which on a manifest is no longer merged. Default 500. */
  manifestFilesMax?: number;
  /** Newest metadata files that are never deleted. Default 100. */
  keepVersions?: number;
  /** Age below which a metadata file is never deleted: longer than any activity may take, its retries included. Default 24 h. */
  metadataGraceMs?: number;
  /** Commits of this process to a table after which old metadata files are deleted. Default 100; 0: never. */
  expireMetadataEvery?: number;
  /** Attempts of a commit that names no limit itself. Default 30. */
  commitAttemptsMax?: number;
  /** Bound of the manifests kept in memory, for all tables. Default 64 MiB. */
  manifestCacheBytesMax?: number;
  now?: () => number;
  /** Told of what failed beside a commit that succeeded (the deletion of old metadata files). */
  onWarning?: (error: unknown) => void;
}

/**
 * Locations of the data files, manifests and manifest lists that a reader may still need who loaded the table at `sinceMs` or later:
 * those of every retained snapshot, and those of the snapshot that was current then. What is in no retained snapshot, but was
 * in one that was current since, was in that one too, unless it is younger than `sinceMs`: files do not come back under a name.
 */
export interface ReachableFiles {
  locations: ReadonlySet<string>;
  version: TableVersion;
  /** Null: complete. Else why it cannot be known what was reachable since: then nothing old is safe to delete. */
  unknown: string | null;
}

export interface ObjectStoreCatalog extends Catalog {
  /** Deletes metadata files past the grace period, oldest first, at most `filesMax`. Returns how many. */
  expireMetadata(name: string, filesMax?: number): Promise<number>;
  /**
   * Drops snapshots that gave way to the next one before that time, the oldest first, of which `keep` newest stay, and every tagged one.
   * Files that only they name become orphan files. Returns how many were dropped.
   */
  expireSnapshots(name: string, options: { supersededBeforeMs: number; keep: number }): Promise<number>;
  /** See {@link ReachableFiles}. */
  reachableFiles(name: string, sinceMs: number): Promise<ReachableFiles>;
  /** Resolves when no work goes on in the background. */
  settled(): Promise<void>;
}

interface Hint { version: number; etag: string }
/** The current version, and the state of the hint that proves it. */
interface Current { table: LoadedTable; hint: Hint }
type Change =
  | { done: CommitResult }
  | { next: TableMetadata; snapshotId: bigint | null };
type Publication = 'committed' | 'conflict' | 'unknown';

const retryBaseMs = 10;
const retryMaxMs = 1_000;
const metadataLogMax = 25;
const hintMovesMax = 20;
const roundsMax = 100;
/** A load that took longer starts again. Far below any grace period of metadata files. */
const loadMsMax = 60_000;
const expireFilesMax = 500;
/** Twelve thousand live files: each thread of a process has its own cache, and a compacted table has hundreds. */
const manifestCacheBytesDefault = 16 * 1024 * 1024;
const dayMs = 24 * 60 * 60 * 1_000;

export function createObjectStoreCatalog(options: ObjectStoreCatalogOptions): ObjectStoreCatalog {
  return new HintedCatalog(options);
}

class HintedCatalog implements ObjectStoreCatalog {
  private readonly store: ObjectStore;
  private readonly root: string;
  private readonly limits: UpdateLimits;
  private readonly keepVersions: number;
  private readonly metadataGraceMs: number;
  private readonly expireEvery: number;
  private readonly attemptsMax: number;
  private readonly manifests: ManifestCache;
  private readonly now: () => number;
  private readonly onWarning: (error: unknown) => void;
  /** The last version seen of each table. A version that the hint has confirmed never changes. */
  private readonly loaded = new Map<string, LoadedTable>();
  /** Commits of this process to one table follow each other: racing each other they would only conflict. */
  private readonly queues = new Map<string, Promise<unknown>>();
  private readonly commitsSinceExpiry = new Map<string, number>();
  private readonly background = new Set<Promise<unknown>>();

  constructor(options: ObjectStoreCatalogOptions) {
    this.store = options.store;
    this.root = `${options.warehouse ?? 'warehouse'}/${options.namespace}`;
    this.limits = {
      snapshotsKept: options.snapshotsKept ?? 50,
      manifestsMergedAt: options.manifestsMergedAt ?? 10,
      manifestFilesMax: options.manifestFilesMax ?? 500,
      metadataLogMax,
    };
    this.keepVersions = options.keepVersions ?? 100;
    this.metadataGraceMs = options.metadataGraceMs ?? dayMs;
    this.expireEvery = options.expireMetadataEvery ?? 100;
    this.attemptsMax = options.commitAttemptsMax ?? 30;
    this.manifests = new ManifestCache(options.store, options.manifestCacheBytesMax ?? manifestCacheBytesDefault);
    this.now = options.now ?? Date.now;
    this.onWarning = options.onWarning ?? (() => {});
    const bounds = { snapshotsKept: this.limits.snapshotsKept, keepVersions: this.keepVersions, commitAttemptsMax: this.attemptsMax, manifestFilesMax: this.limits.manifestFilesMax };
    for (const [name, value] of Object.entries(bounds)) {
      if (!Number.isSafeInteger(value) || value < 1) throw new TidemarkError('BAD_CONFIG', `catalog option ${name}: expected a whole number from 1, found ${value}`);
    }
    if (this.limits.manifestsMergedAt < 2) throw new TidemarkError('BAD_CONFIG', `catalog option manifestsMergedAt: expected 2 or more, found ${this.limits.manifestsMergedAt}`);
  }

  dataLocation(name: string, suffix: string): string {
    return this.store.location(`${this.root}/${name}/data/${suffix}`);
  }

  async load(name: string): Promise<TableVersion> {
    return (await this.current(name)).table;
  }

  async ensureTable(definition: TableDefinition): Promise<TableVersion> {
    const { name } = definition;
    for (let attempts = 1; ; attempts += 1) {
      try {
        const { table } = await this.current(name);
        const mismatch = definitionMismatch(table.metadata, definition);
        if (mismatch) throw new TidemarkError('TABLE_CORRUPT', `table ${name} differs from its definition: ${mismatch}`);
        return table;
      } catch (error) {
        if (!isTidemarkError(error, 'TABLE_NOT_FOUND')) throw error;
      }
      await this.refuseLostHint(name);
      const metadata = initialMetadata(definition, this.store.location(`${this.root}/${name}`), randomUUID(), this.now());
      metadata.properties[attemptProperty] = randomUUID();
      try {
        await this.store.put(this.versionKey(name, 1), JSON.stringify(metadata), { condition: 'absent', contentType: 'application/json' });
      } catch (error) {
        // Another process created it, or we did and the answer was lost: the next round finds out.
        if (attempts >= this.attemptsMax || (!isTidemarkError(error, 'PRECONDITION_FAILED') && !isTidemarkError(error, 'OBJECT_STORE_UNAVAILABLE'))) throw error;
        if (error.code === 'OBJECT_STORE_UNAVAILABLE') await sleep(retryBaseMs);
      }
    }
  }

  /** A table whose hint was deleted must not be created anew beside its own versions. */
  private async refuseLostHint(name: string): Promise<void> {
    for await (const { key } of this.store.list(`${this.root}/${name}/metadata/v`)) {
      const version = versionOf(key);
      if (version !== undefined && version > 1) {
        throw new TidemarkError('TABLE_CORRUPT', `table ${name}: expected version-hint.text beside ${key}, found none; write the highest version number into it`);
      }
    }
  }

  async listTables(): Promise<string[]> {
    const tables: string[] = [];
    const prefix = `${this.root}/`;
    // One table after another: a listing would walk all data files.
    for (let startAfter: string | undefined; ;) {
      let first: string | undefined;
      for await (const { key } of this.store.list(prefix, startAfter === undefined ? {} : { startAfter })) {
        first = key;
        break;
      }
      if (first === undefined) return tables;
      const name = first.slice(prefix.length).split('/')[0]!;
      if (first.length > prefix.length + name.length && await this.readHint(name)) tables.push(name);
      // '0' follows '/', so every key of the table lies before this one.
      startAfter = `${prefix}${name}0`;
    }
  }

  commit(name: string, request: CommitRequest): Promise<CommitResult> {
    const twice = request.add.length - new Set(request.add.map(({ filePath }) => filePath)).size;
    if (twice > 0) throw new TidemarkError('BAD_INPUT', `commit ${request.commitId} to ${name}: expected each file once, found ${twice} named again`);
    return this.enqueue(name, async () => {
      const result = await this.change(name, `commit ${request.commitId}`, request, async ({ table }, prepared, outcomeUnknown) => {
        const verdict = await checkRequirements(table, request);
        if (verdict.verdict === 'alreadyCommitted') {
          const own = verdict.snapshotId === BigInt(prepared.snapshotId);
          return { done: { status: own ? 'committed' : 'alreadyCommitted', version: table, snapshotId: verdict.snapshotId, attempts: 0 } };
        }
        if (outcomeUnknown && request.add.length > 0 && !guarded(request)) {
          throw new TidemarkError('COMMIT_OUTCOME_UNKNOWN', `commit ${request.commitId} to ${name}: expected its version to be kept until the answer came, found it deleted; nothing in the table tells whether it took effect`);
        }
        const next = await stageUpdate(this.store, table, request, prepared, this.limits, this.now());
        return { next, snapshotId: next['current-snapshot-id'] === prepared.snapshotId ? BigInt(prepared.snapshotId) : null };
      });
      this.expireNowAndThen(name);
      return result;
    });
  }

  tag(name: string, tag: string, snapshotId: bigint): Promise<TableVersion> {
    if (tag === mainBranch || tag === '') throw new TidemarkError('BAD_INPUT', `tag of ${name}: expected a name other than ${JSON.stringify(tag)}`);
    return this.changeRefs(name, `tag ${tag}`, (table) => {
      const pinned = table.tags[tag];
      if (pinned === snapshotId) return null;
      if (pinned !== undefined) throw new TidemarkError('COMMIT_CONFLICT', `tag ${tag} of ${name}: expected it to be free, found it on snapshot ${pinned}`);
      const snapshot = table.snapshotJson(snapshotId)!;
      return { ...table.metadata.refs, [tag]: { 'snapshot-id': snapshot['snapshot-id'], 'type': 'tag' } };
    });
  }

  untag(name: string, tag: string): Promise<TableVersion> {
    return this.changeRefs(name, `untag ${tag}`, (table) => {
      if (table.tags[tag] === undefined) return null;
      const { [tag]: _, ...refs } = table.metadata.refs;
      return refs;
    });
  }

  private changeRefs(name: string, what: string, refsOf: (table: LoadedTable) => TableMetadata['refs'] | null): Promise<TableVersion> {
    return this.enqueue(name, async () => {
      const { version } = await this.change(name, what, {}, async ({ table }, prepared) => {
        const refs = refsOf(table);
        if (!refs) return { done: { status: 'alreadyCommitted', version: table, snapshotId: null, attempts: 0 } };
        return { next: nextMetadata(table, prepared, this.limits, this.now(), { refs }), snapshotId: null };
      });
      return version;
    });
  }

  /** The optimistic loop: load, check, stage, publish; on a conflict from the start, on the version that won. */
  private async change(
    name: string, what: string, { attemptsMax = this.attemptsMax, signal }: Pick<CommitRequest, 'attemptsMax' | 'signal'>,
    stage: (current: Current, prepared: PreparedCommit, outcomeUnknown: boolean) => Promise<Change>,
  ): Promise<CommitResult> {
    const prepared = newPreparedCommit();
    let outcomeUnknown = false;
    for (let attempts = 1; ; attempts += 1) {
      signal?.throwIfAborted();
      // At first the put of the next version tells by itself whether there is one.
      const current = await this.current(name, attempts > 1);
      const change = await stage(current, prepared, outcomeUnknown);
      if ('done' in change) return { ...change.done, attempts };
      signal?.throwIfAborted();
      // Past this point nothing is cancelled half-way.
      const version = current.table.version + 1;
      const publication = await this.publish(name, current.hint, version, change.next, prepared);
      if (publication === 'committed') {
        const table = new LoadedTable(name, version, this.metadataLocation(name, version), change.next, this.manifests, current.table);
        this.loaded.set(name, table);
        return { status: 'committed', version: table, snapshotId: change.snapshotId, attempts };
      }
      outcomeUnknown ||= publication === 'unknown';
      if (attempts >= attemptsMax) {
        throw new TidemarkError('COMMIT_CONFLICT', `${what} to ${name}: expected to win within ${attemptsMax} attempts, found another commit each time, last at version ${version}`);
      }
      await sleep(Math.min(retryMaxMs, retryBaseMs * 2 ** Math.min(attempts, 10)) * Math.random());
    }
  }

  /** Puts the version and moves the hint to it. Returns only what the store has confirmed. */
  private async publish(name: string, hint: Hint, version: number, metadata: TableMetadata, { attempt }: PreparedCommit): Promise<Publication> {
    try {
      await this.store.put(this.versionKey(name, version), JSON.stringify(metadata), { condition: 'absent', contentType: 'application/json' });
    } catch (error) {
      if (!isTidemarkError(error, 'PRECONDITION_FAILED') && !isTidemarkError(error, 'OBJECT_STORE_UNAVAILABLE')) throw error;
      // An earlier try of ours may have landed while its answer was lost: the version itself says whose it is. One that is
      // not there may still land: the next attempt builds the same number, and meets it.
      const found = await this.tryFetch(name, version);
      if (found?.properties[attemptProperty] !== attempt) return 'conflict';
    }
    const reached = await this.moveHint(name, hint, version);
    if (reached.version === version) return 'committed';
    // The hint is past our version: it is an ancestor of the current one, or it lies in the void.
    const successor = await this.tryFetch(name, version + 1);
    if (successor) return successor.properties[parentAttemptProperty] === attempt ? 'committed' : 'conflict';
    return 'unknown';
  }

  /** Moves the hint forward to `version` unless it is there or further. Returns where it stands. */
  private async moveHint(name: string, known: Hint | null, version: number): Promise<Hint> {
    let hint = known;
    let cause: unknown;
    for (let moves = 0; moves < hintMovesMax; moves += 1) {
      if (hint && hint.version >= version) return hint;
      try {
        return { version, etag: await this.putHint(name, version, hint) };
      } catch (error) {
        if (!isTidemarkError(error, 'PRECONDITION_FAILED') && !isTidemarkError(error, 'OBJECT_STORE_UNAVAILABLE')) throw error;
        cause = error;
        if (error.code === 'OBJECT_STORE_UNAVAILABLE') await sleep(retryBaseMs * moves * Math.random());
        hint = await this.readHint(name);
      }
    }
    throw new TidemarkError('OBJECT_STORE_UNAVAILABLE', `table ${name}: expected to move its hint to version ${version} within ${hintMovesMax} tries, found it at ${hint?.version ?? 'none'}`, { cause });
  }

  /** The current version, confirmed by the hint. With `lookAhead` versions ahead of the hint are finished first. */
  private async current(name: string, lookAhead = true): Promise<Current> {
    for (let rounds = 0; rounds < roundsMax; rounds += 1) {
      const startedMs = this.now();
      const hint = await this.readHint(name);
      if (!hint) {
        // The creator died between the two puts, or is about to do the second.
        if (!await this.tryFetch(name, 1)) throw new TidemarkError('TABLE_NOT_FOUND', `table ${name}: expected ${this.hintKey(name)}, found nothing`);
        await this.moveHint(name, null, 1);
        continue;
      }
      const table = await this.fetchTable(name, hint.version);
      // Not there: we slept, and the version was deleted meanwhile. The hint has moved. After a long sleep even what is
      // there may have been put into the void since the hint was read.
      if (!table || this.now() - startedMs > loadMsMax) continue;
      const current = lookAhead ? await this.finishAhead(name, { table, hint }) : { table, hint };
      if (!current) continue;
      const known = this.loaded.get(name);
      if (!known || known.version <= current.table.version || known.metadata['table-uuid'] !== current.table.metadata['table-uuid']) this.loaded.set(name, current.table);
      return current;
    }
    throw new TidemarkError('OBJECT_STORE_UNAVAILABLE', `table ${name}: expected a version that the hint names, found none in ${roundsMax} rounds`);
  }

  private async fetchTable(name: string, version: number): Promise<LoadedTable | null> {
    const cached = this.loaded.get(name);
    if (cached?.version === version) return cached;
    const metadata = await this.tryFetch(name, version);
    if (metadata) return new LoadedTable(name, version, this.metadataLocation(name, version), metadata, this.manifests, cached);
    if ((await this.readHint(name))?.version === version) {
      throw new TidemarkError('TABLE_CORRUPT', `table ${name}: expected ${this.versionKey(name, version)}, which its hint names, found nothing`);
    }
    return null;
  }

  /** Moves the hint over the versions that are ahead of it. Null when it was refused: the hint is elsewhere, and so is the current version. */
  private async finishAhead(name: string, found: Current): Promise<Current | null> {
    for (let { table, hint } = found; ;) {
      const version = hint.version + 1;
      const metadata = await this.tryFetch(name, version);
      if (!metadata) return { table, hint };
      try {
        hint = { version, etag: await this.putHint(name, version, hint) };
      } catch (error) {
        if (isTidemarkError(error, 'PRECONDITION_FAILED') || isTidemarkError(error, 'OBJECT_STORE_UNAVAILABLE')) return null;
        // A reader that may not write sees what the hint names, like any other engine.
        if (isTidemarkError(error, 'BAD_CONFIG')) return { table, hint };
        throw error;
      }
      table = new LoadedTable(name, version, this.metadataLocation(name, version), metadata, this.manifests, table);
    }
  }

  async expireMetadata(name: string, filesMax = expireFilesMax): Promise<number> {
    const hint = await this.readHint(name);
    if (!hint) throw new TidemarkError('TABLE_NOT_FOUND', `table ${name}: expected ${this.hintKey(name)}, found nothing`);
    const before = this.now() - this.metadataGraceMs;
    const expired: number[] = [];
    for await (const { key, lastModifiedMs } of this.store.list(`${this.root}/${name}/metadata/v`)) {
      const version = versionOf(key);
      if (version !== undefined && version <= hint.version - this.keepVersions && lastModifiedMs <= before) expired.push(version);
    }
    const oldest = expired.sort((a, b) => a - b).slice(0, filesMax);
    if (oldest.length > 0) await this.store.delete(oldest.map((version) => this.versionKey(name, version)));
    return oldest.length;
  }

  async expireSnapshots(name: string, { supersededBeforeMs, keep }: { supersededBeforeMs: number; keep: number }): Promise<number> {
    let dropped = 0;
    await this.enqueue(name, () => this.change(name, 'expire snapshots', {}, async ({ table }, prepared) => {
      const { snapshots, refs } = table.metadata;
      const referenced = new Set(Object.values(refs).map((ref) => ref['snapshot-id']));
      const expired = new Set(snapshots
        .filter((snapshot, index) => index < snapshots.length - Math.max(1, keep) && !referenced.has(snapshot['snapshot-id']) && snapshots[index + 1]!['timestamp-ms'] < supersededBeforeMs)
        .map((snapshot) => snapshot['snapshot-id']));
      dropped = expired.size;
      if (expired.size === 0) return { done: { status: 'alreadyCommitted', version: table, snapshotId: null, attempts: 0 } };
      return { next: nextMetadata(table, prepared, this.limits, this.now(), { expired }), snapshotId: null };
    }));
    return dropped;
  }

  async reachableFiles(name: string, sinceMs: number): Promise<ReachableFiles> {
    const { table } = await this.current(name);
    const snapshots = new Map(table.metadata.snapshots.map((snapshot) => [snapshot['snapshot-id'], snapshot]));
    const { snapshot, unknown } = await this.snapshotAt(name, table, sinceMs);
    if (snapshot) snapshots.set(snapshot['snapshot-id'], snapshot);
    const locations = new Set<string>();
    const manifests = new Map<string, ManifestFile>();
    for (const { 'manifest-list': list } of snapshots.values()) {
      locations.add(list);
      for (const manifest of await this.manifests.list(list)) manifests.set(manifest.manifest_path, manifest);
    }
    for (const [path, manifest] of manifests) {
      locations.add(path);
      for (const { filePath, status } of await this.manifests.entries(table.codec, manifest)) if (status !== entryStatus.deleted) locations.add(filePath);
    }
    return { locations, version: table, unknown };
  }

  /** The snapshot that was current at a time; null: the table had none yet. */
  private async snapshotAt(name: string, table: LoadedTable, atMs: number): Promise<{ snapshot: SnapshotJson | null; unknown: string | null }> {
    const newestBefore = (snapshots: readonly SnapshotJson[]): SnapshotJson | undefined => snapshots.findLast((one) => one['timestamp-ms'] <= atMs);
    // Tagged ones may be of any age: of the snapshots in between some are gone.
    const tagged = new Set(Object.values(table.tags).map(Number));
    const own = newestBefore(table.metadata.snapshots.filter((one) => !tagged.has(one['snapshot-id'])));
    if (own) return { snapshot: own, unknown: null };
    let before: number | undefined;
    let oldest: number | undefined;
    for await (const { key, lastModifiedMs } of this.store.list(`${this.root}/${name}/metadata/v`)) {
      const version = versionOf(key);
      if (version === undefined || version > table.version) continue;
      if (oldest === undefined || version < oldest) oldest = version;
      if (lastModifiedMs <= atMs && (before === undefined || version > before)) before = version;
    }
    const known = before ?? oldest;
    const metadata = known === undefined ? null : await this.tryFetch(name, known);
    if (known !== undefined && metadata) {
      if (before !== undefined) return { snapshot: currentSnapshotOf(metadata), unknown: null };
      const earlier = newestBefore(metadata.snapshots);
      if (earlier) return { snapshot: earlier, unknown: null };
      if (known === 1 && metadata.snapshots.length === 0) return { snapshot: null, unknown: null };
    }
    return { snapshot: null, unknown: `no retained metadata of ${name} tells which snapshot was current at ${new Date(atMs).toISOString()}` };
  }

  async settled(): Promise<void> {
    await Promise.all(this.queues.values());
    await Promise.all(this.background);
  }

  private expireNowAndThen(name: string): void {
    if (this.expireEvery === 0) return;
    const commits = (this.commitsSinceExpiry.get(name) ?? 0) + 1;
    this.commitsSinceExpiry.set(name, commits % this.expireEvery);
    if (commits < this.expireEvery) return;
    const run: Promise<unknown> = this.expireMetadata(name).catch(this.onWarning).finally(() => this.background.delete(run));
    this.background.add(run);
  }

  private enqueue<T>(name: string, work: () => Promise<T>): Promise<T> {
    const run = (this.queues.get(name) ?? Promise.resolve()).then(work);
    const tail = run.catch(() => {}).finally(() => {
      if (this.queues.get(name) === tail) this.queues.delete(name);
    });
    this.queues.set(name, tail);
    return run;
  }

  private async tryFetch(name: string, version: number): Promise<TableMetadata | null> {
    const key = this.versionKey(name, version);
    const found = await this.tryGet(key);
    return found && parseMetadata(found.body, this.store.location(key));
  }

  private async readHint(name: string): Promise<Hint | null> {
    const found = await this.tryGet(this.hintKey(name));
    if (!found) return null;
    const text = Buffer.from(found.body).toString().trim();
    const version = /^[1-9]\d*$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(version)) throw new TidemarkError('TABLE_CORRUPT', `table ${name}: expected a version number in ${this.hintKey(name)}, found ${JSON.stringify(text.slice(0, 40))}`);
    return { version, etag: found.etag };
  }

  /** Returns the new ETag. Absent `known`: there must be no hint yet. */
  private async putHint(name: string, version: number, known: Hint | null): Promise<string> {
    const { etag } = await this.store.put(this.hintKey(name), String(version), { condition: known ? { etag: known.etag } : 'absent', contentType: 'text/plain' });
    return etag;
  }

  private async tryGet(key: string): Promise<{ body: Uint8Array; etag: string } | null> {
    try {
      return await this.store.get(key);
    } catch (error) {
      if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return null;
      throw error;
    }
  }

  private hintKey(name: string): string {
    return `${this.root}/${name}/metadata/version-hint.text`;
  }

  private versionKey(name: string, version: number): string {
    return `${this.root}/${name}/metadata/v${version}.metadata.json`;
  }

  private metadataLocation(name: string, version: number): string {
    return this.store.location(this.versionKey(name, version));
  }
}

const versionOf = (key: string): number | undefined => {
  const match = /\/v(\d+)\.metadata\.json$/.exec(key);
  return match ? Number(match[1]) : undefined;
};

/** Whether the table itself tells if the commit took effect, long after its version file is gone. */
const guarded = ({ coverageAbsent, remove, bucketsUnchangedSince }: CommitRequest): boolean =>
  (coverageAbsent !== undefined && !coverageAbsent.isEmpty) || (remove !== undefined && remove.length > 0) || bucketsUnchangedSince !== undefined;
