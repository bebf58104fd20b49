/** Longest text that is remembered. */
const textBytesMax = 64;
/** Texts that are remembered at once; past that, all are forgotten. A power of two; the table has four places for each. */
const textsMax = 1_024;
const places = textsMax * 4;

/**
 * What is derived from texts that come again and again (symbols, kinds), found by their bytes, so that no string is made for one that
 * came before. Of ASCII texts only: of others nothing is known here.
 */
export class AsciiMemo<Value> {
  private readonly derive: (text: string) => Value;
  private readonly slots = new Int32Array(places);
  private texts: Uint8Array[] = [];
  private values: Value[] = [];

  constructor(derive: (text: string) => Value) {
    this.derive = derive;
  }

  /** Undefined for a text that is long or not ASCII. */
  of(bytes: Uint8Array, start: number, end: number): Value | undefined {
    if (end - start > textBytesMax) return undefined;
    let hash = 0x811c9dc5;
    let seen = 0;
    for (let i = start; i < end; i += 1) {
      const byte = bytes[i]!;
      seen |= byte;
      hash = Math.imul(hash ^ byte, 0x01000193);
    }
    if (seen >= 0x80) return undefined;
    hash ^= hash >>> 15;
    for (let slot = hash & (places - 1); ; slot = (slot + 1) & (places - 1)) {
      const found = this.slots[slot]!;
      if (found === 0) return this.add(bytes, start, end, slot);
      if (isEqual(this.texts[found - 1]!, bytes, start, end)) return this.values[found - 1];
    }
  }

  private add(bytes: Uint8Array, start: number, end: number, slot: number): Value {
    const text = bytes.slice(start, end);
    const value = this.derive(Buffer.from(text.buffer, text.byteOffset, text.byteLength).toString('latin1'));
    if (this.texts.length < textsMax) {
      this.texts.push(text);
      this.slots[slot] = this.values.push(value);
    } else {
      // Rubbish that names a new text each time; those that come again are soon back.
      this.slots.fill(0);
      this.texts = [];
      this.values = [];
    }
    return value;
  }
}

const isEqual = (text: Uint8Array, bytes: Uint8Array, start: number, end: number): boolean => {
  if (text.length !== end - start) return false;
  for (let i = 0; i < text.length; i += 1) if (text[i] !== bytes[start + i]) return false;
  return true;
};

/** The bytes of an ASCII text, for writing it often. */
export const asciiBytes = (text: string): Uint8Array => Uint8Array.from(text, (character) => character.charCodeAt(0));
