import { createHash, randomUUID } from 'node:crypto';
import { goldSummary } from '../contracts/properties.ts';
import { goldIngestionField, type Dataset } from '../datasets/dataset.ts';
import { eachAtOnce } from '../domain/at-once.ts';
import { TidemarkError, invariant, isTidemarkError } from '../domain/errors.ts';
import { Coverage, type CoverageJson } from '../domain/offsets.ts';
import { spreadColumn, type ColumnValues, type ConstantColumn } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import { bytesSource, copyColumnChunks, isCopyable, objectSource, openParquet, readColumns, readStoredColumns, type ParquetFile } from '../lake/parquet-reader.ts';
import { DataFileBuilder } from '../lake/parquet-writer.ts';
import { releaseBuffer, releaseColumns } from '../lake/release.ts';
import type { Field, PartitionTuple, PrimitiveType } from '../lake/schema.ts';
import { cleanUpOf } from '../lake/table.ts';
import type { Catalog, CommitRequest, LiveFile, TableVersion } from '../lake/table.ts';
import {
  bucketName, Candidates, candidateBytes, compareLineage, estimateRows, EventTimes, KeySet, lostNothing, lostToGold, PlannedOffsets, planBuckets,
  type Bucket, type MergeColumns, type TimedRows, type TimeRange,
} from './gold-candidates.ts';
import { GoldHold, throwIfHeld } from './gold-holds.ts';
import type { FileReference, GoldKeyCache } from './gold-key-cache.ts';
import { keyWords } from './key-hash.ts';
import { filesOfOffsets, mayGroupHoldOffsets, rowLineage } from './lineage-files.ts';
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
  now?: () => number;
}

/** Plain JSON: it crosses to a worker thread. */
export interface MergeGoldInput {
  commitId: string;
  /** Offsets whose Silver rows are merged; what Gold covers already is passed over, unless `again`. */
  coverage: CoverageJson;
  /**
   * Gold covers these offsets: Silver got rows of them later, from a DLQ replay. A row that Gold has already stays, so that a
   * repetition changes nothing. COVERAGE_CONFLICT if Gold does not cover one of them.
   */
  again?: true;
  /** Silver files, in the table or staged, that hold all Silver rows of these offsets. Other rows in them are passed over. */
  silverFiles: readonly FileReference[];
  /** gold_ingestion_timestamp, ms since the epoch. */
  nowMs: number;
  /** Goes to the snapshot's summary. */
  summary?: Record<string, string>;
}

export interface ReplaceGoldInput {
  commitId: string;
  /** Offsets whose rows change: Gold covers them, and Silver holds their rows as they are now. */
  coverage: CoverageJson;
  /** Every Silver table that fills this Gold table. */
  silverTables: readonly string[];
  /** Whom a hold on buckets names. */
  holder: string;
  nowMs: number;
  summary?: Record<string, string>;
}

