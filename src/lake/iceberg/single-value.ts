import { TidemarkError } from '../../domain/errors.ts';
import type { PrimitiveType } from '../schema.ts';

/**
 * A value as bounds and partition tuples hold it, by type:
 * long, timestamp(tz) (µs since the epoch), decimal (unscaled): bigint; int, date (days), float, double: number;
 * string: string; binary: Uint8Array; boolean: boolean.
 */
export type SingleValue = bigint | number | string | boolean | Uint8Array;

/** Strings and binaries longer than this are cut in bounds (code points, bytes), as Iceberg's `truncate(16)` does. */
export const boundLengthMax = 16;

const textEncoder = new TextEncoder();
const textDecoder = new TextDecoder('utf-8', { fatal: true });

/** Whether values of the type are held as bigint. */
export const isBigIntType = (type: PrimitiveType): boolean =>
  type === 'long' || type === 'timestamp' || type === 'timestamptz' || type.startsWith('decimal');

/** Iceberg spec, appendix D, "Single-value serialization": binary form. */
export function serializeValue(type: PrimitiveType, value: SingleValue): Uint8Array {
  switch (type) {
    case 'boolean':
      return Uint8Array.of(value ? 1 : 0);
    case 'int':
    case 'date': {
      const out = new Uint8Array(4);
      new DataView(out.buffer).setInt32(0, Number(value), true);
      return out;
    }
    case 'long':
    case 'timestamp':
    case 'timestamptz': {
      const out = new Uint8Array(8);
      new DataView(out.buffer).setBigInt64(0, BigInt(value as bigint | number), true);
      return out;
    }
    case 'float': {
      const out = new Uint8Array(4);
      new DataView(out.buffer).setFloat32(0, Number(value), true);
      return out;
    }
    case 'double': {
      const out = new Uint8Array(8);
      new DataView(out.buffer).setFloat64(0, Number(value), true);
      return out;
    }
    case 'string':
      return textEncoder.encode(value as string);
    case 'binary':
      return value as Uint8Array;
    default:
      return serializeUnscaled(BigInt(value as bigint | number));
  }
}

/** The inverse of {@link serializeValue}; FILE_UNREADABLE when the bytes are no value of the type. */
export function deserializeValue(type: PrimitiveType, bytes: Uint8Array): SingleValue {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    switch (type) {
      case 'boolean':
        return view.getUint8(0) !== 0;
      case 'int':
      case 'date':
        return view.getInt32(0, true);
      case 'long':
      case 'timestamp':
      case 'timestamptz':
        // A column promoted from int keeps the four bytes of its older files.
        return bytes.length === 4 ? BigInt(view.getInt32(0, true)) : view.getBigInt64(0, true);
      case 'float':
        return view.getFloat32(0, true);
      case 'double':
        return bytes.length === 4 ? view.getFloat32(0, true) : view.getFloat64(0, true);
      case 'string':
        return textDecoder.decode(bytes);
      case 'binary':
        return bytes;
      default:
        return deserializeUnscaled(bytes);
    }
  } catch (cause) {
    throw new TidemarkError('FILE_UNREADABLE', `bound of type ${type}: expected a serialised value, found ${bytes.length} bytes`, { cause });
  }
}

