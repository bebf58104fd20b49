import { constants, crc32, zstdCompressSync } from 'node:zlib';
import type { ColumnChunk, Encoding } from 'hyparquet';
import type { MinMaxType } from 'hyparquet/src/types.js';
import type { ByteWriter } from 'hyparquet-writer';
import { writePageHeader } from 'hyparquet-writer/src/datapage.js';
import { TidemarkError } from '../domain/errors.ts';
import { isCodedColumn, isConstantColumn, isPackedColumn, type CodedColumn, type ColumnValues, type ConstantColumn, type EncodableColumn, type PackedColumn } from './columns.ts';
import { compareBytes, truncateLowerBound, truncateUpperBound } from './iceberg/single-value.ts';
import { decimalOf, type Leaf } from './parquet-schema.ts';
import { releaseBuffer } from './release.ts';

/**
 * Encodes column chunks from typed arrays. The container (schema, footer, thrift) is hyparquet-writer's; its own page encoder
 * walks every value several times as a BigInt or a boxed object, which is what made it slow for our columns: bench/parquet.ts
 * measures both in one run. Data pages are v2 with PLAIN or RLE_DICTIONARY values only: Iceberg's vectorised Spark reader refuses
 * the DELTA encodings.
 */

/** Uncompressed bytes that a data page aims at. A list column has one page for each row group. */
const pageBytesTarget = 1 << 20;
/** Below this a page is stored as it is: a zstd frame costs more than it saves. */
const compressBytesMin = 96;
const dictionaryEntriesMax = 32_768;
const dictionaryBytesMax = 1 << 19;
/**
 * A column chunk of one value keeps it whole as its bounds, up to this length. Cut to Iceberg's 16 code points, the topics of two exchanges
 * (market.crypto.trades.…) are one, and a backfill of one would take the other's Gold buckets for its own.
 */
const oneValueBytesMax = 256;
/** A dictionary must be refused early when nearly every value is new: it is looked at after this many values. */
const dictionaryTrialValues = 1_024;

/** What a footer says about a column chunk; bounds are Parquet's plain encoding of the value, texts and binaries cut to Iceberg's length. */
export interface ChunkFacts {
  fieldId: number;
  compressedBytes: number;
  /** Levels, nulls and empty lists included. */
  valueCount: number;
  /** Undefined if a foreign writer left it out. */
  nullCount: number | undefined;
  min: Uint8Array | undefined;
  max: Uint8Array | undefined;
}

type DenseValues =
  | { kind: 'int64'; values: BigInt64Array }
  | { kind: 'int32'; values: Int32Array }
  | { kind: 'float'; values: Float32Array }
  | { kind: 'double'; values: Float64Array }
  | { kind: 'boolean'; values: readonly boolean[] }
  | { kind: 'bytes'; values: readonly (string | Uint8Array)[] }
  /** PLAIN already; positions without nulls. */
  | { kind: 'packed'; values: PackedColumn };

interface Dictionary {
  entries: readonly (string | Uint8Array)[];
  codes: Uint16Array;
}

interface Shredded {
  rowCount: number;
  levelCount: number;
  nullCount: number;
  /** Undefined: every level is the maximum. */
  definitionLevels: Uint8Array | undefined;
  /** Undefined for columns that are no list. */
  repetitionLevels: Uint8Array | undefined;
  /** The values that are not null. */
  dense: DenseValues;
  /** All values are the first one. */
  isConstant: boolean;
  /** What `dense` is made of, where the column came with codes. */
  dictionary?: Dictionary;
}

/** A growing buffer for one page, reused by every page of the thread. */
class PageScratch {
  bytes: Buffer = Buffer.allocUnsafeSlow(1 << 18);
  length = 0;

  reserve(byteCount: number): void {
    if (this.length + byteCount <= this.bytes.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(this.bytes.length * 2, this.length + byteCount));
    grown.set(this.bytes.subarray(0, this.length));
    this.bytes = grown;
  }

  /** Keeps one large page from being held for ever. */
  reset(): void {
    this.length = 0;
    if (this.bytes.length > 16 * pageBytesTarget) this.bytes = Buffer.allocUnsafeSlow(pageBytesTarget);
  }

