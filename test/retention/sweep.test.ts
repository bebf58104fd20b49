import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { Coverage, IntervalSet, topicPartitionKey } from '../../src/domain/offsets.ts';
import { dayMs } from '../../src/domain/retention.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import { Archive } from '../../src/retention/archive.ts';
import { archivedIntervals, restoreArchive } from '../../src/retention/restore.ts';
import { liveOffsets } from '../../src/retention/row-offsets.ts';
import { planSweep } from '../../src/retention/plan-sweep.ts';
import type { SweepDeps } from '../../src/retention/plan-sweep.ts';
import { archiveBatch, purgeArchive, removeBatch, settleLeftovers } from '../../src/retention/sweep.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import type { Reading } from '../audit/small-lake.ts';
import { topicOf } from '../audit/small-lake.ts';
import { createAgingLake, datasetOf, firstDay, hourMs, pipeline } from './aging-lake.ts';
import type { AgingLake } from './aging-lake.ts';
import { ProcessDied, dyingStore } from './dying-store.ts';

const source = 'north';
const { bronze, silver } = datasetOf(source);
const policy = { hotDays: 2, purgeDays: 10 };
const policies = { [bronze.name]: policy, [silver.name]: policy, [pipeline.dlqTable]: policy };

/** Five days of records, all refined; what was refused is flagged, but for the offsets in `open`. The clock stands at the end of the fifth. */
const createFiveDays = async (open: (reading: Reading) => boolean = () => false, days = 5): Promise<AgingLake> => {
  const lake = await createAgingLake({ policies });
  let late: Reading[] = [];
  for (let day = firstDay; day < firstDay + days; day += 1) {
    lake.setTime(day * dayMs + hourMs);
    const early = await lake.ingestNow(source, 0, 20);
    await lake.refineAndMerge(source, [...late, ...early]);
    lake.setTime((day + 1) * dayMs - hourMs);
    const closed = [...late, ...early].filter((one) => !one.isValid && !open(one));
    if (closed.length > 0) await lake.resolve(source, closed.map((reading) => ({ reading, action: 'flagged', at: BigInt(lake.now()) * 1_000n })));
    late = await lake.ingestNow(source, 1, 10);
  }
  await lake.refineAndMerge(source, late);
  const refused = late.filter((one) => !one.isValid && !open(one));
  if (refused.length > 0) await lake.resolve(source, refused.map((reading) => ({ reading, action: 'flagged', at: BigInt(lake.now()) * 1_000n })));
  return lake;
};

const bytesOf = async (lake: AgingLake, table: string): Promise<string[]> => {
  const files = await (await lake.catalog.load(table)).scan();
  return files.map(({ filePath }) => createHash('sha256').update(lake.store.objects.get(lake.store.keyOf(filePath))!.body).digest('hex')).sort();
};

test('what was archived goes back byte for byte, once however often it is restored, and a sweep leaves it alone until its time is up', async () => {
  const lake = await createFiveDays();
  const before = { bronze: await bytesOf(lake, bronze.name), silverRows: await lake.liveRows(silver.name) };
  for (const name of [bronze.name, silver.name]) expect((await lake.sweep(name)).rows).toBeGreaterThan(0);
  expect((await lake.auditWithArchive()).findings).toEqual([]);
  const bronzeTable = lake.aged(bronze.name);
  const wanted = Coverage.of([[topicPartitionKey(topicOf(source), 0), IntervalSet.of({ start: 5n, end: 6n })]]);
  expect((await archivedIntervals(lake.archive, bronze.name, wanted)).archived.equals(wanted)).toBe(true);

  // One offset asked for: its file goes back, and no other.
  const untilMs = lake.now() + 3 * dayMs;
  const planned = await restoreArchive(lake.deps, bronzeTable, { offsets: wanted, untilMs, dryRun: true });
  expect(await lake.liveRows(bronze.name)).toBeLessThan(lake.all.length);
  const restored = await restoreArchive(lake.deps, bronzeTable, { offsets: wanted, untilMs });
  expect(restored).toMatchObject({ rows: planned.rows, alreadyThereFiles: 0 });
  expect((await lake.auditWithArchive()).findings).toEqual([]);

  const rest = await restoreArchive(lake.deps, bronzeTable, { untilMs });
  expect(rest.rows).toBeGreaterThan(0);
  expect((await restoreArchive(lake.deps, bronzeTable, { untilMs })).rows).toBe(0);
  await restoreArchive(lake.deps, lake.aged(silver.name), { untilMs });
  expect(await bytesOf(lake, bronze.name)).toEqual(before.bronze);
  expect(await lake.liveRows(silver.name)).toBe(before.silverRows);
  // Every row is back: the law holds without the archive.
  expect((await lake.audit()).findings).toEqual([]);

  const held = await lake.sweep(bronze.name);
  expect(held.rows).toBe(0);
  expect(held.plan.held).toMatchObject([{ reason: 'restored' }]);
  lake.setTime(untilMs + dayMs);
  expect((await lake.sweep(bronze.name)).rows).toBeGreaterThan(0);
  expect((await lake.auditWithArchive()).findings).toEqual([]);
});

