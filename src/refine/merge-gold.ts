import { randomUUID } from 'node:crypto';
import { goldSummary } from '../contracts/properties.ts';
import { goldIngestionField, type Dataset } from '../datasets/dataset.ts';
import { TidemarkError, invariant, isTidemarkError } from '../domain/errors.ts';
import { Coverage, type CoverageJson } from '../domain/offsets.ts';
import { spreadColumn, type ColumnValues, type ConstantColumn } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { bytesSource, copyColumnChunks, isCopyable, objectSource, openParquet, readColumns, readStoredColumns, type ParquetFile } from '../lake/parquet-reader.ts';
import { DataFileBuilder } from '../lake/parquet-writer.ts';
import type { Field, PartitionTuple } from '../lake/schema.ts';
import type { Catalog, LiveFile, TableVersion } from '../lake/table.ts';
import {
  Candidates, candidateBytes, compareLineage, estimateRows, lostNothing, lostToGold, PlannedOffsets, planBuckets, type Bucket, type MergeColumns, type TimeRange,
} from './gold-candidates.ts';
import type { FileReference, GoldKeyCache } from './gold-key-cache.ts';
import { keyWords } from './key-hash.ts';
import { partitionDimensions, partitionPath, type PartitionDimension } from './partition-rows.ts';

/** What the merge must know of a dataset. */
export type MergeDataset = Pick<Dataset, 'silver' | 'gold' | 'key' | 'eventTime' | 'goldColumns'>;

export interface MergeGoldDeps {
  store: ObjectStore;
  catalog: Catalog;
  dataset: MergeDataset;
  /** Of the thread: it outlives the merge. */
  cache: GoldKeyCache;
  /** Bytes of candidates held at once; default 64 MiB. Decoded row groups and the file being built come on top (about 40 MB). */
  budgetBytes?: number;
  /** Merges that may be prepared because others changed the same buckets; default 20. */
  attemptsMax?: number;
  signal?: AbortSignal;
  onProgress?: (progress: { bucket: string; candidates: number; attempts: number }) => void;
}

/** Plain JSON: it crosses to a worker thread. */
export interface MergeGoldInput {
  commitId: string;
  /** Offsets whose Silver rows are merged; what Gold covers already is passed over. */
  coverage: CoverageJson;
  /** Silver files, in the table or staged, that hold all Silver rows of these offsets. Other rows in them are passed over. */
  silverFiles: readonly FileReference[];
  /** gold_ingestion_timestamp, ms since the epoch. */
  nowMs: number;
  /** Goes to the snapshot's summary. */
  summary?: Record<string, string>;
}

export interface MergeGoldResult {
  status: 'committed' | 'alreadyCommitted';
  /** Decimal text; null when only properties changed, or of a repetition whose snapshot is not retained. */
  snapshotId: string | null;
  attempts: number;
  /** Rows that Gold has more: inserted less replaced. Silver rows = goldRows + duplicates. */
  goldRows: number;
  duplicates: number;
  /** Gold rows that gave way to a lesser lineage. */
  replacedRows: number;
  addedFiles: number;
  removedFiles: number;
  /** Of the table commit alone, its retries included; 0 for a repetition. */
  commitMs: number;
  /** False for a repetition whose snapshot is not retained: its counts are 0. */
  isCounted: boolean;
}

const lineageColumns = { topic: 'kafka_topic', partition: 'kafka_partition', offset: 'kafka_offset' } as const;
const budgetBytesDefault = 64 << 20;
const attemptsDefault = 20;
/** Silver files up to this size are fetched whole: they are copied almost whole. */
const wholeFileBytesMax = 16 << 20;
const openFilesBytesMax = 32 << 20;
const commitIdKey = 'tidemark.commit-id';

/** Open Silver files, the least recently used closed first. */
class OpenFiles {
  private readonly store: ObjectStore;
  private readonly signal: AbortSignal | undefined;
  private readonly files = new Map<string, { file: ParquetFile; bytes: number }>();
  private bytes = 0;

  constructor(store: ObjectStore, signal: AbortSignal | undefined) {
    this.store = store;
    this.signal = signal;
  }

