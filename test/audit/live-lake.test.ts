import { expect, test } from 'vitest';
import type { Catalog, TableVersion } from '../../src/lake/table.ts';
import { coverageOfReadings, createSmallLake, datasetOf, plainReadings, winnersOf } from './small-lake.ts';
import { ingestGapsTable } from '../../src/datasets/engine-tables.ts';

/** A catalog at whose n-th load something happens first: what a running pipeline does while the audit loads its tables. */
const interrupted = (catalog: Catalog, events: Record<string, () => Promise<void>>): Catalog => ({
  ...catalog,
  ensureTable: (definition) => catalog.ensureTable(definition),
  commit: (name, request) => catalog.commit(name, request),
  dataLocation: (name, suffix) => catalog.dataLocation(name, suffix),
  load: async (name): Promise<TableVersion> => {
    const event = events[name];
    delete events[name];
    await event?.();
    return catalog.load(name);
  },
});

const tables = [datasetOf('north').gold.name, 'silver_dlq', datasetOf('north').silver.name, ingestGapsTable.name, datasetOf('north').bronze.name];

test.each(tables.flatMap((name) => [[name, 'a micro-batch'], [name, 'a micro-batch and a gap']] as const))('just before %s is loaded, %s is no finding', async (name, what) => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 200);
  const step = async (from: number, to: number): Promise<void> => {
    const part = rows.slice(from, to);
    await lake.ingest('north', 0, from, to, part);
    await lake.refine('north', part, coverageOfReadings(part));
    await lake.merge(winnersOf(part), coverageOfReadings(part));
  };
  await step(0, 50);
  const catalog = interrupted(lake.catalog, { [name]: async () => {
    await step(50, 100);
    if (what === 'a micro-batch') return;
    await lake.recordGap('north', 0, 100, 120);
    await lake.ingest('north', 0, 120, 200, rows.slice(120));
  } });
  expect((await lake.audit({ catalog })).findings).toEqual([]);
});

test('rows that are replaced while the tables are loaded are audited as one state', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 50);
  await lake.ingest('north', 0, 0, 50, rows);
  await lake.refine('north', rows, coverageOfReadings(rows));
  await lake.merge(winnersOf(rows), coverageOfReadings(rows));
  const { gold, silver } = datasetOf('north');
  // A backfill with new rules: every row is valid now.
  const replaceAll = async (): Promise<void> => {
    const valid = rows.map((row) => ({ ...row, isValid: true }));
    const before = async (table: string): Promise<string[]> => (await (await lake.catalog.load(table)).scan()).map(({ filePath }) => filePath);
    const [oldSilver, oldDlq, oldGold] = [await before(silver.name), await before('silver_dlq'), await before(gold.name)];
    await lake.refine('north', valid, coverageOfReadings([]));
    await lake.replace(silver.name, oldSilver, []);
    await lake.replace('silver_dlq', oldDlq, []);
    await lake.replace(gold.name, oldGold, []);
    await lake.merge(winnersOf(valid), coverageOfReadings([]));
  };
  const catalog = interrupted(lake.catalog, { [silver.name]: replaceAll });
  expect((await lake.audit({ catalog })).findings).toEqual([]);
});