test('an unrefined range, an open DLQ row, a running backfill or replay each hold rows back, and the plan says so', async () => {
  const lake = await createFiveDays(({ partition, offset }) => partition === 0 && offset === 13);
  const names = (held: { reason: string; rows: number }[]) => held.map(({ reason, rows }) => [reason, rows]);
  // The file that holds the open record stays, the rest of its days goes.
  const swept = await lake.sweep(bronze.name);
  expect(names(swept.plan.held)).toEqual([['open-dlq', 20]]);
  expect(swept.rows).toBe(20 + 10 + 10);
  expect((await lake.sweep(pipeline.dlqTable)).rows).toBeGreaterThan(0);
  const dlq = await liveOffsets(lake.store, await lake.catalog.load(pipeline.dlqTable), 'dlq', Coverage.of([[topicPartitionKey(topicOf(source), 0), IntervalSet.of({ start: 13n, end: 14n })]]));
  expect(dlq.size).toBe(1n);

  lake.setTime(lake.now() + 10 * dayMs);
  const unrefined = await lake.ingestNow(source, 1, 10);
  lake.setTime(lake.now() + 5 * dayMs);
  expect(names((await lake.sweep(bronze.name)).plan.held)).toEqual([['open-dlq', 20], ['unrefined', 10]]);
  await lake.refineAndMerge(source, unrefined);
  await lake.resolve(source, [...unrefined, ...lake.all.filter(({ partition, offset }) => partition === 0 && offset === 13)].filter(({ isValid }) => !isValid).map((reading) => ({ reading, action: 'purged', at: BigInt(lake.now()) * 1_000n })));

  const version = await lake.catalog.load(bronze.name);
  await lake.catalog.tag(bronze.name, 'backfill/monday', version.currentSnapshot!.snapshotId);
  for (const name of [bronze.name, silver.name, pipeline.dlqTable]) {
    const { plan, rows } = await lake.sweep(name, { withoutTidying: true });
    expect([rows, plan.held.map(({ reason, detail }) => [reason, detail])]).toEqual([0, [['reprocess', 'backfill/monday']]]);
  }
  await lake.catalog.untag(bronze.name, 'backfill/monday');
  expect((await lake.sweep(bronze.name)).rows).toBe(20 + 10);
  expect((await lake.auditWithArchive()).findings).toEqual([]);
});

test('a backfill that begins between the copy and the removal keeps its rows, and the next sweep takes them', async () => {
  const lake = await createFiveDays();
  const table = lake.aged(silver.name);
  const plan = await planSweep(lake.deps, table, 'overtaken');
  const { manifestId } = await archiveBatch(lake.deps, table, plan, 0);
  await lake.catalog.tag(bronze.name, 'dlq-replay/x', (await lake.catalog.load(bronze.name)).currentSnapshot!.snapshotId);
  const rows = await lake.liveRows(silver.name);
  expect(await removeBatch(lake.deps, table, manifestId!)).toMatchObject({ outcome: 'held' });
  expect(await lake.liveRows(silver.name)).toBe(rows);
  // The copies wait: a removal that is only asleep may still come.
  expect((await lake.archive.list(silver.name)).map(({ manifest: { state } }) => state)).toEqual(['copied']);
  await lake.catalog.untag(bronze.name, 'dlq-replay/x');
  expect((await settleLeftovers(lake.deps, table, 'next')).map(({ outcome, rows: taken }) => [outcome, taken > 0])).toEqual([['archived', true]]);
  expect(await lake.liveRows(silver.name)).toBeLessThan(rows);
  expect((await lake.auditWithArchive()).findings).toEqual([]);
});