  readonly open = async ({ filePath, fileSizeBytes }: FileReference): Promise<ParquetFile> => {
    const known = this.files.get(filePath);
    if (known) {
      this.files.delete(filePath);
      this.files.set(filePath, known);
      return known.file;
    }
    const options = this.signal ? { signal: this.signal } : {};
    const key = this.store.keyOf(filePath);
    const isWhole = fileSizeBytes <= wholeFileBytesMax;
    const file = await openParquet(isWhole ? bytesSource((await this.store.get(key, options)).body) : objectSource(this.store, key, fileSizeBytes, options));
    const bytes = isWhole ? fileSizeBytes : 1 << 17;
    this.files.set(filePath, { file, bytes });
    this.bytes += bytes;
    for (const [path, oldest] of this.files) {
      if (this.bytes <= openFilesBytesMax || path === filePath) break;
      this.files.delete(path);
      this.bytes -= oldest.bytes;
    }
    return file;
  };
}

/** Rows of a live Gold file that lose to candidates, by row group. */
interface Removal {
  file: LiveFile;
  rows: Map<number, Set<number>>;
}

/** One bucket, or a range of its event time: what is decided and written together. */
interface MergeUnit {
  bucket: Bucket;
  range: TimeRange;
  eventTimeMin: number;
  eventTimeMax: number;
  candidateCount: number;
  duplicatesInBatch: number;
  duplicatesInGold: number;
  /** Undefined once given up for memory: a change of the bucket then loads them anew. */
  candidates: Candidates | undefined;
  /** Gold files that the verdicts were reached against. */
  probed: Set<string>;
  removals: Map<string, Removal>;
  /** Undefined until written, and again when a verdict changes. */
  files: DataFile[] | undefined;
}

/**
 * Merges Silver rows into Gold, exactly once for each key: of equal keys the least (topic, partition, offset) stays, whatever the order of
 * arrival. Duplicates share their bucket and event time, so only Gold row groups that overlap the candidates' times are read, and of these
 * the key columns only. Memory: candidates are 49 bytes a row, and a bucket that has more than the budget allows is merged by ranges of its
 * event time, so nothing spills; Gold's keys pass through one row group at a time. Row groups that go to Gold whole are copied encoded.
 *
 * Rows in Gold whose lineage is greater than a candidate's with the same key are removed by rewriting their file. The commit holds if the
 * buckets did not change; else what changed is probed again, and files that are still right are committed as they are.
 * Throws COMMIT_CONFLICT past attemptsMax, BUDGET_EXCEEDED if one microsecond holds more rows than the budget.
 */
export const mergeGold = async (deps: MergeGoldDeps, input: MergeGoldInput): Promise<MergeGoldResult> => {
  const { catalog, dataset, attemptsMax = attemptsDefault } = deps;
  const requested = Coverage.fromJson(input.coverage);
  let merge: GoldMerge | undefined;
  for (let attempts = 1; ; attempts += 1) {
    deps.signal?.throwIfAborted();
    const base = await catalog.load(dataset.gold.name);
    const planned = requested.subtract(base.coverage);
    if (planned.isEmpty) return repetition(base, input.commitId, attempts);
    if (!merge?.planned.equals(planned)) merge = await GoldMerge.plan(deps, input, planned);
    try {
      return await merge.commit(base, attempts);
    } catch (error) {
      // Others committed to the same buckets, or merged a part of the offsets: both are seen in the next version.
      const isOvertaken = isTidemarkError(error, 'COMMIT_CONFLICT') || isTidemarkError(error, 'COVERAGE_CONFLICT');
      if (!isOvertaken || attempts >= attemptsMax) throw error;
    }
  }
};

const repetition = (version: TableVersion, commitId: string, attempts: number): MergeGoldResult => {
  const own = version.snapshots.find(({ summary }) => summary[commitIdKey] === commitId);
  return {
    status: 'alreadyCommitted', attempts, snapshotId: own ? String(own.snapshotId) : null, isCounted: own !== undefined,
    goldRows: Number(own?.summary[goldSummary.rows] ?? 0), duplicates: Number(own?.summary[goldSummary.duplicates] ?? 0),
    replacedRows: 0, addedFiles: 0, removedFiles: 0, commitMs: 0,
  };
};

class GoldMerge {
  readonly planned: Coverage;
  private readonly deps: MergeGoldDeps;
  private readonly input: MergeGoldInput;
  private readonly offsets: PlannedOffsets;
  private readonly columns: MergeColumns;
  private readonly dimensions: readonly PartitionDimension[];
  private readonly eventField: Field;
  private readonly silver: OpenFiles;
  private readonly buckets: readonly Bucket[];
  private readonly rowsMax: number;
  private readonly retainedBytesMax: number;
  private units: MergeUnit[] | undefined;
  private retainedBytes = 0;
  private readonly retained = new Set<MergeUnit>();
  /** Rewritten Gold files by path and removed rows, so that a second attempt does not write them again. */
  private readonly rewrites = new Map<string, DataFile | undefined>();

