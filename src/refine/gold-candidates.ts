import { TidemarkError, invariant } from '../domain/errors.ts';
import type { Coverage, IntervalSet } from '../domain/offsets.ts';
import { parseTopicPartitionKey } from '../domain/offsets.ts';
import type { ColumnValues, EncodableBatch } from '../lake/columns.ts';
import { isConstantColumn, spreadColumn, textReader } from '../lake/columns.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import { readColumns, readStoredColumns, rowGroupBounds } from '../lake/parquet-reader.ts';
import { release, releaseColumns } from '../lake/release.ts';
import type { Field, PartitionTuple } from '../lake/schema.ts';
import type { FileReference } from './gold-key-cache.ts';
import { hashKeys, KeyIndex, keyWords } from './key-hash.ts';
import type { PartitionDimension } from './partition-rows.ts';
import { partitionRows, tupleOf } from './partition-rows.ts';
import type { TableDefinition } from '../lake/schema.ts';

/** Column names by their part in the merge: the engine knows no dataset. */
export interface MergeColumns {
  key: readonly string[];
  /** timestamptz, never null. */
  eventTime: string;
  topic: string;
  partition: string;
  offset: string;
}

/** Where a record came from; the order of lineage decides among equal keys. */
export interface Lineage {
  topic: string;
  partition: number;
  offset: bigint;
}

const compareTopicPartitions = (a: Omit<Lineage, 'offset'>, b: Omit<Lineage, 'offset'>): number =>
  a.topic === b.topic ? a.partition - b.partition : a.topic < b.topic ? -1 : 1;

export const compareLineage = (a: Lineage, b: Lineage): number =>
  compareTopicPartitions(a, b) || (a.offset < b.offset ? -1 : a.offset > b.offset ? 1 : 0);

/** Rows of one Gold bucket that lie together. */
export interface TimedRows {
  rowsInBucket: number;
  /** Of the rows in the bucket; µs since the epoch, inclusive. */
  eventTimeMin: number;
  eventTimeMax: number;
}

/** A row group of a Silver file with rows of one Gold bucket. */
export interface CandidateGroup extends TimedRows {
  file: FileReference;
  rowGroup: number;
  rowCount: number;
  /** Rows of other buckets are in it too. */
  isMixed: boolean;
}

export interface Bucket {
  partition: PartitionTuple;
  groups: CandidateGroup[];
}

/** Half-open, µs since the epoch. */
export interface TimeRange {
  start: number;
  end: number;
}

export const bucketName = (partition: PartitionTuple): string => JSON.stringify(Object.entries(partition).sort(([a], [b]) => (a < b ? -1 : 1)));

const two32 = 4_294_967_296;

const toColumn = (field: Field, bound: unknown): ColumnValues | undefined => {
  if (typeof bound === 'bigint') return BigInt64Array.of(bound);
  if (typeof bound === 'number') return Int32Array.of(bound);
  if (typeof bound === 'string') return field.type === 'string' ? [bound] : undefined;
  return undefined;
};

/** The bucket that all rows of a row group lie in, told by the footer alone; undefined if it does not tell. */
const bucketByFooter = (file: ParquetFile, rowGroup: number, gold: TableDefinition, dimensions: readonly PartitionDimension[]): PartitionTuple | undefined => {
  const [low, high]: Record<string, ColumnValues>[] = [{}, {}];
  for (const { column } of dimensions) {
    const field = gold.fields.find(({ name }) => name === column)!;
    const statistics = file.statistics(rowGroup, file.leaf(column));
    const bounds = rowGroupBounds(file, field)[rowGroup];
    // A cut bound is no value of the column.
    if (!bounds || statistics?.nullCount !== 0 || statistics.isMinExact === false || statistics.isMaxExact === false) return undefined;
    const min = toColumn(field, bounds.min);
    const max = toColumn(field, bounds.max);
    if (!min || !max) return undefined;
    low![column] = min;
    high![column] = max;
  }
  const tuples = [low!, high!].map((columns) => tupleOf(gold, dimensions, partitionRows({ rowCount: 1, columns }, dimensions)[0]!.values));
  return bucketName(tuples[0]!) === bucketName(tuples[1]!) ? tuples[0] : undefined;
};

