import { decodeHeaders } from '../kafka/record-batch.ts';
import type { RecordSink } from '../kafka/record-batch.ts';
import { ByteColumn } from './byte-column.ts';
import { chunkBytesPooled } from './byte-budget.ts';
import type { ByteBudget } from './byte-budget.ts';

const chunkBytesFirst = { values: 64 * 1024, keys: 8 * 1024, headers: 8 * 1024 };
const rowsFirst = 256;
/** Of the five row columns below. */
const bytesPerRow = 28;

/** So many records have about this Kafka timestamp. */
export interface ProducedSample { timestampMs: number; records: number }

const samplesMax = 32;
/** Rows whose headers are looked at in one go. */
const rowsAtOnce = 1_024;

/**
 * Records of one topic partition that wait for their Bronze file. Bytes are copied out of the fetch answer, because one
 * record would otherwise keep megabytes alive; so what the budget counts is what is held.
 */
export class PartitionBuffer implements RecordSink {
  /** The file's range starts here, be this offset sparse or not. */
  readonly start: bigint;
  readonly values = new ByteColumn();
  readonly keys = new ByteColumn();
  private readonly rawHeaders = new ByteColumn();
  private readonly budget: ByteBudget;
  private readonly owner: object;
  private readonly limits: { rowsMax: number; bytesMax: number };
  private capacity = 0;
  private rowCapacity = 0;
  private count = 0;
  private payload = 0;
  /** Distances from the start. */
  private offsetDeltas = new Float64Array(0);
  private timestampsMs = new Float64Array(0);
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

  /** Kafka's timestamp of the last record; null without records. */
  get lastTimestampMs(): number | null {
    return this.count === 0 ? null : this.timestampsMs[this.count - 1]!;
  }

  /** Kafka's timestamps, of some rows that stand for those around them: for a histogram. */
  sampleTimestamps(): ProducedSample[] {
    const samples: ProducedSample[] = [];
    const step = Math.max(1, Math.ceil(this.count / samplesMax));
    for (let row = 0; row < this.count; row += step) samples.push({ timestampMs: this.timestampsMs[row]!, records: Math.min(step, this.count - row) });
    return samples;
  }

  /** Different values of a header, in the order of the records, at most so many. */
  headerValues(name: string, valuesMax: number): string[] {
    const found = new Set<string>();
    for (let from = 0; from < this.count && found.size < valuesMax; from += rowsAtOnce) {
      for (const raw of this.rawHeaders.views(from, Math.min(this.count, from + rowsAtOnce))) {
        const value = raw && decodeHeaders(raw, 0).find(([key]) => key === name)?.[1];
        if (value) found.add(Buffer.from(value).toString('latin1'));
        if (found.size >= valuesMax) break;
      }
    }
    return [...found];
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
    const { values, keys, rawHeaders } = this;
    const needsRoom = this.count === this.rowCapacity || values.needsChunk(valueLength) || keys.needsChunk(keyLength) || rawHeaders.needsChunk(headersLength);
    if (needsRoom && !this.grow(keyLength, valueLength, headersLength)) return false;
    const row = this.count;
    values.append(row, bytes, valueStart, valueLength);
    keys.append(row, bytes, keyStart, keyLength);
    rawHeaders.append(row, bytes, headersStart, headersLength);
    this.offsetDeltas[row] = offsetDelta;
    this.timestampsMs[row] = timestampMs;
    this.count = row + 1;
    this.payload += (keyLength > 0 ? keyLength : 0) + (valueLength > 0 ? valueLength : 0) + (headersLength > 0 ? headersLength : 0);
    return true;
  }

  retract(count: number): void {
    const kept = this.count - count;
    for (const column of [this.values, this.keys, this.rawHeaders]) {
      for (let row = kept; row < this.count; row += 1) this.payload -= Math.max(0, column.lengths[row]!);
      column.truncate(kept, this.count);
    }
    this.count = kept;
  }