/** Two's complement, big-endian, in as few bytes as hold the value and its sign. */
function serializeUnscaled(value: bigint): Uint8Array {
  let length = 1;
  while (BigInt.asIntN(length * 8, value) !== value) length += 1;
  const out = new Uint8Array(length);
  let rest = value;
  for (let i = length - 1; i >= 0; i -= 1) {
    out[i] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  return out;
}

function deserializeUnscaled(bytes: Uint8Array): bigint {
  if (bytes.length === 0) throw new RangeError('empty');
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return BigInt.asIntN(bytes.length * 8, value);
}

/** Orders values of one type as Iceberg does: strings by code point, binaries by unsigned byte, NaN last. */
export function compareValues(a: SingleValue, b: SingleValue): number {
  if (typeof a === 'string') return compareUtf8(a, b as string);
  if (a instanceof Uint8Array) return compareBytes(a, b as Uint8Array);
  if (a < b) return -1;
  if (a > b) return 1;
  return Number(Number.isNaN(a)) - Number(Number.isNaN(b));
}

/** The order of the UTF-8 bytes, which is the order of code points and differs from that of JavaScript's code units. */
export function compareUtf8(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i += 1) {
    let x = a.charCodeAt(i);
    let y = b.charCodeAt(i);
    if (x === y) continue;
    // Surrogates stand for code points above U+FFFF, yet their code units lie below U+E000.
    if (x >= 0xd800 && y >= 0xd800) {
      x = x >= 0xe000 ? x - 0x800 : x + 0x2000;
      y = y >= 0xe000 ? y - 0x800 : y + 0x2000;
    }
    return x < y ? -1 : 1;
  }
  return a.length === b.length ? 0 : a.length < b.length ? -1 : 1;
}

export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i += 1) {
    if (a[i] !== b[i]) return a[i]! < b[i]! ? -1 : 1;
  }
  return a.length === b.length ? 0 : a.length < b.length ? -1 : 1;
}

/** The longest prefix of at most `boundLengthMax` units: never greater than the value. */
export function truncateLowerBound<V extends SingleValue>(value: V): V {
  if (typeof value === 'string') return codePointPrefix(value.toWellFormed()) as V;
  if (value instanceof Uint8Array && value.length > boundLengthMax) return value.subarray(0, boundLengthMax) as V;
  return value;
}

/** The least value of at most `boundLengthMax` units that is not less than `value`; null when there is none (all units at their maximum). */
export function truncateUpperBound<V extends SingleValue>(value: V): V | null {
  if (typeof value === 'string') {
    const text = value.toWellFormed();
    const prefix = codePointPrefix(text);
    return (prefix.length === text.length ? text : incrementText(prefix)) as V | null;
  }
  if (value instanceof Uint8Array && value.length > boundLengthMax) return incrementBytes(value.subarray(0, boundLengthMax)) as V | null;
  return value;
}

function codePointPrefix(text: string): string {
  if (text.length <= boundLengthMax) return text;
  let end = 0;
  for (let points = 0; points < boundLengthMax && end < text.length; points += 1) {
    end += text.codePointAt(end)! > 0xffff ? 2 : 1;
  }
  return text.slice(0, end);
}

function incrementText(text: string): string | null {
  const points = Array.from(text, (point) => point.codePointAt(0)!);
  for (let i = points.length - 1; i >= 0; i -= 1) {
    const point = points[i]!;
    if (point === 0x10ffff) continue;
    // U+D800 to U+DFFF are no characters and have no UTF-8 form.
    points[i] = point === 0xd7ff ? 0xe000 : point + 1;
    return String.fromCodePoint(...points.slice(0, i + 1));
  }
  return null;
}

function incrementBytes(bytes: Uint8Array): Uint8Array | null {
  for (let i = bytes.length - 1; i >= 0; i -= 1) {
    if (bytes[i] === 0xff) continue;
    const out = bytes.slice(0, i + 1);
    out[i]! += 1;
    return out;
  }
  return null;
}

/** A lower bound as DataFile holds it: truncated, serialised, base64. */
export const lowerBoundBase64 = (type: PrimitiveType, value: SingleValue): string =>
  Buffer.from(serializeValue(type, truncateLowerBound(value))).toString('base64');

/** An upper bound as DataFile holds it; null when the truncated value has no successor: then the bound is left out. */
export const upperBoundBase64 = (type: PrimitiveType, value: SingleValue): string | null => {
  const bound = truncateUpperBound(value);
  return bound === null ? null : Buffer.from(serializeValue(type, bound)).toString('base64');
};

export const boundFromBase64 = (type: PrimitiveType, base64: string): SingleValue => deserializeValue(type, Buffer.from(base64, 'base64'));