  private constructor(deps: MergeGoldDeps, input: MergeGoldInput, planned: Coverage, plan: { buckets: readonly Bucket[]; dimensions: readonly PartitionDimension[]; silver: OpenFiles }) {
    const { dataset, budgetBytes = budgetBytesDefault } = deps;
    this.deps = deps;
    this.input = input;
    this.planned = planned;
    this.offsets = new PlannedOffsets(planned);
    this.columns = { key: dataset.key, eventTime: dataset.eventTime, ...lineageColumns };
    this.dimensions = plan.dimensions;
    this.eventField = fieldOf(dataset.gold.fields, dataset.eventTime);
    this.silver = plan.silver;
    this.buckets = plan.buckets;
    // Growing arrays are copied: half of the budget is the copy.
    this.rowsMax = Math.max(1, Math.floor(budgetBytes / 2 / candidateBytes));
    this.retainedBytesMax = budgetBytes / 2;
  }

  static async plan(deps: MergeGoldDeps, input: MergeGoldInput, planned: Coverage): Promise<GoldMerge> {
    const { gold, eventTime } = deps.dataset;
    const silver = new OpenFiles(deps.store, deps.signal);
    const dimensions = partitionDimensions(gold.fields, gold.partitionBy);
    const buckets = await planBuckets(input.silverFiles, silver.open, gold, dimensions, eventTime);
    return new GoldMerge(deps, input, planned, { buckets, dimensions, silver });
  }

  async commit(base: TableVersion, attempts: number): Promise<MergeGoldResult> {
    const { catalog, dataset, signal } = this.deps;
    if (this.units) {
      for (const [index, unit] of this.units.entries()) this.units[index] = await this.settle(unit, base, attempts);
    } else {
      const units: MergeUnit[] = [];
      for (const bucket of this.buckets) {
        for await (const unit of this.load(bucket)) units.push(await this.settle(unit, base, attempts));
      }
      this.units = units;
    }
    const units = this.units;
    const { added, removed, replacedRows } = await this.rewrite(units);
    const add = [...units.flatMap(({ files }) => files ?? []), ...added];
    const candidates = units.reduce((sum, unit) => sum + unit.candidateCount, 0);
    const duplicates = units.reduce((sum, unit) => sum + unit.duplicatesInBatch + unit.duplicatesInGold, 0) + replacedRows;
    const inserted = units.reduce((sum, unit) => sum + (unit.files ?? []).reduce((rows, { recordCount }) => rows + recordCount, 0), 0);
    const goldRows = inserted - replacedRows;
    invariant(goldRows + duplicates === candidates, () => `${this.input.commitId}: expected ${candidates} Silver rows in Gold or among the duplicates, found ${goldRows} and ${duplicates}`);
    const touched = new Map(units.filter(({ candidateCount }) => candidateCount > 0).map(({ bucket }) => [bucket, bucket.partition]));
    const commitFrom = performance.now();
    const result = await catalog.commit(dataset.gold.name, {
      commitId: this.input.commitId, add, remove: removed, cover: this.planned, coverageAbsent: this.planned,
      bucketsUnchangedSince: { base, partitions: [...touched.values()] },
      summary: { ...this.input.summary, [goldSummary.rows]: String(goldRows), [goldSummary.duplicates]: String(duplicates) },
      ...(signal ? { signal } : {}),
    });
    if (result.status === 'alreadyCommitted') return repetition(result.version, this.input.commitId, attempts);
    return {
      status: 'committed', snapshotId: result.snapshotId === null ? null : String(result.snapshotId), attempts,
      goldRows, duplicates, replacedRows, addedFiles: add.length, removedFiles: removed.length, commitMs: performance.now() - commitFrom, isCounted: true,
    };
  }

