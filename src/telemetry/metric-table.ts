// Every metric of Tidemark: the one place that names them. Rules, dashboards and tests are checked against it.

interface MetricDefinition {
  readonly type: 'counter' | 'gauge' | 'histogram';
  readonly help: string;
  /** Few, with few values each: sources, tables, error types; never an offset, a file or a message. */
  readonly labels: readonly string[];
  /** Upper bounds, ascending. */
  readonly buckets?: readonly number[];
}

/** Seconds: a call, a commit. */
const callBuckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60] as const;
/** Seconds from Kafka to a layer. The objectives (30, 60, 120, 180) are bounds, so that the share within them is exact. */
const freshnessBuckets = [0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1_800, 3_600, 21_600, 86_400] as const;
const byteBuckets = [256, 1_024, 4_096, 16_384, 65_536, 262_144] as const;

export const metricTable = {
  // Capture
  capture_records_produced_total: { type: 'counter', help: 'Records that Kafka acknowledged to capture', labels: [] },
  capture_frames_total: { type: 'counter', help: 'Exchange frames read, by kind (trade, heartbeat, unparsable, …)', labels: ['kind'] },
  capture_connection_drops_total: { type: 'counter', help: 'Connections to the exchange that ended unasked', labels: [] },

  // Streaming worker: Kafka to Bronze
  kafka_records_consumed_total: { type: 'counter', help: 'Records read from Kafka into buffers; after a crash some are read again', labels: ['source'] },
  kafka_bytes_consumed_total: { type: 'counter', help: 'Bytes of keys, values and headers read from Kafka', labels: ['source'] },
  bronze_records_ingested_total: { type: 'counter', help: 'Records in Bronze files that are durable on S3', labels: ['source'] },
  bronze_bytes_written_total: { type: 'counter', help: 'Bytes of Bronze Parquet files that are durable on S3', labels: ['source'] },
  bronze_files_written_total: { type: 'counter', help: 'Bronze files written, by what closed them (size, time, budget, gap, stop)', labels: ['source', 'cause'] },
  bronze_kafka_lag_records: { type: 'gauge', help: 'Records in Kafka that the streaming worker has not read, over its topic partitions', labels: ['source'] },
  bronze_kafka_lag_seconds: { type: 'gauge', help: 'How far the most delayed topic partition is behind: age of what was read last, or time since Kafka last answered', labels: ['source'] },
  bronze_processing_time_seconds: { type: 'histogram', help: 'Encoding and storing one Bronze file', labels: ['source'], buckets: callBuckets },
  checkpoint_write_latency_seconds: { type: 'histogram', help: 'From a checkpoint report leaving to its being seen accepted in the ledger', labels: ['source'], buckets: callBuckets },
  checkpoint_size_bytes: { type: 'histogram', help: 'JSON size of a checkpoint report', labels: ['source'], buckets: byteBuckets },
  checkpoint_recovery_time_seconds: { type: 'histogram', help: 'From a claimed topic partition to its first fetch, looking for unreported Bronze files included', labels: ['source'], buckets: callBuckets },
  topic_partitions: { type: 'gauge', help: 'Topic partitions of this streaming worker by phase (claiming, recovering, reading, halted)', labels: ['source', 'phase'] },
  claims_lost_total: { type: 'counter', help: 'Topic partitions whose claim went to another owner, or whose ledger went back', labels: ['source'] },
  buffer_bytes: { type: 'gauge', help: 'Bytes that the buffers of this streaming worker hold', labels: [] },
  buffer_budget_bytes: { type: 'gauge', help: 'Bytes that the buffers may hold; at the budget consumption pauses', labels: [] },
  budget_pauses_total: { type: 'counter', help: 'How often consumption paused at the byte budget', labels: [] },
  ingest_gap_records_total: { type: 'counter', help: 'Offsets that the broker no longer had when they were to be read: lost, and recorded in ingest_gaps', labels: ['source'] },
  ingest_gap_last_timestamp_seconds: { type: 'gauge', help: 'When a gap was last found (Unix time); absent: never', labels: ['source'] },
  retention_time_to_loss_seconds: { type: 'gauge', help: 'Forecast until the broker\'s retention overtakes the reader; absent while it cannot be told', labels: ['source'] },

  // Micro-batches: Bronze to Silver, DLQ and Gold
  silver_records_valid_total: { type: 'counter', help: 'Rows published to Silver', labels: ['source'] },
  silver_records_invalid_total: { type: 'counter', help: 'Rows published to the DLQ', labels: ['source'] },
  validation_errors_total: { type: 'counter', help: 'Rows published to the DLQ by error type', labels: ['source', 'error_type'] },
  dlq_rate_percent: { type: 'gauge', help: 'Share of the rows refined within the last hour that went to the DLQ, as the tables say', labels: ['source'] },
  dlq_rows: { type: 'gauge', help: 'Rows in the DLQ, open or resolved', labels: ['source', 'error_type'] },
  gold_records_written_total: { type: 'counter', help: 'Rows added to Gold', labels: ['source'] },
  duplicates_removed_total: { type: 'counter', help: 'Silver rows whose key Gold had already', labels: ['source'] },
  deduplication_rate_percent: { type: 'gauge', help: 'Share of merged Silver rows that were duplicates, over the last hour of this process', labels: ['source'] },
  late_records_total: { type: 'counter', help: 'Silver rows whose event hour had ended over an hour before the newest record of their micro-batch was produced', labels: ['source'] },
  silver_batch_processing_time_seconds: { type: 'histogram', help: 'From the start of refining to the Silver commit of a micro-batch', labels: ['source'], buckets: callBuckets },
  micro_batch_duration_seconds: { type: 'histogram', help: 'From the start of refining to the Gold commit of a micro-batch', labels: ['source'], buckets: callBuckets },
  batch_trigger_interval_seconds: { type: 'gauge', help: 'How often a micro-batch shall start: one that lasts longer falls behind', labels: [] },
  records_processed_per_second: { type: 'gauge', help: 'Rows a second that reached a layer (bronze, silver, gold) through this process, over the last 30 seconds', labels: ['source', 'layer'] },
  freshness_seconds: { type: 'histogram', help: 'From the Kafka timestamp to the Gold commit, by record', labels: ['source'], buckets: freshnessBuckets },
  layer_freshness_seconds: { type: 'histogram', help: 'From the Kafka timestamp to being durable in a layer (bronze, silver), by record; for Gold see freshness_seconds', labels: ['source', 'layer'], buckets: freshnessBuckets },

  // The lake
  iceberg_commit_latency_seconds: { type: 'histogram', help: 'One table commit, its retries included', labels: ['table'], buckets: callBuckets },
  iceberg_commit_conflicts_total: { type: 'counter', help: 'Attempts of table commits that another commit overtook', labels: ['table'] },
  iceberg_commit_failures_total: { type: 'counter', help: 'Table commits that failed, by error code', labels: ['table', 'code'] },
  partitions_created_total: { type: 'counter', help: 'Table partitions that came to hold data', labels: ['table'] },
  partition_size_bytes: { type: 'gauge', help: 'Bytes of live data files in a table partition: the median and the largest one', labels: ['table', 'stat'] },
  table_partitions: { type: 'gauge', help: 'Table partitions that hold data', labels: ['table'] },
  table_rows: { type: 'gauge', help: 'Rows of the current snapshot', labels: ['table'] },
  data_file_count: { type: 'gauge', help: 'Live data files', labels: ['table'] },
  metadata_file_count: { type: 'gauge', help: 'Objects in the metadata folder of the table', labels: ['table'] },
  stored_bytes: { type: 'gauge', help: 'Bytes of data files by tier (hot, archive)', labels: ['table', 'tier'] },
  lake_figures_timestamp_seconds: { type: 'gauge', help: 'When the figures of the lake were last read (Unix time)', labels: [] },

  // Workflows
  workflows_running: { type: 'gauge', help: 'Workflow Executions that run', labels: ['workflow_type'] },
  workflows_failed_last_hour: { type: 'gauge', help: 'Workflow Executions that failed, were terminated or timed out within the last hour', labels: ['workflow_type'] },
  reprocess_progress_ratio: { type: 'gauge', help: 'Least advanced running backfill or DLQ replay, 0 to 1', labels: ['kind'] },
  reprocess_rows_remaining: { type: 'gauge', help: 'Rows that running backfills or DLQ replays still have before them', labels: ['kind'] },
  audit_findings: { type: 'gauge', help: 'Findings of the last audit, by promise, as audit_findings says; absent: never audited', labels: ['promise'] },
  audit_last_timestamp_seconds: { type: 'gauge', help: 'When the last audit ended (Unix time)', labels: [] },
  audit_duration_seconds: { type: 'gauge', help: 'How long the last audit took', labels: [] },

  // The process
  process_resident_memory_bytes: { type: 'gauge', help: 'Resident memory', labels: [] },
  process_cpu_seconds_total: { type: 'counter', help: 'CPU time, user and system', labels: [] },
  process_start_time_seconds: { type: 'gauge', help: 'Start of the process (Unix time)', labels: [] },
  nodejs_heap_used_bytes: { type: 'gauge', help: 'JavaScript heap of the main thread in use', labels: [] },
  nodejs_external_memory_bytes: { type: 'gauge', help: 'Memory of buffers outside of the JavaScript heap', labels: [] },
  nodejs_eventloop_lag_p99_seconds: { type: 'gauge', help: 'How long the event loop of the main thread was late, 99th percentile since the last scrape', labels: [] },
  metric_series_refused_total: { type: 'counter', help: 'Series that were not kept because their metric has too many label values', labels: ['metric'] },
} as const satisfies Record<string, MetricDefinition>;

export type MetricName = keyof typeof metricTable;
type NameOf<Type extends MetricDefinition['type']> = { [Name in MetricName]: (typeof metricTable)[Name]['type'] extends Type ? Name : never }[MetricName];
export type CounterName = NameOf<'counter'>;
export type GaugeName = NameOf<'gauge'>;
export type HistogramName = NameOf<'histogram'>;
/** Exactly the labels that the table gives the metric. */
export type LabelsOf<Name extends MetricName> = Readonly<Record<(typeof metricTable)[Name]['labels'][number], string>>;
