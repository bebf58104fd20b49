import { describe, expect, test } from 'vitest';
import { dayMs } from '../../src/domain/retention.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import { Archive } from '../../src/retention/archive.ts';
import { tidyTable } from '../../src/retention/orphans.ts';
import type { SweepDeps } from '../../src/retention/plan-sweep.ts';
import { planSweep } from '../../src/retention/plan-sweep.ts';
import { restoreArchive } from '../../src/retention/restore.ts';
import { archiveBatch, removeBatch, settleLeftovers } from '../../src/retention/sweep.ts';
import type { Reading } from '../audit/small-lake.ts';
import type { AgingLake } from './aging-lake.ts';
import { createAgingLake, datasetOf, firstDay, hourMs, pipeline } from './aging-lake.ts';
import { ProcessDied, dyingStore } from './dying-store.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';

const source = 'north';
const { bronze, silver } = datasetOf(source);
const policy = { hotDays: 2, purgeDays: 300 };

/** Four days of records in Silver; files of midnight hold rows of two days. The first two are due. */
const createFourDays = async (): Promise<AgingLake> => {
  const lake = await createAgingLake({ policies: { [bronze.name]: policy, [silver.name]: policy } });
  let late: Reading[] = [];
  for (let day = firstDay; day < firstDay + 4; day += 1) {
    lake.setTime(day * dayMs + hourMs);
    await lake.refineAndMerge(source, [...late, ...await lake.ingestNow(source, 0, 20)]);
    lake.setTime((day + 1) * dayMs - hourMs);
    late = await lake.ingestNow(source, 1, 10);
  }
  await lake.refineAndMerge(source, late);
  await lake.resolve(source, lake.all.filter(({ isValid }) => !isValid).map((reading) => ({ reading, action: 'flagged' })));
  return lake;
};

/** Another process on the same objects. */
const processOn = (lake: AgingLake, store: MemoryObjectStore = lake.store): SweepDeps => ({
  ...lake.deps, store, catalog: createObjectStoreCatalog({ store, namespace: pipeline.namespace, now: lake.now, expireMetadataEvery: 0 }),
  archive: new Archive({ store, namespace: pipeline.namespace, prefix: 'archive', now: lake.now }),
});

/** The store of a process that falls asleep in the first put of such a key: `asleep` resolves then, and `wake` lets it go on. */
const sleepingStore = (inner: MemoryObjectStore, pattern: RegExp): { store: MemoryObjectStore; asleep: Promise<void>; wake: () => void } => {
  const asleep = Promise.withResolvers<void>();
  const awake = Promise.withResolvers<void>();
  let slept = false;
  const store: MemoryObjectStore = {
    ...inner,
    put: async (key, body, options) => {
      if (!slept && pattern.test(key)) {
        slept = true;
        asleep.resolve();
        await awake.promise;
      }
      return inner.put(key, body, options);
    },
  };
  return { store, asleep: asleep.promise, wake: awake.resolve };
};
const silverVersion = new RegExp(`/${silver.name}/metadata/v\\d+\\.metadata\\.json$`);

/** A sweep that has copied what is due and sleeps in the middle of taking it out of the table. */
const asleepInRemoval = async () => {
  const lake = await createFourDays();
  const table = lake.aged(silver.name);
  const { manifestId } = await archiveBatch(lake.deps, table, await planSweep(lake.deps, table, 'first'), 0);
  const { store, asleep, wake } = sleepingStore(lake.store, silverVersion);
  const rows = await lake.liveRows(silver.name);
  const zombie = removeBatch(processOn(lake, store), table, manifestId!);
  await asleep;
  return { lake, table, manifestId: manifestId!, rows, zombie, wake };
};

const afterwards = async (lake: AgingLake): Promise<void> => {
  expect((await lake.auditWithArchive()).findings).toEqual([]);
  await restoreArchive(processOn(lake), lake.aged(silver.name), { untilMs: lake.now() + dayMs });
  expect(await lake.liveRows(silver.name)).toBe(lake.all.filter(({ isValid }) => isValid).length);
  expect((await lake.audit()).findings).toEqual([]);
};

describe('a process that wakes up in its removal of rows', () => {
  test('after its retry found them needed leaves their copies in the archive', async () => {
    const { lake, table, manifestId, zombie, wake } = await asleepInRemoval();
    await lake.catalog.tag(bronze.name, 'backfill/x', (await lake.catalog.load(bronze.name)).currentSnapshot!.snapshotId);
    expect((await removeBatch(processOn(lake), table, manifestId)).outcome).toBe('held');
    wake();
    expect((await zombie).outcome).toBe('archived');
    await lake.catalog.untag(bronze.name, 'backfill/x');
    await afterwards(lake);
  });

  test('after a backfill claimed them in the table takes nothing', async () => {
    const { lake, table, rows, zombie, wake } = await asleepInRemoval();
    await lake.catalog.commit(silver.name, { commitId: 'claim', add: [], setProperties: { 'tidemark.reprocess.backfill/x': JSON.stringify({ planKey: 'p', phase: 'staging', offsets: {} }) } });
    wake();
    expect((await zombie).outcome).toBe('conflict');
    expect(await lake.liveRows(silver.name)).toBe(rows);
    await lake.catalog.commit(silver.name, { commitId: 'unclaim', add: [], setProperties: { 'tidemark.reprocess.backfill/x': null } });
    expect((await settleLeftovers(lake.deps, table, 'next')).map(({ outcome }) => outcome)).toEqual(['archived']);
    await afterwards(lake);
  });

  test('and finds its work done by the next sweep counts it once', async () => {
    const { lake, table, zombie, wake } = await asleepInRemoval();
    expect((await settleLeftovers(processOn(lake), table, 'next')).map(({ outcome }) => outcome)).toEqual(['archived']);
    wake();
    await zombie.catch(() => {});
    expect((await lake.archive.list(silver.name)).map(({ manifest: { state } }) => state)).toEqual(['archived']);
    await afterwards(lake);
  });
});

