import { isCodedColumn, isConstantColumn, isPackedColumn, packedPrefixBytes } from '../lake/columns.ts';
import type { EncodableColumn, PackedColumn } from '../lake/columns.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { objectSource, openParquet, readStoredColumns, rowGroupBounds } from '../lake/parquet-reader.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import type { BoundsFilter, LiveFile, TableVersion } from '../lake/table.ts';

/** One value of a row; timestamps are µs since the epoch, decimals their unscaled value. */
export type FoundValue = bigint | number | string | boolean | Uint8Array | readonly (string | number | bigint)[] | null;

export interface FoundRow {
  file: LiveFile;
  rowGroup: number;
  /** Within the row group, from 0. */
  row: number;
  values: Readonly<Record<string, FoundValue>>;
}

export interface FindRows {
  /** Column → the value that its rows have; all of them. */
  where: Readonly<Record<string, bigint | number | string>>;
  /** Ranges besides: what lies outside of them is not read; rows that do lie outside may be found all the same. */
  within?: readonly BoundsFilter[];
  /** Columns of the rows that are found; those that a file lacks are left out. Default: all of the table. */
  columns?: readonly string[];
  snapshotId?: bigint;
  /** Only these of the files that may hold such rows. */
  onlyFiles?: ReadonlySet<string>;
  signal?: AbortSignal;
  onProgress?: (progress: { files: number; filesTotal: number }) => void;
}

/** Each is a request or two. */
const filesAtOnce = 8;

const rowGroupsOf = (file: ParquetFile, { fields }: TableVersion, { where, within = [] }: FindRows): number[] => {
  let groups = file.rowGroupRows.map((_, group) => group);
  for (const { column, min, max } of [...Object.entries(where).map(([name, value]) => ({ column: name, min: value, max: value })), ...within]) {
    const field = fields.find(({ name }) => name === column);
    if (!field || groups.length === 0) continue;
    const bounds = rowGroupBounds(file, field);
    groups = groups.filter((group) => {
      const known = bounds[group];
      // Texts are cut in the statistics: those are left to the search of their bytes.
      if (!known || typeof known.min === 'string') return true;
      return (max === undefined || known.min <= max) && (min === undefined || known.max >= min);
    });
  }
  return groups;
};

/** Rows whose packed text is this one: found as bytes, its length in front of it, so that no text is made for a row. */
const packedRows = function* ({ packed, positions }: PackedColumn, text: string): Generator<number> {
  const wanted = Buffer.alloc(packedPrefixBytes + Buffer.byteLength(text));
  wanted.writeUInt32LE(wanted.length - packedPrefixBytes);
  wanted.write(text, packedPrefixBytes);
  const bytes = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
  let row = 0;
  for (let at = bytes.indexOf(wanted); at >= 0; at = bytes.indexOf(wanted, at + 1)) {
    // The same bytes may lie across two values, or inside of one. A null takes no bytes: its position is the next row's too.
    while (positions[row + 1]! <= at) row += 1;
    if (positions[row] === at && positions[row + 1] === at + wanted.length) yield row;
  }
};

/** Rows of a column that have the value. */
const rowsWith = (column: EncodableColumn, rowCount: number, value: bigint | number | string): number[] => {
  if (isPackedColumn(column)) return typeof value === 'string' ? [...packedRows(column, value)] : [];
  const rows: number[] = [];
  if (isCodedColumn(column)) {
    const codes = new Set(column.entries.flatMap((entry, code) => (entry === value ? [code] : [])));
    if (codes.size > 0) column.codes.forEach((code, row) => void (codes.has(code) && rows.push(row)));
  } else if (isConstantColumn(column)) {
    if (column.constant === value) for (let row = 0; row < rowCount; row += 1) rows.push(row);
  } else {
    // Of typed arrays: no number is made for a row that is another one.
    for (let row = column.indexOf(value as never); row >= 0; row = column.indexOf(value as never, row + 1)) rows.push(row);
  }
  return rows;
};

