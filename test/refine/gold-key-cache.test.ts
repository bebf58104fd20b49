import { expect, test } from 'vitest';
import type { DataFile } from '../../src/lake/data-file.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import type { Field } from '../../src/lake/schema.ts';
import { GoldKeyCache } from '../../src/refine/gold-key-cache.ts';
import { hashKeys } from '../../src/refine/key-hash.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';

const time: Field = { id: 1, name: 'at', type: 'timestamptz', required: true };
const id: Field = { id: 2, name: 'id', type: 'long', required: true };

const goldFile = async (store: ReturnType<typeof createMemoryObjectStore>, name: string, ids: readonly bigint[]): Promise<DataFile & { bytes: Uint8Array }> => {
  const { bytes, metrics } = encodeDataFile({ fields: [time, id], rowGroupRows: 4, batch: { rowCount: ids.length, columns: { at: ids.map((one) => one * 10n), id: [...ids] } } });
  await store.put(name, bytes);
  return { filePath: store.location(name), partition: {}, ...metrics, bytes };
};
const ids = (from: number, count: number): bigint[] => Array.from({ length: count }, (_, i) => BigInt(from + i));

test('row groups and their hashes are those of the file, and are read once', async () => {
  const store = createMemoryObjectStore();
  const file = await goldFile(store, 'a.parquet', ids(0, 10));
  const cache = new GoldKeyCache(store);
  expect(await cache.groups(file, time)).toEqual([
    { rowCount: 4, eventTimeMin: 0, eventTimeMax: 30 }, { rowCount: 4, eventTimeMin: 40, eventTimeMax: 70 }, { rowCount: 2, eventTimeMin: 80, eventTimeMax: 90 },
  ]);
  expect(await cache.hashes(file, 1, ['id'])).toEqual(hashKeys([ids(4, 4)], 4));
  const gets = store.requests.get;
  await cache.groups(file, time);
  await cache.hashes(file, 1, ['id']);
  expect(store.requests.get).toBe(gets);
});

test('what a writer puts is never read', async () => {
  const store = createMemoryObjectStore();
  const file = await goldFile(store, 'a.parquet', ids(0, 6));
  const cache = new GoldKeyCache(store);
  const { get } = store.requests;
  await cache.put(file.filePath, file.bytes, time, [hashKeys([ids(0, 4)], 4), hashKeys([ids(4, 2)], 2)]);
  expect((await cache.groups(file, time)).map(({ rowCount }) => rowCount)).toEqual([4, 2]);
  expect(await cache.hashes(file, 1, ['id'])).toEqual(hashKeys([ids(4, 2)], 2));
  expect(store.requests.get).toBe(get);
});

test('it never holds more than its bound, forgets the least recently used first, and answers all the same', async () => {
  const store = createMemoryObjectStore();
  const files = await Promise.all(Array.from({ length: 12 }, (_, i) => goldFile(store, `${i}.parquet`, ids(i * 100, 8))));
  const cache = new GoldKeyCache(store, { bytesMax: 1_000 });
  for (const round of [0, 1]) {
    for (const [i, file] of files.entries()) {
      await cache.groups(file, time);
      expect(await cache.hashes(file, 1, ['id'])).toEqual(hashKeys([ids(i * 100 + 4, 4)], 4));
      expect(cache.byteLength, `round ${round}`).toBeLessThanOrEqual(1_000);
    }
  }
  const { get } = store.requests;
  await cache.hashes(files.at(-1)!, 1, ['id']);
  expect(store.requests.get).toBe(get);
  await cache.hashes(files[0]!, 1, ['id']);
  expect(store.requests.get).toBeGreaterThan(get);
});
