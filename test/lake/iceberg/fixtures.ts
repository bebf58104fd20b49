import { Coverage, IntervalSet } from '../../../src/domain/offsets.ts';
import type { DataFile } from '../../../src/lake/data-file.ts';
import { encodeSingleValue, type SingleValue } from '../../../src/lake/iceberg/single-value.ts';
import type { Field, PartitionTuple, PrimitiveType, TableDefinition } from '../../../src/lake/schema.ts';

const fields: Field[] = [
  { id: 1, name: 'exchange', type: 'string', required: true },
  { id: 2, name: 'timestamp', type: 'timestamptz', required: true },
  { id: 3, name: 'price', type: 'decimal(18,8)', required: false },
  { id: 4, name: 'conditions', type: { type: 'list', elementId: 5, element: 'string', elementRequired: true }, required: false },
];

export const trades: TableDefinition = {
  name: 'trades',
  fields,
  partitionBy: [
    { sourceId: 1, fieldId: 1000, name: 'exchange', transform: 'identity' },
    { sourceId: 2, fieldId: 1001, name: 'timestamp_hour', transform: 'hour' },
  ],
  sortBy: ['timestamp'],
};

export const microsPerHour = 3_600_000_000n;
const typeOf = (id: number): PrimitiveType => fields.find((field) => field.id === id)!.type as PrimitiveType;
const bound = (id: number, value: SingleValue): string => Buffer.from(encodeSingleValue(typeOf(id), value)).toString('base64');

/** A data file that exists only in manifests: 10 rows of one exchange and hour, prices within [minPrice, maxPrice] (unscaled). */
export function tradesFile(path: string, partition: { exchange: string; hour: number }, prices: { min: bigint; max: bigint } = { min: 1n, max: 100n }): DataFile {
  const start = BigInt(partition.hour) * microsPerHour;
  const tuple: PartitionTuple = { exchange: partition.exchange, timestamp: partition.hour };
  return {
    filePath: `s3://lake/warehouse/market_data/trades/data/${path}.parquet`,
    partition: tuple,
    recordCount: 10,
    fileSizeBytes: 1_000,
    columnSizes: { 1: 10, 2: 20, 3: 30 },
    valueCounts: { 1: 10, 2: 10, 3: 10 },
    nullValueCounts: { 1: 0, 2: 0, 3: 0 },
    lowerBounds: { 1: bound(1, partition.exchange), 2: bound(2, start), 3: bound(3, prices.min) },
    upperBounds: { 1: bound(1, partition.exchange), 2: bound(2, start + 999n), 3: bound(3, prices.max) },
    splitOffsets: [4],
  };
}

export const offsets = (start: number, end: number, partition = 0): Coverage =>
  Coverage.of([[`raw.trades/${partition}`, IntervalSet.of({ start: BigInt(start), end: BigInt(end) })]]);