export interface MergeGoldResult {
  status: 'committed' | 'alreadyCommitted';
  /** Decimal text; null when only properties changed, or of a repetition whose snapshot is not retained. */
  snapshotId: string | null;
  attempts: number;
  /** Rows that Gold has more: inserted less replaced. Silver rows = goldRows + duplicates + alreadyThereRows. */
  goldRows: number;
  /** Silver rows that are in Gold themselves; 0 but for `again`. */
  alreadyThereRows: number;
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

const budgetBytesDefault = 64 << 20;
/** Buckets that a replacement works on at once: one waits for the store while the other is decided. They share the budget. */
const replacedAtOnce = 2;
const attemptsDefault = 20;
/** Silver files up to this size are fetched whole: they are copied almost whole. */
const wholeFileBytesMax = 16 << 20;
const openFilesBytesMax = 32 << 20;
/** A Gold file by the Silver file whose rows it takes, at most. */
const goldSizeRatio = 1.1;
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

/** Rows of a live Gold file that go, by row group: 1 for each that does. */
interface Removal {
  file: LiveFile;
  rows: Map<number, Uint8Array>;
}

/** A bucket, and what else is known to lie in it. */
interface PlannedBucket extends Bucket {
  /** Gold rows that give way. */
  there: TimedRows[];
}

/** What a replacement has beside a merge. */
interface Replacement {
  silverTables: readonly string[];
  hold: GoldHold;
}

/** One bucket, or a range of its event time: what is decided and written together. */
interface MergeUnit {
  bucket: PlannedBucket;
  range: TimeRange;
  eventTimeMin: number;
  eventTimeMax: number;
  /** What the candidates fill of these times. */
  times: EventTimes;
  candidateCount: number;
  duplicatesInBatch: number;
  duplicatesInGold: number;
  /** Candidates that Gold has, by their lineage. */
  alreadyInGold: number;
  /** Undefined once given up for memory: a change of the bucket then loads them anew. */
  candidates: Candidates | undefined;
  /** Gold files that the verdicts were reached against. */
  probed: Set<string>;
  removals: Map<string, Removal>;
  /** Of a replacement: keys that Gold loses, and no candidate takes up with a lesser or equal lineage. */
  orphanedKeys: KeySet;
  /** Other Silver rows of these keys: duplicates so far, one of each may now be the least. */
  revived: Candidates | undefined;
  /** The Gold version that they were looked for under: Silver rows that were merged later are not among them. */
  revivedAt: TableVersion | undefined;
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
  let cleanUp: string | undefined;
  for (let attempts = 1; ; attempts += 1) {
    deps.signal?.throwIfAborted();
    const base = await catalog.load(dataset.gold.name);
    // What was written before a clean-up of orphan files may be gone.
    if (cleanUp !== cleanUpOf(base)) merge = undefined;
    cleanUp = cleanUpOf(base);
    const planned = input.again ? requested : requested.subtract(base.coverage);
    if (planned.isEmpty) return repetition(base, input.commitId, attempts);
    if (!merge?.planned.equals(planned)) merge = await GoldMerge.plan(deps, input, planned);
    try {
      throwIfHeld(base, merge.partitions, (deps.now ?? Date.now)());
      return await merge.commit(base, attempts);
    } catch (error) {
      // Others committed to the same buckets, or merged a part of the offsets: both are seen in the next version.
      const isOvertaken = isTidemarkError(error, 'COMMIT_CONFLICT') || isTidemarkError(error, 'COVERAGE_CONFLICT');
      if (!isOvertaken || attempts >= attemptsMax) throw error;
    }
  }
};

/** Attempts to replace rows without keeping merges out: in closed hours one is enough. */
const freeAttemptsMax = 2;

/**
 * Makes Gold agree with Silver again after Silver's rows of the offsets were replaced: Gold's rows of the offsets go, Silver's take
 * their place where they are the least of their key, and where a key would be lost, the least of its other Silver rows comes back.
 * Rows of other offsets are never read from Silver unless their key is orphaned, so Gold keeps what retention took from Silver.
 *
 * One commit, prepared as {@link mergeGold}'s is, and by the same units. Overtaken twice, or when rows come back (a row that
 * the live stream merges meanwhile could be the one), it holds its buckets against merges. Throws COVERAGE_CONFLICT if Gold
 * does not cover the offsets, else as mergeGold.
 */
export const replaceGold = async (deps: MergeGoldDeps, input: ReplaceGoldInput): Promise<MergeGoldResult> => {
  const { catalog, dataset, attemptsMax = attemptsDefault, now = Date.now, signal } = deps;
  const requested = Coverage.fromJson(input.coverage);
  const hold = new GoldHold(catalog, dataset.gold.name, input.holder, now);
  let merge: GoldMerge | undefined;
  let cleanUp: string | undefined;
  try {
    for (let attempts = 1; ; attempts += 1) {
      signal?.throwIfAborted();
      const base = await catalog.load(dataset.gold.name);
      if (cleanUp !== cleanUpOf(base)) merge = undefined;
      cleanUp = cleanUpOf(base);
      if (base.snapshots.some(({ summary }) => summary[commitIdKey] === input.commitId)) return repetition(base, input.commitId, attempts);
      merge ??= await GoldMerge.planReplacement(deps, input, requested, base, hold);
      try {
        const result = await merge.commit(base, attempts);
        hold.released();
        return result;
      } catch (error) {
        if (!isTidemarkError(error, 'COMMIT_CONFLICT') || attempts >= attemptsMax) throw error;
        if (merge.wantsHold || attempts >= freeAttemptsMax) await hold.take(merge.partitions, signal);
      }
    }
  } finally {
    await hold.giveBack();
  }
};

const repetition = (version: TableVersion, commitId: string, attempts: number): MergeGoldResult => {
  const own = version.snapshots.find(({ summary }) => summary[commitIdKey] === commitId);
  return {
    status: 'alreadyCommitted', attempts, snapshotId: own ? String(own.snapshotId) : null, isCounted: own !== undefined,
    goldRows: Number(own?.summary[goldSummary.rows] ?? 0), duplicates: Number(own?.summary[goldSummary.duplicates] ?? 0),
    alreadyThereRows: 0, replacedRows: 0, addedFiles: 0, removedFiles: 0, commitMs: 0,
  };
};

class GoldMerge {
  readonly planned: Coverage;
  private readonly deps: MergeGoldDeps;
  private readonly input: Pick<MergeGoldInput, 'commitId' | 'nowMs' | 'summary' | 'again'>;
  private readonly offsets: PlannedOffsets;
  private readonly columns: MergeColumns;
  private readonly dimensions: readonly PartitionDimension[];
  private readonly eventField: Field;
  private readonly silver: OpenFiles;
  private readonly buckets: readonly PlannedBucket[];
  private readonly replacement: Replacement | undefined;
  private readonly isPlanned: (file: ParquetFile, rowGroup: number) => boolean;
  private readonly bucketsAtOnce: number;
  private readonly rowsMax: number;
  private readonly retainedBytesMax: number;
  private units: MergeUnit[] | undefined;
  private retainedBytes = 0;
  private readonly retained = new Set<MergeUnit>();
  /** Rewritten Gold files by path and removed rows, so that a second attempt does not write them again. */
  private readonly rewrites = new Map<string, DataFile | undefined>();

