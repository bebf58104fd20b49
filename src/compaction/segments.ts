import { TidemarkError } from '../domain/errors.ts';
import type { ColumnValues } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import { readColumns, rowGroupBounds } from '../lake/parquet-reader.ts';
import type { Field } from '../lake/schema.ts';

type PrefixValue = string | number | bigint | null;

/** Rows of one row group that agree in all sort columns but the last. */
export interface Segment {
  file: DataFile;
  rowGroup: number;
  rows: number;
  /** Encoded, and decoded as Parquet counts it. */
  bytes: number;
  plainBytes: number;
  /** Values of the sort columns before the last. */
  prefix: readonly PrefixValue[];
  /** Of the last sort column, both inclusive: exact up to 2^53. */
  min: number;
  max: number;
  /** The rows, where they are not the whole row group. */
  rowIndices: Uint32Array | undefined;
}

export interface SortColumns {
  prefix: readonly Field[];
  /** A number or a time; undefined: the table has no sort order. */
  last: Field | undefined;
}

/** Numbers of a sort column; nulls come first. */
export const sortKeys = (values: ColumnValues): Float64Array => {
  const keys = new Float64Array(values.length);
  if (values instanceof BigInt64Array) {
    const words = new Int32Array(values.buffer, values.byteOffset, values.length * 2);
    for (let i = 0; i < keys.length; i += 1) keys[i] = words[2 * i + 1]! * 4_294_967_296 + (words[2 * i]! >>> 0);
    return keys;
  }
  for (let i = 0; i < keys.length; i += 1) {
    const value = values[i];
    if (value !== null && typeof value !== 'number' && typeof value !== 'bigint') throw new TidemarkError('BAD_INPUT', `sort column: expected numbers or times, found ${typeof value}`);
    keys[i] = value === null ? -Infinity : Number(value);
  }
  return keys;
};

const plainValue = (value: unknown): PrefixValue => {
  if (value === null || typeof value === 'string' || typeof value === 'number' || typeof value === 'bigint') return value;
  throw new TidemarkError('BAD_INPUT', `sort column: expected a text or a number, found ${typeof value}`);
};

export const comparePrefixes = (a: readonly PrefixValue[], b: readonly PrefixValue[]): number => {
  for (const [i, left] of a.entries()) {
    const right = b[i]!;
    if (left === right) continue;
    if (left === null) return -1;
    if (right === null) return 1;
    return left < right ? -1 : 1;
  }
  return 0;
};

/** The segments of one file: from its footer, and from the sort columns where the footer does not tell. */
export const segmentsOf = async (file: DataFile, parquet: ParquetFile, { prefix, last }: SortColumns): Promise<Segment[]> => {
  const segments: Segment[] = [];
  const bounds = last && parquet.columnNames.includes(last.name) ? rowGroupBounds(parquet, last) : [];
  for (const [rowGroup, rows] of parquet.rowGroupRows.entries()) {
    if (rows === 0) continue;
    let bytes = 0;
    let plainBytes = 0;
    for (const { meta_data: metadata } of parquet.metadata.row_groups[rowGroup]!.columns) {
      bytes += Number(metadata?.total_compressed_size ?? 0n);
      plainBytes += Number(metadata?.total_uncompressed_size ?? 0n);
    }
    const whole = { file, rowGroup, rows, bytes, plainBytes, rowIndices: undefined };
    if (!last) {
      segments.push({ ...whole, prefix: [], min: 0, max: 0 });
      continue;
    }
    const nulls = parquet.statistics(rowGroup, parquet.leaf(last.name))?.nullCount;
    const known = bounds[rowGroup];
    if (prefix.length === 0 && known && nulls === 0) {
      segments.push({ ...whole, prefix: [], min: Number(known.min), max: Number(known.max) });
      continue;
    }
    const { columns } = await readColumns(parquet, { columns: [...prefix.map(({ name }) => name), last.name], rowGroups: [rowGroup] });
    const keys = sortKeys(columns[last.name]!);
    const byPrefix = new Map<string, { prefix: PrefixValue[]; indices: number[]; min: number; max: number }>();
    let current: { prefix: PrefixValue[]; indices: number[]; min: number; max: number } | undefined;
    for (let row = 0; row < rows; row += 1) {
      if (!current || prefix.some(({ name }, i) => columns[name]![row] !== current!.prefix[i])) {
        const values = prefix.map(({ name }) => plainValue(columns[name]![row]));
        const name = JSON.stringify(values.map((value) => (typeof value === 'bigint' ? `${value}n` : value)));
        current = byPrefix.get(name);
        if (!current) byPrefix.set(name, current = { prefix: values, indices: [], min: Infinity, max: -Infinity });
      }
      current.indices.push(row);
      if (keys[row]! < current.min) current.min = keys[row]!;
      if (keys[row]! > current.max) current.max = keys[row]!;
    }
    for (const { prefix: values, indices, min, max } of byPrefix.values()) {
      const share = indices.length / rows;
      segments.push({
        file, rowGroup, rows: indices.length, bytes: bytes * share, plainBytes: plainBytes * share, prefix: values, min, max,
        rowIndices: indices.length === rows ? undefined : Uint32Array.from(indices),
      });
    }
  }
  return segments;
};

