import { TidemarkError, invariant } from './errors.ts';

/** Half-open: `end` is the next offset to read, as Kafka commits it. */
export interface Interval {
  readonly start: bigint;
  readonly end: bigint;
}

export interface TopicPartition {
  readonly topic: string;
  readonly partition: number;
}

export const topicPartitionKey = (topic: string, partition: number): string => `${topic}/${partition}`;

/** The inverse of {@link topicPartitionKey}; Kafka topic names hold no slash, import topics do, so the last slash counts. */
export const parseTopicPartitionKey = (key: string): TopicPartition => {
  const slash = key.lastIndexOf('/');
  const partition = Number(key.slice(slash + 1));
  if (slash < 1 || !Number.isSafeInteger(partition) || partition < 0) {
    throw new TidemarkError('BAD_INPUT', `topic partition: expected <topic>/<partition>, found ${JSON.stringify(key)}`);
  }
  return { topic: key.slice(0, slash), partition };
};

/**
 * An immutable set of offsets of one topic partition, kept as sorted, disjoint, non-adjacent half-open intervals.
 * Its size is the number of intervals, never the number of offsets.
 */
export class IntervalSet {
  static readonly empty = new IntervalSet([]);
  readonly intervals: readonly Interval[];

  private constructor(intervals: readonly Interval[]) {
    this.intervals = intervals;
  }

  static of(...intervals: Interval[]): IntervalSet {
    const sorted = intervals.filter(({ start, end }) => {
      invariant(start <= end && start >= 0n, () => `interval [${start}, ${end}) is not a range of offsets`);
      return start < end;
    }).sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
    const merged: { start: bigint; end: bigint }[] = [];
    for (const { start, end } of sorted) {
      const last = merged.at(-1);
      if (last && start <= last.end) {
        if (end > last.end) last.end = end;
      } else {
        merged.push({ start, end });
      }
    }
    return merged.length === 0 && IntervalSet.empty ? IntervalSet.empty : new IntervalSet(merged);
  }

  /** Parses the form of {@link toString}: `0-100,150-200`, half-open; an empty text is the empty set. */
  static parse(text: string): IntervalSet {
    if (text === '') return IntervalSet.empty;
    return IntervalSet.of(...text.split(',').map((part) => {
      const match = /^(\d+)-(\d+)$/.exec(part);
      if (!match) throw new TidemarkError('BAD_INPUT', `offset intervals: expected <start>-<end>[,...], found ${JSON.stringify(text)}`);
      const start = BigInt(match[1]!);
      const end = BigInt(match[2]!);
      if (start > end) throw new TidemarkError('BAD_INPUT', `offset intervals: expected start <= end, found ${JSON.stringify(part)}`);
      return { start, end };
    }));
  }

  toString(): string {
    return this.intervals.map(({ start, end }) => `${start}-${end}`).join(',');
  }

  get isEmpty(): boolean {
    return this.intervals.length === 0;
  }

  /** Number of offsets in the set. */
  get size(): bigint {
    return this.intervals.reduce((sum, { start, end }) => sum + (end - start), 0n);
  }

  union(other: IntervalSet): IntervalSet {
    if (other.isEmpty) return this;
    if (this.isEmpty) return other;
    return IntervalSet.of(...this.intervals, ...other.intervals);
  }

  intersect(other: IntervalSet): IntervalSet {
    const out: Interval[] = [];
    let i = 0;
    let j = 0;
    while (i < this.intervals.length && j < other.intervals.length) {
      const a = this.intervals[i]!;
      const b = other.intervals[j]!;
      const start = a.start > b.start ? a.start : b.start;
      const end = a.end < b.end ? a.end : b.end;
      if (start < end) out.push({ start, end });
      if (a.end < b.end) i += 1;
      else j += 1;
    }
    return IntervalSet.of(...out);
  }