/** Sorts the wanted row groups of Silver files by the Gold buckets of their rows. Reads footers; of mixed row groups the partition columns. */
export const planBuckets = async (
  files: readonly FileReference[], open: (file: FileReference) => Promise<ParquetFile>, gold: TableDefinition, dimensions: readonly PartitionDimension[], eventTime: string,
  isWanted: (file: ParquetFile, rowGroup: number) => boolean = () => true,
): Promise<Bucket[]> => {
  const buckets = new Map<string, Bucket>();
  const bucketOf = (partition: PartitionTuple): Bucket => {
    const name = bucketName(partition);
    const bucket = buckets.get(name) ?? { partition, groups: [] };
    buckets.set(name, bucket);
    return bucket;
  };
  const eventField = gold.fields.find(({ name }) => name === eventTime)!;
  for (const reference of files) {
    const file = await open(reference);
    const times = rowGroupBounds(file, eventField);
    for (const [rowGroup, rowCount] of file.rowGroupRows.entries()) {
      if (!isWanted(file, rowGroup)) continue;
      const known = bucketByFooter(file, rowGroup, gold, dimensions);
      const bounds = times[rowGroup];
      if (known && bounds) {
        bucketOf(known).groups.push({ file: reference, rowGroup, rowCount, rowsInBucket: rowCount, eventTimeMin: Number(bounds.min), eventTimeMax: Number(bounds.max), isMixed: false });
        continue;
      }
      const columns = [...new Set([eventTime, ...dimensions.map(({ column }) => column)])];
      const batch = await readColumns(file, { columns, rowGroups: [rowGroup] });
      const micros = microsOf(batch.columns[eventTime]!, eventTime);
      for (const { values, indices } of partitionRows(batch, dimensions)) {
        let eventTimeMin = Infinity;
        let eventTimeMax = -Infinity;
        for (const row of indices) {
          const time = micros(row);
          if (time < eventTimeMin) eventTimeMin = time;
          if (time > eventTimeMax) eventTimeMax = time;
        }
        bucketOf(tupleOf(gold, dimensions, values)).groups.push({ file: reference, rowGroup, rowCount, rowsInBucket: indices.length, eventTimeMin, eventTimeMax, isMixed: true });
      }
    }
  }
  return [...buckets].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, bucket]) => bucket);
};

/** Reads a 64-bit column as doubles: exact for times until the year 2255 and for offsets below 2^53. */
const microsOf = (values: ColumnValues, name: string): ((row: number) => number) => {
  if (!(values instanceof BigInt64Array)) throw new TidemarkError('FILE_UNREADABLE', `column ${name}: expected 64-bit values without nulls`);
  const words = new Int32Array(values.buffer, values.byteOffset, values.length * 2);
  return (row) => words[2 * row + 1]! * two32 + (words[2 * row]! >>> 0);
};

/** Rows that an estimate gives for a range: row groups count by the part of their time that lies in it. */
export const estimateRows = (groups: readonly TimedRows[], { start, end }: TimeRange): number => {
  let rows = 0;
  for (const { rowsInBucket, eventTimeMin, eventTimeMax } of groups) {
    const overlap = Math.min(end, eventTimeMax + 1) - Math.max(start, eventTimeMin);
    if (overlap > 0) rows += (rowsInBucket * overlap) / (eventTimeMax + 1 - eventTimeMin);
  }
  return rows;
};

/** Membership in one topic partition's offsets by binary search over doubles, without a BigInt for each row. */
class OffsetFilter {
  private readonly set: IntervalSet;
  private readonly starts: Float64Array;
  private readonly ends: Float64Array;
  private readonly isExact: boolean;

  constructor(set: IntervalSet) {
    this.set = set;
    this.starts = Float64Array.from(set.intervals, ({ start }) => Number(start));
    this.ends = Float64Array.from(set.intervals, ({ end }) => Number(end));
    this.isExact = (set.intervals.at(-1)?.end ?? 0n) <= BigInt(Number.MAX_SAFE_INTEGER);
  }

  has(offsets: BigInt64Array, words: Int32Array, row: number): boolean {
    if (!this.isExact) return this.set.has(offsets[row]!);
    const offset = words[2 * row + 1]! * two32 + (words[2 * row]! >>> 0);
    let low = 0;
    let high = this.starts.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (offset < this.starts[middle]!) high = middle - 1;
      else if (offset >= this.ends[middle]!) low = middle + 1;
      else return true;
    }
    return false;
  }
}

/** The rows that a merge takes: those of the planned offsets. Topic partitions are numbered in the order of lineage. */
export class PlannedOffsets {
  readonly topicPartitions: readonly Omit<Lineage, 'offset'>[];
  private readonly filters: OffsetFilter[];
  private readonly numbers = new Map<string, Map<number, number>>();

