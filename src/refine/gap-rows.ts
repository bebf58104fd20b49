import { randomUUID } from 'node:crypto';
import type { GapRange } from '../contracts/stream.ts';
import { ingestGapsTable } from '../datasets/engine-tables.ts';
import { parseTopicPartitionKey } from '../domain/offsets.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { encodeDataFile } from '../lake/parquet-writer.ts';
import type { Catalog } from '../lake/table.ts';

/** Writes the gaps of one source as a data file of `ingest_gaps`; the caller commits it. */
export const prepareGapRows = async ({ catalog, store, source, gaps }: {
  catalog: Catalog; store: ObjectStore; source: string; gaps: readonly GapRange[];
}): Promise<DataFile> => {
  const places = gaps.map(({ topicPartition }) => parseTopicPartitionKey(topicPartition));
  const { bytes, metrics } = encodeDataFile({
    fields: ingestGapsTable.fields,
    batch: {
      rowCount: gaps.length,
      columns: {
        bronze_source: gaps.map(() => source),
        topic: places.map(({ topic }) => topic),
        partition: Int32Array.from(places, ({ partition }) => partition),
        start_offset: BigInt64Array.from(gaps, ({ startOffset }) => BigInt(startOffset)),
        end_offset: BigInt64Array.from(gaps, ({ endOffset }) => BigInt(endOffset)),
        detected_at: BigInt64Array.from(gaps, ({ detectedAtMs }) => BigInt(detectedAtMs) * 1_000n),
        cause: gaps.map(() => 'the log start passed the reader: retention, or deleted records'),
      },
    },
  });
  const filePath = catalog.dataLocation(ingestGapsTable.name, `bronze_source=${source}/${randomUUID()}.parquet`);
  await store.put(store.keyOf(filePath), bytes, { condition: 'absent' });
  return { ...metrics, filePath, partition: { bronze_source: source } };
};
