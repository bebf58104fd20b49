import { invariant } from '../domain/errors.ts';
import type { ColumnValues } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore, ObjectUpload } from '../lake/object-store.ts';
import { copyColumnChunks, isCopyable, readColumns } from '../lake/parquet-reader.ts';
import { DataFileBuilder, rowGroupRowsDefault } from '../lake/parquet-writer.ts';
import type { PartitionTuple, TableDefinition } from '../lake/schema.ts';
import { InputFiles } from './input-files.ts';
import type { Piece, Segment, SortColumns } from './segments.ts';
import { aloneFrom, comparePrefixes, planPieces, segmentsOf, sortKeys } from './segments.ts';

/** What becomes one file: the values of the last sort column that it begins at, and that the file behind it begins at. */
export interface FilePart {
  start: number;
  end: number;
}

export interface RewriteInput {
  /** Live files of one table partition. */
  files: readonly DataFile[];
  partition: PartitionTuple;
  table: Pick<TableDefinition, 'fields' | 'sortBy'>;
  /** Encoded size that a written file aims at. */
  targetBytes: number;
  /** Told of the footer of each input, before anything is written. */
  onInput?(file: DataFile, keyValueMetadata: Readonly<Record<string, string>>): void;
  /** Where the next file goes, and what its footer says. */
  describe(part: FilePart): { filePath: string; keyValueMetadata?: Readonly<Record<string, string>> };
}

export interface RewriteDeps {
  store: ObjectStore;
  /** Bytes of input held at once; decoded columns of one row group and the parts under way come on top. Default 48 MiB. */
  inputBytesMax?: number;
  /** Most rows of a written row group. Default 65,536. */
  rowGroupRows?: number;
  signal?: AbortSignal;
  onProgress?: (progress: { rows: number; files: number }) => void;
}

const inputBytesDefault = 48 << 20;
/** A file is cut between row groups only: with fewer of them it could not come near a small target. */
const piecesInFileMin = 4;
const rowGroupRowsMin = 1_000;
/** Of one row group, decoded as Parquet counts it. */
const rowGroupPlainBytesMax = 32 << 20;

/**
 * Writes the rows of the files into files near the target, sorted by the table's sort columns, every column as it was. Row groups
 * that fill a row group and overlap no other go over encoded, checksums included; others are decoded, a column at a time, in ranges
 * of the sort column. Memory is bounded whatever the files hold: input bytes by their budget, decoded values by one column of
 * the row groups that meet one range, output by the parts under way. Nothing is committed; what a failure leaves are orphan files.
 */
export const rewriteFiles = async (deps: RewriteDeps, input: RewriteInput): Promise<DataFile[]> => {
  const { store, signal } = deps;
  const sort = sortColumnsOf(input.table);
  const files = new InputFiles(store, deps.inputBytesMax ?? inputBytesDefault, signal);
  const segments: Segment[] = [];
  for (const file of input.files) {
    signal?.throwIfAborted();
    const parquet = await files.get(file);
    input.onInput?.(file, parquet.keyValueMetadata);
    for (const segment of await segmentsOf(file, parquet, sort)) segments.push(segment);
  }
  const rowGroupRows = Math.min(deps.rowGroupRows ?? rowGroupRowsDefault, rowsWithin(segments, input.targetBytes / piecesInFileMin));
  const pieces = piecesOf(segments, sort, rowGroupRows);
  const writer = new RewriteWriter({ ...deps, rowGroupRows }, input, files, sort);
  return writer.write(pieces);
};

/** Rows whose encoded size is about this. */
const rowsWithin = (segments: readonly Segment[], encodedBytes: number): number => {
  const sum = (of: (segment: Segment) => number): number => segments.reduce((total, segment) => total + of(segment), 0);
  return Math.max(rowGroupRowsMin, Math.floor((encodedBytes * sum(({ rows }) => rows)) / Math.max(1, sum(({ bytes }) => bytes))));
};

const sortColumnsOf = ({ fields, sortBy = [] }: RewriteInput['table']): SortColumns => {
  const columns = sortBy.map((name) => {
    const field = fields.find((candidate) => candidate.name === name);
    invariant(field, () => `sort column ${name}: no such column`);
    return field;
  });
  return { prefix: columns.slice(0, -1), last: columns.at(-1) };
};

