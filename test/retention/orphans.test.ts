import { randomUUID } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { compactGroup } from '../../src/compaction/compact.ts';
import { planCompaction } from '../../src/compaction/plan.ts';
import { compactedTableOf } from '../../src/compaction/tables.ts';
import { bronzeFileSuffix } from '../../src/contracts/bronze.ts';
import { dayMs } from '../../src/domain/retention.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import { tidyTable } from '../../src/retention/orphans.ts';
import { topicOf } from '../audit/small-lake.ts';
import { createAgingLake, datasetOf, hourMs, pipeline } from './aging-lake.ts';
import type { AgingLake } from './aging-lake.ts';

const source = 'north';
const { bronze, silver } = datasetOf(source);

const createTidyLake = async (): Promise<AgingLake> => {
  const lake = await createAgingLake();
  await lake.refineAndMerge(source, await lake.ingestNow(source, 0, 20));
  return lake;
};
const putStray = async (lake: AgingLake, table: string, suffix = `${randomUUID()}.parquet`): Promise<string> => {
  const key = lake.store.keyOf(lake.catalog.dataLocation(table, suffix));
  await lake.store.put(key, 'stray');
  return key;
};

test('a file that nothing names is deleted once it is past the grace period, and not before', async () => {
  const lake = await createTidyLake();
  const key = await putStray(lake, silver.name);
  lake.setTime(lake.now() + dayMs - hourMs);
  expect(await tidyTable(lake.tidyDeps, silver.name)).toMatchObject({ orphanFiles: 0 });
  lake.setTime(lake.now() + 2 * hourMs);
  expect(await tidyTable(lake.tidyDeps, silver.name)).toMatchObject({ orphanFiles: 1, orphanBytes: 5, heldBack: null });
  expect(lake.store.objects.has(key)).toBe(false);
  expect((await lake.audit()).findings).toEqual([]);
});

test('files that a replaced snapshot names stay for the grace period after the replacement, whatever their age, and those of a tag for ever', async () => {
  const lake = await createTidyLake();
  // The table stands still for a month; then its file is replaced, and so is the next one.
  lake.setTime(lake.now() + 30 * dayMs);
  const [before] = await (await lake.catalog.load(bronze.name)).scan();
  await lake.rewrite(bronze, before!.filePath, () => true);
  const [second] = await (await lake.catalog.load(bronze.name)).scan();
  await lake.rewrite(bronze, second!.filePath, () => true);
  const has = (location: string): boolean => lake.store.objects.has(lake.store.keyOf(location));
  const tidy = { ...lake.tidyDeps, limits: { ...lake.tidyDeps.limits, snapshotAgeMs: 1, snapshotsKept: 1 } };
  lake.setTime(lake.now() + hourMs);
  const tidied = await tidyTable(tidy, bronze.name);
  expect(tidied.expiredSnapshots).toBe(2);
  expect(has(before!.filePath)).toBe(true);
  expect(tidied.orphanFiles).toBe(0);
  lake.setTime(lake.now() + dayMs);
  expect((await tidyTable(tidy, bronze.name)).orphanFiles).toBeGreaterThan(0);
  expect([has(before!.filePath), has(second!.filePath)]).toEqual([false, false]);
  expect((await lake.audit()).findings).toEqual([]);

  const version = await lake.catalog.load(bronze.name);
  const [third] = await version.scan();
  await lake.catalog.tag(bronze.name, 'month-end', version.currentSnapshot!.snapshotId);
  await lake.rewrite(bronze, third!.filePath, () => true);
  lake.setTime(lake.now() + 30 * dayMs);
  await tidyTable(tidy, bronze.name);
  expect(has(third!.filePath)).toBe(true);
  expect(await (await lake.catalog.load(bronze.name)).scan({ snapshotId: version.currentSnapshot!.snapshotId })).toHaveLength(1);
  await lake.catalog.untag(bronze.name, 'month-end');
  lake.setTime(lake.now() + 2 * dayMs);
  await tidyTable(tidy, bronze.name);
  lake.setTime(lake.now() + 2 * dayMs);
  await tidyTable(tidy, bronze.name);
  expect(has(third!.filePath)).toBe(false);
});

