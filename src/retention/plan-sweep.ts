import type { HeldRows, HoldReason, PlannedPartition, SweepBatch, SweepPlan } from '../contracts/retention.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { readRows } from '../dlq/read-rows.ts';
import type { Coverage } from '../domain/offsets.ts';
import { IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { Day } from '../domain/retention.ts';
import { archiveBefore, dayMs, dayOfMs, describePolicy, purgeBefore } from '../domain/retention.ts';
import type { CopyingObjectStore } from '../lake/object-store.ts';
import type { Catalog, LiveFile, TableVersion } from '../lake/table.ts';
import { namedRange } from '../audit/audit-run.ts';
import { partitionPath } from '../refine/partition-rows.ts';
import type { Archive, StoredManifest } from './archive.ts';
import type { DlqState, Holds } from './holds.ts';
import { holdOf, loadDlqState, loadHolds } from './holds.ts';
import type { RetainedTable } from './policies.ts';
import { boundsOf, declaredOffsets, lineageOf, mayHoldOffsets, offsetsOfRows, openDataFile } from './row-offsets.ts';

export interface SweepDeps {
  catalog: Catalog;
  store: CopyingObjectStore;
  archive: Archive;
  pipeline: Pipeline;
  now?: () => number;
  signal?: AbortSignal;
}

/** A batch is archived, verified and removed in one go: minutes, not hours, and a manifest of a bounded size. */
const batchFilesMax = 200;
const batchBytesMax = 2 * 1024 * 1024 * 1024;
const microsPerDay = BigInt(dayMs) * 1_000n;

/** `2026-11-20`. */
export const dayText = (day: Day): string => new Date(day * dayMs).toISOString().slice(0, 10);

/** Columns that a row's age is counted from. DLQ rows have none: their resolutions say it. */
export const ingestionColumn = (table: RetainedTable): string => (table.role === 'bronze' ? 'ingestion_timestamp' : 'bronze_ingestion_timestamp');

/** Which rows of a file are due, and the days of these. */
export interface DueRows {
  rows: number;
  firstDay: Day;
  lastDay: Day;
  /** Undefined: all of them. */
  isDue: ((row: number) => boolean) | undefined;
}

const dayOfMicros = (micros: bigint): Day => Number(micros / microsPerDay);

/** Of an ingestion column; null: no row is due. */
export const dueByIngestion = (values: ArrayLike<unknown>, rowCount: number, before: Day): DueRows | null => {
  const limit = BigInt(before) * microsPerDay;
  const due = new Uint8Array(rowCount);
  let rows = 0;
  let first: bigint | undefined;
  let last: bigint | undefined;
  for (let i = 0; i < rowCount; i += 1) {
    const at = values[i] as bigint;
    if (at >= limit) continue;
    due[i] = 1;
    rows += 1;
    if (first === undefined || at < first) first = at;
    if (last === undefined || at > last) last = at;
  }
  return rows === 0 ? null : { rows, firstDay: dayOfMicros(first!), lastDay: dayOfMicros(last!), isDue: rows === rowCount ? undefined : (row) => due[row] === 1 };
};

/** Rows of a DLQ file that were resolved before the day. */
export const dueByResolution = (columns: Readonly<Record<string, ArrayLike<unknown>>>, rowCount: number, before: Day, state: Pick<DlqState, 'closedAt'>): DueRows | null => {
  const [topics, partitions, offsets] = [columns['kafka_topic']!, columns['kafka_partition']!, columns['kafka_offset']!];
  const resolved = Array.from({ length: rowCount }, (_, i) => state.closedAt(topics[i] as string, partitions[i] as number, Number(offsets[i])));
  // An open row counts as resolved in the far future.
  const never = BigInt(Number.MAX_SAFE_INTEGER) * microsPerDay;
  return dueByIngestion(resolved.map((at) => at ?? never), rowCount, before);
};

interface DueFile { file: LiveFile; due: DueRows }

/** Files with due rows, oldest first. Bronze and Silver by their bounds, and by their rows only where the bounds do not decide. */
const dueFiles = async ({ store, signal, ...deps }: SweepDeps, table: RetainedTable, version: TableVersion, before: Day): Promise<DueFile[]> => {
  const found: DueFile[] = [];
  if (table.role === 'dlq') {
    const lineage = lineageOf('dlq');
    for (const source of table.sources) {
      const state = await loadDlqState({ store, ...deps, ...(signal ? { signal } : {}) }, source, false);
      const files = await version.scan({ partition: { bronze_source: source } });
      for await (const { file, batch } of readRows(store, files, [lineage.topic, lineage.partition, lineage.offset], signal)) {
        const due = dueByResolution(batch.columns, batch.rowCount, before, state);
        if (due) found.push({ file, due });
      }
    }
    return found;
  }
  const column = ingestionColumn(table);
  const limit = BigInt(before) * microsPerDay;
  const mixed: LiveFile[] = [];
  for (const file of await version.scan({ bounds: [{ column, max: limit - 1n }] })) {
    const bounds = boundsOf(file, version.fields, column);
    if (!bounds || (bounds.upper as bigint) >= limit) {
      // A Bronze file goes whole, with the bytes that the streaming worker wrote: once its youngest row is due.
      if (table.role !== 'bronze' || !bounds) mixed.push(file);
      continue;
    }
    found.push({ file, due: { rows: file.recordCount, firstDay: dayOfMicros(bounds.lower as bigint), lastDay: dayOfMicros(bounds.upper as bigint), isDue: undefined } });
  }
  for await (const { file, batch } of readRows(store, mixed, [column], signal)) {
    const due = dueByIngestion(batch.columns[column]!, batch.rowCount, before);
    if (due) found.push({ file, due });
  }
  return found;
};

/** Whether a file holds rows of offsets: its name tells, or its bounds rule it out, or its rows are read, once. */
const meetsOf = ({ store, signal }: Pick<SweepDeps, 'store' | 'signal'>, table: RetainedTable, version: TableVersion, file: LiveFile) => {
  const named = table.role === 'bronze' ? namedRange(file) : undefined;
  let read: Promise<Coverage> | undefined;
  return async (offsets: Coverage): Promise<boolean> => {
    if (named) return offsets.of(topicPartitionKey(named.topic, named.partition)).overlaps(IntervalSet.of({ start: named.start, end: named.end }));
    const lineage = lineageOf(table.role);
    if (!mayHoldOffsets(file, version.fields, lineage, offsets)) return false;
    read ??= openDataFile(store, store.keyOf(file.filePath), file, signal).then(async (parquet) => (table.role === 'bronze' ? declaredOffsets(parquet) : undefined) ?? offsetsOfRows(parquet, lineage));
    return (await read).overlaps(offsets);
  };
};

/** Files of these that somebody needs, by reason; and the rest. */
export const withoutHeld = async (deps: Pick<SweepDeps, 'store' | 'signal'>, table: RetainedTable, version: TableVersion, holds: Holds, files: readonly { file: LiveFile; rows: number }[]): Promise<{ free: Set<string>; held: HeldRows[] }> => {
  const free = new Set<string>();
  const held = new Map<HoldReason, HeldRows>();
  for (const { file, rows } of files) {
    const hold = await holdOf(holds, meetsOf(deps, table, version, file));
    if (!hold) {
      free.add(file.filePath);
      continue;
    }
    let sum = held.get(hold.reason);
    if (!sum) held.set(hold.reason, sum = { ...hold, files: 0, rows: 0, bytes: 0 });
    sum.files += 1;
    sum.rows += rows;
    sum.bytes += file.fileSizeBytes;
  }
  return { free, held: [...held.values()] };
};

/** Manifests whose rows are all old enough to be purged, and that nobody needs; and copies of rows that were restored. */
const duePurges = (manifests: readonly StoredManifest[], before: Day | null, holds: Pick<Holds, 'tags'>, nowMs: number): SweepPlan['purges'] =>
  (holds.tags.length > 0 ? [] : manifests)
    .filter(({ manifest: { state, lastDay, restoredUntilMs } }) => state === 'purging' || (state === 'restored' && restoredUntilMs !== null && restoredUntilMs <= nowMs)
      || (state === 'archived' && before !== null && lastDay < before))
    .map(({ manifest: { manifestId, lastDay, rows, bytes, files } }) => ({ manifestId, lastDay: dayText(lastDay), rows, bytes, files: files.length }));

/** What a sweep of the table would do now. Changes nothing, and reads data only of files that hold due rows beside others. */
export const planSweep = async (deps: SweepDeps, table: RetainedTable, sweepId: string): Promise<SweepPlan> => {
  const { catalog, archive, now = Date.now } = deps;
  const plannedAtMs = now();
  const today = dayOfMs(plannedAtMs);
  const { policy, name, definition } = table;
  const before = archiveBefore(policy, today);
  const purge = purgeBefore(policy, today);
  const plan: SweepPlan = {
    sweepId, table: name, plannedAtMs, policy: describePolicy(policy), archiveBefore: before === null ? null : dayText(before), purgeBefore: purge === null ? null : dayText(purge),
    partitions: [], held: [], batches: [], purges: [],
  };
  if (before === null) return plan;
  const version = await catalog.load(name);
  const manifests = await archive.list(name);
  const due = await dueFiles(deps, table, version, before);
  const holds = await loadHolds(deps, table, manifests, plannedAtMs);
  const { free, held } = await withoutHeld(deps, table, version, holds, due.map(({ file, due: { rows } }) => ({ file, rows })));
  plan.held = held;
  plan.purges = duePurges(manifests, purge, holds, plannedAtMs);
  const taken = due.filter(({ file }) => free.has(file.filePath)).sort((a, b) => a.due.lastDay - b.due.lastDay);
  const partitions = new Map<string, PlannedPartition>();
  for (const { file, due: { rows, lastDay, isDue } } of taken) {
    const path = partitionPath(definition, file.partition);
    let partition = partitions.get(path);
    if (!partition) partitions.set(path, partition = { partition: path, lastDay: dayText(lastDay), files: 0, rows: 0, bytes: 0, splitFiles: 0 });
    partition.files += 1;
    partition.rows += rows;
    partition.bytes += file.fileSizeBytes;
    if (isDue) partition.splitFiles += 1;
    if (dayText(lastDay) > partition.lastDay) partition.lastDay = dayText(lastDay);
  }
  // What an earlier sweep has copied it also takes out, with the copies that are there.
  const copied = new Set(manifests.flatMap(({ manifest: { state, files } }) => (state === 'copied' ? files.map(({ dataFile }) => dataFile.filePath) : [])));
  plan.batches = batchesOf(taken.filter(({ file }) => !copied.has(file.filePath)));
  plan.partitions = [...partitions.values()].sort((a, b) => (a.partition < b.partition ? -1 : 1));
  return plan;
};

/** Rows of one batch are of one day, so that they are purged on one day too. */
const batchesOf = (taken: readonly DueFile[]): SweepBatch[] => {
  const batches: SweepBatch[] = [];
  let bytes = 0;
  for (const { file, due: { lastDay } } of taken) {
    let batch = batches.at(-1);
    if (!batch || batch.lastDay !== lastDay || batch.filePaths.length >= batchFilesMax || bytes + file.fileSizeBytes > batchBytesMax) {
      batches.push(batch = { filePaths: [], lastDay });
      bytes = 0;
    }
    batch.filePaths.push(file.filePath);
    bytes += file.fileSizeBytes;
  }
  return batches;
};
