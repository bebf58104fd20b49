import type { AvroFieldWalk } from './avro-bounds.ts';

/** More entries than any frame has fields; a record with more is decoded as an object. */
const entriesMax = 32;

/** 2^28: what four bytes of a varint hold. */
const fourGroups = 268_435_456;

/**
 * One Avro record where it lies, its fields found and checked but not built: reading it makes no object. One instance is moved from
 * record to record. Fields go by their number in the schema. What says NaN or −1 is for the caller to decode as an object instead.
 */
export class EncodedRecord {
  bytes: Uint8Array = new Uint8Array(0);
  /** Of the entries that {@link findEntries} found, in ascending order of their keys. */
  readonly keyStarts = new Int32Array(entriesMax);
  readonly keyEnds = new Int32Array(entriesMax);
  readonly valueStarts = new Int32Array(entriesMax);
  readonly valueEnds = new Int32Array(entriesMax);
  private starts = new Int32Array(0);

  /** Moves to the body [position, end); false if it is no record of the schema that fills it. */
  moveTo(bytes: Uint8Array, position: number, end: number, { fieldCount, walk }: { fieldCount: number; walk: AvroFieldWalk }): boolean {
    this.bytes = bytes;
    if (this.starts.length <= fieldCount) this.starts = new Int32Array(fieldCount + 1);
    return walk(bytes, position, end, this.starts) === end;
  }

  /** A long that is not negative and that a number holds; NaN otherwise. */
  natural(field: number): number {
    const { bytes } = this;
    let at = this.starts[field]!;
    let byte = bytes[at++]!;
    let low = byte & 0x7f;
    // Zigzag: odd is negative.
    if ((byte & 1) === 1) return NaN;
    for (let shift = 7; byte >= 0x80 && shift < 28; shift += 7) {
      byte = bytes[at++]!;
      low |= (byte & 0x7f) << shift;
    }
    if (byte < 0x80) return low / 2;
    let high = 0;
    for (let shift = 0; byte >= 0x80; shift += 7) {
      // Past 56 bits; a shift of 28 would not fit either.
      if (shift > 21) return NaN;
      byte = bytes[at++]!;
      high |= (byte & 0x7f) << shift;
    }
    const value = high * (fourGroups / 2) + low / 2;
    // avsc refuses 2^53 − 1 too.
    return value < Number.MAX_SAFE_INTEGER ? value : NaN;
  }

  boolean(field: number): boolean {
    return this.bytes[this.starts[field]!] === 1;
  }

  /** Whether a [null, …] union holds its null. */
  isNull(field: number): boolean {
    return this.bytes[this.starts[field]!] === 0;
  }

  /** The boolean of a [null, boolean] union that is not null. */
  booleanOf(field: number): boolean {
    return this.bytes[this.starts[field]! + 1] === 1;
  }

  /** Where a text's bytes start. */
  textStart(field: number): number {
    return this.afterVarint(this.starts[field]!);
  }

  /** Where the text of a [null, string] union starts that is not null. */
  textStartOf(field: number): number {
    return this.afterVarint(this.starts[field]! + 1);
  }

  /** Where a text's bytes end, in a union or not. */
  textEnd(field: number): number {
    return this.starts[field + 1]!;
  }

  /**
   * Finds the entries of a map of texts and puts them in order of their keys. −1 if an object would have another order or other
   * entries: two equal keys, a key that does not begin with a letter (objects put numbers first, and `__proto__` is no entry of theirs).
   */
  findEntries(field: number): number {
    const { bytes, keyStarts, keyEnds, valueStarts, valueEnds } = this;
    let at = this.starts[field]!;
    let count = 0;
    for (;;) {
      const blockCount = bytes[at++]!;
      if (blockCount === 0) return count;
      // One byte: negative (the block's size follows) and more than 63 entries are for the decoder.
      if (blockCount >= 0x80 || (blockCount & 1) === 1) return -1;
      const entries = blockCount >> 1;
      if (count + entries > entriesMax) return -1;
      for (let i = 0; i < entries; i += 1) {
        const keyStart = this.afterVarint(at);
        const keyEnd = keyStart + this.lengthAt(at);
        const valueStart = this.afterVarint(keyEnd);
        const valueEnd = valueStart + this.lengthAt(keyEnd);
        at = valueEnd;
        const initial = bytes[keyStart]! | 0x20;
        if (keyEnd === keyStart || initial < 0x61 || initial > 0x7a) return -1;
        let to = count;
        for (; to > 0; to -= 1) {
          const order = compare(bytes, keyStarts[to - 1]!, keyEnds[to - 1]!, keyStart, keyEnd);
          if (order === 0) return -1;
          if (order < 0) break;
          keyStarts[to] = keyStarts[to - 1]!;
          keyEnds[to] = keyEnds[to - 1]!;
          valueStarts[to] = valueStarts[to - 1]!;
          valueEnds[to] = valueEnds[to - 1]!;
        }
        keyStarts[to] = keyStart;
        keyEnds[to] = keyEnd;
        valueStarts[to] = valueStart;
        valueEnds[to] = valueEnd;
        count += 1;
      }
    }
  }

  private afterVarint(position: number): number {
    let at = position;
    while (this.bytes[at++]! >= 0x80);
    return at;
  }

  /** A length that the walk has checked: below 2^31. */
  private lengthAt(position: number): number {
    const { bytes } = this;
    let at = position;
    let byte = bytes[at++]!;
    let value = byte & 0x7f;
    for (let shift = 7; byte >= 0x80; shift += 7) {
      byte = bytes[at++]!;
      value += (byte & 0x7f) * 2 ** shift;
    }
    return value / 2;
  }
}

const compare = (bytes: Uint8Array, aStart: number, aEnd: number, bStart: number, bEnd: number): number => {
  const length = Math.min(aEnd - aStart, bEnd - bStart);
  for (let i = 0; i < length; i += 1) {
    const difference = bytes[aStart + i]! - bytes[bStart + i]!;
    if (difference !== 0) return difference;
  }
  return aEnd - aStart - (bEnd - bStart);
};
