import { decodeHeaders } from '../kafka/record-batch.ts';
import type { RecordSink } from '../kafka/record-batch.ts';
import { chunkBytesPooled } from './byte-budget.ts';
import type { ByteBudget } from './byte-budget.ts';

const chunkBytesFirst = 64 * 1024;
const rowsFirst = 256;
/** Of the five row columns below. */
const bytesPerRow = 28;

/** Key, value and headers of consecutive rows, back to back. No row crosses two chunks. */
interface Chunk {
  bytes: Uint8Array;
  used: number;
  firstRow: number;
}

/** Rows of a buffer as columns; see {@link PartitionBuffer.batches}. */
export interface RecordColumns {
  rowCount: number;
  offsets: BigInt64Array;
  /** µs since the epoch. */
  kafkaTimestamps: BigInt64Array;
  values: (Uint8Array | null)[];
  /** Null when no row has one. */
  keys: (Uint8Array | null)[] | null;
  /** JSON lists of [name, base64 value or null]; null when no row has headers. */
  headers: (string | null)[] | null;
}

/**
 * Records of one topic partition that wait for their Bronze file. Bytes are copied out of the fetch answer, because one
 * record would otherwise keep megabytes alive; so what the budget counts is what is held.
 */
export class PartitionBuffer implements RecordSink {
  /** The file's range starts here, be this offset sparse or not. */
  readonly start: bigint;
  private readonly budget: ByteBudget;
  private readonly owner: object;
  private readonly limits: { rowsMax: number; bytesMax: number };
  private readonly chunks: Chunk[] = [];
  private capacity = 0;
  private rowCapacity = 0;
  private count = 0;
  private payload = 0;
  /** Distances from the start. */
  private offsetDeltas = new Float64Array(0);
  private timestampsMs = new Float64Array(0);
  private keyLengths = new Int32Array(0);
  private valueLengths = new Int32Array(0);
  private headerLengths = new Int32Array(0);
  private anyKey = false;
  private anyHeaders = false;
  private closed = false;

  /** @param owner on whose behalf the budget is asked: the same object for every buffer of a topic partition. */
  constructor(start: bigint, budget: ByteBudget, owner: object, limits: { rowsMax: number; bytesMax: number }) {
    this.start = start;
    this.budget = budget;
    this.owner = owner;
    this.limits = limits;
  }

  get rows(): number {
    return this.count;
  }

  /** Bytes of keys, values and headers. */
  get payloadBytes(): number {
    return this.payload;
  }

  /** What the budget counts for this buffer. */
  get heldBytes(): number {
    return this.capacity;
  }

  /** At its row or byte limit: it takes no more. */
  get complete(): boolean {
    return this.count >= this.limits.rowsMax || this.payload >= this.limits.bytesMax;
  }

  append(
    bytes: Uint8Array, offsetDelta: number, timestampMs: number,
    keyStart: number, keyEnd: number, valueStart: number, valueEnd: number, headersStart: number, headersEnd: number,
  ): boolean {
    if (this.closed || this.complete) return false;
    const keyLength = keyStart < 0 ? -1 : keyEnd - keyStart;
    const valueLength = valueStart < 0 ? -1 : valueEnd - valueStart;
    const headersLength = headersStart < 0 ? -1 : headersEnd - headersStart;
    const length = (keyLength > 0 ? keyLength : 0) + (valueLength > 0 ? valueLength : 0) + (headersLength > 0 ? headersLength : 0);
    let chunk = this.chunks.at(-1);
    if (chunk === undefined || chunk.used + length > chunk.bytes.length || this.count === this.rowCapacity) {
      if (!this.grow(length)) return false;
      chunk = this.chunks.at(-1)!;
    }
    let at = chunk.used;
    if (keyLength > 0) at = copy(bytes, keyStart, keyLength, chunk.bytes, at);
    if (valueLength > 0) at = copy(bytes, valueStart, valueLength, chunk.bytes, at);
    if (headersLength > 0) at = copy(bytes, headersStart, headersLength, chunk.bytes, at);
    chunk.used = at;
    const row = this.count;
    this.offsetDeltas[row] = offsetDelta;
    this.timestampsMs[row] = timestampMs;
    this.keyLengths[row] = keyLength;
    this.valueLengths[row] = valueLength;
    this.headerLengths[row] = headersLength;
    if (keyLength >= 0) this.anyKey = true;
    if (headersLength >= 0) this.anyHeaders = true;
    this.count = row + 1;
    this.payload += length;
    return true;
  }

