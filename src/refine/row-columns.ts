import type { CellValue, CodedWriter, Int64Writer, TextWriter } from '../datasets/dataset.ts';
import type { EncodableColumn } from '../lake/columns.ts';
import { packedPrefixBytes } from '../lake/columns.ts';
import { releaseBuffer } from '../lake/release.ts';
import { InvariantError, invariant } from '../domain/errors.ts';
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
  finish(rowCount: number): EncodableColumn;
}

const two32 = 4_294_967_296;
const int64Max = 2n ** 63n - 1n;
const int64Min = -(2n ** 63n);

/** int64 kinds: two 32-bit words a value, so that no BigInt is made for a row. */
export class Int64Column implements RowColumn, Int64Writer {
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

  /** For a long, a timestamp or a decimal field. */
  static of(this: void, field: Field, capacity: number): Int64Column {
    invariant(typeof field.type === 'string', () => `column ${field.name}: expected 64 bits, found a list`);
    return new Int64Column(field, capacity, precisionOf(field.type));
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

  set(row: number, value: number): void {
    this.setWords(row, value | 0, Math.floor(value / two32));
    if (this.nulls) this.nulls[row] = 0;
  }

  setNull(row: number): void {
    invariant(this.nulls, () => `column ${this.field.name}: holds no nulls`);
    this.setWords(row, 0, 0);
    this.nulls[row] = 1;
  }

  /** The value as its low and high word. */
  private setWords(row: number, low: number, high: number): void {
    const words = this.words;
    words[2 * row] = low;
    words[2 * row + 1] = high;
    if (row > 0 && (words[0] !== low || words[1] !== high)) this.changes = true;
  }

  finish(rowCount: number): EncodableColumn {
    const values = this.values.subarray(0, rowCount);
    const nulls = this.nulls?.subarray(0, rowCount);
    let nullCount = 0;
    if (nulls) for (let row = 0; row < rowCount; row += 1) nullCount += nulls[row]!;
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

  finish(rowCount: number): EncodableColumn {
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

  finish(rowCount: number): EncodableColumn {
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

  finish(rowCount: number): EncodableColumn {
    if (rowCount > 0 && !this.changes) return { constant: this.values[0]! };
    this.values.length = rowCount;
    return this.values as EncodableColumn;
  }
}

const textBytesFirst = 1 << 16;
/** Once so many rows are in, the rest is expected to be as long as they are. */
const textRowsTrial = 1_024;

/** Texts as Parquet's PLAIN encoding has them: see PackedColumn. */
export class PackedTextColumn implements RowColumn, TextWriter {
  readonly field: Field;
  private readonly capacity: number;
  private readonly positions: Uint32Array;
  private bytes: Buffer = Buffer.allocUnsafeSlow(textBytesFirst);
  private row = 0;
  private at = 0;

  constructor(field: Field, capacity: number) {
    this.field = field;
    this.capacity = capacity;
    this.positions = new Uint32Array(capacity + 1);
  }

  append(row: number, value: CellValue | undefined): boolean {
    if (value === null && !this.field.required) {
      this.positions[row + 1] = this.positions[row]!;
      return true;
    }
    if (typeof value !== 'string') return false;
    this.begin(row);
    this.reserve(value.length * 3);
    this.at += this.bytes.write(value, this.at, 'utf8');
    this.end();
    return true;
  }

  begin(row: number): void {
    this.row = row;
    this.at = this.positions[row]! + packedPrefixBytes;
    this.reserve(0);
  }

  end(): void {
    const { bytes, at } = this;
    const start = this.positions[this.row]!;
    const length = at - start - packedPrefixBytes;
    bytes[start] = length;
    bytes[start + 1] = length >> 8;
    bytes[start + 2] = length >> 16;
    bytes[start + 3] = length >>> 24;
    this.positions[this.row + 1] = at;
  }

  ascii(from: Uint8Array, start: number, end: number): void {
    this.reserve(end - start);
    const { bytes } = this;
    let { at } = this;
    for (let i = start; i < end; i += 1) bytes[at++] = from[i]!;
    this.at = at;
  }

  literal(text: Uint8Array): void {
    this.ascii(text, 0, text.length);
  }

  jsonText(from: Uint8Array, start: number, end: number): boolean {
    this.reserve(end - start);
    const { bytes } = this;
    let { at } = this;
    for (let i = start; i < end; i += 1) {
      const byte = from[i]!;
      // From space to tilde, but for the quote and the backslash.
      if (byte < 0x20 || byte > 0x7e || byte === 0x22 || byte === 0x5c) return false;
      bytes[at++] = byte;
    }
    this.at = at;
    return true;
  }

  natural(value: number): void {
    // At most sixteen digits.
    this.reserve(16);
    if (value >= digitsSplit) {
      const high = Math.floor(value / digitsSplit);
      this.digits(high, digitCount(high));
      this.digits(value - high * digitsSplit, 8);
    } else {
      this.digits(value, digitCount(value));
    }
  }

  /** `value` is below 10^8. */
  private digits(value: number, count: number): void {
    const { bytes } = this;
    const end = this.at + count;
    let rest = value | 0;
    for (let at = end - 1; at >= this.at; at -= 1) {
      const tenth = (rest / 10) | 0;
      bytes[at] = 48 + rest - tenth * 10;
      rest = tenth;
    }
    this.at = end;
  }

  /** Where the next `count` bytes of the value go in {@link target}; whoever asks writes them. */
  take(count: number): number {
    this.reserve(count);
    const { at } = this;
    this.at = at + count;
    return at;
  }

  /** Another one after each call that makes room. */
  get target(): Uint8Array {
    return this.bytes;
  }

  private reserve(count: number): void {
    if (this.at + count > this.bytes.length) this.grow(this.at + count);
  }

  private grow(needed: number): void {
    const expected = this.row > textRowsTrial ? (this.positions[this.row]! / this.row) * this.capacity * 1.05 : 0;
    const grown = Buffer.allocUnsafeSlow(Math.ceil(Math.max(needed + textBytesFirst, expected > needed ? expected : this.bytes.length * 2)));
    grown.set(this.bytes);
    releaseBuffer(this.bytes.buffer);
    this.bytes = grown;
  }

  finish(rowCount: number): EncodableColumn {
    const positions = this.positions.subarray(0, rowCount + 1);
    return { packed: this.bytes.subarray(0, positions[rowCount]), positions };
  }
}

const digitsSplit = 100_000_000;
const digitCount = (value: number): number => {
  let count = 1;
  for (let limit = 10; value >= limit && count < 8; limit *= 10) count += 1;
  return count;
};

/** Texts, or lists of texts, of few different values. Equal lists need not share a code. */
export class CodedColumn implements RowColumn, CodedWriter {
  readonly field: Field;
  private readonly codes: Uint32Array;
  private readonly entries: (string | readonly string[])[] = [];
  private readonly codeOf = new Map<string | readonly string[], number>();
  private last: string | readonly string[] | undefined;
  private lastCode = 0;

  constructor(field: Field, capacity: number) {
    this.field = field;
    this.codes = new Uint32Array(capacity);
  }

  append(row: number, value: CellValue | undefined): boolean {
    if (typeof this.field.type === 'string' ? !isText(value) : !isTextList(value)) return false;
    this.set(row, value as string | readonly string[]);
    return true;
  }

  set(row: number, value: string | readonly string[]): void {
    if (value !== this.last) {
      let code = this.codeOf.get(value);
      if (code === undefined) {
        code = this.entries.push(value) - 1;
        this.codeOf.set(value, code);
      }
      this.last = value;
      this.lastCode = code;
    }
    this.codes[row] = this.lastCode;
  }

  finish(rowCount: number): EncodableColumn {
    const { entries } = this;
    return rowCount > 0 && entries.length === 1 ? { constant: entries[0]! } : { entries, codes: this.codes.subarray(0, rowCount) };
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
