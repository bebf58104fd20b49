import { createHash, hash } from 'node:crypto';
import type { CheckpointRange } from '../contracts/stream.ts';
import { TidemarkError } from '../domain/errors.ts';
import { topicPartitionKey } from '../domain/offsets.ts';
import type { ColumnValues, ConstantColumn } from '../lake/columns.ts';
import type { Leaf } from '../lake/parquet-schema.ts';
import { DataFileBuilder } from '../lake/parquet-writer.ts';
import type { CopiedChunk } from '../lake/parquet-writer.ts';
import { releaseBuffer } from '../lake/release.ts';
import type { Field } from '../lake/schema.ts';
import type { ByteColumn } from './byte-column.ts';
import type { PartitionBuffer } from './partition-buffer.ts';
import { compressedShare, plainColumnChunk } from './plain-chunk.ts';

/** Keys of a Bronze file's footer. They say what the file is, whoever finds it and whatever it is called. */
export const footerKeys = {
  topicPartition: 'tidemark.topic-partition',
  /** `<start>-<end>`, half-open. */
  range: 'tidemark.range',
  epoch: 'tidemark.epoch',
  rowCount: 'tidemark.row-count',
  /** SHA-256 of the records, the same for the same records whoever wrote them: see {@link PartitionBuffer.contentParts}. */
  contentChecksum: 'tidemark.content-sha256',
} as const;

/** Object metadata: SHA-256 of the object's bytes, hex. */
export const checksumMetadata = 'sha256';

export interface BronzeFileIdentity {
  topic: string;
  partition: number;
  /** Half-open [start, end): sparse offsets in it are covered. */
  start: bigint;
  end: bigint;
  epoch: number;
}

export interface EncodedBronzeFile extends BronzeFileIdentity {
  bytes: Uint8Array;
  /** SHA-256 of `bytes`, hex. */
  checksum: string;
  rowCount: number;
}

/** Small enough that what refining holds of Bronze at once is little, and large enough that a compaction copies them encoded. */
const rowGroupRows = 32_768;
const microsPerDay = 86_400_000_000n;

/** One topic partition, one ingestion_timestamp: all rows of a file are equally old in the lake. */
export const encodeBronzeFile = (identity: BronzeFileIdentity, buffer: PartitionBuffer, fields: readonly Field[], ingestedAtMs: number): EncodedBronzeFile => {
  const { topic, partition, start, end, epoch } = identity;
  const content = createHash('sha256');
  for (const part of buffer.contentParts()) content.update(part);
  const { rows: rowCount } = buffer;
  const builder = new DataFileBuilder({
    fields,
    keyValueMetadata: {
      [footerKeys.topicPartition]: topicPartitionKey(topic, partition),
      [footerKeys.range]: `${start}-${end}`,
      [footerKeys.epoch]: String(epoch),
      [footerKeys.rowCount]: String(rowCount),
      [footerKeys.contentChecksum]: content.digest('hex'),
    },
    bytesExpected: buffer.payloadBytes * compressedShare,
  });
  const ingestedAt = BigInt(ingestedAtMs) * 1000n;
  for (let from = 0; from < rowCount; from += rowGroupRows) {
    const to = Math.min(rowCount, from + rowGroupRows);
    const made: Uint8Array[] = [];
    const byteArrays = (leaf: Leaf, column: ByteColumn): ColumnValues | CopiedChunk => {
      if (column.nullCount > 0) return column.views(from, to);
      const chunk = plainColumnChunk(leaf, column.pieces(from, to));
      made.push(chunk.bytes);
      return chunk;
    };
    const columns: Record<string, (leaf: Leaf) => ColumnValues | ConstantColumn | CopiedChunk> = {
      raw_bytes: (leaf) => byteArrays(leaf, buffer.values),
      topic: () => ({ constant: topic }),
      partition: () => ({ constant: partition }),
      offset: () => buffer.offsets(from, to),
      key: (leaf) => (buffer.keys.nullCount === rowCount ? { constant: null } : byteArrays(leaf, buffer.keys)),
      headers: () => buffer.headers(from, to) ?? { constant: null },
      kafka_timestamp: () => buffer.kafkaTimestamps(from, to),
      ingestion_timestamp: () => ({ constant: ingestedAt }),
      ingestion_date: () => ({ constant: Number(ingestedAt / microsPerDay) }),
    };
    builder.appendRowGroup(to - from, (leaf) => columns[leaf.field.name]?.(leaf) ?? { constant: null });
    for (const bytes of made) releaseBuffer(bytes.buffer);
  }
  const { bytes } = builder.finish();
  return { ...identity, bytes, checksum: hash('sha256', bytes, 'hex'), rowCount };
};

/** Compares a footer with what the file's key says; throws FILE_UNREADABLE with what differs. */
export const checkFooter = (identity: BronzeFileIdentity, footer: Readonly<Record<string, string>>, rowCount: number): void => {
  const { topic, partition, start, end, epoch } = identity;
  const expected = {
    [footerKeys.topicPartition]: topicPartitionKey(topic, partition),
    [footerKeys.range]: `${start}-${end}`,
    [footerKeys.epoch]: String(epoch),
    [footerKeys.rowCount]: String(rowCount),
  };
  for (const [key, value] of Object.entries(expected)) {
    if (footer[key] !== value) throw new TidemarkError('FILE_UNREADABLE', `Bronze file ${topicPartitionKey(topic, partition)} [${start}, ${end}): expected footer ${key}=${value}, found ${footer[key] ?? 'nothing'}`);
  }
};

export const checkpointRange = ({ topic, partition, start, end, epoch, rowCount, bytes, checksum }: EncodedBronzeFile): CheckpointRange => ({
  topicPartition: topicPartitionKey(topic, partition),
  fileEpoch: epoch,
  startOffset: String(start),
  endOffset: String(end),
  rowCount,
  byteCount: bytes.length,
  checksum,
});