  retract(count: number): void {
    this.count -= count;
    while (this.chunks.length > 0 && this.chunks.at(-1)!.firstRow > this.count) this.chunks.pop();
    const chunk = this.chunks.at(-1);
    if (chunk) chunk.used = this.bytesOfRows(chunk.firstRow, this.count);
    this.payload = this.bytesOfRows(0, this.count);
  }

  private bytesOfRows(from: number, to: number): number {
    let bytes = 0;
    for (let row = from; row < to; row += 1) {
      bytes += Math.max(0, this.keyLengths[row]!) + Math.max(0, this.valueLengths[row]!) + Math.max(0, this.headerLengths[row]!);
    }
    return bytes;
  }

  /** Room for one more row of `length` bytes, taken from the budget in one piece, so that a refusal leaves all as it was. */
  private grow(length: number): boolean {
    const last = this.chunks.at(-1);
    const needsChunk = last === undefined || last.used + length > last.bytes.length;
    const chunkSize = needsChunk ? Math.max(length, Math.min(chunkBytesPooled, Math.max(chunkBytesFirst, this.capacity))) : 0;
    const rowCapacity = this.count === this.rowCapacity ? Math.max(rowsFirst, this.rowCapacity * 2) : this.rowCapacity;
    const bytes = chunkSize + (rowCapacity - this.rowCapacity) * bytesPerRow;
    if (!this.budget.tryTake(bytes, this.owner)) return false;
    this.capacity += bytes;
    if (needsChunk) this.chunks.push({ bytes: chunkSize === chunkBytesPooled ? this.budget.lendChunk() : new Uint8Array(chunkSize), used: 0, firstRow: this.count });
    if (rowCapacity > this.rowCapacity) {
      const widen = <T extends Float64Array | Int32Array>(from: T, to: T): T => {
        to.set(from);
        return to;
      };
      this.offsetDeltas = widen(this.offsetDeltas, new Float64Array(rowCapacity));
      this.timestampsMs = widen(this.timestampsMs, new Float64Array(rowCapacity));
      this.keyLengths = widen(this.keyLengths, new Int32Array(rowCapacity));
      this.valueLengths = widen(this.valueLengths, new Int32Array(rowCapacity));
      this.headerLengths = widen(this.headerLengths, new Int32Array(rowCapacity));
      this.rowCapacity = rowCapacity;
    }
    return true;
  }

  /**
   * The rows as columns, in batches of at most `rowsMax`: so the views of a batch die young, which is half of what
   * encoding costs. Values and keys are views into the buffer: use them before {@link release}.
   */
  *batches(rowsMax: number): Generator<RecordColumns> {
    const keyCache = new ViewCache();
    let index = 0;
    let at = 0;
    for (let from = 0; from < this.count; from += rowsMax) {
      const to = Math.min(this.count, from + rowsMax);
      const values: (Uint8Array | null)[] = [];
      const keys: (Uint8Array | null)[] | null = this.anyKey ? [] : null;
      const headers: (string | null)[] | null = this.anyHeaders ? [] : null;
      for (let row = from; row < to; row += 1) {
        while (index + 1 < this.chunks.length && this.chunks[index + 1]!.firstRow <= row) {
          index += 1;
          at = 0;
        }
        const { bytes } = this.chunks[index]!;
        const keyLength = this.keyLengths[row]!;
        if (keys) keys.push(keyLength < 0 ? null : keyCache.view(bytes, at, keyLength));
        if (keyLength > 0) at += keyLength;
        const valueLength = this.valueLengths[row]!;
        values.push(valueLength < 0 ? null : new Uint8Array(bytes.buffer, bytes.byteOffset + at, valueLength));
        if (valueLength > 0) at += valueLength;
        const headersLength = this.headerLengths[row]!;
        if (headers) headers.push(headersLength < 0 ? null : headersJson(bytes, at, at + headersLength));
        if (headersLength > 0) at += headersLength;
      }
      yield {
        rowCount: to - from,
        offsets: offsetsFrom(this.start, this.offsetDeltas.subarray(from, to)),
        kafkaTimestamps: microsFrom(this.timestampsMs.subarray(from, to)),
        values, keys, headers,
      };
    }
  }