const piecesOf = (segments: readonly Segment[], { last }: SortColumns, rowGroupRows: number): Piece[] => {
  const limits = { rows: rowGroupRows, plainBytes: rowGroupPlainBytesMax };
  const byPrefix: Segment[][] = [];
  for (const segment of [...segments].sort((a, b) => comparePrefixes(a.prefix, b.prefix))) {
    const group = byPrefix.at(-1);
    if (group && comparePrefixes(group[0]!.prefix, segment.prefix) === 0) group.push(segment);
    else byPrefix.push([segment]);
  }
  // Without an order every segment stands where its file did.
  if (!last) return planPieces(segments.map((segment, i) => ({ ...segment, min: i, max: i })), limits).map((piece) => ({ ...piece, start: -Infinity, end: Infinity }));
  return byPrefix.flatMap((group) => planPieces(group, limits));
};

/** A row of a segment, in the order that rows are written in. */
interface OrderedRows {
  segments: readonly Segment[];
  /** Index into `segments`, and the row in its row group. */
  segmentOf: Uint32Array;
  rowOf: Uint32Array;
}

class RewriteWriter {
  private readonly deps: RewriteDeps;
  private readonly input: RewriteInput;
  private readonly inputs: InputFiles;
  private readonly sort: SortColumns;
  private readonly written: DataFile[] = [];
  private output: { builder: DataFileBuilder; upload: ObjectUpload; filePath: string } | undefined;
  private rows = 0;

  constructor(deps: RewriteDeps, input: RewriteInput, inputs: InputFiles, sort: SortColumns) {
    this.deps = deps;
    this.input = input;
    this.inputs = inputs;
    this.sort = sort;
  }

  async write(pieces: readonly Piece[]): Promise<DataFile[]> {
    const total = pieces.reduce((sum, { bytes }) => sum + bytes, 0);
    const filesMax = Math.max(1, Math.round(total / this.input.targetBytes));
    // Equal shares of the input: no file is a small remainder. Without a row there is a file all the same: it may stand for a range.
    const starts = [0];
    let before = pieces[0]?.bytes ?? 0;
    for (const [i, { bytes }] of pieces.entries()) {
      if (i === 0) continue;
      if (before >= (total / filesMax) * starts.length && starts.length < filesMax) starts.push(i);
      before += bytes;
    }
    const startOf = ({ segments, start }: Piece): number => (Number.isFinite(start) ? start : segments.reduce((min, segment) => Math.min(min, segment.min), Infinity));
    try {
      for (const [nth, from] of starts.entries()) {
        const until = starts[nth + 1] ?? pieces.length;
        const { filePath, keyValueMetadata } = this.input.describe({
          start: nth === 0 ? -Infinity : startOf(pieces[from]!), end: until < pieces.length ? startOf(pieces[until]!) : Infinity,
        });
        await this.writeFile(pieces.slice(from, until), filePath, keyValueMetadata);
      }
    } catch (error) {
      await this.output?.upload.abort();
      throw error;
    }
    const expected = this.input.files.reduce((sum, { recordCount }) => sum + recordCount, 0);
    const found = this.written.reduce((sum, { recordCount }) => sum + recordCount, 0);
    invariant(expected === found, () => `compaction of ${this.input.files[0]?.filePath ?? 'nothing'} and others: expected ${expected} rows, found ${found}`);
    return this.written;
  }

  private async writeFile(pieces: readonly Piece[], filePath: string, keyValueMetadata: Readonly<Record<string, string>> = {}): Promise<void> {
    const { store, signal } = this.deps;
    const { fields } = this.input.table;
    const builder = new DataFileBuilder({ fields, keyValueMetadata, rowGroupRows: 2 ** 31 });
    const upload = store.upload(store.keyOf(filePath), { contentType: 'application/vnd.apache.parquet', ...(signal ? { signal } : {}) });
    this.output = { builder, upload, filePath };
    for (const piece of pieces) {
      signal?.throwIfAborted();
      if (!await this.copyPiece(piece, builder, upload)) await this.sortPiece(piece, builder, upload);
    }
    const { bytes, metrics } = builder.finish();
    await upload.append(bytes);
    await upload.finish();
    this.output = undefined;
    this.written.push({ filePath, partition: this.input.partition, ...metrics });
  }

