import { randomUUID } from 'node:crypto';
import { dlqReplayTag, dlqReplayWorkflowId } from '../contracts/dlq-replay.ts';
import type { DlqReplayInput } from '../contracts/dlq-replay.ts';
import { dlqResolutionsTable } from '../datasets/engine-tables.ts';
import { datasetOf } from '../datasets/pipeline.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { Coverage, topicPartitionKey } from '../domain/offsets.ts';
import type { DataFile } from '../lake/data-file.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { encodeDataFile } from '../lake/parquet-writer.ts';
import type { PrimitiveType, TableDefinition } from '../lake/schema.ts';
import type { Catalog, CommitRequest, CommitResult, LiveFile, TableVersion } from '../lake/table.ts';
import { partitionPath } from '../refine/partition-rows.ts';
import { OffsetsClaimedError, dropClaim, takeClaim } from '../reprocess/claims.ts';
import { readRows } from './read-rows.ts';
import type { StoredPlan } from './replay-store.ts';
import { replayPlanKey, replayStore } from './replay-store.ts';
import { loadLastResolutions, stateOf } from './resolutions.ts';
import { DlqSelector } from './selection.ts';

// A replay is published as a roll-forward: resolutions, then Silver, then Gold. The resolutions come first because they are an
// input of refine: from there on every refining of these offsets gives the recovered rows, so that whatever is interrupted after
// them is finished by repeating it, or by a backfill. Each step asks the table itself what it has.

export interface PublishReplayDeps {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  signal?: AbortSignal;
}

const preparationsMax = 20;

/** Prepares and commits on condition that nobody changed the same table partitions meanwhile; else prepares again. */
const commitPrepared = async (catalog: Catalog, table: string, prepare: (base: TableVersion) => Promise<Omit<CommitRequest, 'bucketsUnchangedSince'> | undefined>): Promise<CommitResult | undefined> => {
  for (let preparations = 1; ; preparations += 1) {
    const base = await catalog.load(table);
    const request = await prepare(base);
    if (!request) return undefined;
    try {
      return await catalog.commit(table, { ...request, bucketsUnchangedSince: { base, partitions: request.add.map(({ partition }) => partition) } });
    } catch (error) {
      if (!isTidemarkError(error, 'COMMIT_CONFLICT') || preparations >= preparationsMax) throw error;
    }
  }
};

const loadStaged = async (store: ObjectStore, id: string): Promise<{ plan: StoredPlan; recovered: Coverage; silverFiles: DataFile[]; resolutionFiles: DataFile[] }> => {
  const stored = replayStore(store);
  const plan = await stored.plan(id);
  const staged = await stored.staged(id, plan);
  return {
    plan,
    recovered: staged.reduce((sum, { recovered }) => sum.union(Coverage.fromJson(recovered)), Coverage.empty),
    silverFiles: staged.flatMap(({ silverFiles }) => silverFiles),
    resolutionFiles: staged.flatMap(({ resolutionFiles }) => resolutionFiles),
  };
};

const inFiles = (files: readonly { recordCount: number }[]): number => files.reduce((sum, { recordCount }) => sum + recordCount, 0);
const attempts: ReadonlySet<string> = new Set(['recovered', 'refused', 'quarantined']);
const commitIdOf = (id: string, step: string): string => `${dlqReplayWorkflowId(id)}/${step}`;
const summaryOf = (id: string, source: string): Record<string, string> => ({ 'tidemark.dlq-replay': id, 'tidemark.source': source });

/**
 * The point of no return. Throws REPLAY_OVERTAKEN, and publishes nothing, if one of the records has been resolved since the
 * replay was planned.
 */
