import type { StreamingEvent, StreamingState } from '../streaming/streaming-worker.ts';
import type { LabelsOf } from './metric-table.ts';
import type { Metrics } from './metrics.ts';
import { RateWindow } from './rate-window.ts';

const phases = ['claiming', 'recovering', 'reading', 'halted'] as const;
const rateSpanMs = 30_000;

export interface StreamingMetrics {
  /** For `onEvent` of the streaming worker. */
  onEvent(event: StreamingEvent): void;
  /** Gauges from the worker's state, at each scrape. */
  watch(state: () => StreamingState): void;
}

/** The metrics of a streaming worker: events are of files and fetch answers, so nothing is counted by the record. */
export const createStreamingMetrics = (metrics: Metrics, sources: readonly string[], nowMs: () => number = Date.now): StreamingMetrics => {
  const rates = new Map(sources.map((source) => [source, new RateWindow(rateSpanMs, nowMs)]));
  // A counter that appears with its first increase would hide that increase from rate() and increase().
  for (const source of sources) {
    const labels: LabelsOf<'bronze_records_ingested_total'> = { source };
    metrics.add('kafka_records_consumed_total', labels, 0);
    metrics.add('kafka_bytes_consumed_total', labels, 0);
    metrics.add('bronze_records_ingested_total', labels, 0);
    metrics.add('bronze_bytes_written_total', labels, 0);
    metrics.add('claims_lost_total', labels, 0);
    metrics.add('ingest_gap_records_total', labels, 0);
  }
  metrics.add('budget_pauses_total', {}, 0);
  return {
    onEvent: (event) => {
      switch (event.type) {
        case 'recordsTaken':
          metrics.add('kafka_records_consumed_total', { source: event.source }, event.records);
          metrics.add('kafka_bytes_consumed_total', { source: event.source }, event.bytes);
          break;
        case 'fileWritten': {
          const { source, rows, bytes, reason, encodeMs, putMs, produced } = event;
          metrics.add('bronze_records_ingested_total', { source }, rows);
          metrics.add('bronze_bytes_written_total', { source }, bytes);
          metrics.add('bronze_files_written_total', { source, cause: reason });
          metrics.observe('bronze_processing_time_seconds', { source }, (encodeMs + putMs) / 1_000);
          rates.get(source)?.add(rows);
          const now = nowMs();
          for (const { timestampMs, records } of produced) {
            metrics.observe('layer_freshness_seconds', { source, layer: 'bronze' }, Math.max(0, now - timestampMs) / 1_000, records);
          }
          break;
        }
        case 'reading':
          metrics.observe('checkpoint_recovery_time_seconds', { source: event.source }, event.recoveryMs / 1_000);
          break;
        case 'reported':
          metrics.observe('checkpoint_write_latency_seconds', { source: event.source }, event.acceptedAfterMs / 1_000);
          metrics.observe('checkpoint_size_bytes', { source: event.source }, event.bytes);
          break;
        case 'gap':
          metrics.add('ingest_gap_records_total', { source: event.source }, Number(BigInt(event.endOffset) - BigInt(event.startOffset)));
          metrics.set('ingest_gap_last_timestamp_seconds', { source: event.source }, nowMs() / 1_000);
          break;
        case 'claimLost':
          metrics.add('claims_lost_total', { source: event.source });
          break;
        case 'budget':
          if (event.full) metrics.add('budget_pauses_total', {});
          break;
        case 'claimed':
        case 'recovered':
        case 'accepted':
        case 'halted':
          break;
      }
    },
    watch: (state) => void metrics.collect(() => {
      const { sources: states, budget } = state();
      metrics.set('buffer_bytes', {}, budget.usedBytes);
      metrics.set('buffer_budget_bytes', {}, budget.limit);
      for (const [source, bySource] of Object.entries(states)) {
        const lanes = Object.values(bySource);
        metrics.set('bronze_kafka_lag_records', { source }, lanes.reduce((sum, { lag }) => sum + (lag ?? 0), 0));
        metrics.set('bronze_kafka_lag_seconds', { source }, lanes.reduce((most, { lagMs }) => Math.max(most, lagMs), 0) / 1_000);
        metrics.set('records_processed_per_second', { source, layer: 'bronze' }, rates.get(source)?.perSecond() ?? 0);
        const losses = lanes.flatMap(({ lossInMs }) => (lossInMs === null ? [] : [lossInMs]));
        if (losses.length > 0) metrics.set('retention_time_to_loss_seconds', { source }, Math.min(...losses) / 1_000);
        else metrics.remove('retention_time_to_loss_seconds', { source });
        for (const phase of phases) metrics.set('topic_partitions', { source, phase }, lanes.filter((lane) => lane.phase === phase).length);
      }
    }),
  };
};