  /** What the content checksum covers, in this order: offsets, timestamps, lengths, and all bytes. */
  *contentParts(): Generator<Uint8Array> {
    const columns = [this.offsetDeltas, this.timestampsMs, this.keyLengths, this.valueLengths, this.headerLengths];
    for (const column of columns) yield new Uint8Array(column.buffer, 0, this.count * column.BYTES_PER_ELEMENT);
    for (const chunk of this.chunks) yield chunk.bytes.subarray(0, chunk.used);
  }

  /** Empties the buffer for good and gives its bytes back to the budget. */
  release(): void {
    const held = this.capacity;
    this.closed = true;
    const chunks = this.chunks.splice(0);
    this.capacity = 0;
    this.rowCapacity = 0;
    this.count = 0;
    this.payload = 0;
    this.offsetDeltas = new Float64Array(0);
    this.timestampsMs = new Float64Array(0);
    this.keyLengths = new Int32Array(0);
    this.valueLengths = new Int32Array(0);
    this.headerLengths = new Int32Array(0);
    this.budget.give(held);
    for (const { bytes } of chunks) this.budget.returnChunk(bytes);
  }
}

/** One view for equal short byte strings near each other: most topics have few keys, and a view costs 100 bytes. */
class ViewCache {
  private readonly slots: (Uint8Array | undefined)[] = Array.from({ length: 256 }, () => undefined);

  view(bytes: Uint8Array, at: number, length: number): Uint8Array {
    if (length === 0 || length > 32) return bytes.subarray(at, at + length);
    const slot = (bytes[at]! * 7 + bytes[at + (length >> 1)]! * 31 + bytes[at + length - 1]! * 13 + length) & 255;
    const known = this.slots[slot];
    if (known?.length === length) {
      let i = 0;
      while (i < length && known[i] === bytes[at + i]) i += 1;
      if (i === length) return known;
    }
    return (this.slots[slot] = bytes.subarray(at, at + length));
  }
}

/** A call into native memcpy costs more than these few bytes do. */
const shortCopyMax = 24;

const copy = (from: Uint8Array, start: number, length: number, to: Uint8Array, at: number): number => {
  if (length <= shortCopyMax) {
    for (let i = 0; i < length; i += 1) to[at + i] = from[start + i]!;
  } else {
    to.set(from.subarray(start, start + length), at);
  }
  return at + length;
};

const headersJson = (bytes: Uint8Array, start: number, end: number): string =>
  JSON.stringify(decodeHeaders(bytes, start, end).map(([name, value]) => [
    name, value === null ? null : Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64'),
  ]));

const words = 2 ** 32;

/** 64-bit values by their 32-bit halves: a BigInt for each row would cost more than the rest of its copying. */
const offsetsFrom = (start: bigint, deltas: Float64Array): BigInt64Array => {
  const rowCount = deltas.length;
  const offsets = new BigInt64Array(rowCount);
  const halves = new Uint32Array(offsets.buffer);
  const low = Number(start & 0xffff_ffffn);
  const high = Number(start >> 32n);
  for (let row = 0; row < rowCount; row += 1) {
    const sum = low + deltas[row]!;
    halves[2 * row] = sum % words;
    halves[2 * row + 1] = sum < words ? high : high + Math.floor(sum / words);
  }
  return offsets;
};

const microsFrom = (timestampsMs: Float64Array): BigInt64Array => {
  const rowCount = timestampsMs.length;
  const micros = new BigInt64Array(rowCount);
  const halves = new Int32Array(micros.buffer);
  for (let row = 0; row < rowCount; row += 1) {
    const ms = timestampsMs[row]!;
    const us = ms * 1000;
    if (Number.isSafeInteger(us)) {
      const high = Math.floor(us / words);
      halves[2 * row] = us - high * words;
      halves[2 * row + 1] = high;
    } else {
      // A producer may claim any int64; the column's type ends earlier than milliseconds do.
      micros[row] = clampInt64(BigInt(ms) * 1000n);
    }
  }
  return micros;
};

const int64Max = 2n ** 63n - 1n;
const clampInt64 = (value: bigint): bigint => (value > int64Max ? int64Max : value < -int64Max - 1n ? -int64Max - 1n : value);
