import type { ObjectStore } from '../lake/object-store.ts';
import { objectSource, openParquet, readColumns, rowGroupBounds, rowGroupsWithText } from '../lake/parquet-reader.ts';
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

const rowGroupsOf = async (file: ParquetFile, { fields }: TableVersion, { where, within = [] }: FindRows): Promise<number[]> => {
  let groups = file.rowGroupRows.map((_, group) => group);
  const conditions: BoundsFilter[] = [...Object.entries(where).map(([column, value]) => ({ column, min: value, max: value })), ...within];
  for (const { column, min, max } of conditions) {
    const field = fields.find(({ name }) => name === column);
    if (!field || groups.length === 0) continue;
    const bounds = rowGroupBounds(file, field);
    groups = groups.filter((group) => {
      const known = bounds[group];
      // Texts are cut in the statistics, and only from below it is certain in which order: they are searched instead.
      if (!known || typeof known.min === 'string') return true;
      return (max === undefined || known.min <= max) && (min === undefined || known.max >= min);
    });
  }
  for (const [column, value] of Object.entries(where)) {
    if (typeof value === 'string' && groups.length > 0) groups = await rowGroupsWithText(file, column, value, groups);
  }
  return groups;
};

const findInFile = async (store: ObjectStore, version: TableVersion, live: LiveFile, find: FindRows): Promise<FoundRow[]> => {
  const file = await openParquet(objectSource(store, store.keyOf(live.filePath), live.fileSizeBytes, find.signal ? { signal: find.signal } : {}));
  const names = Object.keys(find.where);
  const found: FoundRow[] = [];
  for (const rowGroup of await rowGroupsOf(file, version, find)) {
    const keys = await readColumns(file, { columns: names, rowGroups: [rowGroup] });
    const conditions = names.map((name) => ({ column: keys.columns[name]!, value: find.where[name]! }));
    const rows: number[] = [];
    for (let row = 0; row < keys.rowCount; row += 1) {
      if (conditions.every(({ column, value }) => column[row] === value)) rows.push(row);
    }
    if (rows.length === 0) continue;
    const wanted = (find.columns ?? version.fields.map(({ name }) => name)).filter((name) => file.columnNames.includes(name));
    const { columns } = await readColumns(file, { columns: wanted, rowGroups: [rowGroup] });
    for (const row of rows) {
      found.push({ file: live, rowGroup, row, values: Object.fromEntries(wanted.map((name) => [name, columns[name]![row] as FoundValue])) });
    }
  }
  return found;
};

/**
 * Rows of a table with given values, newest files first. Reads only files whose partition and bounds admit them, of those only row
 * groups whose statistics and text pages do, and of those the columns asked for.
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
