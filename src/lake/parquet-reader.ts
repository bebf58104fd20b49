import { parquetMetadata, type ColumnChunk, type FileMetaData } from 'hyparquet';
import { deserializeTCompactProtocol } from 'hyparquet/src/thrift.js';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import type { ColumnBatch, ColumnValues, EncodableBatch, EncodableColumn } from './columns.ts';
import type { SingleValue } from './iceberg/single-value.ts';
import type { ObjectStore } from './object-store.ts';
import { assembleColumn, assembleStored, decodeColumnChunk } from './parquet-decode.ts';
import { metricsOf, plainSingleValue, type DataFileMetrics } from './parquet-metrics.ts';
import { statisticValue, type ChunkFacts } from './parquet-pages.ts';
import { fileLeaves, leafOf, type FileLeaf, type Leaf } from './parquet-schema.ts';
import type { CopiedChunk } from './parquet-writer.ts';
import type { Field } from './schema.ts';

/** Where a Parquet file's bytes come from. */
export interface ByteSource {
  readonly byteLength: number;
  /** Bytes [start, end). */
  slice(start: number, end: number): Promise<Uint8Array>;
}

export const bytesSource = (bytes: Uint8Array): ByteSource => ({
  byteLength: bytes.length,
  slice: (start, end) => Promise.resolve(bytes.subarray(start, end)),
});

/** `byteLength` is known from the manifest (fileSizeBytes) or a head: an object store cannot be asked for a suffix without it. */
export const objectSource = (store: ObjectStore, key: string, byteLength: number, options: { signal?: AbortSignal } = {}): ByteSource => ({
  byteLength,
  slice: (start, end) => store.getRange(key, start, end, options),
});

/** Read with the footer in the first request; a file that is not larger takes one request in all. */
export const tailBytesDefault = 64 * 1024;
/** Ranges nearer than this are fetched as one: a request costs more than the bytes between. */
const gapBytesMax = 64 * 1024;
const requestBytesMax = 8 << 20;

/** An open Parquet file: its footer, and its last bytes. */
export class ParquetFile {
  readonly metadata: FileMetaData;
  readonly leaves: readonly FileLeaf[];
  readonly byteLength: number;
  private readonly source: ByteSource;
  private readonly tail: Uint8Array;
  private rawStatistics: (RawStatistics | undefined)[][] | undefined;

  constructor(source: ByteSource, tail: Uint8Array) {
    this.source = source;
    this.byteLength = source.byteLength;
    this.tail = tail;
    this.metadata = parquetMetadata(tail, { geoparquet: false });
    this.leaves = fileLeaves(this.metadata.schema);
  }

  get rowCount(): number {
    return Number(this.metadata.num_rows);
  }

  get columnNames(): string[] {
    return this.leaves.map((leaf) => leaf.name);
  }

  /** Rows of each row group. */
  get rowGroupRows(): number[] {
    return this.metadata.row_groups.map((group) => Number(group.num_rows));
  }

  get keyValueMetadata(): Record<string, string> {
    return Object.fromEntries((this.metadata.key_value_metadata ?? []).map(({ key, value }) => [key, value ?? '']));
  }

  leaf(column: string): FileLeaf {
    const leaf = this.leaves.find(({ name }) => name === column);
    if (!leaf) throw new TidemarkError('FILE_UNREADABLE', `column ${column}: expected in the file, found ${this.columnNames.join(', ')}`);
    return leaf;
  }

