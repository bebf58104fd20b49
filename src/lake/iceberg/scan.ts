import { TidemarkError } from '../../domain/errors.ts';
import type { Field, PrimitiveType } from '../schema.ts';
import type { LiveFile, ScanOptions } from '../table.ts';
import type { ManifestEntry } from './manifest.ts';
import type { ManifestFile } from './manifest-list.ts';
import type { PartitionColumn } from './manifest-schema.ts';
import { compareSingleValues, decodeSingleValue, type SingleValue } from './single-value.ts';
import { applyTransform } from './transforms.ts';

/** Partition values that a file may have: one value, or a closed range. */
interface PartitionCondition {
  index: number;
  column: PartitionColumn;
  /** `undefined` is open; null is the value null. */
  equals?: SingleValue | null;
  min?: SingleValue;
  max?: SingleValue;
}

interface ColumnCondition { id: number; type: PrimitiveType; min?: SingleValue; max?: SingleValue }

/** Decides from the manifest list, then from partition values, then from column bounds, which files a scan reads. Keeps what it cannot rule out. */
export class ScanFilter {
  private readonly partition: PartitionCondition[] = [];
  private readonly columns: ColumnCondition[] = [];

  constructor(table: string, fields: readonly Field[], partition: readonly PartitionColumn[], options: ScanOptions) {
    for (const [sourceName, value] of Object.entries(options.partition ?? {})) {
      if (value === undefined) continue;
      const index = partition.findIndex((column) => column.sourceName === sourceName);
      const column = partition[index];
      if (!column) {
        throw new TidemarkError('BAD_INPUT', `scan of ${table}: expected a partition column of [${partition.map((c) => c.sourceName).join(', ')}], found ${sourceName}`);
      }
      this.partition.push({ index, column, equals: value });
    }
    for (const { column: name, min, max } of options.bounds ?? []) {
      const field = fields.find((candidate) => candidate.name === name);
      if (!field || typeof field.type !== 'string') throw new TidemarkError('BAD_INPUT', `scan of ${table}: expected a primitive column, found ${name}`);
      const type = field.type;
      const condition: ColumnCondition = { id: field.id, type };
      if (min !== undefined) condition.min = toSingleValue(type, min);
      if (max !== undefined) condition.max = toSingleValue(type, max);
      this.columns.push(condition);
      // A transform keeps the order of its source, so a range of the column is a range of the partition value.
      partition.forEach((column, index) => {
        if (column.sourceId !== field.id) return;
        const projected: PartitionCondition = { index, column };
        if (condition.min !== undefined) projected.min = applyTransform(column.transform, type, condition.min)!;
        if (condition.max !== undefined) projected.max = applyTransform(column.transform, type, condition.max)!;
        this.partition.push(projected);
      });
    }
  }

  mayMatchManifest({ partitions }: ManifestFile): boolean {
    if (!partitions) return true;
    return this.partition.every(({ index, column, equals, min, max }) => {
      const summary = partitions[index];
      if (!summary) return true;
      if (equals === null) return summary.contains_null;
      if (!summary.lower_bound || !summary.upper_bound) return false;
      const lower = decodeSingleValue(column.type, summary.lower_bound);
      const upper = decodeSingleValue(column.type, summary.upper_bound);
      return meets(lower, upper, equals ?? min, equals ?? max);
    });
  }

  mayMatchPartition({ partition }: ManifestEntry): boolean {
    return this.partition.every(({ column, equals, min, max }) => {
      const value = partition[column.name] ?? null;
      if (equals === null) return value === null;
      // A null meets no value and no range.
      if (value === null) return false;
      return meets(value, value, equals ?? min, equals ?? max);
    });
  }

  mayMatchMetrics(file: LiveFile): boolean {
    return this.columns.every(({ id, type, min, max }) => {
      const lower = file.lowerBounds[id];
      const upper = file.upperBounds[id];
      // A null meets no range; without any other value the file cannot match.
      if (lower === undefined && upper === undefined && file.valueCounts[id] !== undefined && file.valueCounts[id] === file.nullValueCounts[id]) return false;
      return (lower === undefined || max === undefined || compareSingleValues(decodeBase64(type, lower), max) <= 0)
        && (upper === undefined || min === undefined || compareSingleValues(decodeBase64(type, upper), min) >= 0);
    });
  }
}

const decodeBase64 = (type: PrimitiveType, base64: string): SingleValue => decodeSingleValue(type, Buffer.from(base64, 'base64'));

/** Whether [lower, upper] meets [min, max]; an absent end is open. Partition tuples hold longs as numbers, which JavaScript compares with bigints by value. */
const meets = (lower: SingleValue, upper: SingleValue, min: SingleValue | undefined, max: SingleValue | undefined): boolean =>
  (min === undefined || compareSingleValues(upper, min) >= 0) && (max === undefined || compareSingleValues(lower, max) <= 0);

function toSingleValue(type: PrimitiveType, value: bigint | number | string): SingleValue {
  switch (type) {
    case 'long':
    case 'timestamp':
    case 'timestamptz':
      return BigInt(value);
    case 'int':
    case 'date':
    case 'float':
    case 'double':
      return Number(value);
    case 'binary':
      return Buffer.from(String(value));
    case 'string':
      return String(value);
    case 'boolean':
      return Boolean(value);
    default:
      // Decimals: the unscaled value.
      return BigInt(value);
  }
}
