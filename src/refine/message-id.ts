/** Namespace of message ids (RFC 9562, section 5.5). Never changes: ids of rows that were written would. */
export const messageIdNamespace = 'b1f5c1de-8a4e-5d0c-9b7e-2f6a3c9d4e10';

const namespaceBytes = Buffer.from(messageIdNamespace.replaceAll('-', ''), 'hex');
const blockBytes = 64;

// SHA-1 (FIPS 180-4, section 6.1.2) of one block at a time. node:crypto costs 1.2 µs an id, most of it for crossing into
// native code and for the hex text; this costs 0.4 µs, the text included. It is no security measure here: an id is a name.
const schedule = new Int32Array(80);
const initialState = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0);

const hashBlock = (state: Int32Array, bytes: Uint8Array, from: number): void => {
  const w = schedule;
  for (let i = 0; i < 16; i += 1) {
    const at = from + 4 * i;
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
  // One loop for each of the four functions: a choice inside of one loop takes twice the time.
  for (let i = 0; i < 20; i += 1) {
    const next = (((a << 5) | (a >>> 27)) + ((b & c) | (~b & d)) + e + 0x5a827999 + w[i]!) | 0;
    e = d;
    d = c;
    c = (b << 30) | (b >>> 2);
    b = a;
    a = next;
  }
  for (let i = 20; i < 40; i += 1) {
    const next = (((a << 5) | (a >>> 27)) + (b ^ c ^ d) + e + 0x6ed9eba1 + w[i]!) | 0;
    e = d;
    d = c;
    c = (b << 30) | (b >>> 2);
    b = a;
    a = next;
  }
  for (let i = 40; i < 60; i += 1) {
    const next = (((a << 5) | (a >>> 27)) + ((b & c) | (b & d) | (c & d)) + e + 0x8f1bbcdc + w[i]!) | 0;
    e = d;
    d = c;
    c = (b << 30) | (b >>> 2);
    b = a;
    a = next;
  }
  for (let i = 60; i < 80; i += 1) {
    const next = (((a << 5) | (a >>> 27)) + (b ^ c ^ d) + e + 0xca62c1d6 + w[i]!) | 0;
    e = d;
    d = c;
    c = (b << 30) | (b >>> 2);
    b = a;
    a = next;
  }
  state[0] = state[0]! + a;
  state[1] = state[1]! + b;
  state[2] = state[2]! + c;
  state[3] = state[3]! + d;
  state[4] = state[4]! + e;
};

const hexDigits = Buffer.from('0123456789abcdef', 'latin1');
/** Where the two digits of each of the sixteen bytes go in the text. */
const digitPositions = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/**
 * Message ids of one topic partition: UUIDv5 of the name `<topic>/<partition>/<offset>` in {@link messageIdNamespace}.
 * Blocks that hold no digit of the offset are hashed once.
 */
export const messageIdsOf = (topic: string, partition: number): ((offset: number) => string) => {
  const prefix = Buffer.concat([namespaceBytes, Buffer.from(`${topic}/${partition}/`, 'utf8')]);
  const fixedBlocks = Math.floor(prefix.length / blockBytes);
  const base = Int32Array.from(initialState);
  for (let block = 0; block < fixedBlocks; block += 1) hashBlock(base, prefix, block * blockBytes);
  const tail = prefix.subarray(fixedBlocks * blockBytes);
  // The rest of the prefix, the digits, the bit 1, and eight bytes of length: at most two blocks.
  const message = Buffer.alloc(2 * blockBytes);
  tail.copy(message);
  const state = new Int32Array(5);
  // Node's own slice: toString picks the encoding first, at twice the cost of so short a text.
  const text = Buffer.alloc(36, '-', 'latin1') as Buffer & { latin1Slice(start: number, end: number): string };

  /** Padding for a name with this many digits: the bit 1, zeros, the length in bits. */
  let digitsBefore = 0;
  let offsetBefore = -2;
  let blocks = 1;
  const layOut = (digits: number): void => {
    digitsBefore = digits;
    const end = tail.length + digits;
    blocks = end + 9 > blockBytes ? 2 : 1;
    message.fill(0, tail.length);
    message[end] = 0x80;
    message.writeUInt32BE((fixedBlocks * blockBytes + end) * 8, blocks * blockBytes - 4);
  };

  return (offset) => {
    const last = tail.length + digitsBefore - 1;
    if (offset === offsetBefore + 1 && message[last]! < 57) {
      // The next offset, in nine of ten cases: only its last digit changes.
      message[last]! += 1;
    } else {
      const digits = String(offset);
      if (digits.length !== digitsBefore) layOut(digits.length);
      message.write(digits, tail.length, 'latin1');
    }
    offsetBefore = offset;
    state.set(base);
    hashBlock(state, message, 0);
    if (blocks === 2) hashBlock(state, message, blockBytes);
    // Version 5, and the variant of RFC 9562.
    state[1] = (state[1]! & ~0xf000) | 0x5000;
    state[2] = (state[2]! & 0x3fffffff) | 0x80000000;
    for (let i = 0; i < 16; i += 1) {
      const byte = (state[i >> 2]! >>> (24 - 8 * (i & 3))) & 0xff;
      const at = digitPositions[i]!;
      text[at] = hexDigits[byte >> 4]!;
      text[at + 1] = hexDigits[byte & 15]!;
    }
    return text.latin1Slice(0, 36);
  };
};