  chunk(rowGroup: number, leaf: FileLeaf): ColumnChunk & { meta_data: NonNullable<ColumnChunk['meta_data']> } {
    const chunk = this.metadata.row_groups[rowGroup]?.columns[leaf.index];
    if (!chunk?.meta_data) throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: row group ${rowGroup} has no such column chunk`);
    return { ...chunk, meta_data: chunk.meta_data };
  }

  /** The bytes of several ranges, in their order; near ranges share a request, and what came with the footer needs none. */
  async fetch(ranges: readonly { start: number; end: number }[]): Promise<Uint8Array[]> {
    const tailStart = this.byteLength - this.tail.length;
    const out: Uint8Array[] = ranges.map(({ start, end }) => this.tail.subarray(Math.max(0, start - tailStart), Math.max(0, end - tailStart)));
    const outside = ranges.find(({ start, end }) => !(start >= 0 && start <= end && end <= this.byteLength));
    if (outside) throw new TidemarkError('FILE_UNREADABLE', `the footer names bytes [${outside.start}, ${outside.end}) of a file of ${this.byteLength}`);
    const missing = ranges.map((range, index) => ({ ...range, index })).filter(({ start, end }) => start < tailStart && start < end)
      .sort((a, b) => a.start - b.start);
    const requests: { start: number; end: number; parts: typeof missing }[] = [];
    for (const range of missing) {
      const last = requests.at(-1);
      if (last && range.start - last.end <= gapBytesMax && Math.max(last.end, range.end) - last.start <= requestBytesMax) {
        last.end = Math.max(last.end, range.end);
        last.parts.push(range);
      } else {
        requests.push({ start: range.start, end: range.end, parts: [range] });
      }
    }
    await Promise.all(requests.map(async ({ start, end, parts }) => {
      const bytes = await this.source.slice(start, end);
      if (bytes.length !== end - start) throw new TidemarkError('FILE_UNREADABLE', `bytes [${start}, ${end}): expected ${end - start}, found ${bytes.length}`);
      for (const part of parts) out[part.index] = bytes.subarray(part.start - start, part.end - start);
    }));
    return out;
  }

  /** hyparquet turns statistics into doubles and Dates, which lose digits; this parses the footer once more and keeps the bytes. */
  statistics(rowGroup: number, leaf: FileLeaf): RawStatistics | undefined {
    if (!this.rawStatistics) {
      const view = new DataView(this.tail.buffer, this.tail.byteOffset, this.tail.byteLength);
      const offset = this.tail.length - 8 - this.metadata.metadata_length;
      const footer = deserializeTCompactProtocol({ view, offset });
      this.rawStatistics = list(footer.field_4).map((group) => list(group.field_1).map((chunk) => parseStatistics(struct(struct(chunk.field_3).field_12))));
    }
    return this.rawStatistics[rowGroup]?.[leaf.index];
  }
}

interface RawStatistics {
  nullCount: number | undefined;
  min: Uint8Array | undefined;
  max: Uint8Array | undefined;
  isMinExact: boolean | undefined;
  isMaxExact: boolean | undefined;
}

type Thrift = { [field: `field_${number}`]: unknown };
const struct = (value: unknown): Thrift => (value ?? {}) as Thrift;
const list = (value: unknown): Thrift[] => (value ?? []) as Thrift[];

const parseStatistics = (statistics: Thrift): RawStatistics | undefined => {
  const { field_3: nulls, field_5: max, field_6: min, field_7: isMaxExact, field_8: isMinExact } = statistics;
  if (nulls === undefined && max === undefined && min === undefined) return undefined;
  return {
    nullCount: typeof nulls === 'bigint' ? Number(nulls) : undefined,
    min: min instanceof Uint8Array ? min : undefined,
    max: max instanceof Uint8Array ? max : undefined,
    isMinExact: typeof isMinExact === 'boolean' ? isMinExact : undefined,
    isMaxExact: typeof isMaxExact === 'boolean' ? isMaxExact : undefined,
  };
};

const footerTrailerBytes = 8;
const magic = 0x31524150;

/** Opens a Parquet file by one range request of its last bytes (two if the footer is longer). FILE_UNREADABLE if it is none. */
export const openParquet = async (source: ByteSource, { tailBytes = tailBytesDefault }: { tailBytes?: number } = {}): Promise<ParquetFile> => {
  const { byteLength } = source;
  if (byteLength < footerTrailerBytes + 4) throw new TidemarkError('FILE_UNREADABLE', `expected a Parquet file, found ${byteLength} bytes`);
  let tail = await source.slice(Math.max(0, byteLength - tailBytes), byteLength);
  const view = new DataView(tail.buffer, tail.byteOffset, tail.byteLength);
  const footerBytes = view.getUint32(tail.length - footerTrailerBytes, true) + footerTrailerBytes;
  if (view.getUint32(tail.length - 4, true) !== magic || footerBytes > byteLength) {
    throw new TidemarkError('FILE_UNREADABLE', 'expected a Parquet footer at the end of the file, found none');
  }
  if (footerBytes > tail.length) tail = await source.slice(byteLength - footerBytes, byteLength);
  try {
    return new ParquetFile(source, tail);
  } catch (error) {
    throw new TidemarkError('FILE_UNREADABLE', 'the Parquet footer cannot be parsed', { cause: error });
  }
};

export interface ReadOptions {
  /** Names of top-level columns. A column that the file does not have is FILE_UNREADABLE. */
  columns: readonly string[];
  /** Only these row groups, in this order; default all. */
  rowGroups?: readonly number[];
  /** Rows of the file, half-open; not together with rowGroups. Whole row groups are decoded. */
  rowStart?: number;
  rowEnd?: number;
}

const rangeOf = (metadata: NonNullable<ColumnChunk['meta_data']>): { start: number; end: number } => {
  const dictionary = metadata.dictionary_page_offset;
  // Some writers store 0 for "none".
  const start = Number(dictionary && dictionary < metadata.data_page_offset ? dictionary : metadata.data_page_offset);
  return { start, end: start + Number(metadata.total_compressed_size) };
};

const slicedRows = (values: ColumnValues, start: number, end: number): ColumnValues =>
  ArrayBuffer.isView(values) ? values.subarray(start, end) : values.slice(start, end);

/** What a damaged file makes a codec or a decoder throw is FILE_UNREADABLE to the caller. */
const decoding = <Result>(what: string, decode: () => Result): Result => {
  try {
    return decode();
  } catch (error) {
    if (isTidemarkError(error)) throw error;
    throw new TidemarkError('FILE_UNREADABLE', `${what} cannot be decoded`, { cause: error });
  }
};

/** Columns of a file in the representations of columns.ts. FILE_UNREADABLE if the file is damaged. */
export const readColumns = async (file: ParquetFile, options: ReadOptions): Promise<ColumnBatch> => {
  const groupRows = file.rowGroupRows;
  const rowStart = options.rowStart ?? 0;
  const rowEnd = Math.min(options.rowEnd ?? file.rowCount, file.rowCount);
  let firstRow = 0;
  let selected: number[] = [];
  if (options.rowGroups) {
    selected = [...options.rowGroups];
  } else {
    let at = 0;
    for (const [index, rows] of groupRows.entries()) {
      if (at < rowEnd && at + rows > rowStart) {
        if (selected.length === 0) firstRow = at;
        selected.push(index);
      }
      at += rows;
    }
  }
  const decodedRows = selected.reduce((sum, group) => sum + (groupRows[group] ?? 0), 0);
  const leaves = options.columns.map((name) => file.leaf(name));
  const wanted = leaves.flatMap((leaf) => selected.map((group) => file.chunk(group, leaf).meta_data));
  const bytes = await file.fetch(wanted.map(rangeOf));
  const columns: Record<string, ColumnValues> = {};
  const isWhole = options.rowGroups !== undefined || (firstRow === rowStart && rowEnd - rowStart >= decodedRows);
  for (const [index, leaf] of leaves.entries()) {
    const values = decoding(`column ${leaf.name}`, () => assembleColumn(selected.flatMap((_, nth) => {
      const at = index * selected.length + nth;
      return decodeColumnChunk(bytes[at]!, leaf, wanted[at]!);
    }), leaf));
    if (values.length !== decodedRows) throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: expected ${decodedRows} rows, found ${values.length}`);
    columns[leaf.name] = isWhole ? values : slicedRows(values, rowStart - firstRow, rowEnd - firstRow);
  }
  return { rowCount: isWhole ? decodedRows : Math.max(0, rowEnd - rowStart), columns };
};

