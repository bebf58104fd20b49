import { expect, test } from 'vitest';
import { GoldHold, throwIfHeld } from '../../src/refine/gold-holds.ts';
import { ReadingsLake } from '../reprocess/readings-lake.ts';
import type { Reading } from '../reprocess/readings-lake.ts';

const records = (reading: number): Reading[] => Array.from({ length: 6 }, (_, i) => ({ partition: 0, reading: reading + 8 * i, isValid: true }));

test('a merge stays out of a bucket that is held, goes into others, and goes on once the hold is given back or has expired', async () => {
  const lake = await ReadingsLake.open();
  await lake.refine(await lake.ingest(records(0)));
  const [held] = await (await lake.load('gold')).scan();
  let now = Date.now();
  const hold = new GoldHold(lake.catalog, lake.dataset.gold.name, 'backfill/test', () => now);
  await hold.take([held!.partition]);
  const version = await lake.load('gold');
  expect(hold.covers(version)).toBe(true);
  await expect(lake.refine(await lake.ingest(records(0)))).rejects.toMatchObject({ code: 'BUCKET_HELD' });
  await lake.refine(await lake.ingest(records(1)));
  // The holder itself, and a moment past the end.
  expect(() => throwIfHeld(version, [held!.partition], now, 'backfill/test')).not.toThrow();
  expect(() => throwIfHeld(version, [held!.partition], now + 60_000)).not.toThrow();
  now += 40_000;
  expect(hold.covers(version), 'the holder trusts it less long than the others honour it').toBe(false);
  await hold.giveBack();
  const open = (await lake.load('silver')).coverage.subtract((await lake.load('gold')).coverage);
  expect(open.isEmpty).toBe(false);
  await lake.merge('again', open, await (await lake.load('silver')).scan());
});

test('no two hold one bucket', async () => {
  const lake = await ReadingsLake.open();
  await lake.refine(await lake.ingest(records(0)));
  const [file] = await (await lake.load('gold')).scan();
  await new GoldHold(lake.catalog, lake.dataset.gold.name, 'backfill/one', Date.now).take([file!.partition]);
  await expect(new GoldHold(lake.catalog, lake.dataset.gold.name, 'backfill/two', Date.now).take([file!.partition])).rejects.toMatchObject({ code: 'BUCKET_HELD' });
});