  private constructor(
    deps: MergeGoldDeps, input: Pick<MergeGoldInput, 'commitId' | 'nowMs' | 'summary' | 'again'>, planned: Coverage,
    plan: { buckets: readonly PlannedBucket[]; dimensions: readonly PartitionDimension[]; silver: OpenFiles; replacement?: Replacement },
  ) {
    const { dataset, budgetBytes = budgetBytesDefault } = deps;
    this.deps = deps;
    this.input = input;
    this.planned = planned;
    this.offsets = new PlannedOffsets(planned);
    this.columns = { key: dataset.key, eventTime: dataset.eventTime, ...rowLineage };
    this.dimensions = plan.dimensions;
    this.eventField = fieldOf(dataset.gold.fields, dataset.eventTime);
    this.silver = plan.silver;
    this.buckets = plan.buckets;
    this.replacement = plan.replacement;
    this.isPlanned = mayGroupHoldOffsets(dataset.gold.fields, rowLineage, planned);
    this.bucketsAtOnce = plan.replacement ? Math.max(1, Math.min(replacedAtOnce, plan.buckets.length)) : 1;
    // Growing arrays are copied: half of the budget is the copy.
    this.rowsMax = Math.max(1, Math.floor(budgetBytes / 2 / candidateBytes / this.bucketsAtOnce));
    this.retainedBytesMax = budgetBytes / 2;
  }

