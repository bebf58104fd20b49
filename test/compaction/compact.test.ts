import { expect, test } from 'vitest';
import { compactGroup } from '../../src/compaction/compact.ts';
import type { CompactGroupDeps } from '../../src/compaction/compact.ts';
import { planCompaction } from '../../src/compaction/plan.ts';
import { compactedTables } from '../../src/compaction/tables.ts';
import type { CompactedTable, CompactionPolicy } from '../../src/compaction/tables.ts';
import { pipelineTables } from '../../src/datasets/pipeline.ts';
import { Coverage, IntervalSet } from '../../src/domain/offsets.ts';
import { bytesSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { recoverFiles } from '../../src/streaming/recover.ts';
import { coverageOfReadings, createSmallLake, datasetOf, pipeline, plainReadings, topicOf, winnersOf } from '../audit/small-lake.ts';
import type { Reading, SmallLake } from '../audit/small-lake.ts';

const MiB = 1 << 20;
const policy: CompactionPolicy = { targetBytes: 64 * MiB, filesMin: 4, quietMs: 3_600_000 };
/** An hour and a second after all rows of the small lake were written. */
const laterMs = 1_760_000_000_000 + 3_601_000;
const tables = compactedTables(pipeline);
const tableOf = (name: string): CompactedTable => tables.find(({ definition }) => definition.name === name)!;
const bronze = datasetOf('north').bronze.name;

/** Micro-batches of 20 offsets, each with a file in every table. */
const createBatches = async (batches = 6) => {
  const lake = await createSmallLake();
  const all: Reading[] = [];
  for (const { source } of pipeline.datasets) {
    for (const partition of [0, 1]) {
      const rows = plainReadings(source, partition, 0, batches * 20);
      all.push(...rows);
      for (let batch = 0; batch < batches; batch += 1) {
        const part = rows.slice(batch * 20, (batch + 1) * 20);
        await lake.ingest(source, partition, batch * 20, (batch + 1) * 20, part);
        await lake.refine(source, part, coverageOfReadings(part));
        await lake.merge(winnersOf(rows).filter(({ offset }) => offset >= batch * 20 && offset < (batch + 1) * 20), coverageOfReadings(part));
      }
    }
  }
  return { lake, all };
};

/** Every row of a table with every column, as texts. */
const rowsOf = async ({ catalog, store }: SmallLake, name: string): Promise<string[]> => {
  const version = await catalog.load(name);
  const rows: string[] = [];
  for (const { filePath } of await version.scan()) {
    const parquet = await openParquet(bytesSource((await store.get(store.keyOf(filePath))).body));
    const { rowCount, columns } = await readColumns(parquet, { columns: version.fields.map((field) => field.name) });
    for (let i = 0; i < rowCount; i += 1) {
      rows.push(JSON.stringify(version.fields.map((field) => columns[field.name]![i]), (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value instanceof Uint8Array ? Buffer.from(value).toString('hex') : value)));
    }
  }
  return rows.sort();
};

const depsOf = ({ store, catalog }: SmallLake, name: string, more: Partial<CompactGroupDeps> = {}): CompactGroupDeps => ({ store, catalog, table: tableOf(name), policy, now: () => laterMs, ...more });

const compactAll = async (lake: SmallLake, name: string, more: Partial<CompactGroupDeps> = {}): Promise<number> => {
  let commits = 0;
  for (;;) {
    const [due] = (await planCompaction(await lake.catalog.load(name), tableOf(name), more.policy ?? policy, laterMs)).groups;
    if (!due) return commits;
    await compactGroup(depsOf(lake, name, more), due);
    commits += 1;
  }
};

const filesOf = async ({ catalog }: SmallLake, name: string) => (await catalog.load(name)).scan();

test('every table keeps its rows in every column and its coverage, in a few files, and the audit finds the same lake', async () => {
  const { lake } = await createBatches();
  const before = new Map<string, string[]>();
  for (const { name } of pipelineTables(pipeline)) before.set(name, await rowsOf(lake, name));
  const audited = await lake.audit();
  expect(audited.ok).toBe(true);
  const files: Record<string, [number, number]> = {};
  for (const { definition: { name } } of tables) {
    const filesBefore = (await filesOf(lake, name)).length;
    const { coverage } = await lake.catalog.load(name);
    await compactAll(lake, name);
    expect(await rowsOf(lake, name), name).toEqual(before.get(name));
    expect((await lake.catalog.load(name)).coverage.equals(coverage)).toBe(true);
    files[name] = [filesBefore, (await filesOf(lake, name)).length];
    for (const { recordCount, fileSizeBytes, filePath } of await filesOf(lake, name)) {
      const { size } = await lake.store.head(lake.store.keyOf(filePath));
      expect(size).toBe(fileSizeBytes);
      expect(recordCount).toBeGreaterThan(0);
    }
  }
  // One file for each topic partition.
  expect(files).toMatchObject({ [bronze]: [12, 2], [pipeline.dlqTable]: [24, 2] });
  for (const { silver, gold } of pipeline.datasets) {
    expect(files[silver.name]![1]).toBeLessThan(files[silver.name]![0]);
    expect(files[gold.name]![1]).toBeLessThan(files[gold.name]![0]);
    // A Silver file lies in one Gold bucket.
    const siteId = silver.fields.find(({ name }) => name === 'site')!.id;
    for (const { lowerBounds, upperBounds } of await filesOf(lake, silver.name)) expect(lowerBounds[siteId]).toBe(upperBounds[siteId]);
  }
  const after = await lake.audit();
  expect(after.findings).toEqual([]);
  expect(after.sources).toEqual(audited.sources);
  expect(after.gold).toEqual(audited.gold);
});

test('a snapshot that was taken before stays readable, and the new one says replace', async () => {
  const { lake } = await createBatches();
  const before = await lake.catalog.load(bronze);
  const files = await before.scan();
  await lake.catalog.tag(bronze, 'pinned', before.currentSnapshot!.snapshotId);
  await compactAll(lake, bronze);
  const now = await lake.catalog.load(bronze);
  expect(now.currentSnapshot!.operation).toBe('replace');
  const pinned = await now.scan({ snapshotId: now.tags['pinned']! });
  expect(pinned.map(({ filePath }) => filePath).sort()).toEqual(files.map(({ filePath }) => filePath).sort());
  for (const { filePath, fileSizeBytes } of pinned) expect((await lake.store.head(lake.store.keyOf(filePath))).size).toBe(fileSizeBytes);
});

test('a compacted Bronze file says which offsets it stands for, holes and sparse ends included, and no claim takes it for an unreported file', async () => {
  const lake = await createSmallLake();
  for (const start of [0, 20, 40, 80]) {
    // Offsets 15 to 19 of each file are sparse.
    await lake.ingest('north', 0, start, start + 20, plainReadings('north', 0, start, start + 15));
  }
  await compactAll(lake, bronze);
  const [file, ...others] = await filesOf(lake, bronze);
  expect(others).toEqual([]);
  const { keyValueMetadata } = await openParquet(bytesSource((await lake.store.get(lake.store.keyOf(file!.filePath))).body));
  expect(keyValueMetadata).toEqual({ 'tidemark.topic-partition': `${topicOf('north')}/0`, 'tidemark.range': '0-60,80-100' });
  // The audit looks at a range of sparse offsets alone.
  const key = `${topicOf('north')}/0`;
  expect((await lake.audit({ range: Coverage.of([[key, IntervalSet.parse('96-99')]]) })).findings).toEqual([]);
  const unreadable: string[] = [];
  const { ranges, readFrom } = await recoverFiles({
    store: lake.store, dataLocation: (suffix) => lake.catalog.dataLocation(bronze, suffix), topic: topicOf('north'), partition: 0, nextOffset: 60n, logStart: () => Promise.resolve(0n),
    readFooter: async (bytes) => { const { rowCount, keyValueMetadata: footer } = await openParquet(bytesSource(bytes)); return { rowCount, keyValueMetadata: footer }; },
    onUnreadable: ({ key: found }) => unreadable.push(found), signal: new AbortController().signal,
  });
  expect({ ranges, readFrom, unreadable }).toEqual({ ranges: [], readFrom: 60n, unreadable: [] });
});

test('several files come of many, each with its own offsets', async () => {
  const { lake } = await createBatches(12);
  const bytes = (await filesOf(lake, bronze)).slice(0, 12).reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0);
  await compactAll(lake, bronze, { policy: { ...policy, targetBytes: bytes / 3 } });
  const ranges = await Promise.all((await filesOf(lake, bronze)).map(async ({ filePath }) =>
    (await openParquet(bytesSource((await lake.store.get(lake.store.keyOf(filePath))).body))).keyValueMetadata));
  const of = ranges.filter((footer) => footer['tidemark.topic-partition'] === `${topicOf('north')}/0`).map((footer) => footer['tidemark.range']!);
  expect(IntervalSet.parse(of.join(',')).toString()).toBe('0-240');
  expect((await lake.audit()).findings).toEqual([]);
});

