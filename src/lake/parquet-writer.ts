import type { ColumnChunk, RowGroup } from 'hyparquet';
import { ParquetWriter } from 'hyparquet-writer';
import { TidemarkError, invariant } from '../domain/errors.ts';
import { isCodedColumn, isConstantColumn, isPackedColumn, type ColumnValues, type EncodableBatch, type EncodableColumn, type PackedColumn } from './columns.ts';
import { FileWriter } from './file-writer.ts';
import { metricsOf, type DataFileMetrics, type RowGroupFacts } from './parquet-metrics.ts';
import { appendColumnChunk, type ChunkFacts } from './parquet-pages.ts';
import { releaseColumn } from './release.ts';
import { leafOf, schemaElements, type Leaf } from './parquet-schema.ts';
import type { Field } from './schema.ts';

/** Which rows of a batch, in which order; all of them if left out. */
export type RowSelection = { start: number; end: number } | { indices: Uint32Array };

export interface DataFileBuilderOptions {
  fields: readonly Field[];
  /** Goes to the footer; never secrets. */
  keyValueMetadata?: Readonly<Record<string, string>>;
  /** Most rows of a row group; default 65,536. Small ones let a merge skip more, large ones compress better. */
  rowGroupRows?: number;
  /** About how many bytes the file will have: what grows leaves each of its smaller selves for the garbage collector. */
  bytesExpected?: number;
  /** Default 1: on trade records level 3 takes twice the time for 3 % less. */
  zstdLevel?: number;
}

/** A column chunk of another file, copied as it is: its bytes (pages only) and what that footer says of it. */
export interface CopiedChunk {
  bytes: Uint8Array;
  chunk: ColumnChunk;
  facts: ChunkFacts;
}

type RowGroupColumn = EncodableColumn | CopiedChunk;
interface EncodedColumn { chunk: ColumnChunk; facts: ChunkFacts }

export interface EncodedDataFile {
  /** Memory of their own, that the caller may release. */
  bytes: Uint8Array;
  metrics: DataFileMetrics;
}

export const rowGroupRowsDefault = 65_536;
const fileBytesFirst = 1 << 16;

const gather = (values: ColumnValues, indices: Uint32Array): ColumnValues => {
  if (values instanceof BigInt64Array) {
    // Through 32-bit halves: reading a BigInt64Array element may allocate.
    const source = new Int32Array(values.buffer, values.byteOffset, values.length * 2);
    const out = new Int32Array(indices.length * 2);
    for (let i = 0; i < indices.length; i += 1) {
      const at = indices[i]! * 2;
      out[2 * i] = source[at]!;
      out[2 * i + 1] = source[at + 1]!;
    }
    return new BigInt64Array(out.buffer);
  }
  if (values instanceof Int32Array || values instanceof Float64Array) {
    const out = values instanceof Int32Array ? new Int32Array(indices.length) : new Float64Array(indices.length);
    for (let i = 0; i < indices.length; i += 1) out[i] = values[indices[i]!]!;
    return out;
  }
  const out: unknown[] = [];
  for (let i = 0; i < indices.length; i += 1) out.push(values[indices[i]!]);
  return out as ColumnValues;
};

/** Below this length a loop copies faster than a call of TypedArray.set. */
const loopCopyBytesMax = 48;

/** Rows that follow each other are copied together. */
const gatherPacked = ({ packed, positions }: PackedColumn, indices: Uint32Array): PackedColumn => {
  const out = new Uint32Array(indices.length + 1);
  let length = 0;
  for (let i = 0; i < indices.length; i += 1) {
    const row = indices[i]!;
    length += positions[row + 1]! - positions[row]!;
    out[i + 1] = length;
  }
  const bytes = Buffer.allocUnsafeSlow(length);
  let to = 0;
  for (let i = 0; i < indices.length;) {
    const first = indices[i]!;
    let next = i + 1;
    while (next < indices.length && indices[next] === first + next - i) next += 1;
    const start = positions[first]!;
    const end = positions[first + next - i]!;
    if (end - start <= loopCopyBytesMax) for (let at = start; at < end; at += 1) bytes[to + at - start] = packed[at]!;
    else bytes.set(packed.subarray(start, end), to);
    to += end - start;
    i = next;
  }
  return { packed: bytes, positions: out };
};