  appendVarint(value: number): void {
    let rest = value;
    while (rest > 0x7f) {
      this.bytes[this.length++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    this.bytes[this.length++] = rest;
  }

  appendUint32(value: number): void {
    this.bytes.writeUInt32LE(value, this.length);
    this.length += 4;
  }

  view(): Buffer {
    return this.bytes.subarray(0, this.length);
  }
}

const levelScratch = new PageScratch();
const pageScratch = new PageScratch();

const bitWidthOf = (maximum: number): number => 32 - Math.clz32(maximum);

/** Parquet's RLE and bit-packed hybrid, without a length in front. */
const appendHybrid = (scratch: PageScratch, codes: Uint8Array | Uint16Array, start: number, end: number, bitWidth: number): void => {
  scratch.reserve((Math.ceil((end - start) / 8) + 1) * (bitWidth + 6) + 16);
  const valueBytes = (bitWidth + 7) >> 3;
  let i = start;
  while (i < end) {
    const value = codes[i]!;
    let runEnd = i + 1;
    while (runEnd < end && codes[runEnd] === value) runEnd += 1;
    if (runEnd - i >= 8 || runEnd === end && i === start) {
      scratch.appendVarint((runEnd - i) * 2);
      for (let b = 0; b < valueBytes; b += 1) scratch.bytes[scratch.length++] = (value >> (8 * b)) & 0xff;
      i = runEnd;
      continue;
    }
    const packStart = i;
    do i += 8; while (i < end && !(i + 8 <= end && isRunOfEight(codes, i)));
    const groups = (Math.min(i, end + 7) - packStart) >> 3;
    scratch.appendVarint(groups * 2 + 1);
    let bits = 0;
    let bitCount = 0;
    const bytes = scratch.bytes;
    let out = scratch.length;
    const packEnd = packStart + groups * 8;
    for (let k = packStart; k < packEnd; k += 1) {
      bits |= (k < end ? codes[k]! : 0) << bitCount;
      bitCount += bitWidth;
      while (bitCount >= 8) {
        bytes[out++] = bits & 0xff;
        bits >>>= 8;
        bitCount -= 8;
      }
    }
    scratch.length = out;
    i = Math.min(packEnd, end);
  }
};

const isRunOfEight = (codes: Uint8Array | Uint16Array, at: number): boolean => {
  const value = codes[at];
  for (let i = at + 1; i < at + 8; i += 1) if (codes[i] !== value) return false;
  return true;
};

const appendRun = (scratch: PageScratch, value: number, count: number, bitWidth: number): void => {
  scratch.reserve(16);
  scratch.appendVarint(count * 2);
  for (let b = 0; b < (bitWidth + 7) >> 3; b += 1) scratch.bytes[scratch.length++] = (value >> (8 * b)) & 0xff;
};

const unexpected = (leaf: Leaf, found: unknown): TidemarkError => {
  const shown = found === null ? 'null' : found instanceof Uint8Array ? 'bytes' : typeof found;
  return new TidemarkError('BAD_INPUT', `column ${leaf.field.name}: expected ${leaf.field.required ? 'a required' : 'an optional'} ${leaf.type}, found ${shown}`);
};

const int64Min = -(2n ** 63n);
const int64Max = 2n ** 63n - 1n;

/** Typed dense values of a leaf from boxed values without nulls. */
const denseOf = (leaf: Leaf, values: readonly unknown[]): DenseValues => {
  switch (leaf.physical) {
    case 'INT64': {
      const out = new BigInt64Array(values.length);
      for (let i = 0; i < values.length; i += 1) {
        const value = values[i];
        if (typeof value !== 'bigint' || value < int64Min || value > int64Max) throw unexpected(leaf, value);
        out[i] = value;
      }
      return { kind: 'int64', values: out };
    }
    case 'INT32': {
      const out = new Int32Array(values.length);
      for (let i = 0; i < values.length; i += 1) {
        const value = values[i];
        if (typeof value !== 'number' || (value | 0) !== value) throw unexpected(leaf, value);
        out[i] = value;
      }
      return { kind: 'int32', values: out };
    }
    case 'FLOAT':
    case 'DOUBLE': {
      const out = leaf.physical === 'FLOAT' ? new Float32Array(values.length) : new Float64Array(values.length);
      for (let i = 0; i < values.length; i += 1) {
        const value = values[i];
        if (typeof value !== 'number') throw unexpected(leaf, value);
        out[i] = value;
      }
      return out instanceof Float32Array ? { kind: 'float', values: out } : { kind: 'double', values: out };
    }
    case 'BOOLEAN':
      for (const value of values) if (typeof value !== 'boolean') throw unexpected(leaf, value);
      return { kind: 'boolean', values: values as readonly boolean[] };
    default:
      if (leaf.type === 'string') {
        for (let i = 0; i < values.length; i += 1) if (typeof values[i] !== 'string') throw unexpected(leaf, values[i]);
      } else {
        for (let i = 0; i < values.length; i += 1) if (!(values[i] instanceof Uint8Array)) throw unexpected(leaf, values[i]);
      }
      return { kind: 'bytes', values: values as readonly (string | Uint8Array)[] };
  }
};

const isAllEqual = (dense: DenseValues): boolean => {
  switch (dense.kind) {
    case 'int64': {
      const words = new Int32Array(dense.values.buffer, dense.values.byteOffset, dense.values.length * 2);
      const low = words[0];
      const high = words[1];
      for (let i = 2; i < words.length; i += 2) if (words[i] !== low || words[i + 1] !== high) return false;
      return true;
    }
    case 'int32':
    case 'float':
    case 'double': {
      const { values } = dense;
      const first = values[0];
      for (let i = 1; i < values.length; i += 1) if (values[i] !== first) return false;
      // Zeros of both signs are equal, and a dictionary of the first would lose the other.
      return first !== 0 || dense.kind === 'int32';
    }
    case 'boolean':
    case 'bytes':
    case 'packed':
      return false;
  }
};

const shredConstant = (leaf: Leaf, value: ConstantColumn['constant'], rowCount: number): Shredded => {
  if (leaf.isList) {
    // Lists are shredded row by row below; a constant list is short work all the same.
    return shred(leaf, Array.from({ length: rowCount }, () => value as readonly (string | number | bigint)[] | null), rowCount);
  }
  const isNull = value === null;
  if (isNull && !leaf.fieldOptional) throw unexpected(leaf, null);
  // Parquet has no dictionaries of booleans.
  if (typeof value === 'boolean') return shred(leaf, Array.from({ length: rowCount }, () => value), rowCount);
  return {
    rowCount, levelCount: rowCount, nullCount: isNull ? rowCount : 0,
    definitionLevels: isNull ? new Uint8Array(rowCount) : undefined, repetitionLevels: undefined,
    dense: denseOf(leaf, isNull || rowCount === 0 ? [] : [value]), isConstant: !isNull && rowCount > 0,
  };
};

const shredList = (leaf: Leaf, values: readonly (readonly unknown[] | null)[], rowCount: number): Shredded => {
  let capacity = rowCount;
  for (let row = 0; row < rowCount; row += 1) {
    const list = values[row];
    if (list && list.length > 1) capacity += list.length - 1;
  }
  const definitionLevels = new Uint8Array(capacity);
  const repetitionLevels = new Uint8Array(capacity);
  const elements: unknown[] = [];
  const emptyLevel = leaf.fieldOptional;
  const full = leaf.maxDefinitionLevel;
  let levels = 0;
  for (let row = 0; row < rowCount; row += 1) {
    const list = values[row];
    if (list === null || list === undefined) {
      if (!leaf.fieldOptional) throw unexpected(leaf, null);
      levels += 1;
    } else if (list.length === 0) {
      definitionLevels[levels++] = emptyLevel;
    } else {
      for (let i = 0; i < list.length; i += 1) {
        const element = list[i];
        if (i > 0) repetitionLevels[levels] = 1;
        if (element === null || element === undefined) {
          if (!leaf.elementOptional) throw unexpected(leaf, null);
          definitionLevels[levels++] = full - 1;
        } else {
          definitionLevels[levels++] = full;
          elements.push(element);
        }
      }
    }
  }
  return {
    rowCount, levelCount: levels, nullCount: levels - elements.length, definitionLevels, repetitionLevels,
    dense: denseOf(leaf, elements), isConstant: false,
  };
};

const shred = (leaf: Leaf, values: ColumnValues, rowCount: number): Shredded => {
  if (leaf.isList) return shredList(leaf, values as readonly (readonly unknown[] | null)[], rowCount);
  const flat = { rowCount, levelCount: rowCount, repetitionLevels: undefined };
  if (ArrayBuffer.isView(values)) {
    const dense: DenseValues = values instanceof BigInt64Array ? { kind: 'int64', values }
      : values instanceof Int32Array ? { kind: 'int32', values }
        : leaf.physical === 'FLOAT' ? { kind: 'float', values: Float32Array.from(values) } : { kind: 'double', values };
    const expected = { INT64: 'int64', INT32: 'int32', FLOAT: 'float', DOUBLE: 'double' }[leaf.physical as string];
    if (dense.kind !== expected) throw unexpected(leaf, values[0] ?? values);
    return { ...flat, nullCount: 0, definitionLevels: undefined, dense, isConstant: rowCount > 1 && isAllEqual(dense) };
  }
  const boxed = values as readonly unknown[];
  let nullCount = 0;
  for (let i = 0; i < rowCount; i += 1) if (boxed[i] === null || boxed[i] === undefined) nullCount += 1;
  if (nullCount === 0) {
    const dense = denseOf(leaf, boxed);
    return { ...flat, nullCount, definitionLevels: undefined, dense, isConstant: rowCount > 1 && isAllEqual(dense) };
  }
  if (!leaf.fieldOptional) throw unexpected(leaf, null);
  const definitionLevels = new Uint8Array(rowCount);
  const present: unknown[] = [];
  for (let i = 0; i < rowCount; i += 1) {
    const value = boxed[i];
    if (value === null || value === undefined) continue;
    definitionLevels[i] = 1;
    present.push(value);
  }
  return { ...flat, nullCount, definitionLevels, dense: denseOf(leaf, present), isConstant: false };
};

const shredPacked = (leaf: Leaf, { packed, positions }: PackedColumn, rowCount: number): Shredded => {
  if (leaf.physical !== 'BYTE_ARRAY' || leaf.isList) throw unexpected(leaf, packed);
  const flat = { rowCount, levelCount: rowCount, repetitionLevels: undefined, isConstant: false };
  let nullCount = 0;
  for (let i = 0; i < rowCount; i += 1) if (positions[i] === positions[i + 1]) nullCount += 1;
  if (nullCount === 0) return { ...flat, nullCount, definitionLevels: undefined, dense: { kind: 'packed', values: { packed, positions } } };
  if (!leaf.fieldOptional) throw unexpected(leaf, null);
  const definitionLevels = new Uint8Array(rowCount);
  const present = new Uint32Array(rowCount - nullCount + 1);
  let count = 0;
  for (let i = 0; i < rowCount; i += 1) {
    if (positions[i] === positions[i + 1]) continue;
    definitionLevels[i] = 1;
    present[count++] = positions[i]!;
  }
  present[count] = positions[rowCount]!;
  return { ...flat, nullCount, definitionLevels, dense: { kind: 'packed', values: { packed, positions: present } } };
};

/** The entries that are in use, and codes of them; undefined where a dictionary does not pay. */
const usedEntries = (entries: CodedColumn['entries'], codes: Uint32Array): { entries: CodedColumn['entries']; codes: Uint16Array } | undefined => {
  const renamed = new Int32Array(entries.length).fill(-1);
  const used: CodedColumn['entries'][number][] = [];
  const out = new Uint16Array(codes.length);
  let entryBytes = 0;
  for (let i = 0; i < codes.length; i += 1) {
    const code = codes[i]!;
    let name = renamed[code]!;
    if (name < 0) {
      name = used.length;
      const entry = entries[code]!;
      entryBytes += entry.length;
      if (name >= dictionaryEntriesMax || entryBytes > dictionaryBytesMax) return undefined;
      renamed[code] = name;
      used.push(entry);
    }
    out[i] = name;
  }
  return used.length * 2 <= codes.length || used.length === 1 ? { entries: used, codes: out } : undefined;
};

const shredCoded = (leaf: Leaf, column: CodedColumn, rowCount: number): Shredded => {
  const used = usedEntries(column.entries, column.codes);
  const spread = (): ColumnValues => Array.from(column.codes, (code) => column.entries[code]!) as ColumnValues;
  if (!used) return shred(leaf, spread(), rowCount);
  const { entries, codes } = used;
  if (leaf.isList) return shredCodedLists(leaf, entries as readonly (readonly string[])[], codes, rowCount) ?? shredList(leaf, spread() as readonly (readonly string[])[], rowCount);
  const texts = entries as readonly string[];
  // The check of the entries is that of the values.
  const dense = denseOf(leaf, texts);
  const flat = { rowCount, levelCount: rowCount, nullCount: 0, definitionLevels: undefined, repetitionLevels: undefined, dense };
  return texts.length === 1 ? { ...flat, isConstant: true } : { ...flat, isConstant: false, dictionary: { entries: texts, codes } };
};

/** Lists of at most one text: the codes of the texts are known without looking at any. */
const shredCodedLists = (leaf: Leaf, lists: readonly (readonly string[])[], codes: Uint16Array, rowCount: number): Shredded | undefined => {
  if (leaf.type !== 'string' || lists.some((list) => list.length > 1)) return undefined;
  const texts: string[] = [];
  const codeOf = new Map<string, number>();
  const textOf = lists.map(([text]) => {
    if (text === undefined) return -1;
    if (!codeOf.has(text)) codeOf.set(text, texts.push(text) - 1);
    return codeOf.get(text)!;
  });
  const definitionLevels = new Uint8Array(rowCount);
  const elements = new Uint16Array(rowCount);
  let count = 0;
  for (let row = 0; row < rowCount; row += 1) {
    const code = textOf[codes[row]!]!;
    definitionLevels[row] = code < 0 ? leaf.fieldOptional : leaf.maxDefinitionLevel;
    if (code >= 0) elements[count++] = code;
  }
  return {
    rowCount, levelCount: rowCount, nullCount: rowCount - count, definitionLevels, repetitionLevels: new Uint8Array(rowCount),
    dense: denseOf(leaf, texts), isConstant: false, ...(count === 0 ? {} : { dictionary: { entries: texts, codes: elements.subarray(0, count) } }),
  };
};

/** Codes into a dictionary of texts or binaries, if it pays: undefined otherwise. */
const buildDictionary = (values: readonly (string | Uint8Array)[]): Dictionary | undefined => {
  if (values.length === 0 || typeof values[0] !== 'string') return undefined;
  const codes = new Uint16Array(values.length);
  const entries: string[] = [];
  const codeOf = new Map<string, number>();
  let entryBytes = 0;
  let previous: string | undefined;
  let previousCode = 0;
  for (let i = 0; i < values.length; i += 1) {
    const value = values[i] as string;
    if (value !== previous) {
      let code = codeOf.get(value);
      if (code === undefined) {
        code = entries.length;
        entryBytes += value.length;
        if (code >= dictionaryEntriesMax || entryBytes > dictionaryBytesMax) return undefined;
        codeOf.set(value, code);
        entries.push(value);
      }
      previous = value;
      previousCode = code;
    }
    codes[i] = previousCode;
    if (i === dictionaryTrialValues && entries.length > dictionaryTrialValues / 2) return undefined;
  }
  return entries.length * 2 <= values.length || entries.length === 1 ? { entries, codes } : undefined;
};

/** Least and greatest of a chunk's values, as plain bytes. */
class Bounds {
  min: Uint8Array | undefined;
  max: Uint8Array | undefined;

  takeNumbers(dense: Exclude<DenseValues, { kind: 'bytes' | 'packed' | 'boolean' }>): void {
    if (dense.values.length === 0) return;
    if (dense.kind === 'int64') this.takeInt64(dense.values);
    else this.takeDoubles(dense);
  }

  /** Compares 32-bit halves: a BigInt for each value costs an allocation. */
  private takeInt64(values: BigInt64Array): void {
    const low = new Uint32Array(values.buffer, values.byteOffset, values.length * 2);
    const high = new Int32Array(values.buffer, values.byteOffset, values.length * 2);
    let min = 0;
    let max = 0;
    let minHigh = high[1]!;
    let minLow = low[0]!;
    let maxHigh = minHigh;
    let maxLow = minLow;
    for (let i = 2; i < high.length; i += 2) {
      const h = high[i + 1]!;
      const l = low[i]!;
      if (h < minHigh || (h === minHigh && l < minLow)) {
        min = i;
        minHigh = h;
        minLow = l;
      } else if (h > maxHigh || (h === maxHigh && l > maxLow)) {
        max = i;
        maxHigh = h;
        maxLow = l;
      }
    }
    const bytes = Buffer.from(values.buffer, values.byteOffset, values.byteLength);
    this.min = Uint8Array.from(bytes.subarray(min * 4, min * 4 + 8));
    this.max = Uint8Array.from(bytes.subarray(max * 4, max * 4 + 8));
  }

  private takeDoubles(dense: { kind: 'int32' | 'float' | 'double'; values: Int32Array | Float32Array | Float64Array }): void {
    let min = Infinity;
    let max = -Infinity;
    for (const value of dense.values) {
      if (value < min) min = value;
      if (value > max) max = value;
    }
    // All NaN: no bounds.
    if (min > max) return;
    const encode = (value: number): Uint8Array => {
      const view = new DataView(new ArrayBuffer(dense.kind === 'double' ? 8 : 4));
      if (dense.kind === 'int32') view.setInt32(0, value, true);
      else if (dense.kind === 'float') view.setFloat32(0, value, true);
      else view.setFloat64(0, value, true);
      return new Uint8Array(view.buffer);
    };
    // Zeros of both signs compare equal: the bounds must enclose both (parquet.thrift, Statistics).
    this.min = encode(min === 0 && dense.kind !== 'int32' ? -0 : min);
    this.max = encode(max === 0 ? 0 : max);
  }

  takeBooleans(values: readonly boolean[]): void {
    if (values.length === 0) return;
    this.min = Uint8Array.of(values.includes(false) ? 0 : 1);
    this.max = Uint8Array.of(values.includes(true) ? 1 : 0);
  }

  /** Takes the values of a PLAIN page of byte arrays: each is a four-byte length and its bytes. */
  takePlainBytes(page: Uint8Array, count: number): void {
    if (count === 0) return;
    const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
    let at = 0;
    let minAt = 0;
    let minLength = -1;
    let maxAt = 0;
    let maxLength = -1;
    for (let i = 0; i < count; i += 1) {
      const length = page[at]! | (page[at + 1]! << 8) | (page[at + 2]! << 16) | (page[at + 3]! << 24);
      const start = at + 4;
      if (minLength < 0) {
        minAt = start;
        minLength = length;
        maxAt = start;
        maxLength = length;
      } else if (compareRanges(page, view, start, length, minAt, minLength) < 0) {
        minAt = start;
        minLength = length;
      } else if (compareRanges(page, view, start, length, maxAt, maxLength) > 0) {
        maxAt = start;
        maxLength = length;
      }
      at = start + length;
    }
    const min = page.subarray(minAt, minAt + minLength);
    const max = page.subarray(maxAt, maxAt + maxLength);
    if (!this.min || compareBytes(min, this.min) < 0) this.min = Uint8Array.from(min);
    if (!this.max || compareBytes(max, this.max) > 0) this.max = Uint8Array.from(max);
  }
}

/** Four bytes at a time: the texts of a page have long beginnings in common. */
const compareRanges = (page: Uint8Array, view: DataView, a: number, aLength: number, b: number, bLength: number): number => {
  const length = aLength < bLength ? aLength : bLength;
  let i = 0;
  for (; i + 4 <= length; i += 4) {
    const x = view.getUint32(a + i);
    const y = view.getUint32(b + i);
    if (x !== y) return x - y;
  }
  for (; i < length; i += 1) {
    const difference = page[a + i]! - page[b + i]!;
    if (difference !== 0) return difference;
  }
  return aLength - bLength;
};

const lengthMark = '\0\0\0\0';
const joinedValuesMax = 2_048;

/**
 * Appends texts as PLAIN byte arrays. Texts are joined with room for the lengths and encoded at once, because a native call for
 * each value costs more than the copy; only if the bytes are as many as the UTF-16 units, all is ASCII and the positions are known.
 */
const appendPlainTexts = (scratch: PageScratch, values: readonly string[], start: number, end: number): void => {
  for (let from = start; from < end; from += joinedValuesMax) {
    const until = Math.min(end, from + joinedValuesMax);
    const joined = lengthMark + (from === 0 && until === values.length ? values : values.slice(from, until)).join(lengthMark);
    scratch.reserve(joined.length * 3);
    const { bytes } = scratch;
    if (bytes.write(joined, scratch.length, 'utf8') === joined.length) {
      let at = scratch.length;
      for (let i = from; i < until; i += 1) {
        const { length } = values[i]!;
        bytes[at] = length & 0xff;
        if (length > 0xff) {
          bytes[at + 1] = (length >> 8) & 0xff;
          bytes[at + 2] = (length >> 16) & 0xff;
          bytes[at + 3] = length >>> 24;
        }
        at += 4 + length;
      }
      scratch.length = at;
      continue;
    }
    for (let i = from; i < until; i += 1) {
      const at = scratch.length;
      const written = bytes.write(values[i]!, at + 4, 'utf8');
      bytes.writeUInt32LE(written, at);
      scratch.length = at + 4 + written;
    }
  }
};

/** Below this length a loop copies faster than a call of TypedArray.set. */
const loopCopyBytesMax = 24;

const appendPlainBytes = (scratch: PageScratch, values: readonly Uint8Array[], start: number, end: number): void => {
  let total = 0;
  for (let i = start; i < end; i += 1) total += values[i]!.length + 4;
  scratch.reserve(total);
  const { bytes } = scratch;
  let at = scratch.length;
  for (let i = start; i < end; i += 1) {
    const value = values[i]!;
    const { length } = value;
    bytes[at] = length & 0xff;
    bytes[at + 1] = (length >> 8) & 0xff;
    bytes[at + 2] = (length >> 16) & 0xff;
    bytes[at + 3] = length >>> 24;
    at += 4;
    if (length <= loopCopyBytesMax) for (let b = 0; b < length; b += 1) bytes[at + b] = value[b]!;
    else bytes.set(value, at);
    at += length;
  }
  scratch.length = at;
};

/** The PLAIN encoding of values [start, end); numbers are viewed where they are, all else is laid into the page scratch. */
const plainBytes = (dense: DenseValues, start: number, end: number): Uint8Array => {
  if (dense.kind === 'boolean') {
    pageScratch.reset();
    pageScratch.reserve((end - start + 7) >> 3);
    let bits = 0;
    for (let i = start; i < end; i += 1) {
      if (dense.values[i]) bits |= 1 << ((i - start) & 7);
      if (((i - start) & 7) === 7 || i === end - 1) {
        pageScratch.bytes[pageScratch.length++] = bits;
        bits = 0;
      }
    }
    return pageScratch.view();
  }
  if (dense.kind === 'bytes') {
    pageScratch.reset();
    if (typeof dense.values[start] === 'string') appendPlainTexts(pageScratch, dense.values as readonly string[], start, end);
    else appendPlainBytes(pageScratch, dense.values as readonly Uint8Array[], start, end);
    return pageScratch.view();
  }
  if (dense.kind === 'packed') {
    const { packed, positions } = dense.values;
    return packed.subarray(positions[start], positions[end]);
  }
  const { values } = dense;
  const width = values.BYTES_PER_ELEMENT;
  return new Uint8Array(values.buffer, values.byteOffset + start * width, (end - start) * width);
};

const denseLength = (dense: DenseValues): number => (dense.kind === 'packed' ? dense.values.positions.length - 1 : dense.values.length);

/** Rows for each page, so that pages come near the target on average. */
const pageRowsOf = (dense: DenseValues, rowCount: number): number => {
  let bytes = 0;
  if (dense.kind === 'bytes') {
    for (let i = 0; i < dense.values.length; i += 1) bytes += dense.values[i]!.length + 4;
  } else if (dense.kind === 'packed') {
    const { positions } = dense.values;
    bytes = positions.at(-1)! - positions[0]!;
  } else if (dense.kind !== 'boolean') {
    bytes = dense.values.byteLength;
  }
  return Math.max(1, Math.ceil(rowCount / Math.max(1, Math.ceil(bytes / pageBytesTarget))));
};

/** What zstd needs at most (ZSTD_compressBound), and a little more: a piece that is filled to its end makes zlib allocate the next one. */
const compressedBytesMax = (length: number): number => length + (length >> 8) + 128;

/** In memory of its own. The size is told in advance: zstd then takes no larger window and tables than the page needs. */
export const compressPage = (bytes: Uint8Array, level: number): Uint8Array =>
  zstdCompressSync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: level }, chunkSize: compressedBytesMax(bytes.length), pledgedSrcSize: bytes.length });

