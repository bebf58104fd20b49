import type { Dataset } from '../datasets/dataset.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import { spreadColumn } from '../lake/columns.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { objectSource, openParquet, readColumns } from '../lake/parquet-reader.ts';
import type { Catalog, LiveFile } from '../lake/table.ts';
import type { DecoderCache } from '../refine/decoders.ts';
import { filesOfOffsets, rowLineage } from '../refine/lineage-files.ts';
import { BronzeTransform, bronzeColumnsRead } from '../refine/transform.ts';
import { readRows } from './read-rows.ts';
import { loadLastResolutions, loadRefineResolutions } from './resolutions.ts';
import { recordPlaceText } from './selection.ts';

export interface TryRulesDeps {
  store: ObjectStore;
  catalog: Pick<Catalog, 'load'>;
  pipeline: Pipeline;
  decoders: DecoderCache;
  signal?: AbortSignal;
  onProgress?: (progress: { rows: number }) => void;
}

export interface TriedChange {
  /** `valid`, or the deciding reason of the refusal. */
  before: string;
  after: string;
  rows: number;
  /** Some of them, `<topic>/<partition>/<offset>`. */
  examples: string[];
}
export interface TriedRules {
  source: string;
  ruleVersion: string;
  /** Bronze rows that were refined by both, the lake's release and this one. */
  rows: number;
  valid: { before: number; after: number };
  /** Rows with another verdict, the most frequent first. */
  changes: TriedChange[];
  /** Of the rows that were valid, those that are refused now; percent. */
  newlyRefusedPercent: number | null;
}

export interface TryRulesInput {
  /** About so many rows, spread evenly over the files that fit. */
  sample: number;
  /** Kafka timestamp, µs since the epoch, half-open. */
  from?: bigint;
  until?: bigint;
}

const valid = 'valid';
const examplesMax = 5;
/** Rows that one file gives at most: more files say more than more rows. */
const rowsOfFileMax = 5_000;

/** Every nth file, so that those taken reach from the first to the last. */
const spread = (files: readonly LiveFile[], count: number): LiveFile[] =>
  (files.length <= count ? [...files] : Array.from({ length: count }, (_, i) => files[Math.floor((i * files.length) / count)]!));

/**
 * Refines a sample of Bronze with the dataset as it is given here, and compares the verdicts with those that the lake holds. Writes
 * nothing. Rows that are not refined yet are passed over; what a DLQ replay has resolved is refined with its resolution.
 */