/** One value of a column, without the others being made. */
const valueAt = (column: EncodableColumn, row: number, isText: boolean): FoundValue => {
  if (isPackedColumn(column)) {
    const [start, end] = [column.positions[row]!, column.positions[row + 1]!];
    if (start === end) return null;
    const bytes = Uint8Array.from(column.packed.subarray(start + packedPrefixBytes, end));
    return isText ? Buffer.from(bytes.buffer).toString('utf8') : bytes;
  }
  if (isCodedColumn(column)) return column.entries[column.codes[row]!]!;
  return isConstantColumn(column) ? column.constant : column[row]!;
};

/**
 * The rows of one row group. The condition whose column takes most bytes is looked at first, since it tells most; the other columns are
 * read, in one go, only where it holds.
 */
const findInRowGroup = async (file: ParquetFile, rowGroup: number, { where }: FindRows, wanted: readonly string[], texts: ReadonlySet<string>): Promise<Omit<FoundRow, 'file'>[]> => {
  const sizeOf = (name: string): bigint => file.chunk(rowGroup, file.leaf(name)).meta_data.total_compressed_size;
  const [first, ...others] = Object.entries(where).sort(([a], [b]) => Number(sizeOf(b) - sizeOf(a)));
  if (!first) return [];
  const [name, value] = first;
  const { rowCount, columns: { [name]: column } } = await readStoredColumns(file, { columns: [name], rowGroups: [rowGroup] });
  const rows = rowsWith(column!, rowCount, value);
  if (rows.length === 0) return [];
  const names = [...new Set([...others.map(([other]) => other), ...wanted])].filter((other) => other !== name);
  const columns: Record<string, EncodableColumn> = { ...(await readStoredColumns(file, { columns: names, rowGroups: [rowGroup] })).columns, [name]: column! };
  const at = (of: string, row: number): FoundValue => valueAt(columns[of]!, row, texts.has(of));
  return rows.filter((row) => others.every(([other, expected]) => at(other, row) === expected))
    .map((row) => ({ rowGroup, row, values: Object.fromEntries(wanted.map((of) => [of, at(of, row)])) }));
};

const findInFile = async (store: ObjectStore, version: TableVersion, live: LiveFile, find: FindRows): Promise<FoundRow[]> => {
  const file = await openParquet(objectSource(store, store.keyOf(live.filePath), live.fileSizeBytes, find.signal ? { signal: find.signal } : {}));
  const wanted = (find.columns ?? version.fields.map(({ name }) => name)).filter((name) => file.columnNames.includes(name));
  const texts = new Set(version.fields.filter(({ type }) => type === 'string').map(({ name }) => name));
  const found: FoundRow[] = [];
  for (const rowGroup of rowGroupsOf(file, version, find)) {
    for (const row of await findInRowGroup(file, rowGroup, find, wanted, texts)) found.push({ file: live, ...row });
  }
  return found;
};

/**
 * Rows of a table with given values, newest files first. Reads only files whose partition and bounds admit them, of those the row groups
 * whose statistics do, there the columns of the conditions, and the columns asked for where a row meets them.
 */
export const findRows = async (store: ObjectStore, version: TableVersion, find: FindRows): Promise<FoundRow[]> => {
  const bounds = [...Object.entries(find.where).map(([column, value]) => ({ column, min: value, max: value })), ...find.within ?? []];
  const files = (await version.scan({ bounds, ...(find.snapshotId === undefined ? {} : { snapshotId: find.snapshotId }) }))
    .filter(({ filePath }) => find.onlyFiles?.has(filePath) ?? true).reverse();
  const found: FoundRow[] = [];
  for (let from = 0; from < files.length; from += filesAtOnce) {
    find.signal?.throwIfAborted();
    find.onProgress?.({ files: from, filesTotal: files.length });
    const rows = await Promise.all(files.slice(from, from + filesAtOnce).map((file) => findInFile(store, version, file, find)));
    found.push(...rows.flat());
  }
  return found;
};
