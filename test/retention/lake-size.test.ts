import { expect, test } from 'vitest';
import { dayMs } from '../../src/domain/retention.ts';
import { measureLake, sizeByTier } from '../../src/retention/lake-size.ts';
import { createAgingLake, datasetOf, firstDay, hourMs, pipeline } from './aging-lake.ts';

const source = 'north';
const { bronze, silver, gold } = datasetOf(source);
const dayText = (day: number): string => new Date(day * dayMs).toISOString().slice(0, 10);

test('rows move from hot to archived to purged, and every one of them is counted in one tier, on its day', async () => {
  const lake = await createAgingLake({ policies: { [bronze.name]: { hotDays: 1, purgeDays: 4 } } });
  const measure = async () => (await measureLake({ catalog: lake.catalog, archive: lake.archive, pipeline })).filter(({ table }) => table === bronze.name).map(({ tier, day, files, rows }) => [tier, day, files, rows]);
  for (let day = firstDay; day < firstDay + 3; day += 1) {
    lake.setTime(day * dayMs + hourMs);
    const readings = await lake.ingestNow(source, 0, 20);
    await lake.refineAndMerge(source, readings);
    await lake.resolve(source, readings.filter(({ isValid }) => !isValid).map((reading) => ({ reading, action: 'flagged' })));
  }
  expect(await measure()).toEqual([0, 1, 2].map((day) => ['hot', dayText(firstDay + day), 1, 20]));
  await lake.sweep(bronze.name);
  expect(await measure()).toEqual([['hot', dayText(firstDay + 1), 1, 20], ['hot', dayText(firstDay + 2), 1, 20], ['archived', dayText(firstDay), 1, 20]]);
  lake.setTime((firstDay + 5) * dayMs);
  await lake.sweep(bronze.name);
  expect(await measure()).toEqual([['archived', dayText(firstDay + 1), 1, 20], ['archived', dayText(firstDay + 2), 1, 20], ['purged', dayText(firstDay), 0, 20]]);

  const sizes = await measureLake({ catalog: lake.catalog, archive: lake.archive, pipeline });
  const byTier = sizeByTier(sizes);
  expect(byTier.filter(({ table }) => table === bronze.name).map(({ tier, rows }) => [tier, rows])).toEqual([['archived', 40], ['purged', 20]]);
  for (const { name } of [silver, gold]) expect(byTier.find(({ table }) => table === name)!.rows).toBe(await lake.liveRows(name));
  expect(sizes.filter(({ table }) => table === gold.name).every(({ day }) => day !== null)).toBe(true);
  expect(byTier.every(({ tier, bytes }) => tier === 'purged' || bytes > 0)).toBe(true);
});