  /** Room for one more row, taken from the budget in one piece, so that a refusal leaves all as it was. */
  private grow(keyLength: number, valueLength: number, headersLength: number): boolean {
    const chunks = ([
      [this.values, valueLength, chunkBytesFirst.values],
      [this.keys, keyLength, chunkBytesFirst.keys],
      [this.rawHeaders, headersLength, chunkBytesFirst.headers],
    ] as const)
      .filter(([column, length]) => column.needsChunk(length))
      .map(([column, length, first]) => ({ column, bytes: column.chunkBytes(length, first, chunkBytesPooled) }));
    const rowCapacity = this.count === this.rowCapacity ? Math.max(rowsFirst, this.rowCapacity * 2) : this.rowCapacity;
    const bytes = chunks.reduce((sum, chunk) => sum + chunk.bytes, (rowCapacity - this.rowCapacity) * bytesPerRow);
    if (!this.budget.tryTake(bytes, this.owner)) return false;
    this.capacity += bytes;
    for (const chunk of chunks) {
      chunk.column.addChunk(chunk.bytes === chunkBytesPooled ? this.budget.lendChunk() : new Uint8Array(chunk.bytes), this.count);
    }
    if (rowCapacity > this.rowCapacity) {
      this.offsetDeltas = widen(this.offsetDeltas, new Float64Array(rowCapacity));
      this.timestampsMs = widen(this.timestampsMs, new Float64Array(rowCapacity));
      for (const column of [this.values, this.keys, this.rawHeaders]) column.lengths = widen(column.lengths, new Int32Array(rowCapacity));
      this.rowCapacity = rowCapacity;
    }
    return true;
  }

  offsets(from: number, to: number): BigInt64Array {
    return offsetsFrom(this.start, this.offsetDeltas.subarray(from, to));
  }

  /** µs since the epoch. */
  kafkaTimestamps(from: number, to: number): BigInt64Array {
    return microsFrom(this.timestampsMs.subarray(from, to));
  }

  /** JSON lists of [name, base64 value or null]; null when none of these rows has headers. */
  headers(from: number, to: number): (string | null)[] | null {
    if (this.rawHeaders.nullCount === this.count) return null;
    return this.rawHeaders.views(from, to).map((raw) => raw && headersJson(raw));
  }

  /** What the content checksum covers, in this order: offsets, timestamps, lengths, and all bytes. */
  *contentParts(): Generator<Uint8Array> {
    const byteColumns = [this.values, this.keys, this.rawHeaders];
    for (const column of [this.offsetDeltas, this.timestampsMs, ...byteColumns.map(({ lengths }) => lengths)]) {
      yield new Uint8Array(column.buffer, 0, this.count * column.BYTES_PER_ELEMENT);
    }
    for (const { chunks } of byteColumns) for (const { bytes, used } of chunks) yield bytes.subarray(0, used);
  }

  /** Empties the buffer for good and gives its bytes back to the budget. Views into it are void. */
  release(): void {
    const held = this.capacity;
    this.closed = true;
    this.capacity = 0;
    this.rowCapacity = 0;
    this.count = 0;
    this.payload = 0;
    this.offsetDeltas = new Float64Array(0);
    this.timestampsMs = new Float64Array(0);
    this.budget.give(held);
    for (const column of [this.values, this.keys, this.rawHeaders]) {
      column.lengths = new Int32Array(0);
      for (const { bytes } of column.chunks.splice(0)) this.budget.returnChunk(bytes);
    }
  }
}

const widen = <T extends Float64Array | Int32Array>(from: T, to: T): T => {
  to.set(from);
  return to;
};

const headersJson = (raw: Uint8Array): string =>
  JSON.stringify(decodeHeaders(raw, 0).map(([name, value]) => [
    name, value === null ? null : Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('base64'),
  ]));

const words = 2 ** 32;

/** 64-bit values by their 32-bit halves: a BigInt for each row would cost more than the rest of its copying. */
const offsetsFrom = (start: bigint, deltas: Float64Array): BigInt64Array => {
  const offsets = new BigInt64Array(deltas.length);
  const halves = new Uint32Array(offsets.buffer);
  const low = Number(start & 0xffff_ffffn);
  const high = Number(start >> 32n);
  for (let row = 0; row < deltas.length; row += 1) {
    const sum = low + deltas[row]!;
    halves[2 * row] = sum % words;
    halves[2 * row + 1] = sum < words ? high : high + Math.floor(sum / words);
  }
  return offsets;
};

const microsFrom = (timestampsMs: Float64Array): BigInt64Array => {
  const micros = new BigInt64Array(timestampsMs.length);
  const halves = new Int32Array(micros.buffer);
  for (let row = 0; row < timestampsMs.length; row += 1) {
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