const gatherColumn = (column: EncodableColumn, indices: Uint32Array): EncodableColumn => {
  if (isConstantColumn(column)) return column;
  if (isPackedColumn(column)) return gatherPacked(column, indices);
  if (!isCodedColumn(column)) return gather(column, indices);
  const codes = new Uint32Array(indices.length);
  for (let i = 0; i < indices.length; i += 1) codes[i] = column.codes[indices[i]!]!;
  return { entries: column.entries, codes };
};

const windowOfColumn = (column: EncodableColumn, start: number, end: number): EncodableColumn => {
  if (isConstantColumn(column)) return column;
  if (isPackedColumn(column)) return { packed: column.packed, positions: column.positions.subarray(start, end + 1) };
  return isCodedColumn(column) ? { entries: column.entries, codes: column.codes.subarray(start, end) } : windowOf(column, start, end);
};

const lengthOf = (column: EncodableColumn, rowCount: number): number => {
  if (isConstantColumn(column)) return rowCount;
  if (isPackedColumn(column)) return column.positions.length - 1;
  return isCodedColumn(column) ? column.codes.length : column.length;
};

const windowOf = (values: ColumnValues, start: number, end: number): ColumnValues => {
  if (ArrayBuffer.isView(values)) return values.subarray(start, end);
  return start === 0 && end === values.length ? values : values.slice(start, end);
};

/**
 * Builds one Parquet data file: rows are encoded as they are appended, so that only encoded bytes are held, and those until they are taken.
 * Container, schema and footer are hyparquet-writer's; pages are encoded by parquet-pages.ts.
 */
export class DataFileBuilder {
  private readonly leaves: Leaf[];
  private readonly out: FileWriter;
  private readonly container: ParquetWriter;
  private readonly rowGroupRows: number;
  private readonly zstdLevel: number;
  private readonly groups: RowGroupFacts[] = [];

  constructor({ fields, keyValueMetadata = {}, rowGroupRows = rowGroupRowsDefault, zstdLevel = 1, bytesExpected = 0 }: DataFileBuilderOptions) {
    invariant(rowGroupRows > 0, () => `a row group of ${rowGroupRows} rows`);
    this.out = new FileWriter(Math.max(fileBytesFirst, bytesExpected));
    this.leaves = fields.map(leafOf);
    this.rowGroupRows = rowGroupRows;
    this.zstdLevel = zstdLevel;
    const entries = Object.entries(keyValueMetadata);
    this.container = new ParquetWriter({
      writer: this.out, schema: schemaElements(fields), codec: 'ZSTD', createdBy: 'tidemark', statisticsTruncateLength: Infinity,
      ...(entries.length > 0 ? { kvMetadata: entries.map(([key, value]) => ({ key, value })) } : {}),
    });
  }

  /** Encoded bytes so far, without the footer. */
  get byteLength(): number {
    return this.out.offset;
  }

  get rowCount(): number {
    return this.groups.reduce((sum, group) => sum + group.rowCount, 0);
  }

  /** Appends rows as one or more row groups. A column that is missing is null in every row. */
  appendRows(batch: EncodableBatch, selection: RowSelection = { start: 0, end: batch.rowCount }): void {
    const isRange = 'start' in selection;
    const total = isRange ? selection.end - selection.start : selection.indices.length;
    for (let from = 0; from < total; from += this.rowGroupRows) {
      const until = Math.min(total, from + this.rowGroupRows);
      const startOffset = this.out.offset;
      this.closeRowGroup(until - from, startOffset, this.leaves.map((leaf) => {
        const column = batch.columns[leaf.field.name] ?? { constant: null };
        const length = lengthOf(column, batch.rowCount);
        if (length !== batch.rowCount) {
          throw new TidemarkError('BAD_INPUT', `column ${leaf.field.name}: expected ${batch.rowCount} values, found ${length}`);
        }
        if (isRange) return this.appendColumn(leaf, windowOfColumn(column, selection.start + from, selection.start + until), until - from);
        const gathered = gatherColumn(column, selection.indices.subarray(from, until));
        const encoded = this.appendColumn(leaf, gathered, until - from);
        if (gathered !== column) releaseColumn(gathered);
        return encoded;
      }));
    }
  }

