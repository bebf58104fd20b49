import { invariant } from '../domain/errors.ts';
import type { EncodableBatch, EncodableColumn } from '../lake/columns.ts';
import { isCodedColumn, isConstantColumn, isPackedColumn, packedTexts } from '../lake/columns.ts';
import type { Field, PartitionField, PartitionTuple, TableDefinition, Transform } from '../lake/schema.ts';

type PartitionValue = number | string | null;

/** A column and its transform, as one or several partition specs name it. */
export interface PartitionDimension {
  column: string;
  transform: Transform;
}

export interface RowGroupOfPartition {
  /** One value for each dimension. */
  values: PartitionValue[];
  /** Rows of the batch, ascending. */
  indices: Uint32Array;
}

const microsPer: Record<'day' | 'hour', number> = { day: 86_400_000_000, hour: 3_600_000_000 };
const two32 = 4_294_967_296;

/** Dimensions of the tables' partition specs, each once. Splitting by them gives files that lie in one partition of every table. */
export const partitionDimensions = (fields: readonly Field[], ...specs: readonly (readonly PartitionField[])[]): PartitionDimension[] => {
  const dimensions: PartitionDimension[] = [];
  for (const { sourceId, transform } of specs.flat()) {
    const field = fields.find(({ id }) => id === sourceId);
    invariant(field, () => `partition field: no column with id ${sourceId}`);
    if (!dimensions.some((known) => known.column === field.name && known.transform === transform)) dimensions.push({ column: field.name, transform });
  }
  return dimensions;
};

/** The tuple of one table, from the values of dimensions that contain its spec. */
export const tupleOf = (table: TableDefinition, dimensions: readonly PartitionDimension[], values: readonly PartitionValue[]): PartitionTuple =>
  Object.fromEntries(table.partitionBy.map(({ sourceId, transform }) => {
    const { name } = table.fields.find(({ id }) => id === sourceId)!;
    return [name, values[dimensions.findIndex((dimension) => dimension.column === name && dimension.transform === transform)]!];
  }));

const pad = (value: number, digits: number): string => String(value).padStart(digits, '0');

/** The folder of a partition as Iceberg and Hive write it: `exchange=BINANCE/timestamp_hour=2023-04-05-13`. */
export const partitionPath = (table: TableDefinition, tuple: PartitionTuple): string => table.partitionBy.map(({ sourceId, name, transform }) => {
  const field = table.fields.find(({ id }) => id === sourceId)!;
  const value = tuple[field.name] ?? null;
  let text: string;
  if (value === null) {
    text = 'null';
  } else if (typeof value === 'number' && (transform !== 'identity' || field.type === 'date')) {
    const date = new Date((transform === 'hour' ? value : value * 24) * 3_600_000);
    text = `${pad(date.getUTCFullYear(), 4)}-${pad(date.getUTCMonth() + 1, 2)}-${pad(date.getUTCDate(), 2)}${transform === 'hour' ? `-${pad(date.getUTCHours(), 2)}` : ''}`;
  } else {
    text = encodeURIComponent(String(value));
  }
  return `${name}=${text}`;
}).join('/');

const valueReader = (column: EncodableColumn, transform: Transform): ((row: number) => PartitionValue) => {
  if (isConstantColumn(column)) {
    const { constant } = column;
    invariant(constant === null || typeof constant === 'string' || typeof constant === 'number' || typeof constant === 'bigint', () => `partition value: expected a number or a text, found ${typeof constant}`);
    const value = transform === 'identity' || constant === null ? constant : Math.floor(Number(constant) / microsPer[transform]);
    const plain = typeof value === 'bigint' ? Number(value) : value;
    return () => plain;
  }
  if (column instanceof BigInt64Array) {
    const words = new Int32Array(column.buffer, column.byteOffset, column.length * 2);
    const divisor = transform === 'identity' ? 1 : microsPer[transform];
    return (row) => Math.floor((words[2 * row + 1]! * two32 + (words[2 * row]! >>> 0)) / divisor);
  }
  invariant(transform === 'identity', () => `partition transform ${transform}: expected a timestamp without nulls`);
  if (isCodedColumn(column)) {
    const { codes, entries } = column;
    return (row) => entries[codes[row]!] as string;
  }
  const values = isPackedColumn(column) ? packedTexts(column) : column;
  return (row) => values[row] as PartitionValue;
};