  /** Loads a bucket's candidates: at once, or range by range where they are too many. */
  private async *load(bucket: Bucket): AsyncGenerator<MergeUnit> {
    const ranges: TimeRange[] = [{
      start: Math.min(...bucket.groups.map(({ eventTimeMin }) => eventTimeMin)),
      end: Math.max(...bucket.groups.map(({ eventTimeMax }) => eventTimeMax)) + 1,
    }];
    for (let range = ranges.pop(); range; range = ranges.pop()) {
      const isMoment = range.end - range.start === 1;
      const unit = isMoment || estimateRows(bucket.groups, range) <= this.rowsMax ? await this.loadRange(bucket, range) : undefined;
      if (unit) {
        if (unit.candidateCount > 0) yield unit;
        continue;
      }
      if (isMoment) {
        throw new TidemarkError('BUDGET_EXCEEDED', `merge of ${partitionPath(this.deps.dataset.gold, bucket.partition)}: expected at most ${this.rowsMax} rows with one event time, found more; raise the budget`);
      }
      const middle = range.start + Math.floor((range.end - range.start) / 2);
      ranges.push({ start: middle, end: range.end }, { start: range.start, end: middle });
    }
  }

  private async loadRange(bucket: Bucket, range: TimeRange): Promise<MergeUnit | undefined> {
    const candidates = new Candidates(this.offsets);
    const place = { partition: bucket.partition, gold: this.deps.dataset.gold, dimensions: this.dimensions };
    for (const group of bucket.groups) {
      if (group.eventTimeMax < range.start || group.eventTimeMin >= range.end) continue;
      this.deps.signal?.throwIfAborted();
      if (!await candidates.load(group, await this.silver.open(group.file), this.columns, place, range, this.rowsMax)) return undefined;
    }
    candidates.settleBatch();
    return {
      bucket, range, candidates, candidateCount: candidates.count, duplicatesInBatch: candidates.duplicatesInBatch, duplicatesInGold: 0,
      eventTimeMin: candidates.eventTimeMin, eventTimeMax: candidates.eventTimeMax, probed: new Set(), removals: new Map(), files: undefined,
    };
  }

  /** Brings a unit up to a version of Gold: probes the files that it has not seen, and writes its rows if a verdict changed. */
  private async settle(unit: MergeUnit, base: TableVersion, attempts: number): Promise<MergeUnit> {
    const { dataset, onProgress } = this.deps;
    onProgress?.({ bucket: partitionPath(dataset.gold, unit.bucket.partition), candidates: unit.candidateCount, attempts });
    const live = await base.scan({
      partition: unit.bucket.partition, bounds: [{ column: dataset.eventTime, min: BigInt(unit.eventTimeMin), max: BigInt(unit.eventTimeMax) }],
    });
    const unseen = live.filter(({ filePath }) => !unit.probed.has(filePath));
    const paths = new Set(live.map(({ filePath }) => filePath));
    const isShrunk = [...unit.probed].some((path) => !paths.has(path));
    if (unit.files && unseen.length === 0 && !isShrunk) return unit;
    let current = unit;
    if (!unit.candidates) {
      const reloaded = await this.loadRange(unit.bucket, unit.range);
      invariant(reloaded?.candidateCount === unit.candidateCount, 'candidates changed while they were merged');
      current = reloaded;
    }
    const { candidates } = current;
    invariant(candidates, 'a unit without candidates');
    let toProbe: readonly LiveFile[] = unseen;
    if (isShrunk || current !== unit) {
      candidates.forgetGold();
      current.probed.clear();
      current.removals.clear();
      current.duplicatesInGold = 0;
      current.files = undefined;
      toProbe = live;
    }
    for (const file of toProbe) {
      this.deps.signal?.throwIfAborted();
      if (await this.probe(current, candidates, file)) current.files = undefined;
      current.probed.add(file.filePath);
    }
    if (!current.files) {
      current.files = [];
      for (const file of await this.write(current.bucket.partition, candidates)) current.files.push(file);
    }
    if (!this.retained.has(current)) this.retain(current, candidates);
    return current;
  }

  /** Keeps candidates for another attempt as far as the budget goes. */
  private retain(unit: MergeUnit, candidates: Candidates): void {
    if (this.retainedBytes + candidates.byteLength > this.retainedBytesMax) {
      unit.candidates = undefined;
    } else {
      this.retainedBytes += candidates.byteLength;
      this.retained.add(unit);
    }
  }

