import { expect, test } from 'vitest';
import { recordAudit } from '../../src/audit/finding-rows.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import { addDelay } from '../../src/domain/freshness.ts';
import type { FreshnessJson } from '../../src/domain/freshness.ts';
import type { DataFile } from '../../src/lake/data-file.ts';
import { encodeSingleValue } from '../../src/lake/iceberg/single-value.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import type { PartitionTuple, TableDefinition } from '../../src/lake/schema.ts';
import { ingestGapsTable } from '../../src/datasets/engine-tables.ts';
import pipeline from '../../src/datasets/market-data.ts';
import { pipelineTables } from '../../src/datasets/pipeline.ts';
import { prepareGapRows } from '../../src/refine/gap-rows.ts';
import { createLakeMetrics } from '../../src/telemetry/lake-metrics.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { createMicroBatchMetrics } from '../../src/telemetry/micro-batch-metrics.ts';
import { RateWindow } from '../../src/telemetry/rate-window.ts';
import { createStreamingMetrics } from '../../src/telemetry/streaming-metrics.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';

const source = 'binance-trades';
const hourMs = 3_600_000;
const file = (hour: number, recordCount: number): DataFile =>
  ({ filePath: '', partition: { timestamp: hour }, recordCount, fileSizeBytes: 1, columnSizes: {}, valueCounts: {}, nullValueCounts: {}, lowerBounds: {}, upperBounds: {}, splitOffsets: [] });

test('rows whose event hour ended over an hour before the newest record was produced are late, and no others', () => {
  const metrics = new Metrics();
  const onEvent = createMicroBatchMetrics(metrics, [source]);
  const noon = 12 * hourMs;
  onEvent({
    type: 'silverPublished', source, batch: 1, files: [file(9, 1), file(10, 2), file(11, 4), file(12, 8)], eventTime: 'timestamp',
    produced: { bucketMs: 10, buckets: [[noon + 5 * 60_000, 15]] }, startedAtMs: noon, committedAtMs: noon + 6 * 60_000,
  });
  // Hour 10 ended at 11:00, 65 minutes before 12:05; hour 11 at noon.
  expect(metrics.value('late_records_total', { source })).toBe(3);
  expect(metrics.value('silver_records_valid_total', { source })).toBe(15);
  expect(metrics.value('layer_freshness_seconds', { source, layer: 'silver' })).toBe(15);
});

test('the share of duplicates is of the last hour, and forgets', async () => {
  let nowMs = 0;
  const metrics = new Metrics();
  const onEvent = createMicroBatchMetrics(metrics, [source], () => nowMs);
  const merged = (rows: number, duplicates: number) => onEvent({ type: 'goldMerged', source, batch: 1, table: 'gold', rows, duplicates, freshness: {}, attempts: 1, commitMs: 1, startedAtMs: 0, committedAtMs: 0 });
  merged(90, 10);
  await metrics.text();
  expect(metrics.value('deduplication_rate_percent', { source })).toBe(10);
  nowMs += 2 * hourMs;
  merged(50, 0);
  await metrics.text();
  expect(metrics.value('deduplication_rate_percent', { source })).toBe(0);
});

test('freshness is counted for each record of a merge, in the bucket of its delay', async () => {
  const metrics = new Metrics();
  const freshness: FreshnessJson = {};
  addDelay(freshness, 1_400, 990);
  addDelay(freshness, 70_000, 10);
  createMicroBatchMetrics(metrics, [source])({ type: 'goldMerged', source, batch: 1, table: 'gold', rows: 990, duplicates: 10, freshness, attempts: 3, commitMs: 40, startedAtMs: 0, committedAtMs: 2_000 });
  const text = await metrics.text();
  expect(text).toContain(`freshness_seconds_bucket{source="${source}",le="60"} 990`);
  expect(text).toContain(`freshness_seconds_bucket{source="${source}",le="90"} 1000`);
  expect(metrics.value('iceberg_commit_conflicts_total', { table: 'gold' })).toBe(2);
});

test('a gap is counted by its offsets, and a source that has lost nothing stands at 0', () => {
  const metrics = new Metrics();
  createStreamingMetrics(metrics, [source, 'kraken-trades'], () => 5_000).onEvent({ type: 'gap', source, topicPartition: 't/0', startOffset: '10', endOffset: '35' });
  expect(metrics.value('ingest_gap_records_total', { source })).toBe(25);
  expect(metrics.value('ingest_gap_last_timestamp_seconds', { source })).toBe(5);
  expect(metrics.value('ingest_gap_records_total', { source: 'kraken-trades' })).toBe(0);
});

test('a rate counts what came within its span alone', () => {
  let nowMs = 0;
  const window = new RateWindow(30_000, () => nowMs);
  for (let second = 0; second < 60; second += 1) {
    nowMs = second * 1_000;
    window.add(100);
  }
  expect(window.perSecond()).toBeGreaterThan(95);
  expect(window.perSecond()).toBeLessThan(105);
  nowMs += 31_000;
  expect(window.perSecond()).toBe(0);
});

