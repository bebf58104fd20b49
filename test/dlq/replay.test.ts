import { z } from 'zod';
import { describe, expect, test } from 'vitest';
import type { ReplayMode } from '../../src/contracts/dlq-replay.ts';
import { dlqReplayTag } from '../../src/contracts/dlq-replay.ts';
import binanceTrades, { rawSchema } from '../../src/datasets/binance-trades.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { keep } from '../../src/datasets/cleanse.ts';
import { replayStore } from '../../src/dlq/replay-store.ts';
import { isTidemarkError } from '../../src/domain/errors.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import { claimsOf } from '../../src/reprocess/claims.ts';
import { encodeWire } from '../../src/schema-registry/wire-codec.ts';
import type { DlqLake } from '../support/dlq-lake.ts';
import { createDlqLake, rawSchemaId, withRules } from '../support/dlq-lake.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import type { PutFault } from '../support/memory-object-store.ts';
import { binanceRaw, wireEncoder } from '../support/raw-records.ts';

const { source } = binanceTrades;
const [silver, gold, dlq, resolutions] = ['silver_binance_trades', 'gold_crypto_trades', 'silver_dlq_trades', 'dlq_resolutions'] as const;
const encode = wireEncoder(rawSchema, rawSchemaId);
const trade = (id: number, given: Parameters<typeof binanceRaw>[0] = {}): Buffer => encode(binanceRaw({ trade_id: id, ...given }));

/** A release that takes ETHUSDT for no symbol. */
const badRelease: Pipeline = withRules(source, ({ rules }) => ({
  ruleVersion: 'binance-trades/bad',
  rules: rules.and(z.any().check((payload) => {
    if ((payload.value as { symbol: string }).symbol === 'ETHUSDT') payload.issues.push({ code: 'custom', message: 'symbol_required', input: payload.value, path: ['symbol'], continue: true });
  })),
}));

const lakeOf = async (values: readonly (Uint8Array | null)[], pipeline?: Pipeline, store = createMemoryObjectStore('lake'), options: { snapshotsKept?: number } = {}): Promise<DlqLake> => {
  const lake = await createDlqLake(store, options);
  lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
  await lake.ingest(binanceTrades, values);
  await lake.refine(source, pipeline);
  return lake;
};
const offsetsOf = (rows: readonly Record<string, unknown>[]): number[] => rows.map((row) => Number(row['kafka_offset'] ?? row['offset'])).sort((a, b) => a - b);
const versionsOf = async ({ catalog }: DlqLake) => Promise.all([silver, gold, dlq].map(async (table) => (await catalog.load(table)).currentSnapshot?.snapshotId));
const codeOf = (work: Promise<unknown>): Promise<unknown> => work.then(() => undefined, (error: unknown) => (isTidemarkError(error) ? error.code : error));
const holds = { ok: true, findings: [] };

/** Every third trade is one of ETHUSDT; every sixth repeats the trade before it. */
const mixed = Array.from({ length: 60 }, (_, i) => trade(i % 6 === 5 ? i - 1 : i, { symbol: i % 3 === 0 ? 'ETHUSDT' : 'BTCUSDT' }));