test('files that a compaction merged after they were copied stay in the table, once', async () => {
  const lake = await createFiveDays();
  const table = lake.aged(bronze.name);
  const plan = await planSweep(lake.deps, table, 'overtaken');
  const { manifestId } = await archiveBatch(lake.deps, table, plan, 0);
  const merged = (await (await lake.catalog.load(bronze.name)).scan()).find(({ filePath }) => filePath === plan.batches[0]!.filePaths[0])!;
  await lake.rewrite(bronze, merged.filePath, () => true);
  const swept = await removeBatch(lake.deps, table, manifestId!);
  expect(swept.outcome).toBe('conflict');
  expect(await lake.liveRows(bronze.name)).toBe(lake.all.length);
  expect((await lake.audit()).findings).toEqual([]);
  expect((await lake.sweep(bronze.name)).rows).toBe(2 * 30);
  expect((await lake.auditWithArchive()).findings).toEqual([]);
});

test('a file that cannot be read back as it was written stays in the table and is named; the others go', async () => {
  const lake = await createFiveDays();
  const table = lake.aged(bronze.name);
  const victim = (await planSweep(lake.deps, table, 'look')).batches[0]!.filePaths[0]!;
  const object = lake.store.objects.get(lake.store.keyOf(victim))!;
  await lake.store.put(lake.store.keyOf(victim), Buffer.concat([object.body.subarray(0, object.body.length - 1)]));
  const plan = await planSweep(lake.deps, table, 'damage');
  const done = await archiveBatch(lake.deps, table, plan, 0);
  expect(done.damaged).toHaveLength(1);
  await removeBatch(lake.deps, table, done.manifestId!);
  expect((await (await lake.catalog.load(bronze.name)).scan()).map(({ filePath }) => filePath)).toContain(victim);
});

test('a copy that the archive holds wrongly is found before a row is deleted', async () => {
  const lake = await createFiveDays();
  const table = lake.aged(bronze.name);
  const rows = await lake.liveRows(bronze.name);
  // The store flips a bit of everything that is copied.
  const flipped: MemoryObjectStore = {
    ...lake.store,
    copyFrom: async (from, sourceKey, key, options) => {
      await lake.store.copyFrom(from, sourceKey, key, options);
      const { body } = await lake.store.get(key);
      const damaged = Buffer.from(body);
      damaged[20]! ^= 1;
      await lake.store.put(key, damaged);
    },
  };
  const deps: SweepDeps = { ...lake.deps, archive: new Archive({ store: flipped, namespace: pipeline.namespace, prefix: 'archive', now: lake.now }) };
  const plan = await planSweep(deps, table, 'flipped');
  const done = await archiveBatch(deps, table, plan, 0);
  expect(done).toMatchObject({ manifestId: null, outcome: 'nothing' });
  expect(done.damaged[0]).toContain('SHA-256');
  expect(await lake.liveRows(bronze.name)).toBe(rows);
  expect((await lake.audit()).findings).toEqual([]);
});

test('an archived copy that goes missing is a finding of the audit, and its restore fails before the table is touched', async () => {
  const lake = await createFiveDays();
  await lake.sweep(bronze.name);
  const [stored] = await lake.archive.list(bronze.name);
  await lake.store.delete([stored!.manifest.files[0]!.archiveKey]);
  expect((await lake.auditWithArchive()).findings).toEqual([expect.objectContaining({ promise: 'files-intact', subject: bronze.name, detail: expect.stringContaining('no object') as string })]);
  const { currentSnapshot } = await lake.catalog.load(bronze.name);
  await expect(restoreArchive(lake.deps, lake.aged(bronze.name), { manifestIds: [stored!.manifest.manifestId], untilMs: lake.now() + dayMs })).rejects.toThrow(/NoSuchKey/);
  expect((await lake.catalog.load(bronze.name)).currentSnapshot).toEqual(currentSnapshot);
});