  /** Appends one row group whose columns are given one by one: to encode, or copied from a file with the same physical column. */
  appendRowGroup(rowCount: number, columnOf: (leaf: Leaf) => RowGroupColumn): void {
    const startOffset = this.out.offset;
    this.closeRowGroup(rowCount, startOffset, this.leaves.map((leaf) => this.appendColumn(leaf, columnOf(leaf), rowCount)));
  }

  /** As {@link appendRowGroup}; a column is loaded when its turn comes, so that one is in memory at a time. */
  async loadRowGroup(rowCount: number, columnOf: (leaf: Leaf) => Promise<RowGroupColumn>): Promise<void> {
    const startOffset = this.out.offset;
    const columns: EncodedColumn[] = [];
    for (const leaf of this.leaves) columns.push(this.appendColumn(leaf, await columnOf(leaf), rowCount));
    this.closeRowGroup(rowCount, startOffset, columns);
  }

  private appendColumn(leaf: Leaf, column: RowGroupColumn, rowCount: number): EncodedColumn {
    return 'facts' in column ? this.appendCopy(leaf, column) : appendColumnChunk(this.out, leaf, column, rowCount, this.zstdLevel);
  }

  private closeRowGroup(rowCount: number, startOffset: number, encoded: readonly EncodedColumn[]): void {
    const columns = encoded.map(({ chunk }) => chunk);
    const rowGroup: RowGroup = {
      columns, num_rows: BigInt(rowCount), file_offset: BigInt(startOffset), total_compressed_size: BigInt(this.out.offset - startOffset),
      total_byte_size: columns.reduce((sum, { meta_data: metadata }) => sum + (metadata?.total_uncompressed_size ?? 0n), 0n),
    };
    this.container.row_groups.push(rowGroup);
    this.container.num_rows += BigInt(rowCount);
    this.groups.push({ rowCount, startOffset, chunks: encoded.map(({ facts }) => facts) });
  }

  private appendCopy(leaf: Leaf, { bytes, chunk, facts }: CopiedChunk): EncodedColumn {
    const metadata = chunk.meta_data;
    if (!metadata || metadata.type !== leaf.physical || bytes.length !== Number(metadata.total_compressed_size)) {
      throw new TidemarkError('BAD_INPUT', `column ${leaf.field.name}: the chunk to copy is no whole ${leaf.physical} column chunk`);
    }
    const start = metadata.dictionary_page_offset ?? metadata.data_page_offset;
    const shift = BigInt(this.out.offset) - start;
    this.out.appendBytes(bytes);
    return {
      facts: { ...facts, fieldId: leaf.fieldId },
      chunk: {
        file_offset: start + shift,
        meta_data: {
          ...metadata, path_in_schema: leaf.path, data_page_offset: metadata.data_page_offset + shift,
          ...(metadata.dictionary_page_offset === undefined ? {} : { dictionary_page_offset: metadata.dictionary_page_offset + shift }),
        },
      },
    };
  }

  /** Gives away what is encoded so far, so that a file larger than memory can be put piece by piece; {@link finish} then gives the rest. */
  takeBytes(): Uint8Array {
    const bytes = new Uint8Array(this.out.getBuffer());
    // The writer counts file positions by `offset`, and fills its buffer from `index` on.
    this.out.index = 0;
    return bytes;
  }

  /** The file's bytes, or those behind what was taken. */
  finish(): EncodedDataFile {
    this.container.finish();
    return { bytes: this.out.getBytes(), metrics: metricsOf(this.leaves, this.groups, this.out.offset) };
  }
}

export interface EncodeDataFileOptions extends DataFileBuilderOptions {
  batch: EncodableBatch;
  rows?: RowSelection;
}

/** One data file of the batch's rows, and what its manifest entry says. */
export const encodeDataFile = ({ batch, rows, ...options }: EncodeDataFileOptions): EncodedDataFile => {
  const builder = new DataFileBuilder(options);
  builder.appendRows(batch, rows);
  return builder.finish();
};
