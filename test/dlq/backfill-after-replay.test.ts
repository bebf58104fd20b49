import { z } from 'zod';
import { expect, test } from 'vitest';
import binanceTrades, { rawSchema } from '../../src/datasets/binance-trades.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import type { DlqLake } from '../support/dlq-lake.ts';
import { createDlqLake, rawSchemaId, withRules } from '../support/dlq-lake.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import { binanceRaw, wireEncoder } from '../support/raw-records.ts';

const { source } = binanceTrades;
const [silver, gold, dlq, resolutions] = ['silver_binance_trades', 'gold_crypto_trades', 'silver_dlq_trades', 'dlq_resolutions'] as const;
const encode = wireEncoder(rawSchema, rawSchemaId);
const trade = (id: number, symbol: string, price = '100.5'): Buffer => encode(binanceRaw({ trade_id: id, symbol, price }));

/** A release that refuses these symbols. */
const refusing = (...symbols: string[]): Pipeline => withRules(source, ({ rules }) => ({
  ruleVersion: `binance-trades/without ${symbols.join(' ')}`,
  rules: rules.and(z.any().check((payload) => {
    if (symbols.includes((payload.value as { symbol: string }).symbol)) payload.issues.push({ code: 'custom', message: 'symbol_required', input: payload.value, path: ['symbol'], continue: true });
  })),
}));

/** Every third trade is one of ETHUSDT, one of BNBUSDT every seventh; every sixth repeats the trade before it, and two need a cleanse function. */
const values = Array.from({ length: 60 }, (_, i) => trade(i % 6 === 5 ? i - 1 : i, i % 3 === 0 ? 'ETHUSDT' : i % 7 === 1 ? 'BNBUSDT' : 'BTCUSDT', i % 30 === 4 ? '1,000.5' : '100.5'));

const lakeOf = async (pipeline: Pipeline, store = createMemoryObjectStore('lake')): Promise<DlqLake> => {
  const lake = await createDlqLake(store);
  lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
  await lake.ingest(binanceTrades, values);
  await lake.refine(source, pipeline);
  return lake;
};
/** Refused by the first release, and recovered by replays in both modes that recover. */
const recoveredLake = async (store?: MemoryObjectStore): Promise<DlqLake> => {
  const lake = await lakeOf(refusing('ETHUSDT'), store);
  await lake.replay(lake.input(source, { mode: 'rules' }));
  expect(await lake.replay(lake.input(source, { mode: 'cleanse', cleanse: 'price-separators' }))).toMatchObject({ selected: 2, recovered: 2 });
  return lake;
};
const tablesOf = async (lake: DlqLake) => Object.fromEntries(await Promise.all([silver, gold, dlq].map(async (table) => [table, lake.comparable(await lake.rows(table))] as const)));
const holds = { ok: true, findings: [] };
const releases: [name: string, pipeline: Pipeline][] = [
  ['the same rules', withRules(source, () => ({}))], ['rules that refuse what was recovered', refusing('ETHUSDT')], ['rules that refuse what was valid', refusing('BNBUSDT', 'BTCUSDT')],
];

test.each(releases)('a backfill under %s is no finding of an audit, whichever of its commits it comes after', async (_, pipeline) => {
  const lake = await recoveredLake();
  await lake.backfill(source, pipeline, async (step) => { expect(await lake.audit(), `before ${step}`).toMatchObject(holds); });
});

test('a backfill that stopped for good between Silver and Gold is a finding an hour later', async () => {
  const lake = await recoveredLake();
  await lake.backfill(source, refusing('ETHUSDT'), (step) => (step === 'replaceGold' ? Promise.reject(new Error('terminated')) : Promise.resolve())).catch(() => {});
  expect(await lake.audit()).toMatchObject(holds);
  const { findings } = await lake.audit({ now: () => Date.now() + 3_700_000 });
  expect(new Set(findings.map(({ promise }) => promise))).toEqual(new Set(['gold-from-silver']));
});

test('what a replay had recovered and a backfill under changed rules refuses is open again, with one attempt more; Silver, Gold and the DLQ are as from scratch', async () => {
  const lake = await recoveredLake();
  const changed = refusing('ETHUSDT');
  await lake.backfill(source, changed);
  const scratch = await lakeOf(changed);
  // The same resolutions: two prices with separators are recovered.
  await scratch.replay(scratch.input(source, { mode: 'cleanse', cleanse: 'price-separators' }), changed);
  expect(await tablesOf(lake)).toEqual(await tablesOf(scratch));
  const refused = (await lake.rows(resolutions)).filter(({ actor }) => actor === 'backfill');
  expect(refused).toHaveLength(20);
  expect(new Set(refused.map(({ action, attempt, reason }) => `${String(action)} ${String(attempt)} ${String(reason)}`))).toEqual(new Set(['refused 2 symbol_required']));
  expect(await lake.audit()).toMatchObject(holds);
  // Open as any other: the next replay recovers them.
  expect(await lake.replay(lake.input(source, { mode: 'rules' }))).toMatchObject({ selected: 20, recovered: 20 });
  expect(await lake.audit()).toMatchObject(holds);
});

test.each(['failBefore', 'loseAnswer'] as const)('whichever put of those resolutions gets no answer (%s), each of them is there once', async (fault) => {
  const wanted = async (lake: DlqLake) => lake.comparable(await lake.rows(resolutions)).map(({ replay_id: _id, ...row }) => row);
  const expected = await recoveredLake();
  await expected.backfill(source, refusing('ETHUSDT'));
  let faults = 0;
  for (let nth = 1; ; nth += 1) {
    const store = createMemoryObjectStore('lake');
    const lake = await recoveredLake(store);
    let puts = 0;
    store.onPut = (key) => (key.includes('/dlq_resolutions/') && (puts += 1) === nth ? fault : undefined);
    await lake.backfill(source, refusing('ETHUSDT'));
    if (puts < nth) break;
    faults += 1;
    expect(await wanted(lake), `put ${nth}`).toEqual(await wanted(expected));
    expect(await lake.audit(), `put ${nth}`).toMatchObject(holds);
  }
  // A data file, a manifest, a manifest list, a version, the hint.
  expect(faults).toBeGreaterThanOrEqual(5);
}, 60_000);
