import type { DataFile } from './data-file.ts';
import { compareSingleValues, encodeSingleValue, type SingleValue } from './iceberg/single-value.ts';
import type { ChunkFacts } from './parquet-pages.ts';
import type { Leaf } from './parquet-schema.ts';

/** All that a manifest says of a data file except where it is. */
export type DataFileMetrics = Omit<DataFile, 'filePath' | 'partition'>;

export interface RowGroupFacts {
  rowCount: number;
  startOffset: number;
  /** In the order of the leaves. */
  chunks: readonly ChunkFacts[];
}

/** Parquet's plain bytes of one value: the same as Iceberg's, except for decimals. */
export const plainSingleValue = (leaf: Leaf, bytes: Uint8Array): SingleValue => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  switch (leaf.physical) {
    case 'INT64': return view.getBigInt64(0, true);
    case 'INT32': return view.getInt32(0, true);
    case 'FLOAT': return view.getFloat32(0, true);
    case 'DOUBLE': return view.getFloat64(0, true);
    case 'BOOLEAN': return bytes[0] !== 0;
    default: return bytes;
  }
};

const asBase64 = (leaf: Leaf, value: SingleValue): string =>
  Buffer.from(value instanceof Uint8Array ? value : encodeSingleValue(leaf.type, value)).toString('base64');

/**
 * Iceberg's metrics from what the footer says of each column chunk. Bounds are left out for list elements (they bound no row),
 * for columns without a value, and for those of which a row group has none.
 */
export const metricsOf = (leaves: readonly Leaf[], rowGroups: readonly RowGroupFacts[], fileSizeBytes: number): DataFileMetrics => {
  const metrics: DataFileMetrics = {
    recordCount: rowGroups.reduce((sum, { rowCount }) => sum + rowCount, 0),
    fileSizeBytes, columnSizes: {}, valueCounts: {}, nullValueCounts: {}, lowerBounds: {}, upperBounds: {},
    splitOffsets: rowGroups.map(({ startOffset }) => startOffset),
  };
  for (const [index, leaf] of leaves.entries()) {
    const chunks = rowGroups.map((group) => group.chunks[index]!);
    if (chunks.length === 0) continue;
    const id = leaf.fieldId;
    metrics.columnSizes[id] = chunks.reduce((sum, chunk) => sum + chunk.compressedBytes, 0);
    metrics.valueCounts[id] = chunks.reduce((sum, chunk) => sum + chunk.valueCount, 0);
    if (chunks.every((chunk) => chunk.nullCount !== undefined)) {
      metrics.nullValueCounts[id] = chunks.reduce((sum, chunk) => sum + chunk.nullCount!, 0);
    }
    if (leaf.isList) continue;
    const withValues = chunks.filter((chunk) => chunk.nullCount === undefined || chunk.nullCount < chunk.valueCount);
    const extreme = (side: 'min' | 'max'): SingleValue | undefined => {
      let found: SingleValue | undefined;
      for (const chunk of withValues) {
        const bytes = chunk[side];
        if (!bytes) return undefined;
        const value = plainSingleValue(leaf, bytes);
        const isBeyond = found === undefined || (side === 'min' ? compareSingleValues(value, found) < 0 : compareSingleValues(value, found) > 0);
        if (isBeyond) found = value;
      }
      return found;
    };
    const lower = extreme('min');
    const upper = extreme('max');
    if (lower !== undefined) metrics.lowerBounds[id] = asBase64(leaf, lower);
    if (upper !== undefined) metrics.upperBounds[id] = asBase64(leaf, upper);
  }
  return metrics;
};
