import { describe, expect, test } from 'vitest';
import type { Coverage } from '../../../src/domain/offsets.ts';
import type { CommitRequest } from '../../../src/lake/table.ts';
import { createObjectStoreCatalog } from '../../../src/lake/object-store-catalog.ts';
import { createMemoryObjectStore } from '../../support/memory-object-store.ts';
import { microsPerHour, offsets, trades, tradesFile } from './fixtures.ts';

const namespace = 'market_data';
const setup = () => {
  const store = createMemoryObjectStore();
  return { store, catalog: createObjectStoreCatalog({ store, namespace }) };
};
const append = (n: number, coverage: Coverage = offsets(n * 10, n * 10 + 10)): CommitRequest => ({
  commitId: `append-${n}`, add: [tradesFile(`file-${n}`, { exchange: 'BINANCE', hour: n })], coverageAbsent: coverage, cover: coverage,
});
const names = (files: readonly { filePath: string }[]): string[] => files.map(({ filePath }) => /([^/]+)\.parquet$/.exec(filePath)![1]!);

describe('a table', () => {
  test('is created once, and loaded as it was defined', async () => {
    const { store, catalog } = setup();
    await expect(catalog.load('trades')).rejects.toMatchObject({ code: 'TABLE_NOT_FOUND' });
    const versions = await Promise.all([catalog.ensureTable(trades), createObjectStoreCatalog({ store, namespace }).ensureTable(trades)]);
    expect(versions.map(({ version, metadataLocation }) => [version, metadataLocation]))
      .toEqual(Array.from({ length: 2 }, () => [1, 's3://lake/warehouse/market_data/trades/metadata/v1.metadata.json']));
    const table = await createObjectStoreCatalog({ store, namespace }).load('trades');
    expect(table.fields).toEqual(trades.fields);
    expect(table.currentSnapshot).toBeNull();
    expect(await table.scan()).toEqual([]);
    expect(await catalog.listTables()).toEqual(['trades']);
  });

  test('that differs from its definition is refused with what differs', async () => {
    const { catalog } = setup();
    await catalog.ensureTable(trades);
    const changed = { ...trades, fields: trades.fields.map((field) => (field.name === 'price' ? { ...field, type: 'decimal(18,4)' as const } : field)) };
    await expect(catalog.ensureTable(changed)).rejects.toMatchObject({
      code: 'TABLE_CORRUPT', message: expect.stringContaining('expected 3: price decimal(18,4), found 3: price decimal(18,8)') as string,
    });
  });

  test('whose hint was lost is not created anew beside its versions', async () => {
    const { store, catalog } = setup();
    await catalog.ensureTable(trades);
    await catalog.commit('trades', append(1));
    await store.delete(['warehouse/market_data/trades/metadata/version-hint.text']);
    await store.delete(['warehouse/market_data/trades/metadata/v1.metadata.json']);
    await expect(catalog.ensureTable(trades)).rejects.toMatchObject({ code: 'TABLE_CORRUPT' });
  });
});

