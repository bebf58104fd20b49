import { expect, test } from 'vitest';
import { dayMs } from '../../src/domain/retention.ts';
import type { Reading } from '../audit/small-lake.ts';
import { createAgingLake, datasetOf, firstDay, hourMs, pipeline } from './aging-lake.ts';

const hotDays = 30;
const purgeDays = 60;
const source = 'north';

test('over 100 days each sweep moves exactly the rows that are due, purges exactly those whose time is up, and the law of conservation holds', async () => {
  const policy = { hotDays, purgeDays };
  const { bronze, silver } = datasetOf(source);
  const names = [bronze.name, silver.name, pipeline.dlqTable];
  const lake = await createAgingLake({ policies: Object.fromEntries(names.map((name) => [name, policy])) });
  const days = new Map<number, Reading[]>();
  const rowsOfDay = (day: number, isWanted: (reading: Reading) => boolean): number => (days.get(day) ?? []).filter(isWanted).length;
  let splitFiles = 0;
  for (let day = firstDay; day < firstDay + 100; day += 1) {
    // The second file comes right before midnight and is refined with the first of the next day: such Silver files hold rows of two days.
    lake.setTime(day * dayMs + 10 * 60_000);
    const early = await lake.ingestNow(source, 0, 12);
    const late = (days.get(day - 1) ?? []).filter(({ partition }) => partition === 1);
    await lake.refineAndMerge(source, [...late, ...early]);
    // What was refused is looked at on the same day: its row ages from now on.
    const refused = [...late, ...early].filter(({ isValid }) => !isValid);
    if (refused.length > 0) await lake.resolve(source, refused.map((reading) => ({ reading, action: 'flagged', at: BigInt(lake.now()) * 1_000n })));
    lake.setTime((day + 1) * dayMs - 10 * 60_000);
    days.set(day, [...early, ...await lake.ingestNow(source, 1, 8)]);
    lake.setTime((day + 1) * dayMs + 3 * hourMs);

    const moved = day + 1 - hotDays - 1;
    const purged = day + 1 - purgeDays - 1;
    // Refused rows of the second file were resolved a day later than they were ingested.
    const resolvedOn = (on: number): number => rowsOfDay(on, ({ partition, isValid }) => !isValid && partition === 0) + rowsOfDay(on - 1, ({ partition, isValid }) => !isValid && partition === 1);
    for (const [table, rowsOn] of [
      [bronze.name, (on: number) => rowsOfDay(on, () => true)], [silver.name, (on: number) => rowsOfDay(on, ({ isValid }) => isValid)], [pipeline.dlqTable, resolvedOn],
    ] as const) {
      const swept = await lake.sweep(table);
      splitFiles += swept.plan.partitions.reduce((sum, one) => sum + one.splitFiles, 0);
      expect({ table, day, moved: swept.rows, purged: swept.purgedRows, held: swept.plan.held }).toEqual({ table, day, moved: rowsOn(moved), purged: rowsOn(purged), held: [] });
    }
    if (day % 40 === 39) expect((await lake.auditWithArchive()).findings).toEqual([]);
  }
  expect(splitFiles).toBeGreaterThan(60);
  const report = await lake.auditWithArchive();
  expect(report.findings).toEqual([]);
  expect(report.sources[0]).toMatchObject({ source, takenOffsets: String(70 * 20), bronzeRows: 30 * 20 });
  // Without the archive the same lake is full of findings: it is the manifests that account for the rows.
  expect((await lake.audit()).findingsTotal).toBeGreaterThan(0);

  // Nothing is left behind: the store holds what tables and archive name, and what is younger than the grace period.
  const named = new Set<string>();
  for (const table of [...lake.tables.map(({ name }) => name), pipeline.datasets[0]!.gold.name]) {
    for (const location of (await lake.catalog.reachableFiles(table, lake.now() - dayMs)).locations) named.add(location);
  }
  const dataOf = (table: string): string => lake.store.keyOf(lake.catalog.dataLocation(table, ''));
  const stale = [...lake.store.objects].filter(([key, { lastModifiedMs }]) => lake.tables.some(({ name }) => key.startsWith(dataOf(name)))
    && !named.has(lake.store.location(key)) && lastModifiedMs < lake.now() - 4 * dayMs).map(([key]) => key);
  expect(stale).toEqual([]);
}, 180_000);
