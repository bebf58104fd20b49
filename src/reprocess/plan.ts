import { randomUUID } from 'node:crypto';
import type { ReprocessChunk, ReprocessPlan } from '../contracts/reprocess.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { Coverage, IntervalSet, parseTopicPartitionKey } from '../domain/offsets.ts';
import type { Interval } from '../domain/offsets.ts';
import { compareSingleValues } from '../lake/iceberg/single-value.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog, LiveFile, TableVersion } from '../lake/table.ts';
import { bronzeLineage, filesOfOffsets, lineageBoundsOf } from '../refine/lineage-files.ts';
import { offsetsOfFiles } from './select-offsets.ts';
import { putChunk, putPlan } from './staging.ts';

export interface PlanDeps {
  store: ObjectStore;
  catalog: Catalog;
  dataset: Dataset;
  signal?: AbortSignal;
  onProgress?: (progress: { files: number; filesTotal: number }) => void;
}

/** Rows of one Bronze file that are planned; their offsets are consecutive. */
interface Piece {
  key: string;
  start: bigint;
  end: bigint;
  file: LiveFile;
}

export interface PlannedChunks {
  /** The offsets that have a Bronze row. */
  offsets: Coverage;
  chunks: ReprocessChunk[];
  rows: number;
  bronzeFiles: number;
  bronzeBytes: number;
}

const compareKeys = (a: Piece, b: Piece): number => (a.key === b.key ? (a.start < b.start ? -1 : a.start > b.start ? 1 : 0) : a.key < b.key ? -1 : 1);

/**
 * Cuts offsets into chunks of at most `rowsMax` Bronze rows each, in the order of the log. What no live Bronze row has is left
 * out, so that nothing is replaced by nothing. Files whose offsets have no hole are counted by their bounds; of others the offsets are read.
 */
export const planChunks = async (deps: PlanDeps, bronze: TableVersion, offsets: Coverage, rowsMax: number): Promise<PlannedChunks> => {
  const files = await filesOfOffsets(bronze, offsets, bronzeLineage);
  const boundsOf = lineageBoundsOf(bronze.fields, bronzeLineage);
  const places = bronze.coverage.keys().map((key) => ({ key, ...parseTopicPartitionKey(key) }));
  const pieces: Piece[] = [];
  for (const [at, file] of files.entries()) {
    const { topicMin, topicMax, partitionMin, partitionMax, offsetMin, offsetMax } = boundsOf(file);
    const isDense = offsetMin !== undefined && offsetMax !== undefined && partitionMin !== undefined && partitionMin === partitionMax && offsetMax - offsetMin + 1n === BigInt(file.recordCount);
    // Bounds of a topic are cut short: they tell which it is where the table has only one that they fit.
    const named = places.filter(({ topic, partition }) => partition === partitionMin && topicMin !== undefined && topicMax !== undefined
      && compareSingleValues(topicMin, topic) <= 0 && compareSingleValues(topicMax, topic) >= 0);
    const held = isDense && named.length === 1
      ? Coverage.of([[named[0]!.key, IntervalSet.of({ start: offsetMin, end: offsetMax + 1n })]])
      : await offsetsOfFiles(deps, [file], bronzeLineage);
    for (const [key, set] of held.intersect(offsets).entries()) {
      for (const { start, end } of set.intervals) pieces.push({ key, start, end, file });
    }
    deps.onProgress?.({ files: at + 1, filesTotal: files.length });
  }
  pieces.sort(compareKeys);

  const chunks: ReprocessChunk[] = [];
  let current: { pieces: Map<string, Interval[]>; rows: number; files: Map<string, LiveFile> } = { pieces: new Map(), rows: 0, files: new Map() };
  const finish = (): void => {
    if (current.rows === 0) return;
    chunks.push({
      offsets: Coverage.of([...current.pieces].map(([key, intervals]) => [key, IntervalSet.of(...intervals)] as const)).toJson(),
      rows: current.rows,
      bronzeFiles: [...current.files.values()].map(({ filePath, recordCount, fileSizeBytes }) => ({ filePath, recordCount, fileSizeBytes })),
    });
    current = { pieces: new Map(), rows: 0, files: new Map() };
  };
  for (const { key, file, ...piece } of pieces) {
    for (let { start } = piece; start < piece.end;) {
      const room = BigInt(rowsMax - current.rows);
      const end = piece.end - start > room ? start + room : piece.end;
      const known = current.pieces.get(key) ?? [];
      current.pieces.set(key, known);
      known.push({ start, end });
      current.files.set(file.filePath, file);
      current.rows += Number(end - start);
      start = end;
      if (current.rows >= rowsMax) finish();
    }
  }
  finish();
  const used = new Map(pieces.map(({ file }) => [file.filePath, file]));
  const planned = Map.groupBy(pieces, ({ key }) => key);
  return {
    offsets: Coverage.of([...planned].map(([key, some]) => [key, IntervalSet.of(...some)] as const)),
    chunks,
    rows: chunks.reduce((sum, { rows }) => sum + rows, 0),
    bronzeFiles: used.size,
    bronzeBytes: [...used.values()].reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0),
  };
};

