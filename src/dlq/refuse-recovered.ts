import { randomUUID } from 'node:crypto';
import { dlqResolutionsTable } from '../datasets/engine-tables.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { encodeDataFile } from '../lake/parquet-writer.ts';
import type { Catalog } from '../lake/table.ts';
import { partitionPath } from '../refine/partition-rows.ts';
import { readRows } from './read-rows.ts';
import type { LastResolutions, ResolutionRow } from './resolutions.ts';

export interface RefuseRecoveredDeps {
  catalog: Catalog;
  store: ObjectStore;
  signal?: AbortSignal;
}

export interface RefuseRecoveredInput {
  source: string;
  /** The backfill; it stands where a DLQ replay's id does. */
  reprocessId: string;
  commitId: string;
  /** What is about to become the offsets' DLQ rows. */
  dlqFiles: readonly DataFile[];
  /** The last resolutions of the offsets, as they are now. */
  last: LastResolutions;
  nowMs: number;
}

/**
 * Records that a DLQ replay had recovered and that the rules refuse now are open again, with one attempt more: else their
 * resolution would promise Silver rows that are gone. Repeated it finds them refused, and writes nothing. Returns how many there were.
 */
export const refuseRecovered = async ({ catalog, store, signal }: RefuseRecoveredDeps, { source, reprocessId, commitId, dlqFiles, last, nowMs }: RefuseRecoveredInput): Promise<number> => {
  const refused: { topic: string; partition: number; offset: bigint; reason: string; before: ResolutionRow }[] = [];
  for await (const { batch: { rowCount, columns } } of readRows(store, dlqFiles, ['kafka_topic', 'kafka_partition', 'kafka_offset', 'error_reason'], signal)) {
    for (let i = 0; i < rowCount; i += 1) {
      const [topic, partition, offset] = [columns['kafka_topic']![i] as string, columns['kafka_partition']![i] as number, columns['kafka_offset']![i] as bigint];
      const before = last.get(topic, partition, Number(offset));
      if (before?.action === 'recovered') refused.push({ topic, partition, offset, reason: columns['error_reason']![i] as string, before });
    }
  }
  if (refused.length === 0) return 0;
  const nowMicros = BigInt(nowMs) * 1_000n;
  const { fields } = dlqResolutionsTable;
  const { bytes, metrics } = encodeDataFile({
    fields,
    batch: {
      rowCount: refused.length,
      columns: {
        topic: refused.map(({ topic }) => topic),
        partition: Int32Array.from(refused, ({ partition }) => partition),
        offset: BigInt64Array.from(refused, ({ offset }) => offset),
        action: { constant: 'refused' },
        replacement_bytes: { constant: null },
        schema_id: { constant: null },
        replay_id: { constant: reprocessId },
        reason: refused.map(({ reason }) => reason),
        actor: { constant: 'backfill' },
        attempt: Int32Array.from(refused, ({ before }) => before.attempt + 1),
        // Of an offset the last row counts, also where the clock of whoever wrote the one before is ahead.
        resolved_at: BigInt64Array.from(refused, ({ before: { resolvedAt } }) => (resolvedAt > nowMicros ? resolvedAt : nowMicros)),
        bronze_source: { constant: source },
      },
    },
  });
  const partition = { bronze_source: source };
  const filePath = catalog.dataLocation(dlqResolutionsTable.name, `${partitionPath(dlqResolutionsTable, partition)}/${reprocessId.replaceAll('/', '-')}-${randomUUID()}.parquet`);
  const options = signal ? { signal } : {};
  await store.put(store.keyOf(filePath), bytes, { contentType: 'application/vnd.apache.parquet', ...options });
  await catalog.commit(dlqResolutionsTable.name, { commitId, add: [{ filePath, partition, ...metrics }], summary: { 'tidemark.reprocess': reprocessId, 'tidemark.source': source }, ...options });
  return refused.length;
};