test('what was written within the quiet time is left alone: in Bronze the file, elsewhere its whole partition', async () => {
  const { lake } = await createBatches();
  const plan = async (name: string, nowMs: number) => planCompaction(await lake.catalog.load(name), tableOf(name), policy, nowMs);
  const silver = datasetOf('north').silver.name;
  expect((await plan(bronze, laterMs - 2_000)).groups).toEqual([]);
  expect((await plan(bronze, laterMs - 2_000)).heldBack).toEqual([expect.objectContaining({ files: 12, reason: 'written recently' })]);
  const young = plainReadings('north', 0, 120, 121).map((reading) => ({ ...reading, isValid: true }));
  const { rows } = lake;
  const at = Math.floor(young[0]!.at / 3_600_000_000);
  const file = await lake.writeFile(datasetOf('north').silver, [{ ...rows.silverRow(young[0]!), validation_timestamp: BigInt(laterMs) * 1000n }], { at });
  await lake.append(silver, [file]);
  const after = await plan(silver, laterMs);
  expect(after.groups.every(({ partition }) => partition['at'] !== at)).toBe(true);
  expect(after.groups.length).toBeGreaterThan(0);
  expect(after.heldBack).toContainEqual(expect.objectContaining({ reason: 'written recently' }));
});

test('a partition with few small files, and files near the target, are left alone', async () => {
  const { lake } = await createBatches(3);
  expect((await planCompaction(await lake.catalog.load(bronze), tableOf(bronze), policy, laterMs)).groups).toEqual([]);
  const small = (await filesOf(lake, bronze))[0]!.fileSizeBytes;
  expect((await planCompaction(await lake.catalog.load(bronze), tableOf(bronze), { ...policy, filesMin: 2, targetBytes: small }, laterMs)).groups).toEqual([]);
});