export const newPlanKey = (reprocessId: string): string => `staging/${reprocessId}/${randomUUID()}/plan.json`;

const putsAtOnce = 8;

export interface WritePlanRequest {
  reprocessId: string;
  /** From {@link newPlanKey}. */
  planKey: string;
  offsets: Coverage;
  dlq: ReprocessPlan['dlq'];
  resolutionsKey?: string;
  /** Most Bronze rows of one chunk. */
  chunkRowsMax: number;
}

/**
 * Pins Bronze under the name of the reprocess, cuts the offsets into chunks, and writes plan and chunks to the store. The
 * offsets must be covered by Silver, the DLQ and Gold.
 */
export const writePlan = async (deps: PlanDeps, { reprocessId, planKey, offsets, dlq, resolutionsKey, chunkRowsMax }: WritePlanRequest): Promise<{ plan: ReprocessPlan; planned: PlannedChunks }> => {
  const { store, catalog, dataset, signal } = deps;
  const bronze = await pinBronze(catalog, dataset.bronze.name, reprocessId);
  const planned = await planChunks(deps, bronze, offsets, chunkRowsMax).catch(async (error: unknown) => {
    // Without a plan nobody comes to take the pin away.
    await catalog.untag(dataset.bronze.name, reprocessId);
    throw error;
  });
  for (let from = 0; from < planned.chunks.length; from += putsAtOnce) {
    signal?.throwIfAborted();
    await Promise.all(planned.chunks.slice(from, from + putsAtOnce).map((chunk, i) => putChunk(store, planKey, from + i, chunk)));
  }
  const plan: ReprocessPlan = {
    reprocessId, source: dataset.source, offsets: planned.offsets.toJson(), dlq, ruleVersion: dataset.ruleVersion, resolutionsKey: resolutionsKey ?? null,
    bronzeSnapshotId: bronze.currentSnapshot ? String(bronze.currentSnapshot.snapshotId) : null,
    chunks: planned.chunks.length, chunkRows: chunkRowsMax, rows: planned.rows, bronzeFiles: planned.bronzeFiles, bronzeBytes: planned.bronzeBytes,
  };
  await putPlan(store, planKey, plan);
  return { plan, planned };
};

/** The current version of Bronze, its snapshot pinned; a pin that an earlier run of the same name left moves on. */
const pinBronze = async (catalog: Catalog, table: string, tag: string): Promise<TableVersion> => {
  const version = await catalog.load(table);
  if (!version.currentSnapshot) return version;
  const pinned = version.tags[tag];
  if (pinned !== undefined && pinned !== version.currentSnapshot.snapshotId) await catalog.untag(table, tag);
  await catalog.tag(table, tag, version.currentSnapshot.snapshotId);
  return version;
};