test('a Bronze file that a streaming worker has put and not reported stays for months; one whose offsets the table has goes', async () => {
  const lake = await createTidyLake();
  const file = (start: bigint, end: bigint): string => bronzeFileSuffix({ topic: topicOf(source), partition: 0, start, end, epoch: 7 });
  const unreported = await putStray(lake, bronze.name, file(20n, 30n));
  const partly = await putStray(lake, bronze.name, file(10n, 21n));
  const zombies = await putStray(lake, bronze.name, file(5n, 15n));
  lake.setTime(lake.now() + 90 * dayMs);
  expect(await tidyTable(lake.tidyDeps, bronze.name)).toMatchObject({ orphanFiles: 1 });
  expect([unreported, partly, zombies].map((key) => lake.store.objects.has(key))).toEqual([true, true, false]);
});

test('files that a running Workflow may have written stay, and the result says since when', async () => {
  const lake = await createTidyLake();
  const [early, startedMs] = [await putStray(lake, silver.name), lake.now() + dayMs];
  lake.setTime(startedMs + hourMs);
  const late = await putStray(lake, silver.name);
  lake.setTime(startedMs + 9 * dayMs);
  const tidied = await tidyTable({ ...lake.tidyDeps, oldestWriterMs: () => Promise.resolve(startedMs) }, silver.name);
  expect(tidied.heldBack).toContain(new Date(startedMs).toISOString());
  expect([early, late].map((key) => lake.store.objects.has(key))).toEqual([false, true]);
});

test('files of a staging object stay as long as it does, and it stays while its Workflow runs; afterwards it goes first, and its files a sweep later', async () => {
  const lake = await createTidyLake();
  const stray = await putStray(lake, silver.name);
  const staging = `staging/${source}/12-${randomUUID()}.json`;
  const foreign = `staging/elsewhere/${randomUUID()}`;
  await lake.store.put(staging, JSON.stringify({ silverFiles: [{ filePath: lake.store.location(stray) }] }));
  await lake.store.put(foreign, '{}');
  lake.setTime(lake.now() + 9 * dayMs);
  const asked: string[] = [];
  const running = { ...lake.tidyDeps, isRunning: (workflowId: string) => Promise.resolve(asked.push(workflowId) > 0) };
  await tidyTable(running, silver.name);
  expect(asked).toEqual([`micro-batch/${source}/12`]);
  const has = () => [staging, stray].map((key) => lake.store.objects.has(key));
  expect(has()).toEqual([true, true]);
  await tidyTable(lake.tidyDeps, silver.name);
  expect(has()).toEqual([false, true]);
  await tidyTable(lake.tidyDeps, silver.name);
  expect(has()).toEqual([false, false]);
  expect(lake.store.objects.has(foreign)).toBe(true);
});

test('nothing is deleted where no metadata tells what was current when the grace period began', async () => {
  const lake = await createTidyLake();
  const stray = await putStray(lake, silver.name);
  lake.setTime(lake.now() + 9 * dayMs);
  await lake.refineAndMerge(source, await lake.ingestNow(source, 0, 20));
  const version = await lake.catalog.load(silver.name);
  const root = lake.store.keyOf(version.metadataLocation).replace(/v\d+\.metadata\.json$/, '');
  await lake.catalog.expireSnapshots(silver.name, { supersededBeforeMs: Number.MAX_SAFE_INTEGER, keep: 1 });
  const current = lake.store.keyOf((await lake.catalog.load(silver.name)).metadataLocation);
  await lake.store.delete([...lake.store.objects.keys()].filter((key) => key.startsWith(root) && key.endsWith('.metadata.json') && key !== current));
  const tidied = await tidyTable(lake.tidyDeps, silver.name);
  expect(tidied).toMatchObject({ orphanFiles: 0, heldBack: expect.stringContaining('no retained metadata') as string });
  expect(lake.store.objects.has(stray)).toBe(true);
});