/**
 * The checksum of a page as it is stored, header excluded (parquet.thrift, PageHeader.crc; a signed field). It goes with the page
 * wherever its column chunk is copied, so a byte that changes anywhere between the writer and a reader years later is found, by
 * any engine that verifies pages.
 */
export const pageCrc = (...parts: readonly Uint8Array[]): number => parts.reduce((crc, part) => crc32(part, crc), 0) | 0;

/** Physical bytes as the value that hyparquet-writer's statistics take for the element. */
export const statisticValue = (leaf: Leaf, bytes: Uint8Array | undefined): MinMaxType | undefined => {
  if (!bytes) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  switch (leaf.physical) {
    case 'INT64': return view.getBigInt64(0, true);
    case 'INT32': return view.getInt32(0, true);
    case 'FLOAT': return view.getFloat32(0, true);
    case 'DOUBLE': return view.getFloat64(0, true);
    case 'BOOLEAN': return bytes[0] !== 0;
    default: return bytes;
  }
};

const checkDecimalRange = (leaf: Leaf, bounds: Bounds): void => {
  const decimal = decimalOf(leaf.type);
  if (!decimal || !bounds.min || !bounds.max) return;
  const limit = 10n ** BigInt(decimal.precision);
  const min = statisticValue(leaf, bounds.min) as bigint;
  const max = statisticValue(leaf, bounds.max) as bigint;
  if (min <= -limit || max >= limit) {
    throw new TidemarkError('BAD_INPUT', `column ${leaf.field.name}: ${leaf.type} cannot hold the unscaled value ${min <= -limit ? min : max}`);
  }
};