  static async plan(deps: MergeGoldDeps, input: MergeGoldInput, planned: Coverage): Promise<GoldMerge> {
    const { gold, eventTime } = deps.dataset;
    const silver = new OpenFiles(deps.store, deps.signal);
    const dimensions = partitionDimensions(gold.fields, gold.partitionBy);
    const buckets = await planBuckets(input.silverFiles, silver.open, gold, dimensions, eventTime);
    return new GoldMerge(deps, input, planned, { buckets: buckets.map((bucket) => ({ ...bucket, there: [] })), dimensions, silver });
  }

  static async planReplacement(deps: MergeGoldDeps, input: ReplaceGoldInput, planned: Coverage, base: TableVersion, hold: GoldHold): Promise<GoldMerge> {
    const { catalog, dataset: { silver, gold, eventTime } } = deps;
    const open = new OpenFiles(deps.store, deps.signal);
    const dimensions = partitionDimensions(gold.fields, gold.partitionBy);
    const silverFiles = await filesOfOffsets(await catalog.load(silver.name), planned, rowLineage);
    const buckets = new Map((await planBuckets(silverFiles, open.open, gold, dimensions, eventTime, mayGroupHoldOffsets(silver.fields, rowLineage, planned)))
      .map((bucket): [string, PlannedBucket] => [bucketName(bucket.partition), { ...bucket, there: [] }]));
    const timesOf = timeBoundsOf(fieldOf(gold.fields, eventTime));
    for (const file of await filesOfOffsets(base, planned, rowLineage)) {
      const name = bucketName(file.partition);
      const bucket = buckets.get(name) ?? { partition: file.partition, groups: [], there: [] };
      buckets.set(name, bucket);
      bucket.there.push({ rowsInBucket: file.recordCount, ...timesOf(file) });
    }
    const replacement = { silverTables: input.silverTables, hold };
    return new GoldMerge(deps, input, planned, { buckets: [...buckets.values()], dimensions, silver: open, replacement });
  }

  get partitions(): PartitionTuple[] {
    return this.buckets.map(({ partition }) => partition);
  }

  /** Rows came back that a merge since then could have come before. */
  wantsHold = false;

  async commit(base: TableVersion, attempts: number): Promise<MergeGoldResult> {
    const { catalog, dataset, signal } = this.deps;
    if (this.units) {
      for (const [index, unit] of this.units.entries()) this.units[index] = await this.settle(unit, base, attempts);
    } else {
      const units = this.buckets.map((): MergeUnit[] => []);
      await eachAtOnce(this.buckets, this.bucketsAtOnce, async (bucket, index) => {
        for await (const unit of this.load(bucket)) units[index]!.push(await this.settle(unit, base, attempts));
      });
      this.units = units.flat();
    }
    const units = this.units;
    const unsure = this.unsureOf(base);
    if (unsure) {
      this.wantsHold = true;
      throw new TidemarkError('COMMIT_CONFLICT', unsure);
    }
    const { added, removed, replacedRows } = await this.rewrite(units);
    const add = [...units.flatMap(({ files }) => files ?? []), ...added];
    const candidates = units.reduce((sum, unit) => sum + unit.candidateCount, 0);
    const losers = units.reduce((sum, unit) => sum + unit.duplicatesInBatch + unit.duplicatesInGold, 0);
    const inserted = units.reduce((sum, unit) => sum + (unit.files ?? []).reduce((rows, { recordCount }) => rows + recordCount, 0), 0);
    const goldRows = inserted - replacedRows;
    const duplicates = losers + replacedRows;
    const revived = units.reduce((sum, unit) => sum + (unit.revived?.count ?? 0), 0);
    const alreadyThereRows = units.reduce((sum, { alreadyInGold }) => sum + alreadyInGold, 0);
    invariant(inserted + losers + alreadyThereRows === candidates + revived,
      () => `${this.input.commitId}: expected ${candidates + revived} Silver rows in Gold or among the duplicates, found ${inserted}, ${alreadyThereRows} before, and ${losers}`);
    const touched = new Map(units.filter(({ candidateCount }) => candidateCount > 0 || this.replacement).map(({ bucket }) => [bucket, bucket.partition]));
    const counts = { goldRows, duplicates, alreadyThereRows, replacedRows, addedFiles: add.length, removedFiles: removed.length, isCounted: true };
    if (this.input.again && add.length === 0 && removed.length === 0) return { status: 'alreadyCommitted', snapshotId: null, attempts, ...counts, commitMs: 0 };
    const commitFrom = performance.now();
    const result = await catalog.commit(dataset.gold.name, {
      commitId: this.input.commitId, add, remove: removed, ...this.dependsOn([...touched.values()]),
      bucketsUnchangedSince: { base, partitions: [...touched.values()] },
      summary: { ...this.input.summary, [goldSummary.rows]: String(goldRows), [goldSummary.duplicates]: String(duplicates) },
      ...(signal ? { signal } : {}),
    });
    if (result.status === 'alreadyCommitted') return repetition(result.version, this.input.commitId, attempts);
    return {
      status: 'committed', snapshotId: result.snapshotId === null ? null : String(result.snapshotId), attempts, ...counts, commitMs: performance.now() - commitFrom,
    };
  }

