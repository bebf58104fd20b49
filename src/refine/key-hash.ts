import type { EncodableColumn, PackedColumn } from '../lake/columns.ts';
import { isCodedColumn, isConstantColumn, isPackedColumn, packedPrefixBytes } from '../lake/columns.ts';

/**
 * Keys as 128-bit hashes in typed arrays: 16 bytes a row instead of a string, and no object for the garbage collector.
 *
 * The hash is MurmurHash3_x86_128 over a form of the key that no other key has (for each column its kind, its length, its value),
 * so that only the hash itself can make two keys equal. For n different keys that chance is n²/2¹²⁹: with ten thousand million keys in
 * one comparison 1.5e-19. Nobody who chooses trade ids gains by a collision, so it need not be a cryptographic hash: crypto.hash
 * takes thirteen times as long a row (1.8 µs). Never stored: it may change with any release.
 */

/** 32-bit words of a hash: row i has words [4 i, 4 i + 4). */
export const keyWords = 4;

const kindText = 1;
const kindInteger = 2;
const kindBytes = 3;
const kindBoolean = 4;
const kindNull = 5;

let words = new Uint32Array(256);

const reserve = (count: number): void => {
  if (count <= words.length) return;
  const grown = new Uint32Array(Math.max(words.length * 2, count));
  grown.set(words);
  words = grown;
};

/** Writes one value at word `at` of the scratch, and returns the word behind it. */
const writeValue = (value: unknown, at: number): number => {
  let out = at;
  if (typeof value === 'string') {
    const { length } = value;
    reserve(out + 3 + (length >> 1));
    words[out++] = kindText;
    words[out++] = length;
    let i = 0;
    for (; i + 1 < length; i += 2) words[out++] = value.charCodeAt(i) | (value.charCodeAt(i + 1) << 16);
    if (i < length) words[out++] = value.charCodeAt(i);
    return out;
  }
  reserve(out + 4);
  if (typeof value === 'bigint' || typeof value === 'number') {
    const integer = BigInt.asUintN(64, BigInt(value));
    words[out++] = kindInteger;
    words[out++] = Number(integer & 0xffffffffn);
    words[out++] = Number(integer >> 32n);
    return out;
  }
  if (value instanceof Uint8Array) {
    reserve(out + 3 + (value.length >> 2));
    words[out++] = kindBytes;
    words[out++] = value.length;
    for (let i = 0; i < value.length; i += 4) {
      words[out++] = value[i]! | ((value[i + 1] ?? 0) << 8) | ((value[i + 2] ?? 0) << 16) | ((value[i + 3] ?? 0) << 24);
    }
    return out;
  }
  words[out++] = typeof value === 'boolean' ? kindBoolean : kindNull;
  words[out++] = value === true ? 1 : 0;
  return out;
};

const rotate = (value: number, by: number): number => (value << by) | (value >>> (32 - by));

const finish = (value: number): number => {
  let h = value;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
};

const c1 = 0x239b961b;
const c2 = 0xab0e9789;
const c3 = 0x38b34ae5;
const c4 = 0xa1e38b93;

/** Hashes the first `count` words of the scratch into `out` at `at`. */
const hashWords = (count: number, out: Uint32Array, at: number): void => {
  const k = words;
  let h1 = 0;
  let h2 = 0;
  let h3 = 0;
  let h4 = 0;
  for (let i = 0; i < count; i += 4) {
    h1 ^= Math.imul(rotate(Math.imul(k[i]!, c1), 15), c2);
    h1 = (Math.imul((rotate(h1, 19) + h2) | 0, 5) + 0x561ccd1b) | 0;
    h2 ^= Math.imul(rotate(Math.imul(k[i + 1]!, c2), 16), c3);
    h2 = (Math.imul((rotate(h2, 17) + h3) | 0, 5) + 0x0bcaa747) | 0;
    h3 ^= Math.imul(rotate(Math.imul(k[i + 2]!, c3), 17), c4);
    h3 = (Math.imul((rotate(h3, 15) + h4) | 0, 5) + 0x96cd1c35) | 0;
    h4 ^= Math.imul(rotate(Math.imul(k[i + 3]!, c4), 18), c1);
    h4 = (Math.imul((rotate(h4, 13) + h1) | 0, 5) + 0x32ac3b17) | 0;
  }
  h1 ^= count;
  h2 ^= count;
  h3 ^= count;
  h4 ^= count;
  h1 = (h1 + h2 + h3 + h4) | 0;
  h2 = (h2 + h1) | 0;
  h3 = (h3 + h1) | 0;
  h4 = (h4 + h1) | 0;
  h1 = finish(h1);
  h2 = finish(h2);
  h3 = finish(h3);
  h4 = finish(h4);
  h1 = (h1 + h2 + h3 + h4) | 0;
  out[at] = h1;
  out[at + 1] = h2 + h1;
  out[at + 2] = h3 + h1;
  out[at + 3] = h4 + h1;
};

