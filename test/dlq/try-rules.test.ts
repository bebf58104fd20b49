import { expect, test } from 'vitest';
import { z } from 'zod';
import binanceTrades, { rawSchema } from '../../src/datasets/binance-trades.ts';
import marketData from '../../src/datasets/market-data.ts';
import { tryRules } from '../../src/dlq/try-rules.ts';
import { createDlqLake, rawSchemaId, withRules } from '../support/dlq-lake.ts';
import { binanceRaw, wireEncoder } from '../support/raw-records.ts';

const { source } = binanceTrades;
const encode = wireEncoder(rawSchema, rawSchemaId);
const trade = (id: number, given: Parameters<typeof binanceRaw>[0] = {}): Buffer => encode(binanceRaw({ trade_id: id, ...given }));

test('rules are tried on what the lake holds: which verdicts would change, by reason, before a release; a recovered record counts as valid', async () => {
  const lake = await createDlqLake();
  lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
  await lake.ingest(binanceTrades, [trade(1), trade(2, { symbol: 'ETHUSDT' }), trade(3, { price: '-1' }), trade(4, { price: '1,000' })]);
  await lake.refine(source);
  await lake.replay(lake.input(source, { mode: 'cleanse', cleanse: 'price-separators' }));
  await lake.ingest(binanceTrades, [trade(9)], { start: 4 });
  const { store, catalog, rows } = lake;
  const before = await Promise.all(['silver_binance_trades', 'silver_dlq_trades', 'dlq_resolutions'].map(rows));
  const tryWith = async (pipeline = marketData) => {
    const dataset = pipeline.datasets.find((candidate) => candidate.source === source)!;
    return tryRules({ store, catalog, pipeline, decoders: lake.decodersOf(dataset) }, dataset, { sample: 1_000 });
  };
  expect(await tryWith()).toMatchObject({ rows: 4, valid: { before: 3, after: 3 }, changes: [], newlyRefusedPercent: 0 });

  const next = withRules(source, ({ rules }) => ({
    ruleVersion: 'next', map: (raw, context) => ({ ...binanceTrades.map(raw, context), ...((raw as { price: string }).price === '-1' ? { price: 1 } : {}) }),
    rules: rules.and(z.any().check((payload) => {
      if ((payload.value as { symbol: string }).symbol === 'ETHUSDT') payload.issues.push({ code: 'custom', message: 'symbol_required', input: payload.value, continue: true });
    })),
  }));
  const topic = `${binanceTrades.topic}/0`;
  const tried = await tryWith(next);
  expect(tried).toMatchObject({ rows: 4, valid: { before: 3, after: 3 } });
  expect(tried.changes).toEqual(expect.arrayContaining([
    { before: 'valid', after: 'symbol_required', rows: 1, examples: [`${topic}/1`] }, { before: 'price_must_be_positive', after: 'valid', rows: 1, examples: [`${topic}/2`] },
  ]));
  expect(tried.changes).toHaveLength(2);
  expect(tried.newlyRefusedPercent).toBeCloseTo(100 / 3);
  expect(await Promise.all(['silver_binance_trades', 'silver_dlq_trades', 'dlq_resolutions'].map(rows))).toEqual(before);
});