  /** What the commit asks of the version that it builds on, and changes beside the files. */
  private dependsOn(partitions: readonly PartitionTuple[]): Partial<CommitRequest> {
    const now = this.deps.now ?? Date.now;
    if (!this.replacement) {
      return {
        ...(this.input.again ? { coveragePresent: this.planned } : { cover: this.planned, coverageAbsent: this.planned }),
        check: (version) => { throwIfHeld(version, partitions, now()); },
      };
    }
    const { hold } = this.replacement;
    return {
      coveragePresent: this.planned, setProperties: hold.release,
      check: (version) => {
        const unsure = this.unsureOf(version);
        if (!unsure) return;
        this.wantsHold = true;
        throw new TidemarkError('COMMIT_CONFLICT', unsure);
      },
    };
  }

  /** Why a version of Gold may have been given a row that the revived ones were not compared with; undefined: it was not. */
  private unsureOf(version: TableVersion): string | undefined {
    for (const { revivedAt, bucket } of this.units ?? []) {
      if (!revivedAt || revivedAt.coverage.equals(version.coverage)) continue;
      if (this.replacement!.hold.covers(revivedAt) && this.replacement!.hold.isHeldIn(version)) continue;
      return `${this.input.commitId}: expected no merge since version ${revivedAt.version} of ${version.name}, where ${partitionPath(this.deps.dataset.gold, bucket.partition)} gets rows back, found some at version ${version.version}`;
    }
    return undefined;
  }

  /** Loads a bucket's candidates: at once, or range by range where they are too many. */
  private async *load(bucket: PlannedBucket): AsyncGenerator<MergeUnit> {
    const rows: readonly TimedRows[] = [...bucket.groups, ...bucket.there];
    const ranges: TimeRange[] = [{
      start: rows.reduce((least, { eventTimeMin }) => Math.min(least, eventTimeMin), Infinity),
      end: rows.reduce((most, { eventTimeMax }) => Math.max(most, eventTimeMax), -Infinity) + 1,
    }];
    for (let range = ranges.pop(); range; range = ranges.pop()) {
      const isMoment = range.end - range.start === 1;
      const unit = isMoment || estimateRows(rows, range) <= this.rowsMax ? await this.loadRange(bucket, range) : undefined;
      if (unit) {
        if (unit.candidateCount > 0 || this.replacement) yield unit;
        continue;
      }
      if (isMoment) {
        throw new TidemarkError('BUDGET_EXCEEDED', `merge of ${partitionPath(this.deps.dataset.gold, bucket.partition)}: expected at most ${this.rowsMax} rows with one event time, found more; raise the budget`);
      }
      const middle = range.start + Math.floor((range.end - range.start) / 2);
      ranges.push({ start: middle, end: range.end }, { start: range.start, end: middle });
    }
  }

