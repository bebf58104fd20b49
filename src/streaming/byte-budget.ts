/** Chunks of this size are used again and again: freed ones would wait for the garbage collector beside the budget. */
export const chunkBytesPooled = 1024 * 1024;

/**
 * One budget for all buffers of a streaming worker: what is buffered, being encoded, and waiting for its upload.
 *
 * At the limit it turns `full`, and stays so until enough was given back that the level is at the low-water mark: else
 * consumption would flicker. A record that is larger than what is left waits until everything else is gone, and then
 * passes alone: the only way that the level can exceed the limit.
 */
export class ByteBudget {
  readonly limit: number;
  private readonly lowWater: number;
  private readonly onChange: (full: boolean) => void;
  private used = 0;
  private paused = false;
  private peak = 0;
  /** Who waits with a record that needs the budget for itself. */
  private oversized: object | null = null;
  private readonly spareChunks: Uint8Array[] = [];

  /** @param onChange is told when the budget fills up and when there is room again. */
  constructor(limit: number, onChange: (full: boolean) => void = () => undefined) {
    this.limit = limit;
    this.lowWater = Math.floor(limit * 0.7);
    this.onChange = onChange;
  }

  get usedBytes(): number {
    return this.used;
  }

  /** 0 to 1; above 1 while a record larger than the budget passes alone. */
  get usedShare(): number {
    return this.used / this.limit;
  }

  get peakBytes(): number {
    return this.peak;
  }

  get full(): boolean {
    return this.paused;
  }

  /** A record waits until nothing else is held. */
  get waitsForAll(): boolean {
    return this.oversized !== null;
  }

  /** False: no room; the caller stops reading until there is. */
  tryTake(bytes: number, owner: object): boolean {
    if (this.oversized !== null && this.oversized !== owner) return false;
    if (this.used > 0 && this.used + bytes > this.limit) {
      if (bytes > this.limit - this.lowWater) this.oversized = owner;
      // Its buffer was closed meanwhile, and a new one begins with less.
      else if (this.oversized === owner) this.oversized = null;
      this.setFull(true);
      return false;
    }
    if (this.oversized === owner) this.oversized = null;
    this.add(bytes);
    return true;
  }

  /** For what a buffer became, after it was given back: smaller than it, so never refused. */
  take(bytes: number): void {
    this.add(bytes);
  }

  give(bytes: number): void {
    this.used -= bytes;
    if (this.paused && this.used <= (this.oversized === null ? this.lowWater : 0)) this.setFull(false);
  }

  /** A chunk of {@link chunkBytesPooled} bytes; its content is whatever it was. The caller has taken its bytes. */
  lendChunk(): Uint8Array {
    return this.spareChunks.pop() ?? new Uint8Array(chunkBytesPooled);
  }

  /** Spare and used chunks together stay within the limit. */
  returnChunk(chunk: Uint8Array): void {
    if (chunk.length === chunkBytesPooled && (this.spareChunks.length + 1) * chunkBytesPooled + this.used <= this.limit) this.spareChunks.push(chunk);
  }

  /** While a record waits for the whole budget, only its owner may read. */
  mayRead(owner: object): boolean {
    return !this.paused && (this.oversized === null || this.oversized === owner);
  }

  /** The owner reads no longer. */
  forget(owner: object): void {
    if (this.oversized !== owner) return;
    this.oversized = null;
    if (this.paused && this.used <= this.lowWater) this.setFull(false);
  }

  private add(bytes: number): void {
    this.used += bytes;
    while (this.spareChunks.length > 0 && this.spareChunks.length * chunkBytesPooled + this.used > this.limit) this.spareChunks.pop();
    if (this.used > this.peak) this.peak = this.used;
  }

  private setFull(full: boolean): void {
    if (this.paused === full) return;
    this.paused = full;
    this.onChange(full);
  }
}
