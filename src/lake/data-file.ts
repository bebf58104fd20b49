import type { PartitionTuple } from './schema.ts';

/**
 * One Parquet data file as a manifest names it (Iceberg spec, "Manifests": data_file). Plain JSON, so that a prepared
 * file can wait in a staging object for its table commit. 64-bit counts fit a double here (rows, bytes < 2^53).
 */
export interface DataFile {
  /** `s3://bucket/key`. */
  filePath: string;
  partition: PartitionTuple;
  recordCount: number;
  fileSizeBytes: number;
  /** By field id (leaf columns). */
  columnSizes: Record<number, number>;
  valueCounts: Record<number, number>;
  nullValueCounts: Record<number, number>;
  /** By field id; single-value serialisation (Iceberg spec, appendix D) as base64. Absent where all values are null. */
  lowerBounds: Record<number, string>;
  upperBounds: Record<number, string>;
  splitOffsets: number[];
}
