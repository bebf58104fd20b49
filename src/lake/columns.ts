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

/**
 * Texts or binaries as Parquet's PLAIN encoding has them: each value is its length (four bytes, little-endian) and its bytes, and
 * row i is `packed` from positions[i] to positions[i + 1]; a null takes no bytes. No object is made for a row, and a data page is a
 * piece of this memory.
 */
export interface PackedColumn {
  readonly packed: Uint8Array;
  /** One more than there are rows. */
  readonly positions: Uint32Array;
}

/** Few different texts or lists in many rows, none of them null: row i has entries[codes[i]]. Entries need not be in use. */
export interface CodedColumn {
  readonly entries: readonly (string | readonly string[])[];
  readonly codes: Uint32Array;
}

export type EncodableColumn = ColumnValues | ConstantColumn | PackedColumn | CodedColumn;

/** What a data file can be encoded from; every {@link ColumnBatch} is one. */
export interface EncodableBatch {
  rowCount: number;
  columns: Readonly<Record<string, EncodableColumn>>;
}

const isPlain = (column: EncodableColumn): column is ColumnValues => ArrayBuffer.isView(column) || Array.isArray(column);
export const isConstantColumn = (column: EncodableColumn): column is ConstantColumn => !isPlain(column) && 'constant' in column;
export const isPackedColumn = (column: EncodableColumn): column is PackedColumn => !isPlain(column) && 'packed' in column;
export const isCodedColumn = (column: EncodableColumn): column is CodedColumn => !isPlain(column) && 'codes' in column;

/** Bytes of the length in front of a packed value. */
export const packedPrefixBytes = 4;

/** Packs binaries one by one: for what comes as objects already. */
export const packBinaries = (values: readonly (Uint8Array | null)[]): PackedColumn => {
  const positions = new Uint32Array(values.length + 1);
  let at = 0;
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i];
    if (value) at += packedPrefixBytes + value.length;
    positions[i + 1] = at;
  }
  const packed = Buffer.allocUnsafeSlow(at);
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i];
    if (!value) continue;
    packed.writeUInt32LE(value.length, positions[i]!);
    packed.set(value, positions[i]! + packedPrefixBytes);
  }
  return { packed, positions };
};

/** The texts of a packed column, for whoever needs them as such. */
export const packedTexts = ({ packed, positions }: PackedColumn): (string | null)[] => {
  const bytes = Buffer.from(packed.buffer, packed.byteOffset, packed.byteLength);
  const texts: (string | null)[] = [];
  for (let i = 0; i + 1 < positions.length; i += 1) {
    texts.push(positions[i] === positions[i + 1] ? null : bytes.toString('utf8', positions[i]! + packedPrefixBytes, positions[i + 1]));
  }
  return texts;
};

/** The column with an entry for each row. Texts of a packed column; its binaries are not told from them. */
export const spreadColumn = (column: EncodableColumn, rowCount: number): ColumnValues => {
  if (isPackedColumn(column)) return packedTexts(column);
  if (isCodedColumn(column)) return Array.from(column.codes, (code) => column.entries[code]!) as ColumnValues;
  if (!isConstantColumn(column)) return column;
  const { constant } = column;
  if (typeof constant === 'bigint') return new BigInt64Array(rowCount).fill(constant);
  if (typeof constant === 'number' && Number.isInteger(constant)) return new Int32Array(rowCount).fill(constant);
  return Array.from({ length: rowCount }, () => constant) as ColumnValues;
};

/** Reads a text column without nulls row by row. */
export const textReader = (column: EncodableColumn, rowCount: number): ((row: number) => string) => {
  if (isConstantColumn(column)) return () => column.constant as string;
  if (isCodedColumn(column)) return (row) => column.entries[column.codes[row]!] as string;
  const texts = spreadColumn(column, rowCount) as readonly string[];
  return (row) => texts[row]!;
};
