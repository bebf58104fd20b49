import { randomUUID } from 'node:crypto';
import type { DlqReplayInput } from '../contracts/dlq-replay.ts';
import { dlqReplayTag, replayChunkRowsDefault, replayChunksMax } from '../contracts/dlq-replay.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { dlqResolutionsTable } from '../datasets/engine-tables.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { cleanseFunctionOf, datasetOf } from '../datasets/pipeline.ts';
import { TidemarkError } from '../domain/errors.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog, TableVersion } from '../lake/table.ts';
import type { RegistryClient } from '../schema-registry/registry-client.ts';
import type { SchemaStore } from '../schema-registry/schema-store.ts';
import { loadLastResolutions } from './resolutions.ts';
import type { ChunkFile, StoredPlan } from './replay-store.ts';
import { replayStore } from './replay-store.ts';
import { selectRows } from './select-rows.ts';
import { DlqSelector } from './selection.ts';

export interface PlanReplayDeps {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  schemas: Pick<SchemaStore, 'load' | 'keep'>;
  registry: Pick<RegistryClient, 'register'>;
  /** Put before the datasets' topics and subjects. */
  topicPrefix: string;
  signal?: AbortSignal;
  onProgress?: (progress: { rows: number }) => void;
}

/** What a mode needs is there: BAD_INPUT else. Gives the schema id that a cleanse function's records are encoded with. */
export const prepareMode = async ({ pipeline, schemas, registry, topicPrefix }: Pick<PlanReplayDeps, 'pipeline' | 'schemas' | 'registry' | 'topicPrefix'>, dataset: Dataset, { mode }: Pick<DlqReplayInput, 'mode'>): Promise<number | null> => {
  if (mode.mode === 'schema') {
    try {
      await schemas.load(mode.schemaId);
    } catch (error) {
      if (!(error instanceof TidemarkError) || error.code !== 'SCHEMA_NOT_FOUND') throw error;
      throw new TidemarkError('BAD_INPUT', `schema id ${mode.schemaId}: neither the lake nor the registry knows it`, { cause: error });
    }
  }
  if (mode.mode !== 'cleanse') return null;
  try {
    cleanseFunctionOf(pipeline, mode.cleanse, dataset.source);
  } catch (error) {
    throw new TidemarkError('BAD_INPUT', error instanceof Error ? error.message : String(error), { cause: error });
  }
  const id = await registry.register(`${topicPrefix}${dataset.subject}`, dataset.rawSchema);
  // Replacement bytes name this id for ever: the lake must know it by this schema.
  await schemas.keep(id, JSON.stringify(dataset.rawSchema));
  return id;
};

/** The source's dataset; BAD_INPUT for an unknown one. */
export const knownDataset = (pipeline: Pipeline, source: string): Dataset => {
  try {
    return datasetOf(pipeline, source);
  } catch (error) {
    throw new TidemarkError('BAD_INPUT', error instanceof Error ? error.message : String(error), { cause: error });
  }
};

export interface PlannedRows extends Pick<StoredPlan, 'rows' | 'notRefined' | 'quarantined'> {
  snapshotId: string | null;
}

/**
 * Selects DLQ rows on one version of the DLQ, in chunks. Rows whose micro-batch is not in Silver, the DLQ and Gold yet are left
 * for the next replay: their own micro-batch is still publishing.
 */