  /** Takes over a row group that is a piece by itself, if it is sorted and stored as we would store it. */
  private async copyPiece({ segments, start, end }: Piece, builder: DataFileBuilder, upload: ObjectUpload): Promise<boolean> {
    const [only] = segments;
    const { rowGroupRows = rowGroupRowsDefault } = this.deps;
    if (!only || segments.length > 1 || only.rowIndices || Number.isFinite(start) || Number.isFinite(end)) return false;
    if (Math.max(only.rows / rowGroupRows, only.plainBytes / rowGroupPlainBytesMax) < aloneFrom) return false;
    const { fields } = this.input.table;
    const parquet = await this.inputs.withRowGroup(only.file, only.rowGroup);
    const there = fields.filter(({ name }) => parquet.columnNames.includes(name));
    if (!there.every((field) => isCopyable(parquet, field)) || !await this.isSorted(only)) return false;
    const copies = await copyColumnChunks(parquet, only.rowGroup, there);
    builder.appendRowGroup(only.rows, ({ field }) => copies[there.indexOf(field)] ?? { constant: null });
    await this.appended(only.rows, builder, upload);
    return true;
  }

  private async isSorted(segment: Segment): Promise<boolean> {
    const keys = await this.keysOf(segment) ?? [];
    for (let i = 1; i < keys.length; i += 1) if (keys[i]! < keys[i - 1]!) return false;
    return true;
  }

  private async keysOf({ file, rowGroup, rows }: Segment): Promise<Float64Array | undefined> {
    const { last } = this.sort;
    if (!last) return undefined;
    const parquet = await this.inputs.withRowGroup(file, rowGroup);
    if (!parquet.columnNames.includes(last.name)) return new Float64Array(rows).fill(-Infinity);
    return sortKeys((await readColumns(parquet, { columns: [last.name], rowGroups: [rowGroup] })).columns[last.name]!);
  }

  /** Reads the rows of a range, sorts them, and appends them as one or more row groups. */
  private async sortPiece(piece: Piece, builder: DataFileBuilder, upload: ObjectUpload): Promise<void> {
    const ordered = await this.orderedRows(piece);
    const count = ordered.rowOf.length;
    if (count === 0) return;
    const { rowGroupRows = rowGroupRowsDefault } = this.deps;
    const plainRowBytes = piece.segments.reduce((sum, { plainBytes }) => sum + plainBytes, 0) / piece.segments.reduce((sum, { rows }) => sum + rows, 0);
    // A tenth more than a row group should hold is no reason for another.
    const groups = Math.max(1, Math.ceil(Math.max(count / rowGroupRows, (count * plainRowBytes) / rowGroupPlainBytesMax) - 0.1));
    for (let nth = 0; nth < groups; nth += 1) {
      this.deps.signal?.throwIfAborted();
      const from = Math.floor((count * nth) / groups);
      const until = Math.floor((count * (nth + 1)) / groups);
      if (until === from) continue;
      await this.appendRows({ ...ordered, segmentOf: ordered.segmentOf.subarray(from, until), rowOf: ordered.rowOf.subarray(from, until) }, builder, upload);
    }
  }

  private async orderedRows({ segments, start, end }: Piece): Promise<OrderedRows> {
    const chosen: { rows: Uint32Array; keys: Float64Array }[] = [];
    let count = 0;
    for (const segment of segments) {
      const all = await this.keysOf(segment);
      const rows = new Uint32Array(segment.rows);
      const keys = new Float64Array(segment.rows);
      let found = 0;
      for (let i = 0; i < segment.rows; i += 1) {
        const row = segment.rowIndices ? segment.rowIndices[i]! : i;
        const key = all ? all[row]! : 0;
        if (key < start || key >= end) continue;
        rows[found] = row;
        keys[found] = key;
        found += 1;
      }
      chosen.push({ rows: rows.subarray(0, found), keys: keys.subarray(0, found) });
      count += found;
    }
    const segmentOf = new Uint32Array(count);
    const rowOf = new Uint32Array(count);
    const keyOf = new Float64Array(count);
    let at = 0;
    for (const [segment, { rows, keys }] of chosen.entries()) {
      segmentOf.fill(segment, at, at + rows.length);
      rowOf.set(rows, at);
      keyOf.set(keys, at);
      at += rows.length;
    }
    let isSorted = true;
    for (let i = 1; i < count && isSorted; i += 1) isSorted = keyOf[i]! >= keyOf[i - 1]!;
    if (isSorted) return { segments, segmentOf, rowOf };
    const order = Uint32Array.from({ length: count }, (_, i) => i).sort((a, b) => (keyOf[a]! < keyOf[b]! ? -1 : keyOf[a]! > keyOf[b]! ? 1 : a - b));
    return { segments, segmentOf: order.map((i) => segmentOf[i]!), rowOf: order.map((i) => rowOf[i]!) };
  }