  /** Compares the candidates with one Gold file. True if a candidate lost, or a row of the file did. */
  private async probe(unit: MergeUnit, candidates: Candidates, file: LiveFile): Promise<boolean> {
    const { cache } = this.deps;
    const { key } = this.columns;
    let changed = false;
    for (const [group, { eventTimeMin, eventTimeMax, rowCount }] of (await cache.groups(file, this.eventField)).entries()) {
      if (eventTimeMax < unit.eventTimeMin || eventTimeMin > unit.eventTimeMax) continue;
      const hashes = await cache.hashes(file, group, key);
      const matches: [row: number, candidate: number][] = [];
      for (let row = 0; row < rowCount; row += 1) {
        const candidate = candidates.find(hashes, row * keyWords);
        if (candidate >= 0) matches.push([row, candidate]);
      }
      if (matches.length === 0) continue;
      changed = true;
      const { topic, partition, offset } = this.columns;
      const { columns } = await readColumns(await this.openGold(file), { columns: [topic, partition, offset], rowGroups: [group] });
      for (const [row, candidate] of matches) {
        const there = { topic: columns[topic]![row] as string, partition: columns[partition]![row] as number, offset: columns[offset]![row] as bigint };
        const order = compareLineage(candidates.lineage(candidate), there);
        if (order === 0) {
          throw new TidemarkError('TABLE_CORRUPT', `${file.filePath}: holds ${there.topic}/${there.partition} offset ${there.offset}, which Gold says it does not cover`);
        }
        if (order > 0) {
          candidates.lost[candidate] = lostToGold;
          unit.duplicatesInGold += 1;
        } else {
          const removal = unit.removals.get(file.filePath) ?? { file, rows: new Map<number, Set<number>>() };
          const rows = removal.rows.get(group) ?? new Set<number>();
          unit.removals.set(file.filePath, removal);
          removal.rows.set(group, rows.add(row));
        }
      }
    }
    return changed;
  }

  private openGold({ filePath, fileSizeBytes }: FileReference): Promise<ParquetFile> {
    const { store, signal } = this.deps;
    return openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes, signal ? { signal } : {}));
  }

  /** Writes the candidates that lost nothing: one Gold file for each Silver file, so that its rows stay sorted by event time. */
  private async write(partition: PartitionTuple, candidates: Candidates): Promise<DataFile[]> {
    const files: DataFile[] = [];
    for (let from = 0, until = 0; from < candidates.runs.length; from = until) {
      const { file } = candidates.runs[from]!.group;
      while (candidates.runs[until]?.group.file === file) until += 1;
      const source = await this.silver.open(file);
      const gold = new GoldFileBuilder(this.deps.dataset, BigInt(this.input.nowMs) * 1_000n);
      for (const { group, start, end } of candidates.runs.slice(from, until)) {
        const kept = new Uint32Array(end - start);
        let count = 0;
        for (let at = start; at < end; at += 1) if (candidates.lost[at] === lostNothing) kept[count++] = at;
        if (count === 0) continue;
        this.deps.signal?.throwIfAborted();
        await gold.appendSilver(source, group.rowGroup, group.rowCount, kept.subarray(0, count), candidates);
      }
      const written = await this.put(gold, partition);
      if (written) files.push(written);
    }
    return files;
  }

  private async put(gold: GoldFileBuilder, partition: PartitionTuple): Promise<DataFile | undefined> {
    const { store, catalog, dataset, cache, signal } = this.deps;
    if (gold.builder.rowCount === 0) return undefined;
    const { bytes, metrics } = gold.builder.finish();
    const filePath = catalog.dataLocation(dataset.gold.name, `${partitionPath(dataset.gold, partition)}/${this.input.commitId.replaceAll(/[^\w.-]/g, '_')}-${randomUUID()}.parquet`);
    await store.put(store.keyOf(filePath), bytes, { contentType: 'application/vnd.apache.parquet', ...(signal ? { signal } : {}) });
    await cache.put(filePath, bytes, this.eventField, gold.hashes);
    return { filePath, partition, ...metrics };
  }

  /** Rewrites the Gold files that lost rows, without them. */
  private async rewrite(units: readonly MergeUnit[]): Promise<{ added: DataFile[]; removed: string[]; replacedRows: number }> {
    const removals = new Map<string, Removal & { partition: PartitionTuple }>();
    for (const unit of units) {
      for (const [path, { file, rows }] of unit.removals) {
        const known = removals.get(path) ?? { file, rows: new Map<number, Set<number>>(), partition: unit.bucket.partition };
        removals.set(path, known);
        for (const [group, more] of rows) known.rows.set(group, new Set([...(known.rows.get(group) ?? []), ...more]));
      }
    }
    const added: DataFile[] = [];
    let replacedRows = 0;
    for (const [path, { file, rows, partition }] of removals) {
      for (const removed of rows.values()) replacedRows += removed.size;
      const name = JSON.stringify([path, [...rows].map(([group, removed]) => [group, [...removed]])]);
      if (!this.rewrites.has(name)) {
        const source = await this.openGold(file);
        const gold = new GoldFileBuilder(this.deps.dataset, BigInt(this.input.nowMs) * 1_000n);
        for (const [group, rowCount] of source.rowGroupRows.entries()) {
          const removed = rows.get(group) ?? new Set<number>();
          const kept = Uint32Array.from({ length: rowCount }, (_, row) => row).filter((row) => !removed.has(row));
          if (kept.length > 0) await gold.appendGold(source, group, rowCount, kept, await this.deps.cache.hashes(file, group, this.columns.key));
        }
        this.rewrites.set(name, await this.put(gold, partition));
      }
      const rewritten = this.rewrites.get(name);
      if (rewritten) added.push(rewritten);
    }
    return { added, removed: [...removals.keys()], replacedRows };
  }
}