  private async loadRange(bucket: PlannedBucket, range: TimeRange): Promise<MergeUnit | undefined> {
    const times = new EventTimes(range);
    const candidates = new Candidates(this.offsets, times);
    const place = { partition: bucket.partition, gold: this.deps.dataset.gold, dimensions: this.dimensions };
    for (const group of bucket.groups) {
      if (group.eventTimeMax < range.start || group.eventTimeMin >= range.end) continue;
      this.deps.signal?.throwIfAborted();
      if (!await candidates.load(group, await this.silver.open(group.file), this.columns, place, range, this.rowsMax)) return undefined;
    }
    candidates.settleBatch();
    // A replacement looks at all Gold rows of the range: those that go may be where no candidate is.
    const { eventTimeMin, eventTimeMax } = this.replacement ? { eventTimeMin: range.start, eventTimeMax: range.end - 1 } : candidates;
    return {
      bucket, range, candidates, candidateCount: candidates.count, duplicatesInBatch: candidates.duplicatesInBatch, duplicatesInGold: 0, alreadyInGold: 0,
      eventTimeMin, eventTimeMax, times, probed: new Set(), removals: new Map(), orphanedKeys: new KeySet(), revived: undefined, revivedAt: undefined, files: undefined,
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
    const isStale = unit.revivedAt !== undefined && (unseen.length > 0 || (!unit.revivedAt.coverage.equals(base.coverage) && !this.replacement!.hold.covers(unit.revivedAt)));
    const isShrunk = isStale || [...unit.probed].some((path) => !paths.has(path));
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
      current.alreadyInGold = 0;
      current.orphanedKeys = new KeySet();
      current.revived = undefined;
      current.revivedAt = undefined;
      current.files = undefined;
      toProbe = live;
    }
    for (const file of toProbe) {
      this.deps.signal?.throwIfAborted();
      if (await this.probe(current, candidates, file)) current.files = undefined;
      current.probed.add(file.filePath);
    }
    if (current.orphanedKeys.count > 0 && !current.revived) await this.revive(current, candidates, base);
    if (!current.files) {
      current.files = [];
      for (const some of [candidates, ...(current.revived ? [current.revived] : [])]) {
        for (const file of await this.write(current.bucket.partition, some)) current.files.push(file);
      }
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
    // A replacement looks at every row in its range; a merge, at keys of its candidates.
    const isApart = ({ eventTimeMin, eventTimeMax }: { eventTimeMin: number; eventTimeMax: number }): boolean =>
      eventTimeMax < unit.eventTimeMin || eventTimeMin > unit.eventTimeMax || (!this.replacement && !unit.times.overlap(eventTimeMin, eventTimeMax));
    if (isApart(timeBoundsOf(this.eventField)(file))) return false;
    for (const [group, keyed] of (await cache.groups(file, this.eventField)).entries()) {
      if (isApart(keyed)) continue;
      const { rowCount } = keyed;
      const hashes = await cache.hashes(file, group, key);
      const replaced = this.replacement ? await this.removeReplaced(unit, candidates, file, group, hashes) : undefined;
      if (replaced) changed = true;
      const matches: [row: number, candidate: number][] = [];
      for (let row = 0; row < rowCount; row += 1) {
        if (replaced?.[row] === 1) continue;
        const candidate = candidates.find(hashes, row * keyWords);
        if (candidate >= 0 && candidates.lost[candidate] !== lostToGold) matches.push([row, candidate]);
      }
      if (matches.length === 0) continue;
      changed = true;
      const { topic, partition, offset } = this.columns;
      const { columns } = await readColumns(await this.openGold(file), { columns: [topic, partition, offset], rowGroups: [group] });
      for (const [row, candidate] of matches) {
        const there = { topic: columns[topic]![row] as string, partition: columns[partition]![row] as number, offset: columns[offset]![row] as bigint };
        const order = compareLineage(candidates.lineage(candidate), there);
        if (order === 0 && this.input.again) {
          candidates.lost[candidate] = lostToGold;
          unit.alreadyInGold += 1;
        } else if (order === 0) {
          throw new TidemarkError('TABLE_CORRUPT', `${file.filePath}: holds ${there.topic}/${there.partition} offset ${there.offset}, which Gold says it does not cover`);
        } else if (order > 0) {
          candidates.lost[candidate] = lostToGold;
          unit.duplicatesInGold += 1;
        } else {
          removedRows(unit, file, group, rowCount)[row] = 1;
        }
      }
    }
    return changed;
  }

  /**
   * Marks the row group's rows of the planned offsets that lie in the unit's times as going. Returns which rows are of the
   * planned offsets at all: they compete with nobody; undefined if there are none.
   */
  private async removeReplaced(unit: MergeUnit, candidates: Candidates, file: LiveFile, group: number, hashes: Uint32Array): Promise<Uint8Array | undefined> {
    const source = await this.openGold(file);
    if (!this.isPlanned(source, group)) return undefined;
    const { topic, partition, offset, eventTime } = this.columns;
    const { columns, rowCount } = await readStoredColumns(source, { columns: [topic, partition, offset, eventTime], rowGroups: [group] });
    const numberOfRow = this.offsets.numbering(columns[topic]!, columns[partition]!, rowCount);
    const offsets = spreadColumn(columns[offset]!, rowCount) as BigInt64Array;
    const times = spreadColumn(columns[eventTime]!, rowCount) as BigInt64Array;
    const words = new Int32Array(offsets.buffer, offsets.byteOffset, offsets.length * 2);
    const { start, end } = { start: BigInt(unit.range.start), end: BigInt(unit.range.end) };
    let replaced: Uint8Array | undefined;
    let removed: Uint8Array | undefined;
    for (let row = 0; row < rowCount; row += 1) {
      const number = numberOfRow(row);
      if (number < 0 || !this.offsets.has(number, offsets, words, row)) continue;
      replaced ??= new Uint8Array(rowCount);
      replaced[row] = 1;
      if (times[row]! < start || times[row]! >= end) continue;
      removed ??= removedRows(unit, file, group, rowCount);
      removed[row] = 1;
      const successor = candidates.find(hashes, row * keyWords);
      if (successor < 0 || candidates.compare(successor, number, offsets[row]!) > 0) unit.orphanedKeys.add(hashes, row * keyWords);
    }
    return replaced;
  }

  /** Finds the other Silver rows of the keys that would be lost: merged ones, of other offsets. The least of each key competes. */
  private async revive(unit: MergeUnit, candidates: Candidates, base: TableVersion): Promise<void> {
    const { catalog, dataset } = this.deps;
    const others = base.coverage.subtract(this.planned);
    const revived = new Candidates(new PlannedOffsets(others));
    const place = { partition: unit.bucket.partition, gold: dataset.gold, dimensions: this.dimensions };
    for (const table of this.replacement!.silverTables) {
      const silver = await catalog.load(table);
      const files = await silver.scan({ bounds: [{ column: dataset.eventTime, min: BigInt(unit.range.start), max: BigInt(unit.range.end - 1) }] });
      for (const { partition, groups } of await planBuckets(files, this.silver.open, dataset.gold, this.dimensions, dataset.eventTime)) {
        if (bucketName(partition) !== bucketName(unit.bucket.partition)) continue;
        for (const group of groups) {
          if (group.eventTimeMax < unit.range.start || group.eventTimeMin >= unit.range.end) continue;
          this.deps.signal?.throwIfAborted();
          if (!await revived.load(group, await this.silver.open(group.file), this.columns, place, unit.range, this.rowsMax, unit.orphanedKeys)) {
            throw new TidemarkError('BUDGET_EXCEEDED', `replacement in ${partitionPath(dataset.gold, unit.bucket.partition)}: expected at most ${this.rowsMax} duplicates to come back, found more; raise the budget`);
          }
        }
      }
    }
    revived.settleBatch();
    for (let at = 0; at < revived.count; at += 1) {
      if (revived.lost[at] !== lostNothing) continue;
      const rival = candidates.find(revived.hashes, at * keyWords);
      if (rival < 0) continue;
      if (compareLineage(candidates.lineage(rival), revived.lineage(at)) < 0) revived.lost[at] = lostToGold;
      else if (candidates.lost[rival] === lostNothing) candidates.lost[rival] = lostToGold;
      else continue;
      unit.duplicatesInGold += 1;
    }
    unit.duplicatesInGold += revived.duplicatesInBatch;
    unit.revived = revived;
    unit.revivedAt = base;
    unit.files = undefined;
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
      const gold = new GoldFileBuilder(this.deps.dataset, BigInt(this.input.nowMs) * 1_000n, file.fileSizeBytes * goldSizeRatio);
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
    releaseBuffer(bytes.buffer);
    return { filePath, partition, ...metrics };
  }

  /** Rewrites the Gold files that lost rows, without them. */
  private async rewrite(units: readonly MergeUnit[]): Promise<{ added: DataFile[]; removed: string[]; replacedRows: number }> {
    const removals = new Map<string, Removal & { partition: PartitionTuple }>();
    for (const unit of units) {
      for (const [path, { file, rows }] of unit.removals) {
        const known = removals.get(path) ?? { file, rows: new Map<number, Uint8Array>(), partition: unit.bucket.partition };
        removals.set(path, known);
        for (const [group, more] of rows) {
          const sofar = known.rows.get(group);
          known.rows.set(group, sofar ? sofar.map((gone, row) => gone | more[row]!) : more);
        }
      }
    }
    const added: DataFile[] = [];
    let replacedRows = 0;
    for (const [path, { file, rows, partition }] of removals) {
      const digest = createHash('sha256').update(path);
      for (const [group, removed] of [...rows].sort(([a], [b]) => a - b)) {
        for (const gone of removed) replacedRows += gone;
        digest.update(String(group)).update(removed);
      }
      const name = digest.digest('base64');
      if (!this.rewrites.has(name)) {
        const source = await this.openGold(file);
        const gold = new GoldFileBuilder(this.deps.dataset, BigInt(this.input.nowMs) * 1_000n);
        for (const [group, rowCount] of source.rowGroupRows.entries()) {
          const removed = rows.get(group);
          const all = Uint32Array.from({ length: rowCount }, (_, row) => row);
          const kept = removed ? all.filter((row) => removed[row] === 0) : all;
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

/** The marks of a row group, to be set. */
const removedRows = (unit: MergeUnit, file: LiveFile, group: number, rowCount: number): Uint8Array => {
  const removal = unit.removals.get(file.filePath) ?? { file, rows: new Map<number, Uint8Array>() };
  const rows = removal.rows.get(group) ?? new Uint8Array(rowCount);
  unit.removals.set(file.filePath, removal);
  removal.rows.set(group, rows);
  return rows;
};

/** Event times of a data file by its manifest entry. Without bounds it may hold any: the hour of its bucket cannot be told here. */
const timeBoundsOf = ({ id, type }: Field): ((file: LiveFile) => Pick<TimedRows, 'eventTimeMin' | 'eventTimeMax'>) => {
  const micros = (text: string | undefined, absent: number): number =>
    (text === undefined ? absent : Number(decodeSingleValue(type as PrimitiveType, Buffer.from(text, 'base64')) as bigint));
  return ({ lowerBounds, upperBounds }) => ({ eventTimeMin: micros(lowerBounds[id], 0), eventTimeMax: micros(upperBounds[id], Number.MAX_SAFE_INTEGER - 1) });
};

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

  constructor(dataset: MergeDataset, nowMicros: bigint, bytesExpected = 0) {
    this.dataset = dataset;
    this.ingestion = { constant: nowMicros };
    // A row group stays one row group.
    this.builder = new DataFileBuilder({ fields: dataset.gold.fields, rowGroupRows: 2 ** 31, bytesExpected });
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
    releaseColumns(columns);
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
      releaseColumns(columns);
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
