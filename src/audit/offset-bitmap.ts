import type { Interval } from '../domain/offsets.ts';
import { IntervalSet } from '../domain/offsets.ts';

/** Offsets of one chunk: 8 KiB as bits. */
export const chunkOffsets = 65_536;
const chunkWords = chunkOffsets / 32;
export const chunkBytes = chunkOffsets / 8;

const two32 = 4_294_967_296;

/**
 * A set of offsets of one topic partition as bits, in chunks that exist only where an offset is: one bit for each offset
 * of a dense log, 8 KiB for a lone one. Offsets are numbers: the callers refuse those past 2^53.
 */
export class OffsetBitmap {
  private readonly chunks = new Map<number, Uint32Array>();
  private lastIndex = -1;
  private lastChunk: Uint32Array | undefined;
  private count = 0;

  /** Number of offsets in the set. */
  get size(): number {
    return this.count;
  }

  get byteLength(): number {
    return this.chunks.size * chunkBytes;
  }

  chunkIndexes(): IterableIterator<number> {
    return this.chunks.keys();
  }

  chunk(index: number): Uint32Array | undefined {
    return this.chunks.get(index);
  }

  /** Adds an offset; false if it was in the set already. */
  add(offset: number): boolean {
    const index = Math.floor(offset / chunkOffsets);
    let chunk = index === this.lastIndex ? this.lastChunk : undefined;
    if (!chunk) {
      chunk = this.chunks.get(index);
      if (!chunk) {
        chunk = new Uint32Array(chunkWords);
        this.chunks.set(index, chunk);
      }
      this.lastIndex = index;
      this.lastChunk = chunk;
    }
    const bit = offset - index * chunkOffsets;
    const word = bit >>> 5;
    const mask = 1 << (bit & 31);
    if ((chunk[word]! & mask) !== 0) return false;
    chunk[word]! |= mask;
    this.count += 1;
    return true;
  }

  has(offset: number): boolean {
    const index = Math.floor(offset / chunkOffsets);
    const bit = offset - index * chunkOffsets;
    return ((this.chunks.get(index)?.[bit >>> 5] ?? 0) & (1 << (bit & 31))) !== 0;
  }

  /** The set as maximal intervals, ascending. */
  intervals(): IterableIterator<Interval> {
    return intervalsOf(this.chunks.keys(), (index) => this.chunks.get(index));
  }

  toIntervalSet(): IntervalSet {
    return IntervalSet.of(...this.intervals());
  }
}

/** Bits of the intervals that fall into a chunk; undefined if none do. `intervals` are ascending and disjoint. */
export const maskOfChunk = (set: IntervalSet, index: number): Uint32Array | undefined => {
  const { intervals } = set;
  const from = BigInt(index) * BigInt(chunkOffsets);
  const until = from + BigInt(chunkOffsets);
  // The first interval that ends after the chunk's start.
  let low = 0;
  let high = intervals.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (intervals[middle]!.end <= from) low = middle + 1;
    else high = middle;
  }
  let mask: Uint32Array | undefined;
  for (let i = low; i < intervals.length && intervals[i]!.start < until; i += 1) {
    const { start, end } = intervals[i]!;
    const first = start > from ? Number(start - from) : 0;
    const last = end < until ? Number(end - from) : chunkOffsets;
    mask ??= new Uint32Array(chunkWords);
    fillBits(mask, first, last);
  }
  return mask;
};

const fillBits = (words: Uint32Array, first: number, end: number): void => {
  const firstWord = first >>> 5;
  const lastWord = (end - 1) >>> 5;
  const head = (-1 << (first & 31)) >>> 0;
  const tail = (-1 >>> (31 - ((end - 1) & 31))) >>> 0;
  if (firstWord === lastWord) {
    words[firstWord]! |= head & tail;
    return;
  }
  words[firstWord]! |= head;
  words.fill(two32 - 1, firstWord + 1, lastWord);
  words[lastWord]! |= tail;
};

/** Maximal intervals of set bits over chunks; intervals that touch across chunks are one. */
export function* intervalsOf(indexes: Iterable<number>, chunkOf: (index: number) => Uint32Array | undefined): IterableIterator<Interval> {
  let start = -1;
  let end = -1;
  for (const index of [...indexes].sort((a, b) => a - b)) {
    const chunk = chunkOf(index);
    if (!chunk) continue;
    const base = index * chunkOffsets;
    for (let word = 0; word < chunkWords; word += 1) {
      let bits = chunk[word]!;
      let at = base + word * 32;
      while (bits !== 0) {
        const zeros = Math.clz32(bits & -bits) ^ 31;
        // Shifting by 32 is shifting by 0, so that a run up to the word's end needs a case of its own.
        const rest = bits >>> zeros;
        const ones = rest === 0xff_ff_ff_ff ? 32 : Math.clz32(~rest & (rest + 1)) ^ 31;
        const from = at + zeros;
        if (from === end) {
          end = from + ones;
        } else {
          if (start >= 0) yield { start: BigInt(start), end: BigInt(end) };
          start = from;
          end = from + ones;
        }
        const used = zeros + ones;
        if (used >= 32) break;
        bits >>>= used;
        at += used;
      }
    }
  }
  if (start >= 0) yield { start: BigInt(start), end: BigInt(end) };
}
