/**
 * Columns of a batch. What a column holds by Iceberg type:
 * - long, timestamp(tz) (µs since the epoch), decimal (unscaled value): `BigInt64Array` if without nulls, else `(bigint | null)[]`
 * - int, date (days since the epoch): `Int32Array` if without nulls, else `(number | null)[]`
 * - string: `(string | null)[]`; binary: `(Uint8Array | null)[]`; boolean: `(boolean | null)[]`; double, float: `Float64Array`
 * - list: `(readonly Primitive[] | null)[]`
 */
export type ColumnValues =
  | BigInt64Array | Int32Array | Float64Array
  | readonly (bigint | null)[] | readonly (number | null)[] | readonly (string | null)[] | readonly (boolean | null)[]
  | readonly (Uint8Array | null)[] | readonly (readonly (string | number | bigint)[] | null)[];

export interface ColumnBatch {
  rowCount: number;
  /** By column name; each holds `rowCount` values. */
  columns: Readonly<Record<string, ColumnValues>>;
}

/** A column that holds one value in every row. Writers take it: it costs almost nothing. Readers never return it. */
export interface ConstantColumn {
  readonly constant: bigint | number | string | boolean | Uint8Array | readonly (string | number | bigint)[] | null;
}

/** What a data file can be encoded from; every {@link ColumnBatch} is one. */
export interface EncodableBatch {
  rowCount: number;
  columns: Readonly<Record<string, ColumnValues | ConstantColumn>>;
}

export const isConstantColumn = (column: ColumnValues | ConstantColumn): column is ConstantColumn =>
  !ArrayBuffer.isView(column) && !Array.isArray(column) && 'constant' in column;