describe('recovered rows', () => {
  test('are those that the mended release would have made of them in the first place: Silver, Gold and ids', async () => {
    const lake = await lakeOf(mixed, badRelease);
    const never = await lakeOf(mixed);
    const result = await lake.replay(lake.input(source, { mode: 'rules' }, { chunkRows: 7 }));
    expect(result).toMatchObject({ selected: 20, recovered: 20, goldRows: 20, duplicates: 0 });
    const withoutVersion = (rows: Record<string, unknown>[]) => rows.map(({ rule_version: _version, ...row }) => row);
    for (const table of [silver, gold]) expect(withoutVersion(lake.comparable(await lake.rows(table)))).toEqual(withoutVersion(never.comparable(await never.rows(table))));
    expect(await lake.audit()).toMatchObject(holds);
  });

  test('come before a row of the same key that Gold has, if their offset is the lesser one, and are dropped if it is not', async () => {
    const lesser = trade(1, { price: '1,000.5' });
    const lake = await lakeOf([lesser, trade(1), trade(2), trade(2, { price: '2,000.5' })]);
    expect(offsetsOf(await lake.rows(gold))).toEqual([1, 2]);
    expect(await lake.replay(lake.input(source, { mode: 'cleanse', cleanse: 'price-separators' }))).toMatchObject({ recovered: 2, goldRows: 0, duplicates: 2 });
    expect(offsetsOf(await lake.rows(gold))).toEqual([0, 2]);
    expect(offsetsOf(await lake.rows(silver))).toEqual([0, 1, 2, 3]);
    expect(await lake.audit()).toMatchObject(holds);
  });

  test('have the time of their Bronze file, also when Bronze was compacted', async () => {
    const lake = await createDlqLake();
    lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
    await lake.ingest(binanceTrades, [trade(1, { symbol: 'ETHUSDT' })], { ingestionMs: 1_767_323_045_000 });
    await lake.ingest(binanceTrades, [trade(2, { symbol: 'ETHUSDT' })], { start: 1, ingestionMs: 1_767_323_055_000 });
    await lake.refine(source, badRelease);
    const { catalog, store } = lake;
    const bronze = binanceTrades.bronze.name;
    const rows = await lake.rows(bronze);
    const files = await (await catalog.load(bronze)).scan();
    const { bytes, metrics } = encodeDataFile({
      fields: binanceTrades.bronze.fields,
      batch: {
        rowCount: rows.length,
        columns: Object.fromEntries(binanceTrades.bronze.fields.map(({ name, type, required }) => {
          const values = rows.map((row) => row[name]);
          if (required && (type === 'long' || type === 'timestamptz')) return [name, BigInt64Array.from(values as bigint[])];
          return [name, required && (type === 'int' || type === 'date') ? Int32Array.from(values as number[]) : values as string[]];
        })),
      },
    });
    const filePath = catalog.dataLocation(bronze, 'compacted.parquet');
    await store.put(store.keyOf(filePath), bytes);
    await catalog.commit(bronze, { commitId: 'compaction', operation: 'replace', add: [{ ...metrics, filePath, partition: files[0]!.partition }], remove: files.map((file) => file.filePath) });

    expect(await lake.replay(lake.input(source, { mode: 'rules' }))).toMatchObject({ recovered: 2 });
    expect((await lake.rows(silver)).map((row) => row['bronze_ingestion_timestamp'])).toEqual([1_767_323_045_000_000n, 1_767_323_055_000_000n]);
  });
});

describe('a later backfill over the offsets', () => {
  const unknown = Buffer.concat([Buffer.from('0000000063', 'hex'), trade(1).subarray(5)]);
  const separators = trade(2, { price: '28,165.47' });
  const ether = trade(3, { symbol: 'ETHUSDT' });
  const cases: [name: string, value: Buffer, before: Pipeline | undefined, mode: ReplayMode, outcome: object][] = [
    ['a schema id', unknown, undefined, { mode: 'schema', schemaId: rawSchemaId }, { recovered: 1 }],
    ['new rules', ether, badRelease, { mode: 'rules' }, { recovered: 1 }],
    ['a cleanse function', separators, undefined, { mode: 'cleanse', cleanse: 'price-separators' }, { recovered: 1 }],
    ['a purge', ether, badRelease, { mode: 'purge', reason: 'test trades' }, { purged: 1 }],
  ];
  test.each(cases)('meets the resolution of %s, and gives the same rows', async (_, value, before, mode, outcome) => {
    const lake = await lakeOf([trade(100), value, trade(101)], before);
    expect(await lake.replay(lake.input(source, mode))).toMatchObject({ selected: 1, ...outcome });
    const again = await lake.refineAgain(source);
    // The neighbours were refined by the release before.
    const byOffset = (rows: Record<string, unknown>[]) => rows.map(({ rule_version: _version, ...row }) => row);
    expect(byOffset(again.silver)).toEqual(byOffset(lake.comparable(await lake.rows(silver))));
    // Rules that accept a purged record today do not bring it back.
    if (mode.mode === 'purge') expect(again.dlq).toMatchObject([{ kafka_offset: 1n, error_reason: 'purged_by_operator', raw_record: Uint8Array.from(value) }]);
    expect(await lake.audit()).toMatchObject(holds);
  });
});

