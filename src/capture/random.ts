/** A seeded generator (xoshiro128**): the same seed gives the same numbers on every machine. */
export interface Random {
  /** In [0, 2^32). */
  uint32(): number;
  /** In [0, n), n at most 2^32. */
  below(n: number): number;
  /** In [0, 1). */
  unit(): number;
}

const rotateLeft = (value: number, bits: number): number => (value << bits) | (value >>> (32 - bits));

export const createRandom = (seed: number): Random => {
  // The state comes from splitmix32, so that seeds next to each other do not give streams next to each other.
  let mixed = seed >>> 0;
  const next = (): number => {
    mixed = (mixed + 0x9e37_79b9) >>> 0;
    let z = mixed;
    z = Math.imul(z ^ (z >>> 16), 0x85eb_ca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2_ae35);
    return (z ^ (z >>> 16)) >>> 0;
  };
  let a = next();
  let b = next();
  let c = next();
  let d = next();
  const uint32 = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = rotateLeft(d, 11);
    return result;
  };
  const unit = (): number => uint32() / 2 ** 32;
  return { uint32, unit, below: (n) => Math.floor(unit() * n) };
};
