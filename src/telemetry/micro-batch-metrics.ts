import type { FreshnessJson } from '../domain/freshness.ts';
import { freshnessDelays } from '../domain/freshness.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ProducedHistogram } from '../refine/transform.ts';
import type { Metrics } from './metrics.ts';
import { RateWindow } from './rate-window.ts';

/** What a micro-batch has committed. `startedAtMs` is when its refining began, on whichever Temporal Worker. */
export type MicroBatchEvent =
  | {
    type: 'silverPublished'; source: string; batch: number; files: readonly DataFile[];
    /** Column whose hour Silver is partitioned by. */
    eventTime: string;
    produced: ProducedHistogram; startedAtMs: number; committedAtMs: number;
  }
  | { type: 'dlqPublished'; source: string; batch: number; rowsByType: Readonly<Record<string, number>> }
  | {
    type: 'goldMerged'; source: string; batch: number; table: string; rows: number; duplicates: number; freshness: FreshnessJson;
    /** Times that the merge was prepared, and how long its table commit took. */
    attempts: number; commitMs: number; startedAtMs: number; committedAtMs: number;
  };

const hourMs = 3_600_000;
const rateSpanMs = 30_000;

/** Rows whose event hour ended over an hour before the newest record of the micro-batch was produced. */
const lateRows = (files: readonly DataFile[], eventTime: string, { bucketMs, buckets }: ProducedHistogram): number => {
  const newestMs = buckets.reduce((newest, [startMs]) => Math.max(newest, startMs + bucketMs), 0);
  return files.filter(({ partition }) => (Number(partition[eventTime]) + 2) * hourMs < newestMs).reduce((sum, { recordCount }) => sum + recordCount, 0);
};

/** Shares and rates of one source within this process. */
class SourceWindows {
  /** Rows added to Gold, duplicates. */
  readonly merged: RateWindow;
  readonly silver: RateWindow;
  readonly gold: RateWindow;

  constructor(nowMs: () => number) {
    this.merged = new RateWindow(hourMs, nowMs);
    this.silver = new RateWindow(rateSpanMs, nowMs);
    this.gold = new RateWindow(rateSpanMs, nowMs);
  }
}

const percent = (window: RateWindow): number => {
  const [kept, other] = [window.sum(0), window.sum(1)];
  return kept + other === 0 ? 0 : (100 * other) / (kept + other);
};

/** The metrics of the micro-batch activities, for their `onEvent`. */
export const createMicroBatchMetrics = (metrics: Metrics, sources: readonly string[], nowMs: () => number = Date.now): ((event: MicroBatchEvent) => void) => {
  const windows = new Map(sources.map((source) => [source, new SourceWindows(nowMs)]));
  for (const source of sources) {
    for (const name of ['silver_records_valid_total', 'silver_records_invalid_total', 'gold_records_written_total', 'duplicates_removed_total', 'late_records_total'] as const) {
      metrics.add(name, { source }, 0);
    }
  }
  metrics.collect(() => {
    for (const [source, { merged, silver, gold }] of windows) {
      metrics.set('deduplication_rate_percent', { source }, percent(merged));
      metrics.set('records_processed_per_second', { source, layer: 'silver' }, silver.perSecond());
      metrics.set('records_processed_per_second', { source, layer: 'gold' }, gold.perSecond());
    }
  });
  return (event) => {
    const { source } = event;
    const window = windows.get(source);
    switch (event.type) {
      case 'silverPublished': {
        const { files, eventTime, produced, startedAtMs, committedAtMs } = event;
        const rows = files.reduce((sum, { recordCount }) => sum + recordCount, 0);
        metrics.add('silver_records_valid_total', { source }, rows);
        metrics.add('late_records_total', { source }, lateRows(files, eventTime, produced));
        metrics.observe('silver_batch_processing_time_seconds', { source }, (committedAtMs - startedAtMs) / 1_000);
        window?.silver.add(rows);
        for (const [startMs, records] of produced.buckets) {
          metrics.observe('layer_freshness_seconds', { source, layer: 'silver' }, Math.max(0, committedAtMs - startMs - produced.bucketMs / 2) / 1_000, records);
        }
        break;
      }
      case 'dlqPublished':
        for (const [errorType, rows] of Object.entries(event.rowsByType)) {
          metrics.add('silver_records_invalid_total', { source }, rows);
          metrics.add('validation_errors_total', { source, error_type: errorType }, rows);
        }
        break;
      case 'goldMerged': {
        const { table, rows, duplicates, freshness, attempts, commitMs, startedAtMs, committedAtMs } = event;
        metrics.add('gold_records_written_total', { source }, Math.max(0, rows));
        metrics.add('duplicates_removed_total', { source }, duplicates);
        metrics.add('iceberg_commit_conflicts_total', { table }, attempts - 1);
        metrics.observe('iceberg_commit_latency_seconds', { table }, commitMs / 1_000);
        metrics.observe('micro_batch_duration_seconds', { source }, (committedAtMs - startedAtMs) / 1_000);
        window?.merged.add(Math.max(0, rows), duplicates);
        window?.gold.add(Math.max(0, rows));
        for (const { delayMs, records } of freshnessDelays(freshness)) metrics.observe('freshness_seconds', { source }, delayMs / 1_000, records);
        break;
      }
    }
  };
};