  constructor(planned: Coverage) {
    const sorted = planned.entries().map(([key, set]) => ({ ...parseTopicPartitionKey(key), set })).sort(compareTopicPartitions);
    this.topicPartitions = sorted.map(({ topic, partition }) => ({ topic, partition }));
    this.filters = sorted.map(({ set }) => new OffsetFilter(set));
    for (const [number, { topic, partition }] of sorted.entries()) {
      const byPartition = this.numbers.get(topic) ?? new Map<number, number>();
      byPartition.set(partition, number);
      this.numbers.set(topic, byPartition);
    }
  }

  numberOf(topic: string, partition: number): number {
    return this.numbers.get(topic)?.get(partition) ?? -1;
  }

  /** The number of the topic partition of each row; −1: not a planned one. */
  numbering(topics: EncodableBatch['columns'][string], partitions: EncodableBatch['columns'][string], rowCount: number): (row: number) => number {
    const topicOf = textReader(topics, rowCount);
    if (isConstantColumn(partitions) && isConstantColumn(topics)) {
      const number = rowCount === 0 ? -1 : this.numberOf(topicOf(0), partitions.constant as number);
      return () => number;
    }
    const numbers = spreadColumn(partitions, rowCount) as Int32Array;
    let topic: string | undefined;
    let partition = -1;
    let number = -1;
    return (row) => {
      const named = topicOf(row);
      if (named !== topic || numbers[row] !== partition) {
        topic = named;
        partition = numbers[row]!;
        number = this.numberOf(topic, partition);
      }
      return number;
    };
  }

  has(number: number, offsets: BigInt64Array, words: Int32Array, row: number): boolean {
    return this.filters[number]!.has(offsets, words, row);
  }
}

/** A run of candidates that came from one row group. */
export interface CandidateRun {
  group: CandidateGroup;
  /** Candidates [start, end). */
  start: number;
  end: number;
}

export const lostNothing = 0;
/** To a lesser candidate of the same merge: for good. */
export const lostInBatch = 1;
/** To a row that Gold has: until Gold changes. */
export const lostToGold = 2;

/** Bytes that a candidate takes: hash, offset, topic partition, row, verdict and index slots. */
export const candidateBytes = keyWords * 4 + 8 + 4 + 4 + 1 + 16;

/** Keys by their hashes. */
export class KeySet {
  count = 0;
  private words: Uint32Array = new Uint32Array(64 * keyWords);
  private index: KeyIndex | undefined;

  add(hashes: Uint32Array, at: number): void {
    if ((this.count + 1) * keyWords > this.words.length) {
      const wider = new Uint32Array(this.words.length * 2);
      wider.set(this.words);
      this.words = wider;
    }
    for (let word = 0; word < keyWords; word += 1) this.words[this.count * keyWords + word] = hashes[at + word]!;
    this.count += 1;
    this.index = undefined;
  }

  has(hashes: Uint32Array, at: number): boolean {
    if (!this.index) {
      this.index = new KeyIndex(this.words, this.count);
      for (let row = 0; row < this.count; row += 1) this.index.add(row);
    }
    return this.index.find(hashes, at) >= 0;
  }
}

/**
 * Where in a range of event times the candidates lie, to some thousandths of it. A duplicate that comes late has its first copy's time:
 * without this, one such row would make a merge read all of the bucket's keys between then and now.
 */
export class EventTimes {
  private readonly start: number;
  private readonly width: number;
  private readonly slots = new Uint8Array(eventTimeSlots);

  constructor({ start, end }: TimeRange) {
    this.start = start;
    this.width = Math.max(1, (end - start) / eventTimeSlots);
  }

  add(micros: number): void {
    this.slots[this.slotOf(micros)] = 1;
  }

  /** False only if no candidate lies in [min, max]. */
  overlap(min: number, max: number): boolean {
    const last = this.slotOf(max);
    for (let slot = this.slotOf(min); slot <= last; slot += 1) if (this.slots[slot] === 1) return true;
    return false;
  }

  private slotOf(micros: number): number {
    return Math.max(0, Math.min(eventTimeSlots - 1, Math.floor((micros - this.start) / this.width)));
  }
}
const eventTimeSlots = 4_096;