test('killed at any step it changes nothing or all, and the next attempt finishes; a second run has nothing to do', async () => {
  for (const killedAt of ['planned', 'written', 'committed'] as const) {
    const { lake } = await createBatches();
    const before = await rowsOf(lake, bronze);
    const [due] = (await planCompaction(await lake.catalog.load(bronze), tableOf(bronze), policy, laterMs)).groups;
    await expect(compactGroup(depsOf(lake, bronze, { atStep: (step) => { if (step === killedAt) throw new Error('killed'); } }), due!)).rejects.toThrow('killed');
    expect(await rowsOf(lake, bronze)).toEqual(before);
    const { status } = await compactGroup(depsOf(lake, bronze), due!);
    expect(status).toBe(killedAt === 'committed' ? 'nothingToDo' : 'committed');
    expect(await rowsOf(lake, bronze)).toEqual(before);
    expect((await lake.audit()).findings).toEqual([]);
    expect((await compactGroup(depsOf(lake, bronze), due!)).status).toBe('nothingToDo');
  }
});

test('the answer of the commit is lost: the rows are there once', async () => {
  const { lake } = await createBatches();
  const before = await rowsOf(lake, bronze);
  const [due] = (await planCompaction(await lake.catalog.load(bronze), tableOf(bronze), policy, laterMs)).groups;
  let lost = 0;
  lake.store.onPut = (key) => (/v\d+\.metadata\.json$|version-hint/.test(key) && lost++ < 2 ? 'loseAnswer' : undefined);
  expect((await compactGroup(depsOf(lake, bronze), due!)).status).toBe('committed');
  expect(lost).toBeGreaterThan(1);
  expect(await rowsOf(lake, bronze)).toEqual(before);
});

test('appends of others meanwhile are no conflict; a removed input is, and what is live then is prepared anew', async () => {
  const { lake } = await createBatches();
  const files = await filesOf(lake, bronze);
  const due = (await planCompaction(await lake.catalog.load(bronze), tableOf(bronze), policy, laterMs)).groups[0]!;
  const other = files.find(({ filePath }) => !due.files.some((one) => one.filePath === filePath))!;
  let written = 0;
  const appended = await compactGroup(depsOf(lake, bronze, {
    atStep: async (step) => {
      if (step === 'written' && written++ === 0) await lake.ingest('north', 0, 120, 140, plainReadings('north', 0, 120, 140));
    },
  }), due);
  expect(appended).toMatchObject({ status: 'committed', attempts: 1 });
  const again = (await planCompaction(await lake.catalog.load(bronze), tableOf(bronze), policy, laterMs)).groups[0]!;
  expect(again.files.map(({ filePath }) => filePath)).toContain(other.filePath);
  const victim = again.files[0]!;
  const [kept] = [await rowsOf(lake, bronze)];
  let rewritten = 0;
  const conflicted = await compactGroup(depsOf(lake, bronze, {
    atStep: async (step) => {
      if (step === 'written' && rewritten++ === 0) await lake.rewrite(datasetOf('north').bronze, victim.filePath, () => true);
    },
  }), again);
  expect(conflicted).toMatchObject({ status: 'committed', attempts: 2 });
  expect(await rowsOf(lake, bronze)).toEqual(kept);
});

test('two compactions of the same files at once: one commits, and the rows are there once', async () => {
  const { lake } = await createBatches();
  const before = await rowsOf(lake, bronze);
  const due = (await planCompaction(await lake.catalog.load(bronze), tableOf(bronze), policy, laterMs)).groups[0]!;
  const results = await Promise.all([compactGroup(depsOf(lake, bronze), due), compactGroup(depsOf(lake, bronze), due)]);
  expect(results.filter(({ status }) => status === 'committed')).toHaveLength(1);
  expect(await rowsOf(lake, bronze)).toEqual(before);
});
