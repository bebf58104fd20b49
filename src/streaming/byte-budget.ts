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

  /** @param onChange is told when the budget fills up and when there is room again. */
  constructor(limit: number, onChange: (full: boolean) => void = () => undefined) {
    this.limit = limit;
    this.lowWater = Math.floor(limit * 0.7);
    this.onChange = onChange;
  }

  get usedBytes(): number {
    return this.used;
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
    if (this.oversized !== null && (this.oversized !== owner || this.used > 0)) return false;
    if (this.used > 0 && this.used + bytes > this.limit) {
      if (bytes > this.limit - this.lowWater) this.oversized = owner;
      this.setFull(true);
      return false;
    }
    if (this.oversized === owner) this.oversized = null;
    this.add(bytes);
    return true;
  }

  /** Replaces bytes that were taken by what became of them; never refused. */
  exchange(from: number, to: number): void {
    this.add(to);
    this.give(from);
  }

  give(bytes: number): void {
    this.used -= bytes;
    if (this.paused && this.used <= (this.oversized === null ? this.lowWater : 0)) this.setFull(false);
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
    if (this.used > this.peak) this.peak = this.used;
  }

  private setFull(full: boolean): void {
    if (this.paused === full) return;
    this.paused = full;
    this.onChange(full);
  }
}