/** Candidates of one bucket and time range, as columns. */
export class Candidates {
  readonly runs: CandidateRun[] = [];
  count = 0;
  /** Event times of the candidates, µs since the epoch, inclusive. */
  eventTimeMin = Infinity;
  eventTimeMax = -Infinity;
  duplicatesInBatch = 0;
  hashes: Uint32Array = new Uint32Array(0);
  rows: Uint32Array = new Uint32Array(0);
  lost: Uint8Array = new Uint8Array(0);
  private offsets = new BigInt64Array(0);
  private numbers = new Int32Array(0);
  private index: KeyIndex | undefined;
  private readonly planned: PlannedOffsets;
  private readonly times: EventTimes | undefined;

  constructor(planned: PlannedOffsets, times?: EventTimes) {
    this.planned = planned;
    this.times = times;
  }

  get byteLength(): number {
    return this.hashes.byteLength + this.offsets.byteLength + this.numbers.byteLength + this.rows.byteLength + this.lost.byteLength + this.count * 16;
  }

  private reserve(count: number): void {
    const needed = this.count + count;
    if (needed <= this.rows.length) return;
    const capacity = Math.max(needed, Math.ceil(this.rows.length * 1.5));
    const grow = <T extends Uint32Array | Int32Array | BigInt64Array>(from: T, to: T): T => {
      if (from instanceof BigInt64Array) (to as BigInt64Array).set(from);
      else (to as Uint32Array).set(from as Uint32Array);
      return to;
    };
    this.hashes = grow(this.hashes, new Uint32Array(capacity * keyWords));
    this.rows = grow(this.rows, new Uint32Array(capacity));
    this.numbers = grow(this.numbers, new Int32Array(capacity));
    this.offsets = grow(this.offsets, new BigInt64Array(capacity));
  }

  /**
   * Takes the row group's rows that are planned, lie in the bucket and in the range. Reads the key and lineage columns, and what else
   * the decision needs; with `wanted` only rows of these keys. False once there are more than `rowsMax` candidates: then the range must
   * be split.
   */
  async load(
    group: CandidateGroup, file: ParquetFile, columns: MergeColumns, bucket: { partition: PartitionTuple; gold: TableDefinition; dimensions: readonly PartitionDimension[] }, range: TimeRange, rowsMax: number,
    wanted?: KeySet,
  ): Promise<boolean> {
    const isSliced = group.eventTimeMin < range.start || group.eventTimeMax >= range.end;
    const names = new Set([...columns.key, columns.topic, columns.partition, columns.offset]);
    if (isSliced || group.isMixed || this.times) names.add(columns.eventTime);
    if (group.isMixed) for (const { column } of bucket.dimensions) names.add(column);
    const { columns: values } = await readStoredColumns(file, { columns: [...names], rowGroups: [group.rowGroup] });
    try {
      return this.take(group, values, columns, bucket, isSliced ? range : undefined, rowsMax, wanted);
    } finally {
      releaseColumns(values);
    }
  }

  private take(
    group: CandidateGroup, values: EncodableBatch['columns'], columns: MergeColumns, bucket: { partition: PartitionTuple; gold: TableDefinition; dimensions: readonly PartitionDimension[] },
    range: TimeRange | undefined, rowsMax: number, wanted: KeySet | undefined,
  ): boolean {
    const selected = this.select(group, values, columns, bucket, range);
    if (selected.length === 0) return true;
    const hashes = hashKeys(columns.key.map((name) => values[name]!), group.rowCount);
    const taken = wanted ? selected.filter((row) => wanted.has(hashes, row * keyWords)) : selected;
    if (taken.length === 0) return true;
    this.reserve(taken.length);
    const isWhole = taken.length === group.rowCount;
    const offsets = spreadColumn(values[columns.offset]!, group.rowCount) as BigInt64Array;
    const numberOfRow = this.planned.numbering(values[columns.topic]!, values[columns.partition]!, group.rowCount);
    const start = this.count;
    if (isWhole) {
      this.hashes.set(hashes, start * keyWords);
      this.offsets.set(offsets, start);
    }
    for (let i = 0; i < taken.length; i += 1) {
      const row = taken[i]!;
      const at = start + i;
      this.rows[at] = row;
      this.numbers[at] = numberOfRow(row);
      if (isWhole) continue;
      this.offsets[at] = offsets[row]!;
      for (let word = 0; word < keyWords; word += 1) this.hashes[at * keyWords + word] = hashes[row * keyWords + word]!;
    }
    const micros = group.isMixed || range || this.times ? microsOf(spreadColumn(values[columns.eventTime]!, group.rowCount), columns.eventTime) : undefined;
    if (micros) {
      for (const row of taken) {
        const time = micros(row);
        if (time < this.eventTimeMin) this.eventTimeMin = time;
        if (time > this.eventTimeMax) this.eventTimeMax = time;
        this.times?.add(time);
      }
    } else {
      this.eventTimeMin = Math.min(this.eventTimeMin, group.eventTimeMin);
      this.eventTimeMax = Math.max(this.eventTimeMax, group.eventTimeMax);
    }
    release(hashes);
    this.count += taken.length;
    this.runs.push({ group, start, end: this.count });
    return this.count <= rowsMax;
  }