  subtract(other: IntervalSet): IntervalSet {
    const out: Interval[] = [];
    let j = 0;
    for (const { start, end } of this.intervals) {
      let cursor = start;
      while (j < other.intervals.length && other.intervals[j]!.end <= cursor) j += 1;
      for (let k = j; k < other.intervals.length && other.intervals[k]!.start < end; k += 1) {
        const hole = other.intervals[k]!;
        if (hole.start > cursor) out.push({ start: cursor, end: hole.start });
        if (hole.end > cursor) cursor = hole.end;
      }
      if (cursor < end) out.push({ start: cursor, end });
    }
    return IntervalSet.of(...out);
  }

  has(offset: bigint): boolean {
    let low = 0;
    let high = this.intervals.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const { start, end } = this.intervals[middle]!;
      if (offset < start) high = middle - 1;
      else if (offset >= end) low = middle + 1;
      else return true;
    }
    return false;
  }

  /** Whether any offset of [start, end) is in the set: a binary search, where {@link overlaps} walks. */
  meets({ start, end }: Interval): boolean {
    let low = 0;
    let high = this.intervals.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.intervals[middle]!.end <= start) low = middle + 1;
      else high = middle;
    }
    const first = this.intervals[low];
    return first !== undefined && start < end && first.start < end;
  }

  contains(other: IntervalSet): boolean {
    return other.subtract(this).isEmpty;
  }

  overlaps(other: IntervalSet): boolean {
    return !this.intersect(other).isEmpty;
  }

  equals(other: IntervalSet): boolean {
    return this.intervals.length === other.intervals.length
      && this.intervals.every(({ start, end }, i) => start === other.intervals[i]!.start && end === other.intervals[i]!.end);
  }
}

/** JSON form of a {@link Coverage}: topic partition key → intervals text. Crosses Temporal and table properties. */
export type CoverageJson = Record<string, string>;

/** Offset intervals for each topic partition, keyed by {@link topicPartitionKey}. Immutable. */
export class Coverage {
  static readonly empty = new Coverage(new Map());
  private readonly sets: ReadonlyMap<string, IntervalSet>;

  private constructor(sets: ReadonlyMap<string, IntervalSet>) {
    this.sets = sets;
  }

  static of(entries: Iterable<readonly [string, IntervalSet]>): Coverage {
    const sets = new Map<string, IntervalSet>();
    for (const [key, set] of entries) {
      const union = (sets.get(key) ?? IntervalSet.empty).union(set);
      if (!union.isEmpty) sets.set(key, union);
    }
    return new Coverage(sets);
  }

  static fromJson(json: CoverageJson): Coverage {
    return Coverage.of(Object.entries(json).map(([key, text]) => [key, IntervalSet.parse(text)] as const));
  }

  toJson(): CoverageJson {
    return Object.fromEntries([...this.sets].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, set]) => [key, set.toString()]));
  }

  keys(): string[] {
    return [...this.sets.keys()].sort();
  }

  entries(): [string, IntervalSet][] {
    return this.keys().map((key) => [key, this.sets.get(key)!]);
  }

  of(key: string): IntervalSet {
    return this.sets.get(key) ?? IntervalSet.empty;
  }

  get isEmpty(): boolean {
    return this.sets.size === 0;
  }

  get size(): bigint {
    let sum = 0n;
    for (const set of this.sets.values()) sum += set.size;
    return sum;
  }

  union(other: Coverage): Coverage {
    return Coverage.of([...this.sets, ...other.sets]);
  }

  subtract(other: Coverage): Coverage {
    return Coverage.of([...this.sets].map(([key, set]) => [key, set.subtract(other.of(key))] as const));
  }

  intersect(other: Coverage): Coverage {
    return Coverage.of([...this.sets].map(([key, set]) => [key, set.intersect(other.of(key))] as const));
  }

  contains(other: Coverage): boolean {
    return other.subtract(this).isEmpty;
  }

  overlaps(other: Coverage): boolean {
    return !this.intersect(other).isEmpty;
  }

  equals(other: Coverage): boolean {
    return this.contains(other) && other.contains(this);
  }
}
