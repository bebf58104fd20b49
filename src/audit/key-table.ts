import { TidemarkError } from '../domain/errors.ts';
import { keyWords } from '../refine/key-hash.ts';

/** Memory of a key: its hash, its least lineage, and the free places that probing needs. */
export const bytesPerKey = 35;
const loadMax = 0.75;
const two32 = 4_294_967_296;
/** A place is stored plus one in 16 bits; 0 is a free slot. */
const placesMax = 65_535;

const capacityFor = (keys: number): number => Math.max(16, Math.ceil(keys / loadMax) + 1);

/**
 * Keys by 128-bit hash, each with the least lineage of the rows that have it. Open addressing in typed arrays: no object
 * for a row, and memory known beforehand.
 */
export class KeyTable {
  private capacity: number;
  private hashes = new Uint32Array(0);
  private places = new Uint16Array(0);
  /** The offset; −1 − offset once the key has been visited. */
  private offsets = new Float64Array(0);
  private count = 0;

  /** @param keysMax Most keys that are expected between two resets: what is allocated, once. */
  constructor(keysMax: number) {
    this.capacity = capacityFor(keysMax);
    this.allocate();
  }

  /** Empties the table for a number of keys: the arrays stay, since a second set beside one that waits for the garbage collector would double them. */
  reset(keysExpected: number): void {
    this.capacity = capacityFor(keysExpected);
    if (this.capacity > this.places.length) this.allocate();
    else this.places.fill(0, 0, this.capacity);
    this.count = 0;
  }

  get size(): number {
    return this.count;
  }

  place(slot: number): number {
    return this.places[slot]! - 1;
  }

  offset(slot: number): number {
    const stored = this.offsets[slot]!;
    return stored < 0 ? -1 - stored : stored;
  }

  /** Only before the first visit of the key. */
  setLineage(slot: number, place: number, offset: number): void {
    if (place >= placesMax) throw new TidemarkError('BUDGET_EXCEEDED', `audit of Gold: expected at most ${placesMax} topic partitions, found more`);
    this.places[slot] = place + 1;
    this.offsets[slot] = offset;
  }

  /** Whether the key has been visited before; from now on it has. */
  visit(slot: number): boolean {
    const stored = this.offsets[slot]!;
    if (stored < 0) return true;
    this.offsets[slot] = -1 - stored;
    return false;
  }

  /** The slot of the hash at word `at` of `hashes`, or −1. */
  find(hashes: Uint32Array, at: number): number {
    const slot = this.slotOf(hashes, at);
    return this.places[slot] === 0 ? -1 : slot;
  }

  /** Adds the key with its lineage; −1 if it is new, else the slot that it has already. */
  add(hashes: Uint32Array, at: number, place: number, offset: number): number {
    if (this.count >= this.capacity * loadMax) this.grow();
    const slot = this.slotOf(hashes, at);
    if (this.places[slot] !== 0) return slot;
    for (let word = 0; word < keyWords; word += 1) this.hashes[slot * keyWords + word] = hashes[at + word]!;
    this.setLineage(slot, place, offset);
    this.count += 1;
    return -1;
  }

  /** Lineages of the keys that were never visited. */
  *unvisited(): IterableIterator<{ place: number; offset: number }> {
    for (let slot = 0; slot < this.capacity; slot += 1) {
      if (this.places[slot] !== 0 && this.offsets[slot]! >= 0) yield { place: this.place(slot), offset: this.offsets[slot]! };
    }
  }

  private slotOf(hashes: Uint32Array, at: number): number {
    const own = this.hashes;
    const w0 = hashes[at]!;
    const w1 = hashes[at + 1]!;
    const w2 = hashes[at + 2]!;
    const w3 = hashes[at + 3]!;
    let slot = Math.floor((w0 / two32) * this.capacity);
    for (;;) {
      if (this.places[slot] === 0) return slot;
      const i = slot * keyWords;
      if (own[i] === w0 && own[i + 1] === w1 && own[i + 2] === w2 && own[i + 3] === w3) return slot;
      slot += 1;
      if (slot === this.capacity) slot = 0;
    }
  }

  private allocate(): void {
    this.hashes = new Uint32Array(this.capacity * keyWords);
    this.places = new Uint16Array(this.capacity);
    this.offsets = new Float64Array(this.capacity);
  }

  /** Only when a manifest promised fewer rows than there are. */
  private grow(): void {
    const { hashes, places, offsets, capacity } = this;
    this.capacity = Math.ceil(capacity * 1.5);
    this.allocate();
    for (let slot = 0; slot < capacity; slot += 1) {
      if (places[slot] === 0) continue;
      const to = this.slotOf(hashes, slot * keyWords);
      this.hashes.set(hashes.subarray(slot * keyWords, (slot + 1) * keyWords), to * keyWords);
      this.places[to] = places[slot]!;
      this.offsets[to] = offsets[slot]!;
    }
  }
}