export const publishReplayResolutions = async ({ catalog, store, signal }: PublishReplayDeps, { id }: Pick<DlqReplayInput, 'id'>): Promise<{ rows: number }> => {
  const { plan: { input: { selection } }, resolutionFiles } = await loadStaged(store, id);
  const rows = inFiles(resolutionFiles);
  if (rows === 0) return { rows };
  const options = signal ? { signal } : {};
  const { states } = new DlqSelector(selection);
  await commitPrepared(catalog, dlqResolutionsTable.name, async (version) => {
    let mine = 0;
    const last = await loadLastResolutions({ catalog, store, ...options }, selection.source, { version, onRow: (_topic, _partition, _offset, row) => { if (row.replayId === id) mine += 1; } });
    if (mine > 0) return undefined;
    for await (const { batch: { rowCount, columns } } of readRows(store, resolutionFiles, ['topic', 'partition', 'offset', 'action', 'attempt'], signal)) {
      for (let i = 0; i < rowCount; i += 1) {
        const [topic, partition, offset] = [columns['topic']![i] as string, columns['partition']![i] as number, Number(columns['offset']![i] as bigint)];
        const known = last.get(topic, partition, offset);
        const before = (columns['attempt']![i] as number) - (attempts.has(columns['action']![i] as string) ? 1 : 0);
        if (states.has(stateOf(known)) && (known?.attempt ?? 0) === before) continue;
        throw new TidemarkError('REPLAY_OVERTAKEN', `replay ${id}: expected ${topicPartitionKey(topic, partition)} offset ${offset} as it was planned, ${before} attempts, found it ${stateOf(known)} with ${known?.attempt ?? 0} by replay ${known?.replayId ?? '(none)'}; nothing was published, plan again`);
      }
    }
    return { commitId: commitIdOf(id, 'resolutions'), add: resolutionFiles, summary: summaryOf(id, selection.source), ...options };
  });
  return { rows };
};

const lineage = ['kafka_topic', 'kafka_partition', 'kafka_offset'] as const;

/** Recovered offsets that Silver has by now, in files that were added since the plan: by this replay, or by a backfill that met its resolutions. */
const offsetsInSilver = async (store: ObjectStore, version: TableVersion, after: bigint, recovered: Coverage, signal?: AbortSignal): Promise<Map<string, Set<bigint>>> => {
  const field = version.fields.find(({ name }) => name === 'kafka_offset')!;
  const boundOf = (bounds: LiveFile['lowerBounds']): bigint | undefined =>
    (bounds[field.id] === undefined ? undefined : decodeSingleValue(field.type as PrimitiveType, Buffer.from(bounds[field.id]!, 'base64')) as bigint);
  const sets = recovered.entries();
  const least = sets.reduce((a, [, { intervals }]) => (intervals[0]!.start < a ? intervals[0]!.start : a), sets[0]![1].intervals[0]!.start);
  const end = sets.reduce((a, [, { intervals }]) => (intervals.at(-1)!.end > a ? intervals.at(-1)!.end : a), 0n);
  const later = (await version.scan()).filter(({ dataSequenceNumber, lowerBounds, upperBounds }) => {
    const [lower, upper] = [boundOf(lowerBounds), boundOf(upperBounds)];
    return dataSequenceNumber > after && (lower === undefined || lower < end) && (upper === undefined || upper >= least);
  });
  const found = new Map<string, Set<bigint>>();
  for await (const { batch: { rowCount, columns } } of readRows(store, later, lineage, signal)) {
    for (let i = 0; i < rowCount; i += 1) {
      const key = topicPartitionKey(columns['kafka_topic']![i] as string, columns['kafka_partition']![i] as number);
      const offset = columns['kafka_offset']![i] as bigint;
      if (!recovered.of(key).has(offset)) continue;
      const known = found.get(key) ?? new Set();
      found.set(key, known.add(offset));
    }
  }
  return found;
};

/** Staged Silver files without the rows that are there already; what is not touched stays the file that it is. */
const withoutRows = async ({ store, catalog, signal }: PublishReplayDeps, table: TableDefinition, files: readonly DataFile[], there: ReadonlyMap<string, ReadonlySet<bigint>>): Promise<DataFile[]> => {
  const left: DataFile[] = [];
  for await (const { file, batch } of readRows(store, files, table.fields.map(({ name }) => name), signal)) {
    const { rowCount, columns } = batch;
    const indices = Uint32Array.from({ length: rowCount }, (_, i) => i).filter((i) => {
      const key = topicPartitionKey(columns['kafka_topic']![i] as string, columns['kafka_partition']![i] as number);
      return there.get(key)?.has(columns['kafka_offset']![i] as bigint) !== true;
    });
    if (indices.length === rowCount) {
      left.push(file);
    } else if (indices.length > 0) {
      const { bytes, metrics } = encodeDataFile({ fields: table.fields, batch, rows: { indices } });
      const filePath = catalog.dataLocation(table.name, `${partitionPath(table, file.partition)}/dlq-replay-${randomUUID()}.parquet`);
      await store.put(store.keyOf(filePath), bytes, { contentType: 'application/vnd.apache.parquet', ...(signal ? { signal } : {}) });
      left.push({ filePath, partition: file.partition, ...metrics });
    }
  }
  return left;
};