/** A process of its own on these objects. */
const processOn = (lake: AgingLake, store: MemoryObjectStore): SweepDeps => ({
  ...lake.deps, store, catalog: createObjectStoreCatalog({ store, namespace: pipeline.namespace, now: lake.now, expireMetadataEvery: 0 }),
  archive: new Archive({ store, namespace: pipeline.namespace, prefix: 'archive', now: lake.now }),
});

test('a process that dies after any of its writes loses no row and doubles none: the next sweep ends it, and everything can be restored', async () => {
  const sweepAs = async (lake: AgingLake, store: MemoryObjectStore, sweepId: string): Promise<void> => {
    const deps = processOn(lake, store);
    for (const name of [silver.name, bronze.name]) {
      const table = lake.aged(name);
      await settleLeftovers(deps, table, sweepId);
      const plan = await planSweep(deps, table, sweepId);
      for (const [batch] of plan.batches.entries()) {
        const { manifestId } = await archiveBatch(deps, table, plan, batch);
        if (manifestId !== null) await removeBatch(deps, table, manifestId);
      }
      await purgeArchive(deps, table, plan);
    }
  };
  const origin = await createFiveDays(() => false, 4);
  const whole = await createAgingLake({ policies, of: origin });
  const counting = dyingStore(whole.store);
  const rowsOf = async (lake: AgingLake): Promise<number[]> => [await lake.liveRows(bronze.name), await lake.liveRows(silver.name)];
  await sweepAs(whole, counting.store, 'whole');
  const [before, after] = [await rowsOf(origin), await rowsOf(whole)];
  expect(counting.mutations()).toBeGreaterThan(20);

  for (let nth = 1; nth < counting.mutations(); nth += 1) {
    const lake = await createAgingLake({ policies, of: origin });
    await expect(sweepAs(lake, dyingStore(lake.store, nth).store, 'a')).rejects.toThrow(ProcessDied);
    expect({ nth, findings: (await lake.auditWithArchive()).findings }).toEqual({ nth, findings: [] });
    await sweepAs(lake, lake.store, 'b');
    expect({ nth, rows: await rowsOf(lake) }).toEqual({ nth, rows: after });
    for (const name of [bronze.name, silver.name]) await restoreArchive(lake.deps, lake.aged(name), { untilMs: lake.now() + dayMs });
    expect({ nth, rows: await rowsOf(lake) }).toEqual({ nth, rows: before });
    expect({ nth, findings: (await lake.audit()).findings }).toEqual({ nth, findings: [] });
  }
}, 180_000);

test('a restore that dies after any of its writes and is repeated puts each row back once', async () => {
  const origin = await createFiveDays(() => false, 4);
  const rows = await origin.liveRows(silver.name);
  await origin.sweep(silver.name, { withoutTidying: true });
  const untilMs = origin.now() + dayMs;
  const whole = await createAgingLake({ policies, of: origin });
  const counting = dyingStore(whole.store);
  await restoreArchive(processOn(whole, counting.store), whole.aged(silver.name), { untilMs });
  expect(counting.mutations()).toBeGreaterThan(5);
  for (let nth = 1; nth < counting.mutations(); nth += 1) {
    const lake = await createAgingLake({ policies, of: origin });
    await expect(restoreArchive(processOn(lake, dyingStore(lake.store, nth).store), lake.aged(silver.name), { untilMs })).rejects.toThrow(ProcessDied);
    await restoreArchive(lake.deps, lake.aged(silver.name), { untilMs });
    expect({ nth, rows: await lake.liveRows(silver.name) }).toEqual({ nth, rows });
    expect({ nth, findings: (await lake.audit()).findings }).toEqual({ nth, findings: [] });
  }
}, 120_000);

test('rows that were purged are accounted for, and said to be gone when they are asked for', async () => {
  const lake = await createFiveDays();
  await lake.sweep(bronze.name);
  await lake.sweep(silver.name);
  lake.setTime(lake.now() + 20 * dayMs);
  const { purgedRows } = await lake.sweep(bronze.name);
  expect(purgedRows).toBe(60);
  const restored = await restoreArchive(lake.deps, lake.aged(bronze.name), { untilMs: lake.now() + dayMs });
  expect(restored.purged.size).toBe(60n);
  expect((await lake.auditWithArchive()).findings).toEqual([]);
  expect([...lake.store.objects.keys()].filter((key) => key.startsWith(`archive/readings/${bronze.name}/files/`)).length).toBeGreaterThan(0);
});
