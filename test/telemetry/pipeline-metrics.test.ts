import { expect, test } from 'vitest';
import { addDelay } from '../../src/domain/freshness.ts';
import type { FreshnessJson } from '../../src/domain/freshness.ts';
import type { DataFile } from '../../src/lake/data-file.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
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

test('shares are of the last hour, and forget', async () => {
  let nowMs = 0;
  const metrics = new Metrics();
  const onEvent = createMicroBatchMetrics(metrics, [source], () => nowMs);
  const silver = (rows: number) => onEvent({ type: 'silverPublished', source, batch: 1, files: [file(0, rows)], eventTime: 'timestamp', produced: { bucketMs: 10, buckets: [] }, startedAtMs: 0, committedAtMs: 0 });
  silver(90);
  onEvent({ type: 'dlqPublished', source, batch: 1, rowsByType: { price_validation: 6, unknown_error: 4 } });
  await metrics.text();
  expect(metrics.value('dlq_rate_percent', { source })).toBe(10);
  expect(metrics.value('validation_errors_total', { source, error_type: 'price_validation' })).toBe(6);
  nowMs += 2 * hourMs;
  silver(50);
  await metrics.text();
  expect(metrics.value('dlq_rate_percent', { source })).toBe(0);
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
