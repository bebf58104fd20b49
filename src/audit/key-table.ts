import { keyWords } from '../refine/key-hash.ts';

/** Memory of a key: its hash, its least lineage, a flag, and the free places that probing needs. */
export const bytesPerKey = 42;
const loadMax = 0.7;
const two32 = 4_294_967_296;
const free = -1;

const capacityFor = (keys: number): number => Math.max(16, Math.ceil(keys / loadMax) + 1);

/**
 * Keys by 128-bit hash, each with the least lineage of the rows that have it. Open addressing in typed arrays: no object
 * for a row, and memory known beforehand.
 */
export class KeyTable {
  private capacity: number;
  private hashes = new Uint32Array(0);
  private placeOf = new Int32Array(0);
  private offsetOf = new Float64Array(0);
  private seen = new Uint8Array(0);
  private count = 0;

  /** @param keysMax Most keys that are expected between two resets: what is allocated, once. */
  constructor(keysMax: number) {
    this.capacity = capacityFor(keysMax);
    this.allocate(this.capacity);
  }

  /** Empties the table for a number of keys: the arrays stay, since a second set beside one that waits for the garbage collector would double them. */
  reset(keysExpected: number): void {
    const capacity = capacityFor(keysExpected);
    if (capacity > this.placeOf.length) this.allocate(capacity);
    this.capacity = capacity;
    this.placeOf.fill(free, 0, capacity);
    this.seen.fill(0, 0, capacity);
    this.count = 0;
  }

  get size(): number {
    return this.count;
  }

  place(slot: number): number {
    return this.placeOf[slot]!;
  }

  offset(slot: number): number {
    return this.offsetOf[slot]!;
  }

  setLineage(slot: number, place: number, offset: number): void {
    this.placeOf[slot] = place;
    this.offsetOf[slot] = offset;
  }

  /** Whether the slot has been visited before; from now on it has. */
  visit(slot: number): boolean {
    const before = this.seen[slot] === 1;
    this.seen[slot] = 1;
    return before;
  }

  /** The slot of the hash at word `at` of `hashes`, or −1. */
  find(hashes: Uint32Array, at: number): number {
    const slot = this.slotOf(hashes, at);
    return this.placeOf[slot] === free ? -1 : slot;
  }

  /** Adds the key with its lineage; −1 if it is new, else the slot that it has already. */
  add(hashes: Uint32Array, at: number, place: number, offset: number): number {
    if (this.count >= this.capacity * loadMax) this.grow();
    const slot = this.slotOf(hashes, at);
    if (this.placeOf[slot] !== free) return slot;
    for (let word = 0; word < keyWords; word += 1) this.hashes[slot * keyWords + word] = hashes[at + word]!;
    this.setLineage(slot, place, offset);
    this.count += 1;
    return -1;
  }

  /** Lineages of the keys that were never visited. */
  *unvisited(): IterableIterator<{ place: number; offset: number }> {
    for (let slot = 0; slot < this.capacity; slot += 1) {
      if (this.placeOf[slot] !== free && this.seen[slot] === 0) yield { place: this.placeOf[slot]!, offset: this.offsetOf[slot]! };
    }
  }

  private allocate(capacity: number): void {
    this.hashes = new Uint32Array(capacity * keyWords);
    this.placeOf = new Int32Array(capacity).fill(free);
    this.offsetOf = new Float64Array(capacity);
    this.seen = new Uint8Array(capacity);
  }

  private slotOf(hashes: Uint32Array, at: number): number {
    const own = this.hashes;
    const w0 = hashes[at]!;
    const w1 = hashes[at + 1]!;
    const w2 = hashes[at + 2]!;
    const w3 = hashes[at + 3]!;
    let slot = Math.floor((w0 / two32) * this.capacity);
    for (;;) {
      if (this.placeOf[slot] === free) return slot;
      const i = slot * keyWords;
      if (own[i] === w0 && own[i + 1] === w1 && own[i + 2] === w2 && own[i + 3] === w3) return slot;
      slot += 1;
      if (slot === this.capacity) slot = 0;
    }
  }

  /** Only when a manifest promised fewer rows than there are. */
  private grow(): void {
    const { hashes, placeOf, offsetOf, seen, capacity } = this;
    this.capacity = Math.ceil(capacity * 1.5);
    this.allocate(this.capacity);
    for (let slot = 0; slot < capacity; slot += 1) {
      if (placeOf[slot] === free) continue;
      const to = this.slotOf(hashes, slot * keyWords);
      this.hashes.set(hashes.subarray(slot * keyWords, (slot + 1) * keyWords), to * keyWords);
      this.setLineage(to, placeOf[slot]!, offsetOf[slot]!);
      this.seen[to] = seen[slot]!;
    }
  }
}
