import type { CellValue } from '../datasets/dataset.ts';
import type { ColumnValues, ConstantColumn } from '../lake/columns.ts';
import { InvariantError } from '../domain/errors.ts';
import type { Field, FieldType } from '../lake/schema.ts';

/**
 * Columns that rows are appended to, sized once. A row is appended column by column at `row`; a value that a column
 * cannot hold is refused, and the next row then takes the same place: nothing of the refused one remains.
 */
export interface RowColumn {
  readonly field: Field;
  /** Whether the column holds the value now. */
  append(row: number, value: CellValue | undefined): boolean;
  /** The first `rowCount` values; one value throughout becomes a constant. */
  finish(rowCount: number): ColumnValues | ConstantColumn;
}

const two32 = 4_294_967_296;
const int64Max = 2n ** 63n - 1n;
const int64Min = -(2n ** 63n);

/** int64 kinds: two 32-bit words a value, so that no BigInt is made for a row. */
class Int64Column implements RowColumn {
  readonly field: Field;
  private readonly values: BigInt64Array;
  private readonly words: Int32Array;
  private readonly nulls: Uint8Array | null;
  private readonly limit: number;
  private readonly bigLimit: bigint;
  private readonly isDecimal: boolean;
  private changes = false;

  constructor(field: Field, capacity: number, precision: number | null) {
    this.field = field;
    this.values = new BigInt64Array(capacity);
    this.words = new Int32Array(this.values.buffer);
    this.nulls = field.required ? null : new Uint8Array(capacity);
    this.isDecimal = precision !== null;
    this.bigLimit = precision === null ? int64Max : 10n ** BigInt(precision) - 1n;
    this.limit = this.bigLimit > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(this.bigLimit);
  }

  append(row: number, value: CellValue | undefined): boolean {
    if (typeof value === 'number') {
      if (!Number.isInteger(value) || value > this.limit || value < -this.limit) return false;
      this.setWords(row, value | 0, Math.floor(value / two32));
      if (this.nulls) this.nulls[row] = 0;
      return true;
    }
    if (typeof value === 'bigint') {
      if (value > this.bigLimit || value < (this.isDecimal ? -this.bigLimit : int64Min)) return false;
      this.changes = true;
      this.values[row] = value;
      if (this.nulls) this.nulls[row] = 0;
      return true;
    }
    if (value !== null || !this.nulls) return false;
    this.setWords(row, 0, 0);
    this.nulls[row] = 1;
    return true;
  }

  /** The value as its low and high word. */
  setWords(row: number, low: number, high: number): void {
    const words = this.words;
    words[2 * row] = low;
    words[2 * row + 1] = high;
    if (row > 0 && (words[0] !== low || words[1] !== high)) this.changes = true;
  }

  finish(rowCount: number): ColumnValues | ConstantColumn {
    const values = this.values.subarray(0, rowCount);
    const nulls = this.nulls?.subarray(0, rowCount);
    const nullCount = nulls ? nulls.reduce((sum, isNull) => sum + isNull, 0) : 0;
    if (nulls && nullCount > 0) {
      return nullCount === rowCount ? { constant: null } : Array.from(values, (value, i) => (nulls[i] === 1 ? null : value));
    }
    return rowCount > 0 && !this.changes ? { constant: values[0]! } : values;
  }
}

class Int32Column implements RowColumn {
  readonly field: Field;
  private readonly values: Int32Array;
  private readonly nulls: Uint8Array | null;
  private changes = false;

  constructor(field: Field, capacity: number) {
    this.field = field;
    this.values = new Int32Array(capacity);
    this.nulls = field.required ? null : new Uint8Array(capacity);
  }

  append(row: number, value: CellValue | undefined): boolean {
    if (value === null && this.nulls) {
      this.nulls[row] = 1;
      this.values[row] = 0;
      return true;
    }
    if (typeof value !== 'number' || (value | 0) !== value) return false;
    this.values[row] = value;
    if (this.nulls) this.nulls[row] = 0;
    if (row > 0 && value !== this.values[0]) this.changes = true;
    return true;
  }