describe('a commit', () => {
  test('adds its files and its offsets together, and another process reads both', async () => {
    const { store, catalog } = setup();
    await catalog.ensureTable(trades);
    const result = await catalog.commit('trades', append(1));
    expect(result).toMatchObject({ status: 'committed', attempts: 1 });
    const table = await createObjectStoreCatalog({ store, namespace }).load('trades');
    expect(table.coverage.toJson()).toEqual({ 'raw.trades/0': '10-20' });
    expect(table.currentSnapshot).toMatchObject({ snapshotId: result.snapshotId, operation: 'append', sequenceNumber: 1n, parentSnapshotId: null });
    expect(table.currentSnapshot!.summary).toMatchObject({ 'added-data-files': '1', 'added-records': '10', 'total-records': '10', 'tidemark.commit-id': 'append-1' });
    expect(await table.scan()).toEqual([{ ...append(1).add[0], addedSnapshotId: result.snapshotId, dataSequenceNumber: 1n }]);
  });

  test('takes four puts and one read', async () => {
    const { store, catalog } = setup();
    await catalog.ensureTable(trades);
    await catalog.commit('trades', append(1));
    const before = { ...store.requests };
    await catalog.commit('trades', append(2));
    expect(store.requests).toMatchObject({ put: before.put + 4, get: before.get + 1, head: before.head, list: before.list });
  });

  test('of no files changes the properties alone', async () => {
    const { catalog } = setup();
    await catalog.ensureTable(trades);
    const result = await catalog.commit('trades', { commitId: 'empty', add: [], cover: offsets(0, 5), setProperties: { note: 'x' } });
    expect(result.snapshotId).toBeNull();
    expect(result.version).toMatchObject({ version: 2, currentSnapshot: null });
    expect(result.version.properties).toMatchObject({ 'note': 'x', 'tidemark.covered.raw.trades': '{"0":"0-5"}' });
  });

  test('is repeated without effect: by its id, and by its offsets once its snapshot is gone', async () => {
    const { store } = setup();
    const catalog = createObjectStoreCatalog({ store, namespace, snapshotsKept: 2 });
    await catalog.ensureTable(trades);
    const first = await catalog.commit('trades', append(1));
    expect(await catalog.commit('trades', append(1))).toMatchObject({ status: 'alreadyCommitted', snapshotId: first.snapshotId });
    for (const n of [2, 3, 4]) await catalog.commit('trades', append(n));
    expect(await catalog.commit('trades', append(1))).toMatchObject({ status: 'alreadyCommitted', snapshotId: null });
    expect(names(await (await catalog.load('trades')).scan())).toEqual(['file-1', 'file-2', 'file-3', 'file-4']);
  });

  test('of offsets that are covered in part is refused and says which', async () => {
    const { catalog } = setup();
    await catalog.ensureTable(trades);
    await catalog.commit('trades', append(1));
    await expect(catalog.commit('trades', append(7, offsets(15, 25)))).rejects.toMatchObject({
      code: 'COVERAGE_CONFLICT', message: expect.stringContaining('found raw.trades/0 [15-20] covered') as string,
    });
    await expect(catalog.commit('trades', { commitId: 'replace', add: [], coveragePresent: offsets(15, 25) })).rejects.toMatchObject({
      code: 'COVERAGE_CONFLICT', message: expect.stringContaining('found raw.trades/0 [20-25] absent') as string,
    });
  });

  test('replaces files, and is refused once one of them is gone', async () => {
    const { catalog } = setup();
    await catalog.ensureTable(trades);
    for (const n of [1, 2, 3]) await catalog.commit('trades', append(n));
    const remove = append(2).add.map(({ filePath }) => filePath);
    const replaced = await catalog.commit('trades', { commitId: 'replace', add: [tradesFile('new', { exchange: 'BINANCE', hour: 2 })], remove, coveragePresent: offsets(20, 30) });
    expect(replaced.version.currentSnapshot).toMatchObject({ operation: 'overwrite' });
    expect(replaced.version.currentSnapshot!.summary).toMatchObject({ 'deleted-data-files': '1', 'total-data-files': '3', 'total-records': '30' });
    expect(names(await replaced.version.scan())).toEqual(['file-1', 'file-3', 'new']);
    await expect(catalog.commit('trades', { commitId: 'again', add: [], remove })).rejects.toMatchObject({ code: 'COMMIT_CONFLICT' });
    // The parent snapshot still has what was removed.
    const { snapshots } = replaced.version;
    expect(names(await replaced.version.scan({ snapshotId: snapshots.at(-2)!.snapshotId }))).toEqual(['file-1', 'file-2', 'file-3']);
  });

  test('that depends on buckets is refused when one of them changed, and not when another did', async () => {
    const { catalog } = setup();
    await catalog.ensureTable(trades);
    const { version: base } = await catalog.commit('trades', append(1));
    const since = (hour: number) => ({ base, partitions: [{ exchange: 'BINANCE', timestamp: hour }] });
    await catalog.commit('trades', append(2));
    await catalog.commit('trades', { commitId: 'merge-1', add: [tradesFile('merged', { exchange: 'BINANCE', hour: 1 })], bucketsUnchangedSince: since(1) });
    await expect(catalog.commit('trades', { commitId: 'merge-2', add: [], bucketsUnchangedSince: since(2) })).rejects.toMatchObject({
      code: 'COMMIT_CONFLICT', message: expect.stringContaining('1 files added and 0 removed') as string,
    });
  });
});

describe('a scan', () => {
  test('returns what its partition and bounds cannot rule out, and fetches no manifest in vain', async () => {
    const { store, catalog } = setup();
    await catalog.ensureTable(trades);
    for (const hour of [-1, 0, 1, 2]) {
      await catalog.commit('trades', { commitId: `h${hour}`, add: [
        tradesFile(`b${hour}`, { exchange: 'BINANCE', hour }, { min: -5n, max: BigInt(hour) }), tradesFile(`k${hour}`, { exchange: 'KRAKEN', hour }, { min: 200n, max: 300n }),
      ] });
    }
    const table = await createObjectStoreCatalog({ store, namespace }).load('trades');
    const before = store.requests.get;
    expect(names(await table.scan({ partition: { exchange: 'KRAKEN', timestamp: 1 } }))).toEqual(['k1']);
    expect(store.requests.get - before).toBe(2);
    expect(names(await table.scan({ bounds: [{ column: 'timestamp', min: -1n, max: 500n }] }))).toEqual(['b0', 'k0']);
    expect(names(await table.scan({ bounds: [{ column: 'timestamp', min: -microsPerHour, max: -microsPerHour }] }))).toEqual(['b-1', 'k-1']);
    expect(names(await table.scan({ bounds: [{ column: 'price', min: 1n, max: 250n }] }))).toEqual(['k-1', 'k0', 'b1', 'k1', 'b2', 'k2']);
    expect(names(await table.scan({ partition: { exchange: 'BINANCE' }, bounds: [{ column: 'price', min: 2n }] }))).toEqual(['b2']);
    await expect(table.scan({ partition: { price: 1 } })).rejects.toMatchObject({ code: 'BAD_INPUT' });
    await expect(table.scan({ snapshotId: 12n })).rejects.toMatchObject({ code: 'SNAPSHOT_NOT_FOUND' });
  });
});
