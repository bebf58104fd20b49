import { randomUUID } from 'node:crypto';
import type { TidiedTable } from '../contracts/retention.ts';
import { parseBronzeFileSuffix } from '../contracts/bronze.ts';
import { ingestGapsTable } from '../datasets/engine-tables.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { isTidemarkError } from '../domain/errors.ts';
import type { Archive } from './archive.ts';
import { pendingFiles } from './archive.ts';
import type { Coverage } from '../domain/offsets.ts';
import { IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { cleanUpProperty } from '../lake/table.ts';
import type { ObjectStoreCatalog } from '../lake/object-store-catalog.ts';

export interface TidyLimits {
  /** A snapshot stays for at least so long after the next one took its place. */
  snapshotAgeMs: number;
  /** Newest snapshots that stay whatever their age. */
  snapshotsKept: number;
  /** A file that nothing names stays for at least so long, counted from its writing and from the moment it was last named. */
  orphanGraceMs: number;
}

export interface TidyDeps {
  catalog: ObjectStoreCatalog;
  store: ObjectStore;
  /** Its manifests name files that a commit may still bring in. */
  archive: Pick<Archive, 'list'>;
  pipeline: Pipeline;
  limits: TidyLimits;
  /** When the oldest Workflow Execution began that may still commit files it has written; null: none runs. */
  oldestWriterMs(): Promise<number | null>;
  /** Whether the Workflow Execution still runs that a staging object belongs to. */
  isRunning(workflowId: string): Promise<boolean>;
  now?: () => number;
  signal?: AbortSignal;
}

const deletesAtOnce = 1_000;
const stagingPrefix = 'staging/';

/** A staging object, and the Workflow that it belongs to; null: nobody here knows, so it stays. */
const workflowOf = (key: string, pipeline: Pipeline): string | null => {
  const [first, second, ...rest] = key.slice(stagingPrefix.length).split('/');
  if (first === undefined || second === undefined) return null;
  const number = /^(\d+)-[0-9a-f-]{36}\.json$/.exec(second)?.[1];
  if (rest.length === 0 && number !== undefined && pipeline.datasets.some(({ source }) => source === first)) return `micro-batch/${first}/${number}`;
  // Their folders: staging/<Workflow ID>/<uuid>/<file>.
  if ((first === 'backfill' || first === 'dlq-replay') && rest.length === 2) return `${first}/${second}`;
  return null;
};

/** Every location of the bucket that a JSON text names, wherever in it. */
const locationsIn = (text: string, bucket: string): string[] => text.match(new RegExp(`s3://${bucket.replaceAll('.', '\\.')}/[^"\\\\]+`, 'g')) ?? [];

/**
 * Staging objects of Workflows that have ended, past the grace period, are deleted first: a closed Workflow that is Reset finds
 * none, and refuses, before its files can be gone. What those that stay name is not touched.
 */
const sweepStaging = async ({ store, pipeline, isRunning, limits, now = Date.now, signal }: TidyDeps): Promise<Set<string>> => {
  const named = new Set<string>();
  const expired: string[] = [];
  const before = now() - limits.orphanGraceMs;
  for await (const { key, lastModifiedMs } of store.list(stagingPrefix)) {
    signal?.throwIfAborted();
    const workflowId = workflowOf(key, pipeline);
    if (workflowId !== null && lastModifiedMs <= before && !await isRunning(workflowId)) {
      expired.push(key);
      continue;
    }
    try {
      for (const location of locationsIn(Buffer.from((await store.get(key)).body).toString(), store.bucket)) named.add(location);
    } catch (error) {
      // Its Workflow has just finished with it: what it named is in a table, or young.
      if (!isTidemarkError(error, 'OBJECT_NOT_FOUND')) throw error;
    }
  }
  for (const key of expired) {
    for (const location of locationsIn(Buffer.from((await store.get(key)).body).toString(), store.bucket)) named.add(location);
  }
  await store.delete(expired);
  // Files of staging objects that went just now wait for the next sweep.
  return named;
};

/** Offsets that Bronze has in its table, or never will: a file of any others may yet be reported, however old it is. */
const settledOffsets = async ({ catalog, pipeline }: TidyDeps, table: string): Promise<Coverage | null> => {
  if (!pipeline.datasets.some(({ bronze }) => bronze.name === table)) return null;
  const [bronze, gaps] = await Promise.all([catalog.load(table), catalog.load(ingestGapsTable.name)]);
  return bronze.coverage.union(gaps.coverage);
};

const mayBeReported = (suffix: string, settled: Coverage): boolean => {
  try {
    const { topic, partition, start, end } = parseBronzeFileSuffix(suffix);
    return !settled.of(topicPartitionKey(topic, partition)).contains(IntervalSet.of({ start, end }));
  } catch (error) {
    if (isTidemarkError(error, 'BAD_INPUT')) return false;
    throw error;
  }
};

/**
 * Expires snapshots by age and count, bounds the metadata files, and deletes orphan files: those that no retained snapshot names, nor any
 * that was current within the grace period; that are older than it; that no staging object and no unfinished manifest of
 * the archive names; that were written before every Workflow began that still runs; and, in Bronze, whose offsets the table has. Whatever cannot be proven stays.
 */
export const tidyTable = async (deps: TidyDeps, table: string, onProgress?: (progress: { files: number }) => void): Promise<TidiedTable> => {
  const { catalog, store, limits, now = Date.now, signal } = deps;
  const tidied: TidiedTable = { expiredSnapshots: 0, expiredMetadataFiles: 0, orphanFiles: 0, orphanBytes: 0, heldBack: null };
  const nowMs = now();
  tidied.expiredSnapshots = await catalog.expireSnapshots(table, { supersededBeforeMs: nowMs - limits.snapshotAgeMs, keep: limits.snapshotsKept });
  // The order counts: who runs and what is staged is asked before the table, so that what is committed in between is seen in it.
  const writerMs = await deps.oldestWriterMs();
  const staged = await sweepStaging(deps);
  const pending = pendingFiles(await deps.archive.list(table));
  const settled = await settledOffsets(deps, table);
  const sinceMs = nowMs - limits.orphanGraceMs;
  const { locations: reachable, unknown } = await catalog.reachableFiles(table, sinceMs);
  if (unknown !== null) return { ...tidied, heldBack: unknown };
  const locations = new Set(reachable);
  const before = Math.min(sinceMs, writerMs ?? sinceMs);
  if (before < sinceMs) tidied.heldBack = `files written since ${new Date(before).toISOString()}, when the oldest Workflow began that still runs`;
  const dataRoot = store.keyOf(catalog.dataLocation(table, ''));
  const tableRoot = dataRoot.slice(0, -'data/'.length);
  let orphans: { key: string; size: number }[] = [];
  let isFenced = false;
  const remove = async (): Promise<void> => {
    if (!isFenced) {
      // Whoever is about to commit files of its own, and was asleep: from here on its commit conflicts. What it committed before is seen.
      await catalog.commit(table, { commitId: `clean-up/${randomUUID()}`, add: [], setProperties: { [cleanUpProperty]: randomUUID() }, ...(signal ? { signal } : {}) });
      const { locations: reached } = await catalog.reachableFiles(table, sinceMs);
      for (const location of reached) locations.add(location);
      isFenced = true;
      orphans = orphans.filter(({ key }) => !locations.has(store.location(key)));
    }
    await store.delete(orphans.map(({ key }) => key));
    tidied.orphanFiles += orphans.length;
    tidied.orphanBytes += orphans.reduce((sum, { size }) => sum + size, 0);
    onProgress?.({ files: tidied.orphanFiles });
    orphans = [];
  };
  for (const folder of ['data/', 'metadata/']) {
    for await (const { key, size, lastModifiedMs } of store.list(tableRoot + folder)) {
      signal?.throwIfAborted();
      const location = store.location(key);
      if (lastModifiedMs > before || locations.has(location) || staged.has(location) || pending.has(location)) continue;
      // Version files and the hint are the catalog's own: it bounds them by rules of their own.
      if (folder === 'metadata/' && !key.endsWith('.avro')) continue;
      if (folder === 'data/' && settled && mayBeReported(key.slice(dataRoot.length), settled)) continue;
      orphans.push({ key, size });
      if (orphans.length >= deletesAtOnce) await remove();
    }
  }
  if (orphans.length > 0) await remove();
  // Last: version files tell what was current within the grace period.
  tidied.expiredMetadataFiles = await catalog.expireMetadata(table, Number.MAX_SAFE_INTEGER);
  return tidied;
};