describe('a record', () => {
  test('that is refused again has one attempt more, is quarantined at the limit, and is taken up again only when it is named', async () => {
    const lake = await lakeOf([trade(1, { price: '-1' })]);
    for (let attempt = 1; attempt < 5; attempt += 1) {
      expect(await lake.replay(lake.input(source, { mode: 'rules' }))).toMatchObject({ selected: 1, refused: 1, quarantined: 0, refusedByReason: { price_must_be_positive: 1 } });
    }
    expect(await lake.replay(lake.input(source, { mode: 'rules' }))).toMatchObject({ selected: 1, refused: 0, quarantined: 1 });
    expect(await lake.replay(lake.input(source, { mode: 'rules' }))).toMatchObject({ selected: 0, leftQuarantined: 1 });
    const named = { source, records: [`${binanceTrades.topic}/0/0`] };
    expect(await lake.replay(lake.input(source, { mode: 'rules' }, { selection: named }))).toMatchObject({ selected: 1, quarantined: 1 });
    expect((await lake.rows(resolutions)).map(({ action, attempt }) => [action, attempt]).sort((a, b) => Number(a[1]) - Number(b[1]))).toEqual([
      ['refused', 1], ['refused', 2], ['refused', 3], ['refused', 4], ['quarantined', 5], ['quarantined', 6],
    ]);
    expect(await lake.audit()).toMatchObject(holds);
  });

  test('that a cleanse function throws at is refused again for that, and the others are not held up', async () => {
    const lake = await lakeOf([trade(1, { price: '1,000' }), trade(2, { price: '2,000' })]);
    const pipeline: Pipeline = {
      ...withRules(source, () => ({})),
      cleansing: { moody: { description: 'throws', sources: [source], cleanse: (record) => { const { trade_id: id } = record as { trade_id: number }; if (id === 1) throw new Error('not today'); return { ...(record as object), price: '2000' }; } } },
    };
    expect(await lake.replay(lake.input(source, { mode: 'cleanse', cleanse: 'moody' }), pipeline)).toMatchObject({ selected: 2, recovered: 1, refused: 1, refusedByReason: { cleanse_failed: 1 } });
    expect(await lake.audit()).toMatchObject(holds);
  });

  test('whose bytes do not decode is given to a cleanse function as bytes, which may build it anew', async () => {
    const text = Buffer.from('{"p":"7.5"}');
    const lake = await lakeOf([text, encodeWire(99, text)]);
    const pipeline: Pipeline = {
      ...withRules(source, () => ({})),
      cleansing: { json: { description: 'reads JSON', sources: [source], cleanse: (record, { rawBytes, reasons }) => (record === null && reasons.includes('invalid_magic_byte') ? binanceRaw({ price: (JSON.parse(Buffer.from(rawBytes!).toString()) as { p: string }).p }) : keep) } },
    };
    expect(await lake.replay(lake.input(source, { mode: 'cleanse', cleanse: 'json' }, { selection: { source, reasons: ['invalid_magic_byte'] } }), pipeline)).toMatchObject({ selected: 1, recovered: 1 });
    expect(await lake.rows(silver)).toMatchObject([{ price: 750_000_000n, schema_id: rawSchemaId, kafka_offset: 0n }]);
  });
});

