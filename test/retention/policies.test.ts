import { expect, test } from 'vitest';
import { isTidemarkError } from '../../src/domain/errors.ts';
import { keptForEver } from '../../src/domain/retention.ts';
import marketData from '../../src/datasets/market-data.ts';
import { parsePolicies, retainedTables } from '../../src/retention/policies.ts';

const messageOf = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    if (isTidemarkError(error, 'BAD_CONFIG')) return error.message;
    throw error;
  }
  throw new Error('expected BAD_CONFIG, found none');
};

test('without a word of the pipeline Bronze, Silver and the DLQ age by the defaults, and Gold is kept', () => {
  const byName = Object.fromEntries(retainedTables(marketData).map(({ name, policy, clock }) => [name, { ...policy, clock }]));
  expect(byName).toEqual({
    bronze_binance_trades: { hotDays: 30, purgeDays: 365, clock: 'ingestion' },
    bronze_kraken_trades: { hotDays: 30, purgeDays: 365, clock: 'ingestion' },
    silver_binance_trades: { hotDays: 30, purgeDays: 365, clock: 'ingestion' },
    silver_kraken_trades: { hotDays: 30, purgeDays: 365, clock: 'ingestion' },
    silver_dlq_trades: { hotDays: 30, purgeDays: 90, clock: 'resolution' },
  });
});

test('the environment wins over the pipeline, and the pipeline over the defaults', () => {
  const pipeline = { ...marketData, retention: { bronze_binance_trades: { hotDays: 7, purgeDays: 14 }, silver_binance_trades: { hotDays: 7, purgeDays: null } } };
  const tables = retainedTables(pipeline, parsePolicies('bronze_binance_trades=keep, bronze_kraken_trades=3/never'));
  expect(tables.map(({ policy }) => policy)).toEqual([
    keptForEver, { hotDays: 7, purgeDays: null }, { hotDays: 3, purgeDays: null }, { hotDays: 30, purgeDays: 365 }, { hotDays: 30, purgeDays: 90 },
  ]);
});

test('every problem is listed at once: unknown tables, archives shorter than hot, tables that must keep their rows', () => {
  const message = messageOf(() => retainedTables(marketData, parsePolicies('bronze_x=30/60,silver_binance_trades=30/20,gold_crypto_trades=30/60,ingest_gaps=1/2')));
  expect(message).toContain('4 problems');
  for (const text of ['bronze_x: expected a table of the pipeline', 'silver_binance_trades: purgeDays: expected more than the 30 days', 'gold_crypto_trades: expected keep', 'ingest_gaps: expected keep']) expect(message).toContain(text);
});

test('a text that is no list of policies says which part is wrong', () => {
  const message = messageOf(() => parsePolicies('a=1/2,b,c=x,a=2/3'));
  expect(message).toContain('3 problems');
  expect(message).toContain('"b"');
});