/**
 * Columns of whole row groups, as near to how they are stored as columns.ts allows: texts and binaries packed, dictionaries as codes, a
 * dictionary of one entry as a constant. For whoever copies rows, or looks at bytes. FILE_UNREADABLE if the file is damaged.
 */
export const readStoredColumns = async (file: ParquetFile, { columns: names, rowGroups }: { columns: readonly string[]; rowGroups: readonly number[] }): Promise<EncodableBatch> => {
  const rowCount = rowGroups.reduce((sum, group) => sum + (file.rowGroupRows[group] ?? 0), 0);
  const leaves = names.map((name) => file.leaf(name));
  const wanted = leaves.flatMap((leaf) => rowGroups.map((group) => file.chunk(group, leaf).meta_data));
  const bytes = await file.fetch(wanted.map(rangeOf));
  const columns: Record<string, EncodableColumn> = {};
  for (const [index, leaf] of leaves.entries()) {
    const first = index * rowGroups.length;
    columns[leaf.name] = decoding(`column ${leaf.name}`, () => {
      const pages = rowGroups.flatMap((_, nth) => decodeColumnChunk(bytes[first + nth]!, leaf, wanted[first + nth]!, 'stored'));
      if (!leaf.isList && pages.reduce((sum, { levelCount }) => sum + levelCount, 0) !== rowCount) {
        throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: expected ${rowCount} rows, found ${pages.reduce((sum, { levelCount }) => sum + levelCount, 0)}`);
      }
      return assembleStored(pages, leaf);
    });
  }
  return { rowCount, columns };
};

/** The field's leaf as the writer has it, made from what the file says; texts and binaries bound as bytes. */
const writerLeaf = (leaf: FileLeaf, fields: readonly Field[]): Leaf | undefined => {
  const field = fields.find(({ id, name }) => (leaf.fieldId === undefined ? name === leaf.name : id === leaf.fieldId || (name === leaf.name && leaf.isList)));
  return field && leafOf(field);
};

const factsOf = (file: ParquetFile, rowGroup: number, leaf: FileLeaf, fieldId: number): ChunkFacts => {
  const { meta_data: metadata } = file.chunk(rowGroup, leaf);
  const statistics = file.statistics(rowGroup, leaf);
  return {
    fieldId, compressedBytes: Number(metadata.total_compressed_size), valueCount: Number(metadata.num_values),
    nullCount: statistics?.nullCount, min: statistics?.min, max: statistics?.max,
  };
};

/**
 * The metrics that the writer returned for the file, from its footer alone. Fields that the file does not have are left out, and so
 * are bounds of columns that a foreign writer stored in another physical type.
 */
export const dataFileFromFooter = (file: ParquetFile, fields: readonly Field[]): DataFileMetrics => {
  const known = file.leaves.flatMap((leaf) => {
    const own = writerLeaf(leaf, fields);
    return own ? [{ leaf, own }] : [];
  });
  const groups = file.rowGroupRows.map((rowCount, rowGroup) => ({
    rowCount,
    startOffset: Math.min(...file.leaves.map((leaf) => rangeOf(file.chunk(rowGroup, leaf).meta_data).start)),
    chunks: known.map(({ leaf, own }) => {
      const facts = factsOf(file, rowGroup, leaf, own.fieldId);
      return leaf.element.type === own.physical ? facts : { ...facts, min: undefined, max: undefined };
    }),
  }));
  return metricsOf(known.map(({ own }) => own), groups, file.byteLength);
};

/** Bounds of a column in one row group; values as columns.ts holds them. */
export interface RowGroupBounds {
  min: SingleValue;
  max: SingleValue;
}

const textDecoder = new TextDecoder();

/** Bounds by row group from the footer's statistics; undefined where there are none (all null, or not written). */
export const rowGroupBounds = (file: ParquetFile, field: Field): (RowGroupBounds | undefined)[] => {
  const leaf = file.leaf(field.name);
  const own = leafOf(field);
  return file.rowGroupRows.map((_, rowGroup) => {
    const statistics = file.statistics(rowGroup, leaf);
    if (!statistics?.min || !statistics.max || leaf.element.type !== own.physical) return undefined;
    const decode = (bytes: Uint8Array): SingleValue => own.type === 'string' ? textDecoder.decode(bytes) : plainSingleValue(own, bytes);
    return { min: decode(statistics.min), max: decode(statistics.max) };
  });
};

/** Whether a field's column chunk can be taken over as it is: the same physical type and the same levels. */
export const isCopyable = (file: ParquetFile, field: Field): boolean => {
  const leaf = file.leaves.find(({ name }) => name === field.name);
  const own = leafOf(field);
  return leaf !== undefined && leaf.element.type === own.physical && leaf.isList === own.isList && leaf.maxDefinitionLevel === own.maxDefinitionLevel
    && (!own.isList || leaf.listDefinitionLevel === own.fieldOptional + 1);
};

/** Column chunks of one row group as they are stored, for a file that takes them over without decoding; in the order of `fields`. Each must be {@link isCopyable}. */
export const copyColumnChunks = async (file: ParquetFile, rowGroup: number, fields: readonly Field[]): Promise<CopiedChunk[]> => {
  const leaves = fields.map((field) => ({ leaf: file.leaf(field.name), own: leafOf(field) }));
  const foreign = fields.find((field) => !isCopyable(file, field));
  if (foreign) throw new TidemarkError('BAD_INPUT', `column ${foreign.name}: the file stores it in another form than ${JSON.stringify(foreign.type)}, so it cannot be copied`);
  const chunks = leaves.map(({ leaf }) => file.chunk(rowGroup, leaf));
  const bytes = await file.fetch(chunks.map((chunk) => rangeOf(chunk.meta_data)));
  return leaves.map(({ leaf, own }, index) => {
    const facts = factsOf(file, rowGroup, leaf, own.fieldId);
    const statistics = file.statistics(rowGroup, leaf);
    const min = statisticValue(own, facts.min);
    const max = statisticValue(own, facts.max);
    const chunk = chunks[index]!;
    return {
      bytes: bytes[index]!, facts,
      chunk: {
        ...chunk,
        meta_data: {
          ...chunk.meta_data,
          statistics: {
            ...(facts.nullCount === undefined ? {} : { null_count: BigInt(facts.nullCount) }),
            ...(min === undefined ? {} : { min_value: min }), ...(max === undefined ? {} : { max_value: max }),
            ...(statistics?.isMinExact === undefined ? {} : { is_min_value_exact: statistics.isMinExact }),
            ...(statistics?.isMaxExact === undefined ? {} : { is_max_value_exact: statistics.isMaxExact }),
          },
        },
      },
    };
  });
};
