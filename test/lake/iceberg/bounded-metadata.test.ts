import { describe, expect, test } from 'vitest';
import type { TableMetadata } from '../../../src/lake/iceberg/metadata.ts';
import { createObjectStoreCatalog } from '../../../src/lake/object-store-catalog.ts';
import { createMemoryObjectStore, type MemoryObjectStore } from '../../support/memory-object-store.ts';
import { offsets, trades, tradesFile } from './fixtures.ts';

const namespace = 'market_data';
const prefix = 'warehouse/market_data/trades/metadata/';
const metadataOf = (store: MemoryObjectStore, version: number): TableMetadata =>
  JSON.parse(String(Buffer.from(store.objects.get(`${prefix}v${version}.metadata.json`)!.body))) as TableMetadata;
const setup = async (options = {}, now: () => number = Date.now) => {
  const store = createMemoryObjectStore('lake', now);
  const catalog = createObjectStoreCatalog({ store, namespace, now, ...options });
  await catalog.ensureTable(trades);
  const append = (n: number) => catalog.commit('trades', {
    commitId: `c${n}`, add: [tradesFile(`file-${n}`, { exchange: 'BINANCE', hour: Math.floor(n / 100) })], coverageAbsent: offsets(n, n + 1), cover: offsets(n, n + 1),
  });
  return { store, catalog, append };
};

test('two thousand commits leave bounded snapshots, manifests, logs and bytes for each commit', async () => {
  const { store, catalog, append } = await setup({ expireMetadataEvery: 50, metadataGraceMs: 0, keepVersions: 100 });
  const bytes: number[] = [];
  for (let n = 0; n < 2_000; n += 1) {
    const before = store.requests.bytesPut;
    await append(n);
    bytes.push(store.requests.bytesPut - before);
  }
  await catalog.settled();
  const table = await catalog.load('trades');
  const metadata = metadataOf(store, table.version);
  expect(metadata.snapshots).toHaveLength(50);
  expect(metadata['snapshot-log']).toHaveLength(50);
  expect(metadata['metadata-log']).toHaveLength(25);
  const manifestList = store.objects.get(store.keyOf(metadata.snapshots.at(-1)!['manifest-list']))!.body;
  expect(manifestList.length).toBeLessThan(10_000);
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  // As many bytes for a commit at the end as at the two hundredth.
  expect(mean(bytes.slice(-500))).toBeLessThan(1.5 * mean(bytes.slice(200, 700)));
  expect(Math.max(...bytes)).toBeLessThan(250_000);
  const versions = [...store.objects.keys()].filter((key) => key.startsWith(`${prefix}v`) && key.endsWith('.metadata.json'));
  expect(versions.length).toBeLessThanOrEqual(150);
  expect(await table.scan()).toHaveLength(2_000);
  expect(metadata.properties['tidemark.covered.raw.trades']).toBe('{"0":"0-2000"}');
}, 120_000);

describe('snapshots', () => {
  test('past the limit go, tagged ones stay, and the snapshot log never names one that is gone', async () => {
    const { store, catalog, append } = await setup({ snapshotsKept: 3 });
    const { snapshotId } = await append(0);
    await catalog.tag('trades', 'backfill-1', snapshotId!);
    for (let n = 1; n <= 6; n += 1) await append(n);
    const table = await catalog.load('trades');
    expect(table.tags).toEqual({ 'backfill-1': snapshotId });
    expect(table.snapshots.map(({ sequenceNumber }) => sequenceNumber)).toEqual([1n, 5n, 6n, 7n]);
    expect(await table.scan({ snapshotId: snapshotId! })).toHaveLength(1);
    const metadata = metadataOf(store, table.version);
    expect(metadata['snapshot-log'].map((entry) => entry['snapshot-id'])).toEqual(metadata.snapshots.slice(1).map((snapshot) => snapshot['snapshot-id']));
    expect(metadata.refs).toEqual({ 'main': { 'snapshot-id': metadata['current-snapshot-id'], 'type': 'branch' }, 'backfill-1': { 'snapshot-id': Number(snapshotId), 'type': 'tag' } });

    expect((await catalog.tag('trades', 'backfill-1', snapshotId!)).version).toBe(table.version);
    await expect(catalog.tag('trades', 'backfill-1', table.currentSnapshot!.snapshotId)).rejects.toMatchObject({ code: 'COMMIT_CONFLICT' });
    await catalog.untag('trades', 'backfill-1');
    await catalog.untag('trades', 'backfill-1');
    await append(7);
    expect((await catalog.load('trades')).snapshots.map(({ sequenceNumber }) => sequenceNumber)).toEqual([6n, 7n, 8n]);
    await expect(catalog.tag('trades', 'late', snapshotId!)).rejects.toMatchObject({ code: 'SNAPSHOT_NOT_FOUND' });
  });

  test('have times that never go back, though the clock does', async () => {
    let now = 1_700_000_000_000;
    const { append, catalog } = await setup({}, () => now);
    await append(0);
    now -= 60_000;
    await append(1);
    const times = (await catalog.load('trades')).snapshots.map(({ timestampMs }) => timestampMs);
    expect(times).toEqual([1_700_000_000_000, 1_700_000_000_000]);
  });
});

describe('metadata files', () => {
  const versionsOf = (store: MemoryObjectStore) => [...store.objects.keys()].flatMap((key) => /\/v(\d+)\.metadata\.json$/.exec(key)?.[1] ?? []).map(Number);

  test('are deleted only past both the number kept and the grace period, oldest first and a bounded number at once', async () => {
    let now = 1_700_000_000_000;
    const { store, catalog, append } = await setup({ keepVersions: 4, metadataGraceMs: 10_000, expireMetadataEvery: 0 }, () => now);
    for (let n = 0; n < 9; n += 1) {
      now += 1_000;
      await append(n);
    }
    // Versions 1 to 10 exist, version 1 since second 0; the hint is at 10.
    expect(await catalog.expireMetadata('trades')).toBe(0);
    now = 1_700_000_000_000 + 12_000;
    expect(await catalog.expireMetadata('trades', 2)).toBe(2);
    expect(versionsOf(store)).toEqual([3, 4, 5, 6, 7, 8, 9, 10]);
    expect(await catalog.expireMetadata('trades')).toBe(1);
    now += 1_000_000;
    expect(await catalog.expireMetadata('trades')).toBe(3);
    expect(versionsOf(store)).toEqual([7, 8, 9, 10]);
    expect(await (await createObjectStoreCatalog({ store, namespace }).load('trades')).scan()).toHaveLength(9);
  });

  test('that cannot be deleted are reported, and the commit stands', async () => {
    const warnings: unknown[] = [];
    const { store, catalog, append } = await setup({ keepVersions: 1, metadataGraceMs: 0, expireMetadataEvery: 2, onWarning: (error: unknown) => warnings.push(error) });
    store.delete = () => Promise.reject(new Error('access denied'));
    for (const n of [0, 1, 2]) expect((await append(n)).status).toBe('committed');
    await catalog.settled();
    expect(warnings).toEqual([new Error('access denied')]);
  });
});