const shredColumn = (leaf: Leaf, values: EncodableColumn, rowCount: number): Shredded => {
  if (isConstantColumn(values)) return shredConstant(leaf, values.constant, rowCount);
  if (isPackedColumn(values)) return shredPacked(leaf, values, rowCount);
  return isCodedColumn(values) ? shredCoded(leaf, values, rowCount) : shred(leaf, values, rowCount);
};

/** Appends one column chunk of one row group: `values` holds exactly `rowCount` rows. */
export const appendColumnChunk = (
  out: ByteWriter, leaf: Leaf, values: EncodableColumn, rowCount: number, zstdLevel: number,
): { chunk: ColumnChunk; facts: ChunkFacts } => {
  const shredded = shredColumn(leaf, values, rowCount);
  const { dense, isConstant, levelCount } = shredded;
  const dictionary = shredded.dictionary ?? (isConstant || dense.kind !== 'bytes' ? undefined : buildDictionary(dense.values));
  const entries: DenseValues | undefined = isConstant ? firstOf(dense) : dictionary && { kind: 'bytes', values: dictionary.entries };
  const bounds = new Bounds();
  const startOffset = out.offset;
  let uncompressedBytes = 0;
  let dictionaryOffset: bigint | undefined;
  // A constant is a few bytes, and a dictionary page cannot say that it alone is stored as it is.
  let codec: 'ZSTD' | 'UNCOMPRESSED' = 'ZSTD';

  if (entries) {
    const page = plainBytes(entries, 0, denseLength(entries));
    if (entries.kind === 'bytes') bounds.takePlainBytes(page, denseLength(entries));
    if (page.length < compressBytesMin && (isConstant || dictionary?.entries.length === 1)) codec = 'UNCOMPRESSED';
    const stored = codec === 'ZSTD' ? compressPage(page, zstdLevel) : page;
    dictionaryOffset = BigInt(out.offset);
    const headerStart = out.offset;
    writePageHeader(out, {
      type: 'DICTIONARY_PAGE', uncompressed_page_size: page.length, compressed_page_size: stored.length, crc: pageCrc(stored),
      dictionary_page_header: { num_values: denseLength(entries), encoding: 'PLAIN' },
    });
    uncompressedBytes += out.offset - headerStart + page.length;
    out.appendBytes(stored);
    if (stored !== page) releaseBuffer(stored.buffer);
  }
  if (dense.kind === 'boolean') bounds.takeBooleans(dense.values);
  else if (dense.kind !== 'bytes' && dense.kind !== 'packed') bounds.takeNumbers(dense);

  const encoding: Encoding = entries ? 'RLE_DICTIONARY' : 'PLAIN';
  const codeWidth = entries ? Math.max(1, bitWidthOf(denseLength(entries) - 1)) : 0;
  const dataPageOffset = BigInt(out.offset);
  const pageRows = entries || leaf.isList ? Math.max(1, rowCount) : pageRowsOf(dense, rowCount);
  let pageCount = 0;
  let valueAt = 0;
  for (let row = 0; row < rowCount || pageCount === 0; row += pageRows) {
    const rowEnd = Math.min(rowCount, row + pageRows);
    const levelStart = leaf.isList ? 0 : row;
    const levelEnd = leaf.isList ? levelCount : rowEnd;
    let nulls = 0;
    if (shredded.definitionLevels) {
      for (let i = levelStart; i < levelEnd; i += 1) if (shredded.definitionLevels[i] !== leaf.maxDefinitionLevel) nulls += 1;
    }
    const valueEnd = valueAt + (levelEnd - levelStart) - nulls;

    levelScratch.reset();
    if (shredded.repetitionLevels) appendHybrid(levelScratch, shredded.repetitionLevels, levelStart, levelEnd, 1);
    const repetitionBytes = levelScratch.length;
    if (leaf.maxDefinitionLevel > 0) {
      const width = bitWidthOf(leaf.maxDefinitionLevel);
      if (shredded.definitionLevels) appendHybrid(levelScratch, shredded.definitionLevels, levelStart, levelEnd, width);
      else appendRun(levelScratch, leaf.maxDefinitionLevel, levelEnd - levelStart, width);
    }
    const levels = levelScratch.view();

    let page: Uint8Array;
    if (entries) {
      pageScratch.reset();
      pageScratch.reserve(16);
      pageScratch.bytes[pageScratch.length++] = codeWidth;
      if (dictionary) appendHybrid(pageScratch, dictionary.codes, valueAt, valueEnd, codeWidth);
      else appendRun(pageScratch, 0, valueEnd - valueAt, codeWidth);
      page = pageScratch.view();
    } else {
      page = plainBytes(dense, valueAt, valueEnd);
      if (dense.kind === 'bytes' || dense.kind === 'packed') bounds.takePlainBytes(page, valueEnd - valueAt);
    }
    const isCompressed = codec === 'ZSTD' && page.length >= compressBytesMin;
    const stored = isCompressed ? compressPage(page, zstdLevel) : page;
    const headerStart = out.offset;
    writePageHeader(out, {
      type: 'DATA_PAGE_V2', uncompressed_page_size: levels.length + page.length, compressed_page_size: levels.length + stored.length,
      crc: pageCrc(levels, stored),
      data_page_header_v2: {
        num_values: levelEnd - levelStart, num_nulls: nulls, num_rows: rowEnd - row, encoding,
        definition_levels_byte_length: levels.length - repetitionBytes, repetition_levels_byte_length: repetitionBytes,
        is_compressed: isCompressed,
      },
    });
    uncompressedBytes += out.offset - headerStart + levels.length + page.length;
    out.appendBytes(levels);
    out.appendBytes(stored);
    if (isCompressed) releaseBuffer(stored.buffer);
    valueAt = valueEnd;
    pageCount += 1;
  }

  checkDecimalRange(leaf, bounds);
  const isOneValue = bounds.min !== undefined && bounds.max !== undefined && bounds.min.length <= oneValueBytesMax && compareBytes(bounds.min, bounds.max) === 0;
  const cut = !isOneValue && (leaf.type === 'string' || leaf.type === 'binary') ? leaf.type : undefined;
  const facts: ChunkFacts = {
    fieldId: leaf.fieldId, compressedBytes: out.offset - startOffset, valueCount: levelCount, nullCount: shredded.nullCount,
    min: cut && bounds.min ? truncateLowerBound(cut, bounds.min) : bounds.min,
    max: cut && bounds.max ? truncateUpperBound(cut, bounds.max) : bounds.max,
  };
  const isCut = (whole: Uint8Array | undefined, kept: Uint8Array | undefined): false | undefined =>
    whole && kept && compareBytes(whole, kept) !== 0 ? false : undefined;
  const chunk: ColumnChunk = {
    file_offset: BigInt(startOffset),
    meta_data: {
      type: leaf.physical, encodings: entries ? ['PLAIN', 'RLE_DICTIONARY'] : ['PLAIN'], path_in_schema: leaf.path, codec,
      num_values: BigInt(levelCount), total_compressed_size: BigInt(facts.compressedBytes), total_uncompressed_size: BigInt(uncompressedBytes),
      data_page_offset: dataPageOffset, ...(dictionaryOffset === undefined ? {} : { dictionary_page_offset: dictionaryOffset }),
      statistics: footerStatistics(leaf, facts, isCut(bounds.min, facts.min), isCut(bounds.max, facts.max)),
      encoding_stats: [
        ...(entries ? [{ page_type: 'DICTIONARY_PAGE' as const, encoding: 'PLAIN' as const, count: 1 }] : []),
        { page_type: 'DATA_PAGE_V2', encoding, count: pageCount },
      ],
    },
  };
  return { chunk, facts };
};

