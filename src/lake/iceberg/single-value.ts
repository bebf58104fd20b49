import { TidemarkError } from '../../domain/errors.ts';
import type { PrimitiveType } from '../schema.ts';

/** A value of a primitive column: decimals as the unscaled value, timestamps in µs, dates in days since the epoch. */
export type SingleValue = bigint | number | string | boolean | Uint8Array;

/** Iceberg's default metrics mode, truncate(16): code points of a string, bytes of a binary. */
export const boundsLengthMax = 16;

const utf8Encoder = new TextEncoder();
const utf8Decoder = new TextDecoder();

const isDecimal = (type: PrimitiveType): boolean => type.startsWith('decimal');

/** Decimals are the shortest two's complement, big-endian. */
export const encodeBigEndianMinimal = (value: bigint): Uint8Array => {
  let byteCount = 1;
  while (BigInt.asIntN(byteCount * 8, value) !== value) byteCount += 1;
  const bytes = new Uint8Array(byteCount);
  let rest = value;
  for (let i = byteCount - 1; i >= 0; i -= 1) {
    bytes[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return bytes;
};

export const decodeBigEndian = (bytes: Uint8Array): bigint => {
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return BigInt.asIntN(bytes.length * 8, value);
};

const littleEndian = (byteCount: 4 | 8, write: (view: DataView) => void): Uint8Array => {
  const bytes = new Uint8Array(byteCount);
  write(new DataView(bytes.buffer));
  return bytes;
};

const mismatch = (type: PrimitiveType, value: SingleValue): TidemarkError =>
  new TidemarkError('BAD_INPUT', `single value: a ${typeof value} cannot be a ${type}`);

/** Iceberg spec, appendix D, "Binary single-value serialization". */
export const encodeSingleValue = (type: PrimitiveType, value: SingleValue): Uint8Array => {
  switch (type) {
    case 'boolean':
      if (typeof value !== 'boolean') throw mismatch(type, value);
      return Uint8Array.of(value ? 1 : 0);
    case 'int':
    case 'date':
      if (typeof value !== 'number') throw mismatch(type, value);
      return littleEndian(4, (view) => view.setInt32(0, value, true));
    case 'long':
    case 'timestamp':
    case 'timestamptz':
      if (typeof value !== 'bigint') throw mismatch(type, value);
      return littleEndian(8, (view) => view.setBigInt64(0, value, true));
    case 'float':
      if (typeof value !== 'number') throw mismatch(type, value);
      return littleEndian(4, (view) => view.setFloat32(0, value, true));
    case 'double':
      if (typeof value !== 'number') throw mismatch(type, value);
      return littleEndian(8, (view) => view.setFloat64(0, value, true));
    case 'string':
      if (typeof value !== 'string') throw mismatch(type, value);
      return utf8Encoder.encode(value);
    case 'binary':
      if (!(value instanceof Uint8Array)) throw mismatch(type, value);
      return value;
    default:
      if (!isDecimal(type) || typeof value !== 'bigint') throw mismatch(type, value);
      return encodeBigEndianMinimal(value);
  }
};

/** The inverse of {@link encodeSingleValue}; a wrong length throws TABLE_CORRUPT. */
export const decodeSingleValue = (type: PrimitiveType, bytes: Uint8Array): SingleValue => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const expectLength = (length: number): void => {
    if (bytes.length !== length) {
      throw new TidemarkError('TABLE_CORRUPT', `single value of ${type}: expected ${length} bytes, found ${bytes.length}`);
    }
  };
  switch (type) {
    case 'boolean':
      expectLength(1);
      return bytes[0] !== 0;
    case 'int':
    case 'date':
      expectLength(4);
      return view.getInt32(0, true);
    case 'long':
    case 'timestamp':
    case 'timestamptz':
      // A column that was promoted from int keeps four-byte bounds in old manifests.
      if (bytes.length === 4) return BigInt(view.getInt32(0, true));
      expectLength(8);
      return view.getBigInt64(0, true);
    case 'float':
      expectLength(4);
      return view.getFloat32(0, true);
    case 'double':
      if (bytes.length === 4) return view.getFloat32(0, true);
      expectLength(8);
      return view.getFloat64(0, true);
    case 'string':
      return utf8Decoder.decode(bytes);
    case 'binary':
      return bytes;
    default:
      return decodeBigEndian(bytes);
  }
};

/** Unsigned lexicographic order: the order of binaries, and of strings by code point (UTF-8 keeps it). */
export const compareBytes = (a: Uint8Array, b: Uint8Array): number => {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i += 1) {
    const difference = a[i]! - b[i]!;
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
};

/** Orders two values of one type; strings by code point, not by UTF-16 code unit. */
export const compareSingleValues = (a: SingleValue, b: SingleValue): number => {
  if (typeof a === 'string' && typeof b === 'string') return a === b ? 0 : compareBytes(utf8Encoder.encode(a), utf8Encoder.encode(b));
  if (a instanceof Uint8Array && b instanceof Uint8Array) return compareBytes(a, b);
  return a < b ? -1 : a > b ? 1 : 0;
};

/** Length in bytes of the first `codePoints` code points of UTF-8 text. */
const utf8PrefixLength = (bytes: Uint8Array, codePoints: number): number => {
  let seen = 0;
  for (let i = 0; i < bytes.length; i += 1) {
    if ((bytes[i]! & 0xc0) === 0x80) continue;
    if (seen === codePoints) return i;
    seen += 1;
  }
  return bytes.length;
};

/** A prefix is never greater than the whole, so a cut lower bound stays one. */
export const truncateLowerBound = (type: 'string' | 'binary', bytes: Uint8Array): Uint8Array =>
  bytes.subarray(0, type === 'string' ? utf8PrefixLength(bytes, boundsLengthMax) : boundsLengthMax);

/**
 * A cut upper bound must be greater than every value with its prefix: its last code point (byte) that can be incremented
 * is, and what follows is dropped. Undefined if none can be: then there is no short upper bound.
 */
export const truncateUpperBound = (type: 'string' | 'binary', bytes: Uint8Array): Uint8Array | undefined => {
  if (type === 'binary') {
    if (bytes.length <= boundsLengthMax) return bytes;
    for (let last = boundsLengthMax - 1; last >= 0; last -= 1) {
      if (bytes[last] === 0xff) continue;
      // A copy: the slice of a Buffer would be a view.
      const bound = Uint8Array.from(bytes.subarray(0, last + 1));
      bound[last]! += 1;
      return bound;
    }
    return undefined;
  }
  const end = utf8PrefixLength(bytes, boundsLengthMax);
  if (end === bytes.length) return bytes;
  const codePoints = Array.from(utf8Decoder.decode(bytes.subarray(0, end)), (character) => character.codePointAt(0)!);
  for (let last = codePoints.length - 1; last >= 0; last -= 1) {
    const codePoint = codePoints[last]!;
    if (codePoint === 0x10ffff) continue;
    // Surrogates are no characters: U+D7FF is followed by U+E000.
    const next = codePoint === 0xd7ff ? 0xe000 : codePoint + 1;
    return utf8Encoder.encode(String.fromCodePoint(...codePoints.slice(0, last), next));
  }
  return undefined;
};
