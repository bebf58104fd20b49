import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import type { ColumnValues } from '../../src/lake/columns.ts';
import { packBinaries } from '../../src/lake/columns.ts';
import { hashKeys, KeyIndex, keyWords } from '../../src/refine/key-hash.ts';

const row = (hashes: Uint32Array, at: number): string => [...hashes.subarray(at * keyWords, (at + 1) * keyWords)].join('.');
const text = fc.string({ unit: 'binary', maxLength: 12 });

test('keys hash equal exactly if all their columns are equal, as far as random keys tell', () => {
  const key = fc.tuple(text, fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), fc.option(text), fc.uint8Array({ maxLength: 9 }));
  fc.assert(fc.property(fc.array(key, { minLength: 1, maxLength: 60 }), (keys) => {
    const all = [...keys, ...keys.slice(0, 10)];
    const column = (index: 0 | 1 | 2 | 3) => all.map((one) => one[index]) as ColumnValues;
    const hashes = hashKeys([column(0), BigInt64Array.from(all, (one) => one[1]), column(2), column(3)], all.length);
    const names = all.map(([a, b, c, d]) => JSON.stringify([a, String(b), c, [...d]]));
    const byName = new Map(names.map((name, i) => [name, row(hashes, i)]));
    expect(names.every((name, i) => byName.get(name) === row(hashes, i))).toBe(true);
    expect(new Set(byName.values()).size).toBe(byName.size);
  }));
});

test('a value hashes the same whatever array holds it, a constant column included', () => {
  const ids = [5n, -1n, 2n ** 62n];
  const expected = hashKeys([['A', 'A', 'A'], ids], 3);
  expect(hashKeys([{ constant: 'A' }, BigInt64Array.from(ids)], 3)).toEqual(expected);
  expect(hashKeys([['A', 'A', 'A'], BigInt64Array.from([9n, ...ids]).subarray(1)], 3)).toEqual(expected);
  expect(row(hashKeys([{ constant: 'A' }, { constant: 5n }], 1), 0)).toBe(row(expected, 0));
  expect(row(hashKeys([['A'], Int32Array.of(5)], 1), 0)).toBe(row(expected, 0));
});

test('a text hashes the same packed, as a code, and as it is', () => {
  fc.assert(fc.property(fc.array(fc.string({ unit: 'grapheme', maxLength: 12 }), { minLength: 1, maxLength: 40 }), (texts) => {
    const expected = hashKeys([texts, texts], texts.length);
    const coded = { entries: [...texts].reverse(), codes: Uint32Array.from(texts, (_, i) => texts.length - 1 - i) };
    expect(hashKeys([packBinaries(texts.map((one) => Buffer.from(one))), coded], texts.length)).toEqual(expected);
  }));
});

test('where one column ends and the next begins counts', () => {
  const hashes = hashKeys([['ab', 'a', '', 'abc'], ['c', 'bc', 'abc', '']], 4);
  expect(new Set([0, 1, 2, 3].map((at) => row(hashes, at))).size).toBe(4);
});

test('a million neighbouring ids spread over all words of the hash without a collision', () => {
  const count = 1_000_000;
  const hashes = hashKeys([{ constant: 'BINANCE' }, BigInt64Array.from({ length: count }, (_, i) => BigInt(i))], count);
  const index = new KeyIndex(hashes, count);
  let collisions = 0;
  for (let at = 0; at < count; at += 1) if (index.add(at) !== at) collisions += 1;
  expect(collisions).toBe(0);
  for (let word = 0; word < keyWords; word += 1) {
    const buckets = new Uint32Array(256);
    for (let at = 0; at < count; at += 1) buckets[hashes[at * keyWords + word]! & 255]! += 1;
    // 3,906 expected; 6 standard deviations are 375.
    expect(Math.max(...buckets) - Math.min(...buckets)).toBeLessThan(2 * 375);
  }
});

test('an index finds what was added, replaces it, and finds nothing else', () => {
  fc.assert(fc.property(fc.array(fc.bigInt({ min: 0n, max: 200n }), { minLength: 1, maxLength: 300 }), (ids) => {
    const hashes = hashKeys([ids], ids.length);
    const index = new KeyIndex(hashes, ids.length);
    const first = new Map<bigint, number>();
    const added = ids.map((id, at) => {
      const known = first.get(id);
      if (known === undefined) first.set(id, at);
      return index.add(at) === (known ?? at);
    });
    expect(added.every(Boolean)).toBe(true);
    const last = new Map(ids.map((id, at) => [id, at]));
    for (const at of last.values()) index.replace(at);
    const probes = Array.from({ length: 400 }, (_, i) => BigInt(i));
    const other = hashKeys([probes], probes.length);
    expect(probes.map((_, i) => index.find(other, i * keyWords))).toEqual(probes.map((id) => last.get(id) ?? -1));
  }));
});