test('a table whose hint is read while it is swept loses no file that a reader of the last day may still read', async () => {
  const lake = await createTidyLake();
  const { catalog } = lake;
  for (let round = 0; round < 8; round += 1) {
    lake.setTime(lake.now() + 6 * hourMs);
    const version = await catalog.load(silver.name);
    for (const { filePath } of await version.scan()) await lake.rewrite(silver, filePath, () => true);
    await tidyTable({ ...lake.tidyDeps, limits: { ...lake.tidyDeps.limits, snapshotAgeMs: 1, snapshotsKept: 1 } }, silver.name);
    // Who loaded the table before the rewrite still finds each of its files.
    const files = await version.scan();
    expect(files.every(({ filePath }) => lake.store.objects.has(lake.store.keyOf(filePath)))).toBe(true);
  }
  const data = [...lake.store.objects.keys()].filter((key) => key.startsWith(lake.store.keyOf(catalog.dataLocation(silver.name, ''))));
  const live = await (await catalog.load(silver.name)).scan();
  // A day of four rewrites stays, and what was current when it began.
  expect(data.length).toBeLessThanOrEqual(live.length * 6);
});

describe('a process that sleeps through the clean-up, and then commits what it had written before', () => {
  const settled = async (lake: AgingLake, table: string): Promise<void> => {
    for (const { filePath } of await (await lake.catalog.load(table)).scan()) expect(lake.store.objects.has(lake.store.keyOf(filePath))).toBe(true);
    expect((await lake.audit()).findings).toEqual([]);
  };
  /** Falls asleep in the first put of such a key until it is woken. */
  const sleepAt = (lake: AgingLake, pattern: RegExp): { asleep: Promise<void>; wake: () => void } => {
    const [asleep, awake] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    lake.store.onPut = (key) => {
      if (!pattern.test(key)) return undefined;
      lake.store.onPut = undefined;
      return () => {
        asleep.resolve();
        return awake.promise;
      };
    };
    return { asleep: asleep.promise, wake: awake.resolve };
  };
  const cleanUp = async (lake: AgingLake, table: string): Promise<number> => {
    // Temporal has given up on it: no Workflow protects what it wrote.
    lake.setTime(lake.now() + 3 * dayMs);
    return (await tidyTable({ ...lake.tidyDeps, catalog: createObjectStoreCatalog({ store: lake.store, namespace: pipeline.namespace, now: lake.now }) }, table)).orphanFiles;
  };
  const fresh = async (): Promise<AgingLake> => {
    const lake = await createTidyLake();
    for (let batch = 0; batch < 4; batch += 1) await lake.refineAndMerge(source, await lake.ingestNow(source, 0, 20));
    lake.setTime(lake.now() + hourMs);
    return lake;
  };

  test('writes its manifests again', async () => {
    const lake = await fresh();
    const { asleep, wake } = sleepAt(lake, new RegExp(`/${bronze.name}/metadata/v\\d+`));
    const ingesting = lake.ingestNow(source, 0, 20);
    await asleep;
    expect(await cleanUp(lake, bronze.name)).toBeGreaterThan(0);
    wake();
    const readings = await ingesting;
    await lake.refineAndMerge(source, readings);
    await settled(lake, bronze.name);
  });

  test.each(['written', 'version'] as const)('compacts anew (asleep at: %s)', async (at) => {
    const lake = await fresh();
    const table = compactedTableOf(pipeline, bronze.name);
    const policy = { targetBytes: 1 << 26, filesMin: 2, quietMs: 0 };
    const rows = await lake.liveRows(bronze.name);
    const { asleep, wake } = sleepAt(lake, at === 'version' ? new RegExp(`/${bronze.name}/metadata/v\\d+`) : new RegExp(`/${bronze.name}/metadata/`));
    const [due] = (await planCompaction(await lake.catalog.load(bronze.name), table, policy, lake.now())).groups;
    const compacting = compactGroup({ store: lake.store, catalog: lake.catalog, table, policy, now: lake.now }, due!);
    await asleep;
    expect(await cleanUp(lake, bronze.name)).toBeGreaterThan(0);
    wake();
    expect(await compacting).toMatchObject({ status: 'committed', attempts: 2 });
    expect(await lake.liveRows(bronze.name)).toBe(rows);
    await settled(lake, bronze.name);
  });
});