const footerStatistics = (leaf: Leaf, facts: ChunkFacts, minExact: false | undefined, maxExact: false | undefined) => {
  const min = statisticValue(leaf, facts.min);
  const max = statisticValue(leaf, facts.max);
  return {
    null_count: BigInt(facts.nullCount ?? 0),
    ...(min === undefined ? {} : { min_value: min }),
    ...(max === undefined ? {} : { max_value: max }),
    ...(minExact === false ? { is_min_value_exact: false } : {}),
    ...(maxExact === false ? { is_max_value_exact: false } : {}),
  };
};

const firstOf = (dense: DenseValues): DenseValues => {
  switch (dense.kind) {
    case 'int64': return { kind: 'int64', values: dense.values.subarray(0, 1) };
    case 'int32': return { kind: 'int32', values: dense.values.subarray(0, 1) };
    case 'float': return { kind: 'float', values: dense.values.subarray(0, 1) };
    case 'double': return { kind: 'double', values: dense.values.subarray(0, 1) };
    case 'boolean': return { kind: 'boolean', values: dense.values.slice(0, 1) };
    case 'bytes': return { kind: 'bytes', values: dense.values.slice(0, 1) };
    case 'packed': return { kind: 'packed', values: { packed: dense.values.packed, positions: dense.values.positions.subarray(0, 2) } };
  }
};