/** Adds the recovered rows to Silver: each once, whoever added it. */
export const publishReplaySilver = async (deps: PublishReplayDeps, { id }: Pick<DlqReplayInput, 'id'>): Promise<{ rows: number }> => {
  const { catalog, store, pipeline, signal } = deps;
  const { plan: { input: { selection: { source } }, silverSequence }, recovered, silverFiles } = await loadStaged(store, id);
  if (recovered.isEmpty) return { rows: 0 };
  const { silver } = datasetOf(pipeline, source);
  await commitPrepared(catalog, silver.name, async (version) => {
    const there = await offsetsInSilver(store, version, BigInt(silverSequence), recovered, signal);
    const add = there.size === 0 ? silverFiles : await withoutRows(deps, silver, silverFiles, there);
    if (add.length === 0) return undefined;
    return { commitId: commitIdOf(id, 'silver'), add, coveragePresent: recovered, summary: summaryOf(id, source), ...(signal ? { signal } : {}) };
  });
  return { rows: inFiles(silverFiles) };
};

/** What merging Gold again needs; undefined: nothing was recovered. */
export const loadReplayMerge = async (store: ObjectStore, { id }: Pick<DlqReplayInput, 'id'>) => {
  const { plan: { input: { selection: { source } } }, recovered, silverFiles } = await loadStaged(store, id);
  return recovered.isEmpty ? undefined : {
    source, commitId: commitIdOf(id, 'gold'), coverage: recovered.toJson(), again: true as const,
    silverFiles: silverFiles.map(({ filePath, fileSizeBytes }) => ({ filePath, fileSizeBytes })), summary: summaryOf(id, source),
  };
};

/**
 * Takes the replay's offsets: while it has them, no backfill and no other replay replaces their rows or resolves them, and
 * retention leaves their Bronze alone. OFFSETS_CLAIMED, retryable, while another one has some of them.
 */
export const claimReplay = async (
  { catalog, store, pipeline, signal, isRunning }: PublishReplayDeps & { isRunning(workflowId: string): Promise<boolean> }, { id }: Pick<DlqReplayInput, 'id'>,
): Promise<void> => {
  const { input: { selection: { source } }, offsets } = await replayStore(store).plan(id);
  const claimed = Coverage.fromJson(offsets);
  if (claimed.isEmpty) return;
  const { name } = datasetOf(pipeline, source).silver;
  try {
    await takeClaim(catalog, name, claimNameOf(id), claimed, signal);
  } catch (error) {
    // A Workflow that was terminated, or is gone with Temporal, gives nothing back: what it had not published is nobody's.
    if (!(error instanceof OffsetsClaimedError) || error.claim.phase === 'published' || await isRunning(error.claim.reprocessId)) throw error;
    if (!await dropClaim(catalog, name, error.claim, { unlessPublished: true })) throw error;
    await takeClaim(catalog, name, claimNameOf(id), claimed, signal);
  }
};

const claimNameOf = (id: string) => ({ reprocessId: dlqReplayWorkflowId(id), planKey: replayPlanKey(id) });

/**
 * Gives the offsets and the pin back. Of a replay that published nothing all that it staged is deleted: its first commit comes
 * after the last moment at which it can be given up, so that no table was ever asked to name the files. Of one that is
 * published the plan and the outcomes stay, as the record of it.
 */
export const closeReplay = async ({ catalog, store, pipeline }: PublishReplayDeps, { id, source, isPublished }: { id: string; source: string; isPublished: boolean }): Promise<void> => {
  const stored = replayStore(store);
  const plan = isPublished ? undefined : await stored.tryPlan(id);
  if (plan) {
    for (let chunk = 0; chunk < plan.chunks; chunk += 1) {
      const staged = await stored.tryStaged(id, plan.nonce, chunk);
      if (staged) await store.delete([...staged.silverFiles, ...staged.resolutionFiles].map(({ filePath }) => store.keyOf(filePath)));
    }
    await stored.forget(id, plan);
  }
  const dataset = pipeline.datasets.find((candidate) => candidate.source === source);
  if (dataset) await dropClaim(catalog, dataset.silver.name, claimNameOf(id), { unlessPublished: false });
  await catalog.untag(pipeline.dlqTable, dlqReplayTag(id));
};