test('the figures of the lake come from its tables: the time of the last gap survives the process that met it', async () => {
  const store = createMemoryObjectStore();
  const catalog = createObjectStoreCatalog({ store, namespace: pipeline.namespace });
  await Promise.all(pipelineTables(pipeline).map((table) => catalog.ensureTable(table)));
  const detectedAtMs = Date.UTC(2026, 2, 1, 12, 30);
  const gap = { topicPartition: 't/0', startOffset: '0', endOffset: '5', detectedAtMs };
  const metrics = new Metrics();
  const look = createLakeMetrics({ catalog, store, pipeline, metrics, signal: new AbortController().signal });
  await look();
  expect(metrics.value('data_file_count', { table: ingestGapsTable.name })).toBe(0);
  await catalog.commit(ingestGapsTable.name, { commitId: 'gap', add: [await prepareGapRows({ catalog, store, source, gaps: [gap] })] });
  await look();
  expect(metrics.value('ingest_gap_last_timestamp_seconds', { source })).toBe(detectedAtMs / 1_000);
  expect(metrics.value('data_file_count', { table: ingestGapsTable.name })).toBe(1);
  expect(metrics.value('table_rows', { table: ingestGapsTable.name })).toBe(1);
  expect(metrics.value('partitions_created_total', { table: ingestGapsTable.name })).toBe(1);
  expect(metrics.value('metadata_file_count', { table: ingestGapsTable.name })).toBeGreaterThan(0);
});

test('the DLQ rate of the last hour comes from the tables: a process that was just started shows it, and it forgets', async () => {
  const store = createMemoryObjectStore();
  const catalog = createObjectStoreCatalog({ store, namespace: pipeline.namespace });
  await Promise.all(pipelineTables(pipeline).map((table) => catalog.ensureTable(table)));
  const startMs = Date.UTC(2026, 2, 1, 12);
  const refined = async (table: TableDefinition, column: string, partition: PartitionTuple, rows: number, atMs: number): Promise<void> => {
    const { id } = table.fields.find(({ name }) => name === column)!;
    const bound = Buffer.from(encodeSingleValue('timestamptz', BigInt(atMs) * 1_000n)).toString('base64');
    const filePath = catalog.dataLocation(table.name, `${column}-${atMs}-${rows}.parquet`);
    await catalog.commit(table.name, { commitId: filePath, add: [{ ...file(0, rows), filePath, partition, lowerBounds: { [id]: bound }, upperBounds: { [id]: bound } }] });
  };
  const dlq = pipelineTables(pipeline).find(({ name }) => name === pipeline.dlqTable)!;
  const { silver } = pipeline.datasets.find((dataset) => dataset.source === source)!;
  await refined(silver, 'validation_timestamp', { timestamp: 1 }, 180, startMs);
  await refined(dlq, 'error_timestamp', { dlq_date: 1, bronze_source: source, error_type: 'price_validation' }, 20, startMs);
  await refined(silver, 'validation_timestamp', { timestamp: 1 }, 100, startMs + 30 * 60_000);
  const shown = async (nowMs: number): Promise<number | undefined> => {
    const metrics = new Metrics();
    await createLakeMetrics({ catalog, store, pipeline, metrics, signal: new AbortController().signal, nowMs: () => nowMs })();
    expect(metrics.value('dlq_rate_percent', { source: 'kraken-trades' })).toBe(0);
    return metrics.value('dlq_rate_percent', { source });
  };
  expect(await shown(startMs + 10 * 60_000)).toBeCloseTo(100 * 20 / 300);
  expect(await shown(startMs + 70 * 60_000)).toBe(0);
});

test('the findings of the last audit come from its table: every process shows them, and a whole audit that finds none takes them back', async () => {
  const store = createMemoryObjectStore();
  const catalog = createObjectStoreCatalog({ store, namespace: pipeline.namespace });
  await Promise.all(pipelineTables(pipeline).map((table) => catalog.ensureTable(table)));
  const shown = async (): Promise<(number | undefined)[]> => {
    const metrics = new Metrics();
    await createLakeMetrics({ catalog, store, pipeline, metrics, signal: new AbortController().signal })();
    return [metrics.value('audit_findings', { promise: 'gold-once' }), metrics.value('audit_findings', { promise: 'files-intact' }), metrics.value('audit_last_timestamp_seconds', {})];
  };
  const audited = (auditId: string, startedAtMs: number, findingsByPromise: AuditReport['findingsByPromise'], isWhole: boolean): Promise<void> =>
    recordAudit({ catalog, store, isWhole, report: { auditId, startedAtMs, durationMs: 1_000, findings: [], findingsByPromise } });
  expect(await shown()).toEqual([undefined, undefined, undefined]);
  await audited('a', 9_000, { 'gold-once': { findings: 3, offsets: '3' } }, true);
  expect(await shown()).toEqual([3, 0, 10]);
  // Who looked at a part may find more, and takes nothing back.
  await audited('b', 19_000, {}, false);
  expect(await shown()).toEqual([3, 0, 10]);
  await audited('c', 29_000, { 'files-intact': { findings: 1, offsets: '1' } }, false);
  expect(await shown()).toEqual([3, 1, 30]);
  await audited('d', 39_000, {}, true);
  expect(await shown()).toEqual([0, 0, 40]);
});