  private select(
    group: CandidateGroup, values: EncodableBatch['columns'], columns: MergeColumns, bucket: { partition: PartitionTuple; gold: TableDefinition; dimensions: readonly PartitionDimension[] }, range: TimeRange | undefined,
  ): Uint32Array {
    const offsets = spreadColumn(values[columns.offset]!, group.rowCount);
    const partitions = values[columns.partition]!;
    if (!(offsets instanceof BigInt64Array) || !(partitions instanceof Int32Array || (isConstantColumn(partitions) && partitions.constant !== null))) {
      throw new TidemarkError('FILE_UNREADABLE', `${group.file.filePath}: expected ${columns.partition} and ${columns.offset} in every row`);
    }
    const numberOfRow = this.planned.numbering(values[columns.topic]!, values[columns.partition]!, group.rowCount);
    const words = new Int32Array(offsets.buffer, offsets.byteOffset, offsets.length * 2);
    const micros = range ? microsOf(spreadColumn(values[columns.eventTime]!, group.rowCount), columns.eventTime) : undefined;
    let inBucket: Uint32Array | undefined;
    if (group.isMixed) {
      const name = bucketName(bucket.partition);
      const parts = partitionRows({ rowCount: group.rowCount, columns: values }, bucket.dimensions);
      inBucket = parts.find((part) => bucketName(tupleOf(bucket.gold, bucket.dimensions, part.values)) === name)?.indices ?? new Uint32Array(0);
    }
    const limit = inBucket ? inBucket.length : group.rowCount;
    const taken = new Uint32Array(limit);
    let count = 0;
    for (let i = 0; i < limit; i += 1) {
      const row = inBucket ? inBucket[i]! : i;
      const number = numberOfRow(row);
      if (number < 0 || !this.planned.has(number, offsets, words, row)) continue;
      if (micros && range) {
        const time = micros(row);
        if (time < range.start || time >= range.end) continue;
      }
      taken[count++] = row;
    }
    return taken.subarray(0, count);
  }

  /** Finds equal keys among the candidates: the least lineage stays in the index, the others have lost. */
  settleBatch(): void {
    this.lost = new Uint8Array(this.count);
    this.index = new KeyIndex(this.hashes, this.count);
    for (let at = 0; at < this.count; at += 1) {
      const other = this.index.add(at);
      if (other === at) continue;
      this.duplicatesInBatch += 1;
      const order = this.numbers[at]! - this.numbers[other]! || Number(this.offsets[at]! - this.offsets[other]!);
      if (order === 0) {
        const { topic, partition, offset } = this.lineage(at);
        throw new TidemarkError('BAD_INPUT', `Silver holds ${topic}/${partition} offset ${offset} twice: expected each offset in one row`);
      }
      if (order < 0) {
        this.lost[other] = lostInBatch;
        this.index.replace(at);
      } else {
        this.lost[at] = lostInBatch;
      }
    }
  }

  /** The candidate with the hash at word `at` of `hashes`, or −1. */
  find(hashes: Uint32Array, at: number): number {
    invariant(this.index, 'candidates are searched before settleBatch');
    return this.index.find(hashes, at);
  }

  /** Below 0: the candidate's lineage is less than that of the offset in the planned topic partition `number`. */
  compare(at: number, number: number, offset: bigint): number {
    const own = this.offsets[at]!;
    return this.numbers[at]! - number || (own < offset ? -1 : own > offset ? 1 : 0);
  }

  lineage(at: number): Lineage {
    return { ...this.planned.topicPartitions[this.numbers[at]!]!, offset: this.offsets[at]! };
  }

  /** Takes back what was decided against an earlier version of Gold. */
  forgetGold(): void {
    for (let at = 0; at < this.count; at += 1) if (this.lost[at] === lostToGold) this.lost[at] = lostNothing;
  }
}
