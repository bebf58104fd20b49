import type { OutgoingRecord } from './producer.ts';

// Records of a record batch, format v2 (Kafka protocol guide, "Record"), written into one buffer. kafkajs makes ten
// objects and half a kilobyte of buffer for each record: 6 µs, where this takes 0.4.

const varintBytesMax = 5;
/** Length, attributes, timestamp delta, offset delta, key length, value length, header count. */
const recordOverheadBytes = 2 + 5 * varintBytesMax;
/** An UTF-16 unit is at most three bytes of UTF-8. */
const utf8BytesMax = 3;

/** The most bytes that a record may need in a batch. */
export const recordBytesMax = ({ key, value, headers }: OutgoingRecord): number => {
  let bytes = recordOverheadBytes + (key?.length ?? 0) * utf8BytesMax + (value?.length ?? 0);
  if (headers) for (const name in headers) bytes += 2 * varintBytesMax + (name.length + headers[name]!.length) * utf8BytesMax;
  return bytes;
};

/** Bytes of the zigzag varint of a number that is not negative. */
const varintBytes = (value: number): number => (value < 0x40 ? 1 : value < 0x2000 ? 2 : value < 0x10_0000 ? 3 : value < 0x800_0000 ? 4 : 5);

const writeVarint = (bytes: Uint8Array, at: number, value: number): number => {
  let rest = value * 2;
  let next = at;
  while (rest > 0x7f) {
    bytes[next++] = (rest % 0x80) | 0x80;
    rest = Math.floor(rest / 0x80);
  }
  bytes[next++] = rest;
  return next;
};

/** The zigzag varint of -1: a null key or value. */
const nullLength = 1;

const headerParts = (headers: Readonly<Record<string, string>>): Buffer[] => Object.entries(headers).flat().map((text) => Buffer.from(text));

const noHeaders: readonly Buffer[] = [];

/** The records one after the other, offset deltas from 0, all with the timestamp of their batch. */
const encodeRecords = (records: readonly OutgoingRecord[]): Buffer => {
  let bytesMax = 0;
  for (const record of records) bytesMax += recordBytesMax(record);
  const bytes = Buffer.allocUnsafe(bytesMax);
  let at = 0;
  let lastKey: string | null = null;
  let keyBytes: Uint8Array = Buffer.alloc(0);
  for (const [delta, { key, value, headers }] of records.entries()) {
    if (key !== null && key !== lastKey) {
      lastKey = key;
      keyBytes = Buffer.from(key);
    }
    const parts = headers ? headerParts(headers) : noHeaders;
    const keyLength = key === null ? 0 : keyBytes.length;
    const valueLength = value === null ? 0 : value.length;
    let length = 2 + varintBytes(delta) + varintBytes(keyLength) + keyLength + varintBytes(valueLength) + valueLength + varintBytes(parts.length / 2);
    for (const part of parts) length += varintBytes(part.length) + part.length;
    at = writeVarint(bytes, at, length);
    bytes[at++] = 0; // attributes
    bytes[at++] = 0; // timestamp delta
    at = writeVarint(bytes, at, delta);
    if (key === null) {
      bytes[at++] = nullLength;
    } else {
      at = writeVarint(bytes, at, keyLength);
      bytes.set(keyBytes, at);
      at += keyLength;
    }
    if (value === null) {
      bytes[at++] = nullLength;
    } else {
      at = writeVarint(bytes, at, valueLength);
      bytes.set(value, at);
      at += valueLength;
    }
    at = writeVarint(bytes, at, parts.length / 2);
    for (const part of parts) {
      at = writeVarint(bytes, at, part.length);
      bytes.set(part, at);
      at += part.length;
    }
  }
  return bytes.subarray(0, at);
};

/** What kafkajs takes for an encoder: it copies `buffer` into the batch. */
interface Encoded {
  buf: Buffer;
  buffer: Buffer;
}
const nothing: Encoded = { buf: Buffer.alloc(0), buffer: Buffer.alloc(0) };

const isEncoded = (value: unknown): value is Encoded => typeof value === 'object' && value !== null && 'buf' in value && Buffer.isBuffer(value.buf) && 'buffer' in value && Buffer.isBuffer(value.buffer);

/**
 * Records of one topic partition, for kafkajs's `send`, which takes two slow ways with a plain array of messages:
 * - it groups them by topic partition in quadratic time (45 % of all time at 5,000 messages). These are one group.
 * - it encodes each with objects of its own. Here it encodes the first, and when that is the same as ours, all are ours.
 * Either way the bytes on the wire are those of a plain array; a test compares them.
 */
export class PartitionMessages extends Array<OutgoingRecord> {
  partition = 0;

  static override get [Symbol.species](): ArrayConstructor {
    return Array;
  }

  static fromRecords(partition: number, records: readonly OutgoingRecord[]): PartitionMessages {
    const messages = new PartitionMessages(records.length);
    for (let i = 0; i < records.length; i += 1) messages[i] = records[i]!;
    messages.partition = partition;
    return messages;
  }

  override reduce(): never {
    return { [this.partition]: this } as never;
  }

  override map<T>(callback: (record: OutgoingRecord, index: number, array: OutgoingRecord[]) => T): T[] {
    const first = this.length === 0 ? undefined : callback(this[0]!, 0, this);
    if (isEncoded(first) && first.buffer.equals(encodeRecords([this[0]!]))) {
      const whole = encodeRecords(this);
      const encoded: unknown[] = Array.from({ length: this.length }, () => nothing);
      encoded[0] = { buf: whole, buffer: whole } satisfies Encoded;
      return encoded as T[];
    }
    return super.map(callback);
  }
}
