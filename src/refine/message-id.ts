import { createHash } from 'node:crypto';

/** Namespace of message ids (RFC 9562, section 5.5). Never changes: ids of rows that were written would. */
export const messageIdNamespace = 'b1f5c1de-8a4e-5d0c-9b7e-2f6a3c9d4e10';

const namespaceBytes = Buffer.from(messageIdNamespace.replaceAll('-', ''), 'hex');
const blockBytes = 64;

// SHA-1 (FIPS 180-4, section 6.1.2) of one block at a time. node:crypto costs 1.2 µs an id, most of it for crossing into
// native code and for the hex text; this costs 0.4 µs, the text included. It is no security measure here: an id is a name.
const schedule = new Int32Array(80);
const initialState = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0);

const hashBlock = (state: Int32Array, bytes: Uint8Array): void => {
  const w = schedule;
  for (let i = 0; i < 16; i += 1) {
    const at = 4 * i;
    w[i] = (bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!;
  }
  for (let i = 16; i < 80; i += 1) {
    const x = w[i - 3]! ^ w[i - 8]! ^ w[i - 14]! ^ w[i - 16]!;
    w[i] = (x << 1) | (x >>> 31);
  }
  let a = state[0]!;
  let b = state[1]!;
  let c = state[2]!;
  let d = state[3]!;
  let e = state[4]!;
  // Five rounds at a time, after which each variable has its part again: moving five values in every round takes twice the time.
  for (let i = 0; i < 20; i += 5) {
    e = (e + ((a << 5) | (a >>> 27)) + ((b & c) | (~b & d)) + 0x5a827999 + w[i]!) | 0;
    b = (b << 30) | (b >>> 2);
    d = (d + ((e << 5) | (e >>> 27)) + ((a & b) | (~a & c)) + 0x5a827999 + w[i + 1]!) | 0;
    a = (a << 30) | (a >>> 2);
    c = (c + ((d << 5) | (d >>> 27)) + ((e & a) | (~e & b)) + 0x5a827999 + w[i + 2]!) | 0;
    e = (e << 30) | (e >>> 2);
    b = (b + ((c << 5) | (c >>> 27)) + ((d & e) | (~d & a)) + 0x5a827999 + w[i + 3]!) | 0;
    d = (d << 30) | (d >>> 2);
    a = (a + ((b << 5) | (b >>> 27)) + ((c & d) | (~c & e)) + 0x5a827999 + w[i + 4]!) | 0;
    c = (c << 30) | (c >>> 2);
  }
  for (let i = 20; i < 40; i += 5) {
    e = (e + ((a << 5) | (a >>> 27)) + (b ^ c ^ d) + 0x6ed9eba1 + w[i]!) | 0;
    b = (b << 30) | (b >>> 2);
    d = (d + ((e << 5) | (e >>> 27)) + (a ^ b ^ c) + 0x6ed9eba1 + w[i + 1]!) | 0;
    a = (a << 30) | (a >>> 2);
    c = (c + ((d << 5) | (d >>> 27)) + (e ^ a ^ b) + 0x6ed9eba1 + w[i + 2]!) | 0;
    e = (e << 30) | (e >>> 2);
    b = (b + ((c << 5) | (c >>> 27)) + (d ^ e ^ a) + 0x6ed9eba1 + w[i + 3]!) | 0;
    d = (d << 30) | (d >>> 2);
    a = (a + ((b << 5) | (b >>> 27)) + (c ^ d ^ e) + 0x6ed9eba1 + w[i + 4]!) | 0;
    c = (c << 30) | (c >>> 2);
  }
  for (let i = 40; i < 60; i += 5) {
    e = (e + ((a << 5) | (a >>> 27)) + ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc + w[i]!) | 0;
    b = (b << 30) | (b >>> 2);
    d = (d + ((e << 5) | (e >>> 27)) + ((a & b) | (a & c) | (b & c)) + 0x8f1bbcdc + w[i + 1]!) | 0;
    a = (a << 30) | (a >>> 2);
    c = (c + ((d << 5) | (d >>> 27)) + ((e & a) | (e & b) | (a & b)) + 0x8f1bbcdc + w[i + 2]!) | 0;
    e = (e << 30) | (e >>> 2);
    b = (b + ((c << 5) | (c >>> 27)) + ((d & e) | (d & a) | (e & a)) + 0x8f1bbcdc + w[i + 3]!) | 0;
    d = (d << 30) | (d >>> 2);
    a = (a + ((b << 5) | (b >>> 27)) + ((c & d) | (c & e) | (d & e)) + 0x8f1bbcdc + w[i + 4]!) | 0;
    c = (c << 30) | (c >>> 2);
  }
  for (let i = 60; i < 80; i += 5) {
    e = (e + ((a << 5) | (a >>> 27)) + (b ^ c ^ d) + 0xca62c1d6 + w[i]!) | 0;
    b = (b << 30) | (b >>> 2);
    d = (d + ((e << 5) | (e >>> 27)) + (a ^ b ^ c) + 0xca62c1d6 + w[i + 1]!) | 0;
    a = (a << 30) | (a >>> 2);
    c = (c + ((d << 5) | (d >>> 27)) + (e ^ a ^ b) + 0xca62c1d6 + w[i + 2]!) | 0;
    e = (e << 30) | (e >>> 2);
    b = (b + ((c << 5) | (c >>> 27)) + (d ^ e ^ a) + 0xca62c1d6 + w[i + 3]!) | 0;
    d = (d << 30) | (d >>> 2);
    a = (a + ((b << 5) | (b >>> 27)) + (c ^ d ^ e) + 0xca62c1d6 + w[i + 4]!) | 0;
    c = (c << 30) | (c >>> 2);
  }
  state[0] = state[0]! + a;
  state[1] = state[1]! + b;
  state[2] = state[2]! + c;
  state[3] = state[3]! + d;
  state[4] = state[4]! + e;
};

const hexDigits = Uint8Array.from(Buffer.from('0123456789abcdef', 'latin1'));
/** Where the two digits of each of the sixteen bytes go in the text. */
const digitPositions = Uint8Array.of(0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34);
const dashPositions = Uint8Array.of(8, 13, 18, 23);
const dash = 45;

/** The sixteen bytes of a UUIDv5, by node:crypto. */
const uuid5Bytes = (namespace: Uint8Array, name: string): Buffer => {
  const bytes = createHash('sha1').update(namespace).update(name, 'utf8').digest().subarray(0, 16);
  bytes[6] = (bytes[6]! & 0x0f) | 0x50;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes;
};

/** SHA-1 of the message ids of one topic partition. */
interface MessageIdHash {
  /** The five words of the last hash. */
  readonly state: Int32Array;
  /** Quickest for ascending offsets: in nine of ten cases only the last digit changes. */
  hash(offset: number): void;
}

const messageIdHash = (topic: string, partition: number): MessageIdHash => {
  // The namespace, the digits, the bit 1, zeros, and the length in bits.
  const message = Buffer.alloc(blockBytes);
  const start = uuid5Bytes(namespaceBytes, `${topic}/${partition}`).copy(message);
  const state = new Int32Array(5);
  let end = start;
  let offsetBefore = -2;
  return {
    state,
    hash: (offset) => {
      if (offset === offsetBefore + 1 && message[end - 1]! < 57) {
        message[end - 1]! += 1;
      } else {
        message.fill(0, start);
        end = start + message.write(String(offset), start, 'latin1');
        message[end] = 0x80;
        message[blockBytes - 2] = (end * 8) >> 8;
        message[blockBytes - 1] = (end * 8) & 0xff;
      }
      offsetBefore = offset;
      state.set(initialState);
      hashBlock(state, message);
    },
  };
};

/** Bytes of a message id's text. */
export const messageIdBytes = 36;

/** Writes the text of an offset's message id at `at`: for whoever wants bytes. */
export type MessageIdWriter = (offset: number, target: Uint8Array, at: number) => void;
export const messageIdWriter = (topic: string, partition: number): MessageIdWriter => {
  const { state, hash } = messageIdHash(topic, partition);
  return (offset, target, at) => {
    hash(offset);
    // Version 5, and the variant of RFC 9562.
    state[1] = (state[1]! & ~0xf000) | 0x5000;
    state[2] = (state[2]! & 0x3fffffff) | 0x80000000;
    for (let i = 0; i < 16; i += 1) {
      const byte = (state[i >> 2]! >>> (24 - 8 * (i & 3))) & 0xff;
      const to = at + digitPositions[i]!;
      target[to] = hexDigits[byte >> 4]!;
      target[to + 1] = hexDigits[byte & 15]!;
    }
    for (let i = 0; i < dashPositions.length; i += 1) target[at + dashPositions[i]!] = dash;
  };
};

/**
 * Message ids of one topic partition. The topic partition `<topic>/<partition>` has a UUIDv5 in {@link messageIdNamespace};
 * in that namespace, an offset's decimal text has the UUIDv5 that is its message id. So an id takes one block, however long
 * the topic's name is. In Python: `uuid5(uuid5(namespace, 'topic/0'), '42')`.
 */
export const messageIdsOf = (topic: string, partition: number): ((offset: number) => string) => {
  const write = messageIdWriter(topic, partition);
  // Node's own slice: toString picks the encoding first, at twice the cost of so short a text.
  const text = Buffer.alloc(messageIdBytes) as Buffer & { latin1Slice(start: number, end: number): string };
  return (offset) => {
    write(offset, text, 0);
    return text.latin1Slice(0, messageIdBytes);
  };
};

export const isMessageId = (text: string): boolean => /^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/i.test(text);

/**
 * Looks for the offset of a message id in [start, end) of one topic partition, by making the ids: they are a function of the
 * place, so that finding one reads nothing. Some three million offsets a second.
 */
export const messageIdFinder = (topic: string, partition: number, messageId: string): ((start: number, end: number) => number | null) => {
  const { state, hash } = messageIdHash(topic, partition);
  // The first word has neither version nor variant: it is compared as it is, and the few that agree are compared whole.
  const first = Number.parseInt(messageId.slice(0, 8), 16) | 0;
  const wanted = messageId.toLowerCase();
  const idOf = messageIdsOf(topic, partition);
  return (start, end) => {
    for (let offset = start; offset < end; offset += 1) {
      hash(offset);
      if (state[0] === first && idOf(offset) === wanted) return offset;
    }
    return null;
  };
};