test('two sweeps that copied the same files take them out once, and keep one copy', async () => {
  const lake = await createFourDays();
  const table = lake.aged(silver.name);
  const manifests = [];
  for (const sweepId of ['one', 'two']) manifests.push(await planSweep(lake.deps, table, sweepId));
  const [first, second] = [await archiveBatch(lake.deps, table, manifests[0]!, 0), await archiveBatch(lake.deps, table, manifests[1]!, 0)];
  expect((await removeBatch(lake.deps, table, first.manifestId!)).outcome).toBe('archived');
  expect((await removeBatch(lake.deps, table, second.manifestId!)).outcome).toBe('conflict');
  expect((await lake.archive.list(silver.name)).map(({ manifest: { manifestId } }) => manifestId)).toEqual([first.manifestId]);
  await afterwards(lake);
});

test('rows that stay of a split file are there however long their removal waits, and the clean-up runs meanwhile', async () => {
  const lake = await createFourDays();
  const table = lake.aged(silver.name);
  const plan = await planSweep(lake.deps, table, 'first');
  expect(plan.partitions.some(({ splitFiles }) => splitFiles > 0)).toBe(true);
  for (const [batch] of plan.batches.entries()) await archiveBatch(lake.deps, table, plan, batch);
  for (let day = 0; day < 5; day += 1) {
    lake.setTime(lake.now() + dayMs);
    await tidyTable(lake.tidyDeps, silver.name);
  }
  for (const { outcome } of await settleLeftovers(lake.deps, table, 'next')) expect(outcome).toBe('archived');
  await afterwards(lake);
});

describe('two restores of the same rows', () => {
  test('at once, the second in the middle of any write of the first, put each row back once', async () => {
    for (let strike = 1, puts = strike; strike <= puts; strike += 1) {
      const lake = await createFourDays();
      await lake.sweep(silver.name, { withoutTidying: true });
      const restore = (): Promise<unknown> => restoreArchive(processOn(lake), lake.aged(silver.name), { untilMs: lake.now() + dayMs }).catch((error: unknown) => error);
      let isInside = false;
      puts = 0;
      lake.store.onPut = () => {
        if (isInside) return undefined;
        puts += 1;
        if (puts !== strike) return undefined;
        return async () => {
          isInside = true;
          await restore();
          isInside = false;
        };
      };
      await restore();
      lake.store.onPut = undefined;
      await restore();
      expect({ strike, rows: await lake.liveRows(silver.name) }).toEqual({ strike, rows: lake.all.filter(({ isValid }) => isValid).length });
      expect({ strike, findings: (await lake.auditWithArchive()).findings }).toEqual({ strike, findings: [] });
    }
  }, 120_000);

  test('of which one sleeps until the rows were archived anew and the clean-up has run: it brings nothing back', async () => {
    const lake = await createFourDays();
    const table = lake.aged(silver.name);
    await lake.sweep(silver.name);
    const { store, asleep, wake } = sleepingStore(lake.store, new RegExp(`/${silver.name}/metadata/snap-`));
    const zombie = restoreArchive(processOn(lake, store), table, { untilMs: lake.now() + dayMs });
    await asleep;
    await restoreArchive(processOn(lake), table, { untilMs: lake.now() + dayMs });
    for (let day = 0; day < 6; day += 1) {
      lake.setTime(lake.now() + dayMs);
      await lake.sweep(silver.name);
    }
    const rows = await lake.liveRows(silver.name);
    wake();
    await expect(zombie).rejects.toMatchObject({ code: 'COMMIT_CONFLICT' });
    expect(await lake.liveRows(silver.name)).toBe(rows);
    await afterwards(lake);
  });
});

test('a restore that was left in the middle holds its rows until its time is up, and is then brought to an end', async () => {
  const origin = await createFourDays();
  await origin.sweep(silver.name, { withoutTidying: true });
  const untilMs = origin.now() + dayMs;
  const begin = (lake: AgingLake, store: MemoryObjectStore): Promise<unknown> => restoreArchive(processOn(lake, store), lake.aged(silver.name), { untilMs });
  const policies = { [bronze.name]: policy, [silver.name]: policy };
  const whole = await createAgingLake({ policies, of: origin });
  const count = dyingStore(whole.store);
  await begin(whole, count.store);
  for (let nth = 1; nth < count.mutations(); nth += 1) {
    const lake = await createAgingLake({ policies, of: origin });
    await expect(begin(lake, dyingStore(lake.store, nth).store)).rejects.toThrow(ProcessDied);
    lake.setTime(untilMs + 2 * dayMs);
    await settleLeftovers(lake.deps, lake.aged(silver.name), 'next');
    const states = (await lake.archive.list(silver.name)).map(({ manifest: { state } }) => state);
    expect({ nth, states: states.filter((state) => state === 'restoring' || state === 'copied') }).toEqual({ nth, states: [] });
    await afterwards(lake);
  }
}, 120_000);