describe('a replay', () => {
  test.each([100, 1])('that is run twice changes nothing: no row of Silver, Gold or the DLQ (%i snapshots kept)', async (snapshotsKept) => {
    const lake = await lakeOf([...mixed, Buffer.from('x')], badRelease, createMemoryObjectStore('lake'), { snapshotsKept });
    const input = lake.input(source, { mode: 'rules' });
    await lake.replay(input);
    // Snapshots expire, and the commits' ids with them.
    await lake.ingest(binanceTrades, [trade(900)], { start: mixed.length + 1 });
    await lake.refine(source);
    const before = await versionsOf(lake);
    // The same replay, as a Workflow that was reset does it, and another one.
    expect(await lake.replay(input)).toMatchObject({ selected: 21, recovered: 20 });
    expect(await lake.replay(lake.input(source, { mode: 'rules' }))).toMatchObject({ selected: 1, recovered: 0, refused: 1 });
    expect(await versionsOf(lake)).toEqual(before);
    expect(await lake.rows(resolutions)).toHaveLength(22);
  });

  test('takes the rows of the snapshot that it pinned: those that arrive meanwhile stay for the next one', async () => {
    const lake = await lakeOf([trade(1, { symbol: 'ETHUSDT' })], badRelease);
    const input = lake.input(source, { mode: 'rules' });
    const steps = lake.steps(input);
    expect(await steps.plan()).toMatchObject({ rows: 1 });
    const pinned = (await lake.catalog.load(dlq)).tags[dlqReplayTag(input.id)];
    await lake.ingest(binanceTrades, [trade(2, { symbol: 'ETHUSDT' })], { start: 1 });
    await lake.refine(source, badRelease);
    expect(pinned).not.toBe((await lake.catalog.load(dlq)).currentSnapshot!.snapshotId);
    expect(await lake.replay(input)).toMatchObject({ selected: 1, recovered: 1 });
    expect((await lake.catalog.load(dlq)).tags).toEqual({});
    expect(await lake.replay(lake.input(source, { mode: 'rules' }))).toMatchObject({ selected: 1, recovered: 1 });
  });

  test('leaves rows alone whose micro-batch has not reached Gold', async () => {
    const lake = await createDlqLake();
    lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
    await lake.ingest(binanceTrades, [Buffer.from('x')]);
    await lake.refine(source);
    await lake.ingest(binanceTrades, [Buffer.from('y')], { start: 1 });
    const { catalog } = lake;
    const file = (await (await catalog.load(dlq)).scan())[0]!;
    const covered = (await catalog.load(binanceTrades.bronze.name)).coverage;
    // The second record is in the DLQ, and its micro-batch stands before Silver.
    const rows = await lake.rows(dlq);
    const { bytes, metrics } = encodeDataFile({
      fields: (await catalog.load(dlq)).fields,
      batch: { rowCount: 1, columns: Object.fromEntries(Object.entries({ ...rows[0], kafka_offset: 1n }).map(([name, value]) => [name, { constant: value as never }])) },
    });
    const filePath = catalog.dataLocation(dlq, 'second.parquet');
    await lake.store.put(lake.store.keyOf(filePath), bytes);
    await catalog.commit(dlq, { commitId: 'second', add: [{ ...metrics, filePath, partition: file.partition }], cover: covered });
    expect(await lake.replay(lake.input(source, { mode: 'rules' }))).toMatchObject({ selected: 1, refused: 1, notRefined: 1 });
  });

  test('given up before it publishes leaves the tables as they were, and no file behind', async () => {
    const store = createMemoryObjectStore('lake');
    const lake = await lakeOf(mixed, badRelease, store);
    const input = lake.input(source, { mode: 'rules' });
    const steps = lake.steps(input);
    const dataFiles = () => [...store.objects.keys()].filter((key) => key.endsWith('.parquet')).sort();
    const before = { versions: await versionsOf(lake), files: dataFiles() };
    await steps.plan();
    await steps.stage(0);
    expect(dataFiles().length).toBeGreaterThan(before.files.length);
    await steps.close(false);
    expect({ versions: await versionsOf(lake), files: dataFiles() }).toEqual(before);
    expect((await lake.catalog.load(dlq)).tags).toEqual({});
    expect(await lake.rows(resolutions)).toEqual([]);
  });

  test('keeps others from its offsets while it runs, and nobody from them afterwards', async () => {
    const lake = await lakeOf(mixed, badRelease);
    const [one, other] = [lake.input(source, { mode: 'rules' }), lake.input(source, { mode: 'flag', reason: 'known' })];
    const steps = { one: lake.steps(one), other: lake.steps(other) };
    await steps.one.plan();
    await steps.one.claim();
    await steps.other.plan();
    expect(await codeOf(steps.other.claim())).toBe('OFFSETS_CLAIMED');
    // Its Workflow is gone, and with it whoever would give the offsets back.
    await steps.other.claim({ isRunning: false });
    await steps.one.close(false);
    await steps.other.stage(0);
    await steps.other.resolutions();
    await steps.other.close(true);
    expect(claimsOf(await lake.catalog.load(silver))).toEqual([]);
    // Given up and started again under its id, it plans anew.
    expect(await lake.replay(one)).toMatchObject({ selected: 0 });
  });

  test('is refused when another one has resolved one of its records since it was planned', async () => {
    const lake = await lakeOf(mixed, badRelease);
    const [slow, quick] = [lake.input(source, { mode: 'rules' }), lake.input(source, { mode: 'flag', reason: 'known' }, { selection: { source, records: [`${binanceTrades.topic}/0/3`] } })];
    const steps = lake.steps(slow);
    await steps.plan();
    await steps.stage(0);
    expect(await lake.replay(quick)).toMatchObject({ flagged: 1 });
    const before = await versionsOf(lake);
    expect(await codeOf(steps.resolutions())).toBe('REPLAY_OVERTAKEN');
    expect(await versionsOf(lake)).toEqual(before);
    expect(await lake.rows(resolutions)).toHaveLength(1);
  });

  test('is no finding of an audit that comes between its steps, and one that stopped for good half-way is', async () => {
    const lake = await lakeOf([trade(1, { symbol: 'ETHUSDT' }), trade(1), trade(2, { symbol: 'ETHUSDT' })], badRelease);
    const steps = lake.steps(lake.input(source, { mode: 'rules' }));
    await steps.plan();
    await steps.claim();
    await steps.stage(0);
    expect(await lake.audit()).toMatchObject(holds);
    await steps.resolutions();
    expect(await lake.audit()).toMatchObject(holds);
    await steps.silver();
    expect(await lake.audit()).toMatchObject(holds);
    // As if somebody had taken its claim away before Gold was merged.
    await steps.close(true);
    expect((await lake.audit()).findings.map(({ promise }) => promise).sort()).toEqual(['gold-complete', 'gold-complete']);
    await steps.gold();
    expect(await lake.audit()).toMatchObject(holds);
  });

  test('adds no row twice when a backfill has met its resolutions before Silver was published', async () => {
    const lake = await lakeOf(mixed, badRelease);
    const input = lake.input(source, { mode: 'rules' });
    const steps = lake.steps(input);
    await steps.plan();
    await steps.stage(0);
    await steps.resolutions();
    // A backfill of a part of the offsets: some of the recovered rows are in Silver by its hand.
    const { catalog } = lake;
    const other = lake.input(source, { mode: 'rules' }, { selection: { source, records: [0, 3, 6].map((offset) => `${binanceTrades.topic}/0/${offset}`) } });
    const stored = replayStore(lake.store);
    const plan = await stored.plan(input.id);
    const chunk = await stored.chunk(input.id, plan.nonce, 0);
    await stored.putChunk(other.id, plan.nonce, 0, { files: chunk.files.map((file) => ({ ...file, rows: file.rows.slice(0, 3), attempts: file.attempts.slice(0, 3) })) });
    await stored.putPlan(other.id, { ...plan, input: other, rows: 3 });
    await lake.steps(other).stage(0);
    const [part] = await stored.staged(other.id, plan);
    await catalog.commit(silver, { commitId: 'backfill', add: part!.silverFiles });
    await steps.silver();
    await steps.gold();
    await steps.close(true);
    expect(offsetsOf(await lake.rows(silver))).toEqual(mixed.map((_, i) => i));
    expect(await lake.audit()).toMatchObject(holds);
  });
});