  finish(rowCount: number): ColumnValues | ConstantColumn {
    const values = this.values.subarray(0, rowCount);
    const nulls = this.nulls?.subarray(0, rowCount);
    const nullCount = nulls ? nulls.reduce((sum, isNull) => sum + isNull, 0) : 0;
    if (nulls && nullCount > 0) {
      return nullCount === rowCount ? { constant: null } : Array.from(values, (value, i) => (nulls[i] === 1 ? null : value));
    }
    return rowCount > 0 && !this.changes ? { constant: values[0]! } : values;
  }
}

class DoubleColumn implements RowColumn {
  readonly field: Field;
  private readonly values: Float64Array;

  constructor(field: Field, capacity: number) {
    this.field = field;
    this.values = new Float64Array(capacity);
  }

  append(row: number, value: CellValue | undefined): boolean {
    if (typeof value !== 'number') return false;
    this.values[row] = value;
    return true;
  }

  finish(rowCount: number): ColumnValues {
    return this.values.subarray(0, rowCount);
  }
}

type Reference = string | boolean | Uint8Array | readonly string[];
type Accepts = (value: CellValue | undefined) => value is Reference;

/** Strings, binaries, booleans and lists: references, as the mapping gave them. */
class ReferenceColumn implements RowColumn {
  readonly field: Field;
  private readonly values: (Reference | null)[];
  private readonly accepts: Accepts;
  private changes = false;

  constructor(field: Field, capacity: number, accepts: Accepts) {
    this.field = field;
    // Sized once: growing would copy it again and again.
    this.values = [];
    this.values.length = capacity;
    this.accepts = accepts;
  }

  append(row: number, value: CellValue | undefined): boolean {
    if (value === null) {
      if (this.field.required) return false;
    } else if (!this.accepts(value)) {
      return false;
    }
    this.values[row] = value;
    if (!this.changes && row > 0 && value !== this.values[0]) this.changes = true;
    return true;
  }

  finish(rowCount: number): ColumnValues | ConstantColumn {
    if (rowCount > 0 && !this.changes) return { constant: this.values[0]! };
    this.values.length = rowCount;
    return this.values as ColumnValues;
  }
}

const precisionOf = (type: string): number | null => {
  const match = /^decimal\((\d+),\d+\)$/.exec(type);
  return match ? Number(match[1]) : null;
};

const isText = (value: CellValue | undefined): value is string => typeof value === 'string';
const isBoolean = (value: CellValue | undefined): value is boolean => typeof value === 'boolean';
const isBinary = (value: CellValue | undefined): value is Uint8Array => value instanceof Uint8Array;
const isTextList = (value: CellValue | undefined): value is readonly string[] => Array.isArray(value) && value.every(isText);

export const rowColumn = (field: Field, capacity: number): RowColumn => {
  const type: FieldType = field.type;
  if (typeof type !== 'string') {
    if (type.element !== 'string') throw new InvariantError(`column ${field.name}: expected a list of strings, found one of ${type.element}`);
    return new ReferenceColumn(field, capacity, isTextList);
  }
  switch (type) {
    case 'long': case 'timestamp': case 'timestamptz': return new Int64Column(field, capacity, null);
    case 'int': case 'date': return new Int32Column(field, capacity);
    case 'double': case 'float': {
      if (!field.required) throw new InvariantError(`column ${field.name}: a ${type} column cannot hold nulls`);
      return new DoubleColumn(field, capacity);
    }
    case 'string': return new ReferenceColumn(field, capacity, isText);
    case 'boolean': return new ReferenceColumn(field, capacity, isBoolean);
    case 'binary': return new ReferenceColumn(field, capacity, isBinary);
    default: return new Int64Column(field, capacity, precisionOf(type));
  }
};