export const tryRules = async ({ store, catalog, pipeline, decoders, signal, onProgress }: TryRulesDeps, dataset: Dataset, { sample, from, until }: TryRulesInput): Promise<TriedRules> => {
  const [bronze, silver, dlq] = await Promise.all([catalog.load(dataset.bronze.name), catalog.load(dataset.silver.name), catalog.load(pipeline.dlqTable)]);
  const refined = silver.coverage.intersect(dlq.coverage);
  const files = (await bronze.scan({
    bounds: from === undefined && until === undefined ? [] : [{ column: 'kafka_timestamp', ...(from === undefined ? {} : { min: from }), ...(until === undefined ? {} : { max: until - 1n }) }],
  })).sort((a, b) => (a.filePath < b.filePath ? -1 : 1));
  const meanRows = files.length === 0 ? 1 : Math.max(1, files.reduce((sum, { recordCount }) => sum + recordCount, 0) / files.length);
  const taken = spread(files, Math.ceil(sample / Math.min(meanRows, rowsOfFileMax)));
  const rowsOfFile = Math.min(rowsOfFileMax, Math.ceil(sample / Math.max(1, taken.length)));
  const changes = new Map<string, TriedChange>();
  const result: TriedRules = { source: dataset.source, ruleVersion: dataset.ruleVersion, rows: 0, valid: { before: 0, after: 0 }, changes: [], newlyRefusedPercent: null };
  let newlyRefused = 0;
  for (const { filePath, fileSizeBytes, recordCount } of taken) {
    signal?.throwIfAborted();
    const parquet = await openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes, signal ? { signal } : {}));
    const rowStart = Math.max(0, Math.floor((recordCount - rowsOfFile) / 2));
    const batch = await readColumns(parquet, { columns: [...bronzeColumnsRead], rowStart, rowEnd: Math.min(recordCount, rowStart + rowsOfFile) });
    if (batch.rowCount === 0) continue;
    const column = (name: string) => batch.columns[name]!;
    const places = Array.from({ length: batch.rowCount }, (_, i) => ({ topic: column('topic')[i] as string, partition: column('partition')[i] as number, offset: Number(column('offset')[i]), time: column('kafka_timestamp')[i] as bigint }))
      .filter(({ topic, partition, offset, time }) => (from === undefined || time >= from) && (until === undefined || time < until) && refined.of(topicPartitionKey(topic, partition)).has(BigInt(offset)));
    const planned = Coverage.of(Map.groupBy(places, ({ topic, partition }) => topicPartitionKey(topic, partition)).entries()
      .map(([key, list]) => [key, IntervalSet.of(...list.map(({ offset }) => ({ start: BigInt(offset), end: BigInt(offset) + 1n })))] as const));
    if (planned.isEmpty) continue;

    const before = new Map<string, string>();
    const options = { store, catalog, ...(signal ? { signal } : {}) };
    const dlqFiles = await filesOfOffsets(dlq, planned, rowLineage, { partition: { bronze_source: dataset.source } });
    for await (const { batch: { rowCount, columns } } of readRows(store, dlqFiles, ['kafka_topic', 'kafka_partition', 'kafka_offset', 'error_reason'], signal)) {
      for (let i = 0; i < rowCount; i += 1) {
        const place = { topic: columns['kafka_topic']![i] as string, partition: columns['kafka_partition']![i] as number, offset: Number(columns['kafka_offset']![i]) };
        if (planned.of(topicPartitionKey(place.topic, place.partition)).has(BigInt(place.offset))) before.set(recordPlaceText(place), (columns['error_reason']![i] as string).split(',')[0]!);
      }
    }
    for (const { topic, partition, offset, row } of (await loadLastResolutions(options, dataset.source, { coverage: planned })).entries()) {
      if (row.action === 'recovered') before.delete(recordPlaceText({ topic, partition, offset }));
    }

    const transform = new BronzeTransform({ dataset, rowsMax: batch.rowCount, silver: planned, dlq: planned, nowMicros: 0n, resolutions: await loadRefineResolutions(options, dataset.source, planned) });
    transform.append(batch, await decoders.lookUp(transform.schemaIds(batch)));
    const { dlq: refused, dlqRows } = transform.finish();
    const after = new Map<string, string>();
    const [topics, partitions, offsets, reasons] = ['kafka_topic', 'kafka_partition', 'kafka_offset', 'error_reason'].map((name) => spreadColumn(refused.columns[name]!, dlqRows));
    for (let i = 0; i < dlqRows; i += 1) {
      after.set(recordPlaceText({ topic: topics![i] as string, partition: partitions![i] as number, offset: Number(offsets![i]) }), (reasons![i] as string).split(',')[0]!);
    }
    for (const place of places) {
      const text = recordPlaceText(place);
      const [was, is] = [before.get(text) ?? valid, after.get(text) ?? valid];
      result.rows += 1;
      if (was === valid) result.valid.before += 1;
      if (is === valid) result.valid.after += 1;
      if (was === is) continue;
      if (was === valid) newlyRefused += 1;
      const key = `${was} ${is}`;
      const change = changes.get(key) ?? { before: was, after: is, rows: 0, examples: [] };
      changes.set(key, change);
      change.rows += 1;
      if (change.examples.length < examplesMax) change.examples.push(text);
    }
    onProgress?.({ rows: result.rows });
  }
  result.changes = [...changes.values()].sort((a, b) => b.rows - a.rows);
  result.newlyRefusedPercent = result.valid.before === 0 ? null : (100 * newlyRefused) / result.valid.before;
  return result;
};