  private async appendRows({ segments, segmentOf, rowOf }: OrderedRows, builder: DataFileBuilder, upload: ObjectUpload): Promise<void> {
    const places = new Map<number, number[]>();
    for (const [place, segment] of segmentOf.entries()) {
      const known = places.get(segment);
      if (known) known.push(place);
      else places.set(segment, [place]);
    }
    await builder.loadRowGroup(rowOf.length, async ({ field: { name } }) => {
      const column = new GatheredColumn(rowOf.length, places.size > segmentsAliveMax);
      for (const [segment, at] of places) {
        const { file, rowGroup } = segments[segment]!;
        const parquet = await this.inputs.withRowGroup(file, rowGroup);
        const values = parquet.columnNames.includes(name) ? (await readColumns(parquet, { columns: [name], rowGroups: [rowGroup] })).columns[name]! : undefined;
        column.take(values, rowOf, at);
      }
      return column.values;
    });
    await this.appended(rowOf.length, builder, upload);
  }

  private async appended(rows: number, builder: DataFileBuilder, upload: ObjectUpload): Promise<void> {
    await upload.append(builder.takeBytes());
    this.rows += rows;
    this.deps.onProgress?.({ rows: this.rows, files: this.written.length });
  }
}

/** Row groups whose decoded values may stay alive together. */
const segmentsAliveMax = 16;

/** One column, gathered from one row group after the other, so that of each only the chosen values stay. */
class GatheredColumn {
  private readonly length: number;
  private readonly ownsValues: boolean;
  private typed: BigInt64Array | Int32Array | Float64Array | undefined;
  private boxed: unknown[] | undefined;

  constructor(length: number, ownsValues: boolean) {
    this.length = length;
    this.ownsValues = ownsValues;
  }

  get values(): ColumnValues {
    return (this.boxed ?? this.typed ?? []) as ColumnValues;
  }

  /** Takes the values of one row group: for each place the row that `rowOf` names there. Undefined: the file has no such column. */
  take(values: ColumnValues | undefined, rowOf: Uint32Array, places: readonly number[]): void {
    if (!this.boxed && ArrayBuffer.isView(values)) {
      this.typed ??= new (values.constructor as new (length: number) => BigInt64Array | Int32Array | Float64Array)(this.length);
      if (this.typed.constructor === values.constructor) {
        if (this.typed instanceof BigInt64Array) {
          // Through 32-bit halves: an element of a BigInt64Array is an allocation.
          const from = new Int32Array(values.buffer, values.byteOffset, values.length * 2);
          const to = new Int32Array(this.typed.buffer);
          for (const place of places) {
            to[2 * place] = from[2 * rowOf[place]!]!;
            to[2 * place + 1] = from[2 * rowOf[place]! + 1]!;
          }
        } else {
          for (const place of places) this.typed[place] = values[rowOf[place]!] as number;
        }
        return;
      }
    }
    this.boxed ??= this.typed ? Array.from<unknown>(this.typed) : Array.from({ length: this.length }, () => null);
    for (const place of places) {
      const value = values?.[rowOf[place]!] ?? null;
      this.boxed[place] = this.ownsValues ? ownCopy(value) : value;
    }
  }
}

/** Texts and binaries are slices of their page, and would keep it alive. */
const ownCopy = (value: unknown): unknown =>
  (typeof value === 'string' ? Buffer.from(value).toString() : value instanceof Uint8Array ? Uint8Array.from(value) : value);