const fieldOf = (fields: readonly Field[], name: string): Field => {
  const field = fields.find((candidate) => candidate.name === name);
  invariant(field, () => `no column ${name}`);
  return field;
};

/** Builds a Gold file from row groups of Silver or Gold files, copying what goes over whole. */
class GoldFileBuilder {
  readonly builder: DataFileBuilder;
  /** Key hashes of each row group written. */
  readonly hashes: Uint32Array[] = [];
  private readonly dataset: MergeDataset;
  private readonly ingestion: ConstantColumn;

  constructor(dataset: MergeDataset, nowMicros: bigint) {
    this.dataset = dataset;
    this.ingestion = { constant: nowMicros };
    // A row group stays one row group.
    this.builder = new DataFileBuilder({ fields: dataset.gold.fields, rowGroupRows: 2 ** 31 });
  }

  /** Appends the candidates `kept`, which all came from the row group, in its order. */
  async appendSilver(source: ParquetFile, group: number, rowCount: number, kept: Uint32Array, candidates: Candidates): Promise<void> {
    const { gold, silver, goldColumns } = this.dataset;
    const shared = gold.fields.filter(({ name }) => silver.fields.some((field) => field.name === name) && source.columnNames.includes(name));
    const isWhole = kept.length === rowCount && shared.every((field) => isCopyable(source, field));
    const needed = isWhole ? [...new Set(goldColumns.flatMap(({ from }) => from))] : shared.map(({ name }) => name);
    const { columns } = await readStoredColumns(source, { columns: needed, rowGroups: [group] });
    const added: Record<string, ColumnValues | ConstantColumn> = { [goldIngestionField.name]: this.ingestion };
    for (const { field, from, derive } of goldColumns) {
      added[field.name] = derive(Object.fromEntries(from.map((name) => [name, spreadColumn(columns[name]!, rowCount)])), rowCount);
    }
    if (isWhole) {
      const copies = await copyColumnChunks(source, group, shared);
      this.builder.appendRowGroup(rowCount, ({ field }) => copies[shared.findIndex(({ name }) => name === field.name)] ?? added[field.name] ?? { constant: null });
    } else {
      this.builder.appendRows({ rowCount, columns: { ...columns, ...added } }, { indices: kept.map((at) => candidates.rows[at]!) });
    }
    this.hashes.push(pick(candidates.hashes, kept));
  }

  /** Appends rows of a Gold file as they are. */
  async appendGold(source: ParquetFile, group: number, rowCount: number, rows: Uint32Array, hashes: Uint32Array): Promise<void> {
    const fields = this.dataset.gold.fields.filter(({ name }) => source.columnNames.includes(name));
    if (rows.length === rowCount && fields.every((field) => isCopyable(source, field))) {
      const copies = await copyColumnChunks(source, group, fields);
      this.builder.appendRowGroup(rowCount, ({ field }) => copies[fields.indexOf(field)] ?? { constant: null });
    } else {
      const { columns } = await readStoredColumns(source, { columns: fields.map(({ name }) => name), rowGroups: [group] });
      this.builder.appendRows({ rowCount, columns }, { indices: rows });
    }
    this.hashes.push(pick(hashes, rows));
  }
}

const pick = (hashes: Uint32Array, rows: Uint32Array): Uint32Array => {
  const out = new Uint32Array(rows.length * keyWords);
  for (let i = 0; i < rows.length; i += 1) {
    for (let word = 0; word < keyWords; word += 1) out[i * keyWords + word] = hashes[rows[i]! * keyWords + word]!;
  }
  return out;
};