/** What is sorted in memory at once: the rows of the segments whose last sort column lies in [start, end). */
export interface Piece {
  segments: Segment[];
  start: number;
  end: number;
  /** Estimates. */
  rows: number;
  bytes: number;
}

export interface PieceLimits {
  rows: number;
  /** Of {@link Segment.plainBytes}. */
  plainBytes: number;
}

/**
 * Cuts segments of one prefix into pieces whose order is the order of the rows. Where segments do not overlap, a piece is some of
 * them, whole, or one alone if it fills a row group by itself; where many overlap, each piece is a range of the sort column that
 * holds about as many rows as fit, so that nothing spills however the rows lie.
 */
export const planPieces = (segments: readonly Segment[], limits: PieceLimits): Piece[] => {
  const sorted = [...segments].sort((a, b) => a.min - b.min || a.max - b.max || (a.file.filePath < b.file.filePath ? -1 : a.file.filePath > b.file.filePath ? 1 : a.rowGroup - b.rowGroup));
  const pieces: Piece[] = [];
  const fill = ({ rows, plainBytes }: { rows: number; plainBytes: number }): number => Math.max(rows / limits.rows, plainBytes / limits.plainBytes);
  const sum = (some: readonly Segment[]): { rows: number; plainBytes: number } => ({
    rows: some.reduce((total, segment) => total + segment.rows, 0), plainBytes: some.reduce((total, segment) => total + segment.plainBytes, 0),
  });
  let pending: Segment[] = [];
  const flush = (): void => {
    if (pending.length > 0) pieces.push(...cut(pending, Math.ceil(fill(sum(pending)))));
    pending = [];
  };
  for (let from = 0, until = 0; from < sorted.length; from = until) {
    // A cluster: segments that overlap each other, directly or through others. Equal ends are no overlap.
    let end = sorted[from]!.max;
    until = from + 1;
    while (until < sorted.length && sorted[until]!.min < end) {
      end = Math.max(end, sorted[until]!.max);
      until += 1;
    }
    const cluster = sorted.slice(from, until);
    if (fill(sum([...pending, ...cluster])) > 1 || (cluster.length === 1 && fill(cluster[0]!) >= aloneFrom)) flush();
    pending.push(...cluster);
    if (cluster.length === 1 && fill(cluster[0]!) >= aloneFrom) flush();
  }
  flush();
  return pieces;
};

/** Share of a full row group from which on a row group goes over as it is. */
export const aloneFrom = 0.5;

/** Cuts overlapping segments into `count` ranges with about as many rows each, if rows are spread evenly over their segment. */
const cut = (segments: Segment[], count: number): Piece[] => {
  const share = ({ min, max }: Segment, start: number, end: number): number => Math.max(0, Math.min(end, max + 1) - Math.max(start, min)) / (max + 1 - min);
  const least = segments.reduce((min, segment) => Math.min(min, segment.min), Infinity);
  const greatest = segments.reduce((max, segment) => Math.max(max, segment.max), -Infinity);
  const total = segments.reduce((sum, { rows }) => sum + rows, 0);
  const cuts: number[] = [];
  // Where a column is null in places, or all rows are equal, there is nothing to cut by.
  const pieces = Number.isFinite(least) && least < greatest ? count : 1;
  for (let nth = 1; nth < pieces; nth += 1) {
    let low = least;
    let high = greatest;
    while (high - low > 1) {
      const middle = low + Math.floor((high - low) / 2);
      const below = segments.reduce((sum, segment) => sum + segment.rows * share(segment, -Infinity, middle), 0);
      if (below * pieces < total * nth) low = middle;
      else high = middle;
    }
    if (high > (cuts.at(-1) ?? least)) cuts.push(high);
  }
  if (cuts.length === 0) {
    return [{ segments, start: -Infinity, end: Infinity, rows: total, bytes: segments.reduce((sum, { bytes }) => sum + bytes, 0) }];
  }
  return [...cuts, Infinity].map((end, i) => {
    const start = cuts[i - 1] ?? -Infinity;
    const within = segments.filter((segment) => segment.max >= start && segment.min < end);
    const part = (of: (segment: Segment) => number): number => within.reduce((sum, segment) => sum + of(segment) * share(segment, start, end), 0);
    return { segments: within, start, end, rows: part(({ rows }) => rows), bytes: part(({ bytes }) => bytes) };
  });
};
