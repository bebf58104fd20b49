import { describe, expect, test } from 'vitest';
import { lineageFieldIdMin, goldFieldIdMin } from '../../src/datasets/dataset.ts';
import marketData from '../../src/datasets/market-data.ts';
import { datasetOf, pipelineTables } from '../../src/datasets/pipeline.ts';

describe('the shipped pipeline', () => {
  const tables = pipelineTables(marketData);

  test('names its tables as readers know them', () => {
    expect(tables.map(({ name }) => name).sort()).toEqual([
      'audit_findings', 'bronze_binance_trades', 'bronze_kraken_trades', 'dlq_resolutions', 'gold_crypto_trades', 'ingest_gaps',
      'silver_binance_trades', 'silver_dlq_trades', 'silver_kraken_trades',
    ]);
  });

  test('datasets that share Gold agree on it', () => {
    const [binance, kraken] = marketData.datasets;
    expect(binance!.gold).toEqual(kraken!.gold);
  });

  test.each(tables.map((table) => [table.name, table] as const))('%s: field ids are unique, and partition columns are there and required', (_, table) => {
    const ids = table.fields.flatMap(({ id, type }) => (typeof type === 'string' ? [id] : [id, type.elementId]));
    expect(new Set(ids).size).toBe(ids.length);
    for (const { sourceId } of table.partitionBy) expect(table.fields.find(({ id }) => id === sourceId)).toMatchObject({ required: true });
    for (const column of table.sortBy ?? []) expect(table.fields.map(({ name }) => name)).toContain(column);
  });

  test.each(marketData.datasets.map((dataset) => [dataset.source, dataset] as const))('%s: the engine\'s field ids stay clear of the dataset\'s', (_, { fields, silver, gold, goldColumns, key, eventTime }) => {
    const own = fields.flatMap(({ id, type }) => (typeof type === 'string' ? [id] : [id, type.elementId]));
    expect(Math.max(...own)).toBeLessThan(lineageFieldIdMin);
    expect(Math.min(...goldColumns.map(({ field }) => field.id))).toBeGreaterThan(goldFieldIdMin);
    expect(gold.fields.slice(0, silver.fields.length)).toEqual(silver.fields);
    for (const column of [...key, eventTime]) expect(fields.map(({ name }) => name)).toContain(column);
  });

  test('partitions are those that the design names', () => {
    const partitions = Object.fromEntries(tables.map(({ name, partitionBy }) => [name, partitionBy.map(({ name }) => name)]));
    expect(partitions).toMatchObject({
      bronze_binance_trades: ['ingestion_timestamp_day'], silver_binance_trades: ['timestamp_hour'], silver_dlq_trades: ['dlq_date', 'bronze_source', 'error_type'],
      gold_crypto_trades: ['exchange', 'timestamp_hour'], dlq_resolutions: ['bronze_source'],
    });
  });

  test('derived Gold columns floor times before 1970', () => {
    const { goldColumns } = datasetOf(marketData, 'binance-trades');
    const timestamp = BigInt64Array.of(0n, 3_600_000_000n, 86_399_999_999n, -1n, -86_400_000_001n, 1_680_652_799_999_000n);
    const derived = goldColumns.map(({ derive }) => [...derive({ timestamp }, timestamp.length) as Int32Array]);
    expect(derived).toEqual([[0, 0, 0, -1, -2, 19_451], [0, 1, 23, 23, 23, 23]]);
  });

  test('an unknown source is refused with those that are known', () => {
    expect(() => datasetOf(marketData, 'nyse')).toThrow('source: expected one of binance-trades, kraken-trades, found nyse');
  });
});