export const selectChunks = async (
  { catalog, store, pipeline, signal, onProgress }: Pick<PlanReplayDeps, 'catalog' | 'store' | 'pipeline' | 'signal' | 'onProgress'>,
  { selection, chunkRows = replayChunkRowsDefault }: Pick<DlqReplayInput, 'selection' | 'chunkRows'>,
  version: TableVersion,
  takeChunk: (files: ChunkFile[], rows: number) => Promise<void>,
  takeOffset: (topicPartition: string, offset: number) => void = () => {},
): Promise<PlannedRows> => {
  const dataset = knownDataset(pipeline, selection.source);
  const selector = new DlqSelector(selection);
  const [silver, gold, resolutions] = await Promise.all([catalog.load(dataset.silver.name), catalog.load(dataset.gold.name), catalog.load(dlqResolutionsTable.name)]);
  const published = silver.coverage.intersect(version.coverage).intersect(gold.coverage);
  const options = signal ? { signal } : {};
  const last = await loadLastResolutions({ catalog, store, ...options }, selection.source, { version: resolutions });
  let rows = 0;
  let notRefined = 0;
  let quarantined = 0;
  let files: ChunkFile[] = [];
  let inChunk = 0;
  const close = async (): Promise<void> => {
    await takeChunk(files, inChunk);
    files = [];
    inChunk = 0;
  };
  const selected = selectRows({
    store, version, selector, last, ...options,
    onOtherState: (state) => { if (state === 'quarantined') quarantined += 1; },
  });
  for await (const { file: { filePath, fileSizeBytes }, rows: found } of selected) {
    let into: ChunkFile | undefined;
    for (const { row, topic, partition, offset, last: known } of found) {
      const key = topicPartitionKey(topic, partition);
      if (!published.of(key).has(BigInt(offset))) {
        notRefined += 1;
        continue;
      }
      takeOffset(key, offset);
      if (!into) files.push(into = { filePath, fileSizeBytes, rows: [], attempts: [] });
      into.rows.push(row);
      into.attempts.push(known?.attempt ?? 0);
      rows += 1;
      inChunk += 1;
      if (inChunk === chunkRows) {
        await close();
        into = undefined;
      }
    }
    onProgress?.({ rows });
  }
  if (inChunk > 0) await close();
  return { snapshotId: version.currentSnapshot ? String(version.currentSnapshot.snapshotId) : null, rows, notRefined, quarantined };
};

const claimedIntervalsMax = 500;

/** The offsets; of many the hull, which is enough for a claim. */
const claimedOffsets = (offsets: ReadonlyMap<string, readonly number[]>): CoverageJson => {
  const exact = Coverage.of([...offsets].map(([key, list]) => [key, IntervalSet.of(...list.map((offset) => ({ start: BigInt(offset), end: BigInt(offset) + 1n })))] as const));
  const intervals = exact.entries().reduce((sum, [, set]) => sum + set.intervals.length, 0);
  if (intervals <= claimedIntervalsMax) return exact.toJson();
  return Coverage.of(exact.entries().map(([key, set]) => [key, IntervalSet.of({ start: set.intervals[0]!.start, end: set.intervals.at(-1)!.end })] as const)).toJson();
};

/** Plans a replay once: pins the DLQ's snapshot, selects, and stores the chunks. A repetition finds the plan that is there. */
export const planReplay = async (deps: PlanReplayDeps, input: DlqReplayInput): Promise<StoredPlan> => {
  const { catalog, store, pipeline } = deps;
  const stored = replayStore(store);
  const known = await stored.tryPlan(input.id);
  if (known) return known;
  const dataset = knownDataset(pipeline, input.selection.source);
  const encodeSchemaId = await prepareMode(deps, dataset, input);
  const version = await catalog.load(pipeline.dlqTable);
  const snapshot = version.currentSnapshot;
  const tag = dlqReplayTag(input.id);
  // An attempt that ended before its plan was put may have pinned an older snapshot: nothing was planned on it.
  const pinned = version.tags[tag];
  if (pinned !== undefined && pinned !== snapshot?.snapshotId) await catalog.untag(pipeline.dlqTable, tag);
  if (snapshot) await catalog.tag(pipeline.dlqTable, tag, snapshot.snapshotId);
  const silver = await catalog.load(dataset.silver.name);
  const nonce = randomUUID();
  let chunks = 0;
  const claimed = new Map<string, number[]>();
  const planned = await selectChunks(deps, input, version, async (files) => {
    if (chunks === replayChunksMax) throw new TidemarkError('BAD_INPUT', `replay ${input.id}: expected at most ${replayChunksMax} chunks of ${input.chunkRows ?? replayChunkRowsDefault} rows, found more: select less, or larger chunks`);
    await stored.putChunk(input.id, nonce, chunks, { files });
    chunks += 1;
  }, (key, offset) => {
    const known = claimed.get(key);
    if (known) known.push(offset);
    else claimed.set(key, [offset]);
  });
  return stored.putPlan(input.id, {
    ...planned, chunks, nonce, offsets: claimedOffsets(claimed), input, encodeSchemaId, silverSequence: String(silver.snapshots.reduce((most, { sequenceNumber }) => (sequenceNumber > most ? sequenceNumber : most), 0n)),
  });
};
