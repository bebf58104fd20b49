import { expect, test } from 'vitest';
import { KeyTable } from '../../src/audit/key-table.ts';
import { hashKeys, keyWords } from '../../src/refine/key-hash.ts';

const hashesOf = (keys: readonly string[]): Uint32Array => hashKeys([keys], keys.length);
const keysFrom = (first: number, count: number): string[] => Array.from({ length: count }, (_, i) => `key ${first + i}`);

test('keys are found with the lineage that they were added with, also past the number that was expected', () => {
  const keys = keysFrom(0, 5_000);
  const hashes = hashesOf(keys);
  const table = new KeyTable(10);
  for (const [i] of keys.entries()) expect(table.add(hashes, i * keyWords, i % 7, i)).toBe(-1);
  expect(table.size).toBe(5_000);
  for (const [i] of keys.entries()) {
    const slot = table.find(hashes, i * keyWords);
    expect([table.place(slot), table.offset(slot)]).toEqual([i % 7, i]);
    expect(table.add(hashes, i * keyWords, 0, 0)).toBe(slot);
  }
  const strangers = hashesOf(keysFrom(9_000, 100));
  for (let i = 0; i < 100; i += 1) expect(table.find(strangers, i * keyWords)).toBe(-1);
});

test('a visit is told once, and what was never visited is left over', () => {
  const hashes = hashesOf(keysFrom(0, 100));
  const table = new KeyTable(100);
  for (let i = 0; i < 100; i += 1) table.add(hashes, i * keyWords, 0, i);
  for (let i = 0; i < 99; i += 1) expect(table.visit(table.find(hashes, i * keyWords))).toBe(false);
  expect(table.visit(table.find(hashes, 0))).toBe(true);
  expect([...table.unvisited()]).toEqual([{ place: 0, offset: 99 }]);
});

test.each([3, 300, 30_000])('a reset for %d keys leaves nothing behind', (keysExpected) => {
  const table = new KeyTable(1_000);
  const before = hashesOf(keysFrom(0, 1_000));
  for (let i = 0; i < 1_000; i += 1) table.add(before, i * keyWords, 1, i);
  for (let i = 0; i < 1_000; i += 2) table.visit(table.find(before, i * keyWords));
  table.reset(keysExpected);
  expect(table.size).toBe(0);
  for (let i = 0; i < 1_000; i += 1) expect(table.find(before, i * keyWords)).toBe(-1);
  const after = hashesOf(keysFrom(500, keysExpected));
  for (let i = 0; i < keysExpected; i += 1) expect(table.add(after, i * keyWords, 2, i)).toBe(-1);
  expect([...table.unvisited()]).toHaveLength(keysExpected);
});