/** Splits the rows by the dimensions, in one pass. Memory: one number a row, and an index array for each partition. */
export const partitionRows = (batch: EncodableBatch, dimensions: readonly PartitionDimension[]): RowGroupOfPartition[] => {
  const readers = dimensions.map(({ column, transform }) => valueReader(batch.columns[column]!, transform));
  // Partial keys become small numbers dimension by dimension, so that a row costs number look-ups only.
  const numbers = dimensions.map(() => new Map<PartitionValue, Map<number, number>>());
  const prefixes = dimensions.map(() => 0);
  const groupOfRow = new Uint32Array(batch.rowCount);
  const groups: { values: PartitionValue[]; count: number }[] = [];
  const last = dimensions.map((): { value: PartitionValue | undefined; prefix: number; next: number } => ({ value: undefined, prefix: -1, next: -1 }));
  for (let row = 0; row < batch.rowCount; row += 1) {
    let prefix = 0;
    for (let d = 0; d < readers.length; d += 1) {
      const value = readers[d]!(row);
      // Most rows lie where the row before does.
      const before = last[d]!;
      if (value === before.value && prefix === before.prefix) {
        prefix = before.next;
        continue;
      }
      before.value = value;
      before.prefix = prefix;
      let byPrefix = numbers[d]!.get(value);
      if (!byPrefix) {
        byPrefix = new Map();
        numbers[d]!.set(value, byPrefix);
      }
      let next = byPrefix.get(prefix);
      if (next === undefined) {
        next = prefixes[d]!;
        prefixes[d]! += 1;
        byPrefix.set(prefix, next);
      }
      before.next = next;
      prefix = next;
    }
    const group = groups[prefix] ??= { values: readers.map((read) => read(row)), count: 0 };
    group.count += 1;
    groupOfRow[row] = prefix;
  }
  const indices = groups.map(({ count }) => new Uint32Array(count));
  const filled = groups.map(() => 0);
  for (let row = 0; row < batch.rowCount; row += 1) {
    const group = groupOfRow[row]!;
    indices[group]![filled[group]!] = row;
    filled[group]! += 1;
  }
  return groups.map(({ values }, g) => ({ values, indices: indices[g]! }));
};

/** Sorts the rows by one timestamp or long column without nulls, ascending, ties in their given order. In place. */
export const sortRowsBy = (batch: EncodableBatch, column: string, indices: Uint32Array): void => {
  const values = batch.columns[column]!;
  if (isConstantColumn(values)) return;
  invariant(values instanceof BigInt64Array, () => `sort column ${column}: expected 64-bit integers without nulls`);
  const words = new Int32Array(values.buffer, values.byteOffset, values.length * 2);
  const keys = new Float64Array(indices.length);
  let least = Infinity;
  let greatest = -Infinity;
  let sorted = true;
  for (let i = 0; i < indices.length; i += 1) {
    const row = indices[i]!;
    const value = words[2 * row + 1]! * two32 + (words[2 * row]! >>> 0);
    if (value < greatest) sorted = false;
    if (value > greatest) greatest = value;
    if (value < least) least = value;
    keys[i] = value;
  }
  if (sorted) return;
  const count = indices.length;
  if ((greatest - least + 1) * count < Number.MAX_SAFE_INTEGER) {
    // Value and position in one exact double: the engine's own number sort needs no callback.
    for (let i = 0; i < count; i += 1) keys[i] = (keys[i]! - least) * count + i;
    keys.sort();
    const before = indices.slice();
    for (let i = 0; i < count; i += 1) indices[i] = before[keys[i]! % count]!;
    return;
  }
  const before = indices.slice();
  const positions = Uint32Array.from(indices, (_, i) => i).sort((a, b) => keys[a]! - keys[b]! || a - b);
  for (let i = 0; i < count; i += 1) indices[i] = before[positions[i]!]!;
};