/** Writes row `row` as {@link writeValue} writes its text: two characters a word. */
const writePacked = ({ packed, positions }: PackedColumn, row: number, at: number): number => {
  const end = positions[row + 1]!;
  if (positions[row] === end) return writeValue(null, at);
  const start = positions[row]! + packedPrefixBytes;
  const length = end - start;
  let out = at;
  reserve(out + 3 + (length >> 1));
  words[out++] = kindText;
  words[out++] = length;
  let seen = 0;
  let i = start;
  for (; i + 1 < end; i += 2) {
    const a = packed[i]!;
    const b = packed[i + 1]!;
    seen |= a | b;
    words[out++] = a | (b << 16);
  }
  if (i < end) {
    seen |= packed[i]!;
    words[out++] = packed[i]!;
  }
  // Only of ASCII is a byte a character.
  return seen < 0x80 ? out : writeValue(Buffer.from(packed.buffer, packed.byteOffset + start, length).toString('utf8'), at);
};

type ValueWriter = (row: number, at: number) => number;

const valueWriter = (column: EncodableColumn): ValueWriter => {
  if (isConstantColumn(column)) return (_row, at) => writeValue(column.constant, at);
  if (isPackedColumn(column)) return (row, at) => writePacked(column, row, at);
  if (isCodedColumn(column)) return (row, at) => writeValue(column.entries[column.codes[row]!], at);
  if (column instanceof BigInt64Array) {
    const halves = new Uint32Array(column.buffer, column.byteOffset, column.length * 2);
    return (row, at) => {
      reserve(at + 4);
      words[at] = kindInteger;
      words[at + 1] = halves[2 * row]!;
      words[at + 2] = halves[2 * row + 1]!;
      return at + 3;
    };
  }
  return (row, at) => writeValue(column[row], at);
};

/** Hashes of the rows' keys; the columns in the key's order. Equal keys hash equal whatever column holds them. */
export const hashKeys = (columns: readonly EncodableColumn[], rowCount: number): Uint32Array => {
  const out = new Uint32Array(rowCount * keyWords);
  // Constants in front are written once.
  let shared = 0;
  let first = 0;
  for (; first < columns.length && isConstantColumn(columns[first]!); first += 1) shared = valueWriter(columns[first]!)(0, shared);
  const writers = columns.slice(first).map(valueWriter);
  for (let row = 0; row < rowCount; row += 1) {
    let at = shared;
    for (let i = 0; i < writers.length; i += 1) at = writers[i]!(row, at);
    reserve(at + 4);
    words[at] = 0;
    words[at + 1] = 0;
    words[at + 2] = 0;
    hashWords(at, out, row * keyWords);
  }
  return out;
};

/** Open addressing over hashes that lie in one array: a set of its rows, found by the hash of any key. */
export class KeyIndex {
  private readonly hashes: Uint32Array;
  private readonly slots: Int32Array;
  private readonly mask: number;

  /** An index of at most `rowsMax` rows of `hashes`. Memory: 8 to 16 bytes a row. */
  constructor(hashes: Uint32Array, rowsMax: number) {
    this.hashes = hashes;
    let capacity = 16;
    while (capacity < rowsMax * 2) capacity *= 2;
    this.slots = new Int32Array(capacity);
    this.mask = capacity - 1;
  }

  /** The row in the index with the hash of `row`; `row` itself if there was none, and then it is added. */
  add(row: number): number {
    const slot = this.slotOf(this.hashes, row * keyWords);
    const found = this.slots[slot]!;
    if (found !== 0) return found - 1;
    this.slots[slot] = row + 1;
    return row;
  }

  /** Lets `row` take the place of the row with the same hash. */
  replace(row: number): void {
    this.slots[this.slotOf(this.hashes, row * keyWords)] = row + 1;
  }

  /** The row with the hash at word `at` of `other`, or −1. */
  find(other: Uint32Array, at: number): number {
    return this.slots[this.slotOf(other, at)]! - 1;
  }

  private slotOf(other: Uint32Array, at: number): number {
    const { hashes, slots, mask } = this;
    const w0 = other[at]!;
    const w1 = other[at + 1]!;
    const w2 = other[at + 2]!;
    const w3 = other[at + 3]!;
    for (let slot = w0 & mask; ; slot = (slot + 1) & mask) {
      const row = slots[slot]!;
      if (row === 0) return slot;
      const own = (row - 1) * keyWords;
      if (hashes[own] === w0 && hashes[own + 1] === w1 && hashes[own + 2] === w2 && hashes[own + 3] === w3) return slot;
    }
  }
}