/** Each put of a replay fails once, before it took effect or after; every step is repeated until it ends. */
describe.each(['failBefore', 'loseAnswer'] as const)('whichever put of a replay fails (%s)', (fault) => {
  test('the tables end as they would have, with nothing twice', async () => {
    const values = [...mixed.slice(0, 12), trade(500, { price: '-1' })];
    const expected = await lakeOf(values, badRelease);
    await expected.replay(expected.input(source, { mode: 'rules' }, { id: 'r', chunkRows: 3 }));
    const rowsOf = async (lake: DlqLake) => Promise.all([silver, gold, dlq, resolutions].map(async (table) => lake.comparable(await lake.rows(table))));
    const wanted = await rowsOf(expected);
    let faults = 0;
    for (let nth = 1; ; nth += 1) {
      const store = createMemoryObjectStore('lake');
      const lake = await lakeOf(values, badRelease, store);
      let puts = 0;
      store.onPut = (): PutFault | undefined => ((puts += 1) === nth ? fault : undefined);
      const steps = lake.steps(lake.input(source, { mode: 'rules' }, { id: 'r', chunkRows: 3 }));
      const untilDone = async <T>(step: () => Promise<T>): Promise<T> => {
        for (let attempts = 1; ; attempts += 1) {
          try {
            return await step();
          } catch (error) {
            if (!isTidemarkError(error, 'OBJECT_STORE_UNAVAILABLE') || attempts > 3) throw error;
          }
        }
      };
      const { chunks } = await untilDone(steps.plan);
      await untilDone(() => steps.claim());
      for (let chunk = 0; chunk < chunks; chunk += 1) await untilDone(() => steps.stage(chunk));
      await untilDone(steps.resolutions);
      await untilDone(steps.silver);
      await untilDone(steps.gold);
      await untilDone(() => steps.close(true));
      if (puts < nth) break;
      faults += 1;
      expect(await rowsOf(lake), `put ${nth}`).toEqual(wanted);
      expect(await lake.audit(), `put ${nth}`).toMatchObject(holds);
    }
    expect(faults).toBeGreaterThan(20);
  }, 120_000);
});
