/**
 * Byte strings of consecutive rows, each as its length (four bytes, little-endian) and its bytes: Parquet's PLAIN
 * encoding, so that a data page is a piece of this memory and no object is made for a row. A null takes no bytes.
 */
export interface ByteChunk {
  readonly bytes: Uint8Array;
  used: number;
  readonly firstRow: number;
}

const prefixBytes = 4;
/** A call into native memcpy costs more than these few bytes do. */
const shortCopyMax = 24;

export class ByteColumn {
  readonly chunks: ByteChunk[] = [];
  /** By row; -1 is null. */
  lengths = new Int32Array(0);
  private nulls = 0;
  private tail: ByteChunk | undefined;
  /** Bytes left in the last chunk. */
  private room = 0;

  get nullCount(): number {
    return this.nulls;
  }

  /** Whether a value of this length (-1: null) needs a new chunk first. */
  needsChunk(length: number): boolean {
    return length + prefixBytes > this.room && length >= 0;
  }

  /** Size of the chunk that {@link needsChunk} asks for: as large as all before together, within the limits. */
  chunkBytes(length: number, first: number, max: number): number {
    const held = this.chunks.reduce((sum, { bytes }) => sum + bytes.length, 0);
    return Math.max(length + prefixBytes, Math.min(max, Math.max(first, held)));
  }

  addChunk(bytes: Uint8Array, firstRow: number): void {
    this.tail = { bytes, used: 0, firstRow };
    this.room = bytes.length;
    this.chunks.push(this.tail);
  }

  /** The room was made before: see {@link needsChunk} and `lengths`. */
  append(row: number, from: Uint8Array, start: number, length: number): void {
    this.lengths[row] = length;
    if (length < 0) {
      this.nulls += 1;
      return;
    }
    const chunk = this.tail!;
    const to = chunk.bytes;
    let at = chunk.used;
    to[at] = length & 0xff;
    to[at + 1] = (length >> 8) & 0xff;
    to[at + 2] = (length >> 16) & 0xff;
    to[at + 3] = length >>> 24;
    at += prefixBytes;
    if (length <= shortCopyMax) {
      for (let i = 0; i < length; i += 1) to[at + i] = from[start + i]!;
    } else {
      to.set(start === 0 && length === from.length ? from : from.subarray(start, start + length), at);
    }
    chunk.used = at + length;
    this.room -= length + prefixBytes;
  }

  /** Forgets the rows from `count` on. */
  truncate(count: number, rows: number): void {
    for (let row = count; row < rows; row += 1) if (this.lengths[row]! < 0) this.nulls -= 1;
    while (this.chunks.length > 0 && this.chunks.at(-1)!.firstRow > count) this.chunks.pop();
    this.tail = this.chunks.at(-1);
    if (this.tail) this.tail.used = this.plainBytes(this.tail.firstRow, count);
    this.room = this.tail ? this.tail.bytes.length - this.tail.used : 0;
  }

  /** Bytes of rows [from, to) in their encoding. */
  private plainBytes(from: number, to: number): number {
    let bytes = 0;
    for (let row = from; row < to; row += 1) if (this.lengths[row]! >= 0) bytes += this.lengths[row]! + prefixBytes;
    return bytes;
  }

  /** Rows [from, to) as pieces of memory in their encoding, one for each chunk that they touch. */
  pieces(from: number, to: number): { bytes: Uint8Array; rows: number }[] {
    const pieces: { bytes: Uint8Array; rows: number }[] = [];
    for (const [index, chunk] of this.chunks.entries()) {
      const first = Math.max(from, chunk.firstRow);
      const end = Math.min(to, this.chunks[index + 1]?.firstRow ?? this.lengths.length);
      if (first >= end) continue;
      const at = this.plainBytes(chunk.firstRow, first);
      pieces.push({ bytes: chunk.bytes.subarray(at, at + this.plainBytes(first, end)), rows: end - first });
    }
    return pieces;
  }

  /** Where each value that is no null begins, and its length; no object is made for a row. */
  forEachValue(rows: number, visit: (bytes: Uint8Array, at: number, length: number) => void): void {
    for (const [index, { bytes, firstRow }] of this.chunks.entries()) {
      const end = Math.min(rows, this.chunks[index + 1]?.firstRow ?? rows);
      for (let row = firstRow, at = 0; row < end; row += 1) {
        const length = this.lengths[row]!;
        if (length < 0) continue;
        visit(bytes, at + prefixBytes, length);
        at += prefixBytes + length;
      }
    }
  }

  /** Rows [from, to) one by one, as views. */
  views(from: number, to: number): (Uint8Array | null)[] {
    const views: (Uint8Array | null)[] = [];
    for (const [index, chunk] of this.chunks.entries()) {
      const first = Math.max(from, chunk.firstRow);
      const end = Math.min(to, this.chunks[index + 1]?.firstRow ?? this.lengths.length);
      // Nulls before the first chunk.
      while (from + views.length < Math.min(first, end)) views.push(null);
      let at = first < end ? this.plainBytes(chunk.firstRow, first) : 0;
      for (let row = first; row < end; row += 1) {
        const length = this.lengths[row]!;
        views.push(length < 0 ? null : chunk.bytes.subarray(at + prefixBytes, at + prefixBytes + length));
        if (length >= 0) at += prefixBytes + length;
      }
    }
    while (from + views.length < to) views.push(null);
    return views;
  }
}
