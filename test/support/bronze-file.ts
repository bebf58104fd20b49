import { bronzeTable } from '../../src/datasets/dataset.ts';
import type { ObjectStore } from '../../src/lake/object-store.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';

export interface BronzeRecords {
  topic: string;
  /** One for all, or one for each value, as in a compacted file. */
  partition: number | readonly number[];
  /** Offset of each value; default: consecutive from `startOffset`. */
  offsets?: readonly bigint[];
  startOffset?: bigint;
  /** Record values as Kafka holds them; null is a tombstone. */
  values: readonly (Uint8Array | null)[];
  /** ms since the epoch; one for all, or one for each value. */
  kafkaTimestampMs?: number | readonly number[];
  ingestionMs?: number;
}

const microsPerDay = 86_400_000_000n;
export const bronzeIngestionMs = Date.UTC(2026, 0, 2, 3, 4, 5);

/** Puts the records as one Bronze data file, as the streaming worker writes it, and says where. */
export const putBronzeFile = async (store: ObjectStore, { topic, partition, offsets, startOffset = 0n, values, kafkaTimestampMs = bronzeIngestionMs - 500, ingestionMs = bronzeIngestionMs }: BronzeRecords) => {
  const at = offsets ?? values.map((_, i) => startOffset + BigInt(i));
  const ingestion = BigInt(ingestionMs) * 1000n;
  const { bytes, metrics } = encodeDataFile({
    fields: bronzeTable('bronze').fields,
    batch: {
      rowCount: values.length,
      columns: {
        raw_bytes: values,
        topic: { constant: topic },
        partition: typeof partition === 'number' ? { constant: partition } : Int32Array.from(partition),
        offset: BigInt64Array.from(at),
        key: { constant: null },
        headers: { constant: null },
        kafka_timestamp: BigInt64Array.from(values, (_, i) => BigInt(typeof kafkaTimestampMs === 'number' ? kafkaTimestampMs : kafkaTimestampMs[i]!) * 1000n),
        ingestion_timestamp: { constant: ingestion },
        ingestion_date: { constant: Number(ingestion / microsPerDay) },
      },
    },
  });
  const key = `bronze/${topic}/${String(partition)}/${String(at[0] ?? 0n)}.parquet`;
  await store.put(key, bytes);
  return { filePath: store.location(key), partition: { ingestion_timestamp: Number(ingestion / microsPerDay) }, ...metrics };
};
