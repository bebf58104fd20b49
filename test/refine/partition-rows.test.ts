import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import marketData from '../../src/datasets/market-data.ts';
import { dlqTable } from '../../src/datasets/engine-tables.ts';
import { partitionDimensions, partitionPath, partitionRows, sortRowsBy, tupleOf } from '../../src/refine/partition-rows.ts';

const { silver, gold } = marketData.datasets[0]!;
const dimensions = partitionDimensions(gold.fields, silver.partitionBy, gold.partitionBy);
const hour = 3_600_000_000n;

describe('splitting rows by table partitions', () => {
  test('Silver hour and Gold bucket together are two dimensions', () => {
    expect(dimensions).toEqual([{ column: 'timestamp', transform: 'hour' }, { column: 'exchange', transform: 'identity' }]);
  });

  test('every row is in exactly one group, and the group is that of its values', () => {
    const row = fc.record({ timestamp: fc.bigInt({ min: -50n * hour, max: 50n * hour }), exchange: fc.constantFrom('A', 'B', 'C', '') });
    fc.assert(fc.property(fc.array(row, { maxLength: 200 }), (rows) => {
      const batch = { rowCount: rows.length, columns: { timestamp: BigInt64Array.from(rows, ({ timestamp }) => timestamp), exchange: rows.map(({ exchange }) => exchange) } };
      const groups = partitionRows(batch, dimensions);
      expect(groups.flatMap(({ indices }) => [...indices]).sort((a, b) => a - b)).toEqual(rows.map((_, i) => i));
      expect(new Set(groups.map(({ values }) => JSON.stringify(values))).size).toBe(groups.length);
      for (const { values, indices } of groups) {
        for (const i of indices) expect(values).toEqual([Math.floor(Number(rows[i]!.timestamp) / Number(hour)), rows[i]!.exchange]);
      }
    }));
  });

  test('a constant column splits nothing', () => {
    const groups = partitionRows({ rowCount: 3, columns: { timestamp: { constant: 7n * hour + 5n }, exchange: { constant: 'A' } } }, dimensions);
    expect(groups).toEqual([{ values: [7, 'A'], indices: Uint32Array.of(0, 1, 2) }]);
    expect(tupleOf(silver, dimensions, groups[0]!.values)).toEqual({ timestamp: 7 });
    expect(tupleOf(gold, dimensions, groups[0]!.values)).toEqual({ exchange: 'A', timestamp: 7 });
  });

  test('a batch that spans hundreds of hours gives a group for each', () => {
    const rowCount = 50_000;
    const groups = partitionRows({ rowCount, columns: { timestamp: BigInt64Array.from({ length: rowCount }, (_, i) => BigInt(i % 700) * hour), exchange: { constant: 'A' } } }, dimensions);
    expect(groups).toHaveLength(700);
  });
});

describe('folders', () => {
  test('read as Iceberg and Hive write them', () => {
    expect(partitionPath(gold, { exchange: 'BINANCE', timestamp: 466_847 })).toBe('exchange=BINANCE/timestamp_hour=2023-04-04-23');
    expect(partitionPath(dlqTable('dlq'), { dlq_date: 19_451, bronze_source: 'binance-trades', error_type: 'a/b' })).toBe('dlq_date=2023-04-04/bronze_source=binance-trades/error_type=a%2Fb');
    expect(partitionPath(silver, { timestamp: -1 })).toBe('timestamp_hour=1969-12-31-23');
  });
});

describe('sorting rows', () => {
  test('is by time, and keeps the given order of equal times, near or far apart', () => {
    const time = fc.oneof(fc.bigInt({ min: 0n, max: 20n }), fc.bigInt({ min: -(2n ** 52n), max: 2n ** 52n }));
    fc.assert(fc.property(fc.array(time, { maxLength: 60 }), (times) => {
      const indices = Uint32Array.from(times, (_, i) => times.length - 1 - i);
      const expected = [...indices].sort((a, b) => Number(times[a]! - times[b]!) || b - a);
      sortRowsBy({ rowCount: times.length, columns: { at: BigInt64Array.from(times) } }, 'at', indices);
      expect([...indices]).toEqual(expected);
    }));
  });
});
