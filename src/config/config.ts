import { resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { z } from 'zod';
import { TidemarkError } from '../domain/errors.ts';

const MiB = 1024 * 1024;
const shippedPipeline = fileURLToPath(new URL('../datasets/market-data.ts', import.meta.url));

const address = z.string().regex(/^[^\s:/]+:\d+$/, 'expected host:port');
const integer = (min: number, max: number) => z.coerce.number().int().min(min).max(max);

/** The environment, described and bounded. Names of other systems' variables are kept as those systems have them. */
const environmentSchema = z.object({
  KAFKA_BROKERS: z.string().default('127.0.0.1:9092').transform((text) => text.split(',').map((part) => part.trim()))
    .pipe(z.array(address).min(1)).describe('Kafka bootstrap brokers, host:port, comma-separated'),
  SCHEMA_REGISTRY_URL: z.url().default('http://127.0.0.1:8081').describe('Base URL of the Confluent-compatible schema registry'),
  TEMPORAL_ADDRESS: address.default('127.0.0.1:7233').describe('Temporal frontend, host:port'),
  TEMPORAL_NAMESPACE: z.string().min(1).default('default').describe('Temporal namespace'),
  TEMPORAL_UI_URL: z.url().optional().describe('Base URL of the Temporal Web UI, for links'),
  S3_ENDPOINT: z.url().optional().describe('S3 endpoint; without it the one of AWS'),
  S3_REGION: z.string().min(1).default('us-east-1').describe('S3 region'),
  AWS_ACCESS_KEY_ID: z.string().min(1).describe('S3 access key id'),
  AWS_SECRET_ACCESS_KEY: z.string().min(1).describe('S3 secret access key'),
  TIDEMARK_BUCKET: z.string().regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'expected an S3 bucket name').default('tidemark').describe('Bucket of the lake'),
  TIDEMARK_PIPELINE: z.string().min(1).default(shippedPipeline).describe('Module whose default export is the pipeline: its datasets and namespace'),
  TIDEMARK_TOPIC_PREFIX: z.string().regex(/^[A-Za-z0-9._-]*$/, 'expected characters of a Kafka topic name').default('').describe('Put before each dataset\'s topic and consumer group, to run several pipelines on one broker'),
  TIDEMARK_TASK_QUEUE: z.string().min(1).default('tidemark').describe('Temporal task queue'),
  FLUSH_INTERVAL_MS: integer(50, 600_000).default(1_000).describe('How long a record waits before its Bronze file closes, while files are few or well filled'),
  FLUSH_INTERVAL_MAX_MS: integer(50, 600_000).default(10_000).describe('How long it waits at most: many topic partitions at a low rate make fewer, larger files'),
  FLUSH_BYTES: integer(64 * 1024, 512 * MiB).default(12 * MiB).describe('A Bronze file closes at this many buffered bytes'),
  FLUSH_ROWS: integer(1, 2_000_000).default(100_000).describe('A Bronze file closes at this many rows'),
  BUFFER_BUDGET_BYTES: integer(MiB, 4096 * MiB).default(40 * MiB).describe('All buffers of one streaming worker together; at the budget it pauses consumption'),
  BATCH_TRIGGER_MS: integer(200, 3_600_000).default(5_000).describe('Micro-batches are sized so that each ends within 80 % of this'),
  BATCH_ROWS_MIN: integer(1, 2_000_000).default(100).describe('Lower bound of the records in a full micro-batch'),
  BATCH_ROWS_MAX: integer(1, 2_000_000).default(50_000).describe('Upper bound of the records in a micro-batch: what the memory of a Temporal Worker has room for'),
  MICRO_BATCHES_RUNNING_MAX: integer(1, 16).default(2).describe('Most micro-batches of one source that run at once'),
  HISTORY_EVENTS_MAX: integer(50, 4_500).default(4_000).describe('Events in the history of one run of a stream or backfill Workflow before it continues as new'),
  BACKFILL_THREADS: integer(1, 16).default(1).describe('Worker threads of one Temporal Worker for backfills, at a lower CPU priority than the live stream; started with the first one'),
  REFINE_THREADS: integer(1, 16).default(1).describe('Worker threads of one Temporal Worker that refine; from 2 on merging has one more, and with 1 that one merges too'),
  CONSUMER_SESSION_TIMEOUT_MS: integer(1_000, 300_000).default(30_000).describe('A streaming worker that was silent for so long (killed, cut off) loses its topic partitions to the others'),
  GAP_POLICY: z.enum(['continue', 'halt']).default('continue').describe('What a streaming worker does when retention overtook it: record the gap and go on, or halt the topic partition'),
  METRICS_PORT: integer(0, 65_535).optional().describe('Port of /metrics, /healthz, /readyz and, in the Temporal Worker, the operator\'s page; 0: any free port, printed at start; unset: none is opened'),
  PAGE_TOKEN: z.string().min(16, 'expected 16 characters or more').optional().describe('Whoever gives it may pause and resume streams on the operator\'s page; unset: the page only reads'),
  PAGE_PROCESSES: z.string().default('').transform((text) => text.split(',').map((part) => part.trim()).filter((part) => part !== ''))
    .pipe(z.array(z.string().regex(/^[^=]+=https?:\/\/\S+$/, 'expected <name>=<base URL>'))).describe('Other processes whose memory the operator\'s page shows: <name>=<base URL of its metrics>, comma-separated'),
  METRICS_HOST: z.string().min(1).default('127.0.0.1').describe('Address that METRICS_PORT is bound to; anything else than localhost opens it to the network'),
  METRICS_TABLES_EVERY_MS: integer(500, 300_000).default(60_000).describe('How often a Temporal Worker with METRICS_PORT reads the tables\' manifests and Temporal\'s visibility for /metrics'),
  RETENTION_POLICIES: z.string().default('').describe('How long rows stay, over the pipeline\'s own policies: <table>=<hot days>/<purge days>, <table>=<hot days>/never or <table>=keep, comma-separated'),
  ARCHIVE_BUCKET: z.string().regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'expected an S3 bucket name').optional().describe('Bucket of archived files, of the same S3 service; without it the lake\'s'),
  ARCHIVE_PREFIX: z.string().regex(/^(?!warehouse(?:\/|$)|staging(?:\/|$))[A-Za-z0-9._-]+(?:\/[A-Za-z0-9._-]+)*$/, 'expected a key prefix without a slash at its ends, other than the lake\'s own').default('archive').describe('Key prefix of archived files'),
  ARCHIVE_STORAGE_CLASS: z.string().regex(/^[A-Z_]+$/, 'expected an S3 storage class').optional().describe('Storage class of archived files, readable without a restore request: GLACIER_IR, STANDARD_IA'),
  SNAPSHOT_AGE_HOURS: integer(1, 24 * 365).default(5 * 24).describe('A sweep keeps a table snapshot for so long after the next one took its place'),
  SNAPSHOTS_KEPT_MIN: integer(1, 1_000).default(20).describe('Newest table snapshots that a sweep keeps whatever their age'),
  ORPHAN_GRACE_MINUTES: integer(1, 60 * 24 * 30).default(60 * 24).describe('A file that nothing names any more is deleted by a sweep after so long'),
  RETENTION_EVERY_MINUTES: integer(0, 60 * 24 * 30).default(60 * 24).describe('How often the Schedules of retention sweeps run; 0: none'),
  AUDIT_EVERY_MINUTES: integer(0, 60 * 24 * 30).default(60 * 24).describe('How often the Schedule of the audit runs; 0: none'),
  COMPACTION_BRONZE_BYTES: integer(64 * 1024, 4096 * MiB).default(128 * MiB).describe('Size that a compacted Bronze file aims at'),
  COMPACTION_SILVER_BYTES: integer(64 * 1024, 4096 * MiB).default(64 * MiB).describe('Size that a compacted file of Silver, the DLQ and the engine\'s tables aims at'),
  COMPACTION_GOLD_BYTES: integer(64 * 1024, 4096 * MiB).default(256 * MiB).describe('Size that a compacted Gold file aims at'),
  COMPACTION_FILES_MIN: integer(2, 1_000).default(8).describe('Small files of about one size in a table partition that become one'),
  COMPACTION_QUIET_MINUTES: integer(0, 60 * 24 * 30).default(30).describe('Files are compacted when nothing was written to them, and but for Bronze to their table partition, for so long'),
  COMPACTION_EVERY_MINUTES: integer(0, 60 * 24 * 30).default(60).describe('How often the Schedules of compactions run; 0: none'),
  OTEL_EXPORTER_OTLP_ENDPOINT: z.url().optional().describe('Base URL of an OTLP/HTTP collector for traces, one for each batch; unset: none. Other OTEL_ variables (sampler, headers) mean what OpenTelemetry says'),
  LOG_LEVEL: z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']).default('info').describe('Least severe level that is logged'),
}).superRefine((env, context) => {
  if (env.FLUSH_INTERVAL_MS > env.FLUSH_INTERVAL_MAX_MS) {
    context.addIssue({ code: 'custom', path: ['FLUSH_INTERVAL_MS'], message: `expected at most FLUSH_INTERVAL_MAX_MS (${env.FLUSH_INTERVAL_MAX_MS})` });
  }
  if (env.BATCH_ROWS_MIN > env.BATCH_ROWS_MAX) {
    context.addIssue({ code: 'custom', path: ['BATCH_ROWS_MIN'], message: `expected at most BATCH_ROWS_MAX (${env.BATCH_ROWS_MAX})` });
  }
  if (env.FLUSH_BYTES > env.BUFFER_BUDGET_BYTES) {
    context.addIssue({ code: 'custom', path: ['FLUSH_BYTES'], message: `expected at most BUFFER_BUDGET_BYTES (${env.BUFFER_BUDGET_BYTES}), found ${env.FLUSH_BYTES}` });
  }
});

export interface Config {
  readonly kafka: { readonly brokers: readonly string[]; readonly topicPrefix: string };
  readonly schemaRegistry: { readonly url: string };
  readonly temporal: { readonly address: string; readonly namespace: string; readonly uiUrl: string | undefined; readonly taskQueue: string };
  readonly s3: { readonly endpoint: string | undefined; readonly region: string; readonly accessKeyId: string; readonly secretAccessKey: string; readonly bucket: string };
  /** `file:` URL of the pipeline module: worker threads import it too. */
  readonly pipelineUrl: string;
  readonly streaming: { readonly flushIntervalMs: number; readonly flushIntervalMaxMs: number; readonly flushBytes: number; readonly flushRows: number; readonly bufferBudgetBytes: number; readonly sessionTimeoutMs: number; readonly gapPolicy: 'continue' | 'halt' };
  readonly microBatch: { readonly rowsMin: number; readonly rowsMax: number; readonly triggerMs: number; readonly runningMax: number; readonly threads: number };
  readonly backfill: { readonly threads: number };
  readonly historyEventsMax: number;
  /** Port null: no HTTP server. */
  readonly page: { readonly token: string | undefined; readonly processes: readonly { readonly name: string; readonly url: string }[] };
  readonly metrics: { readonly port: number | null; readonly host: string; readonly tablesEveryMs: number };
  /** Endpoint null: no traces. */
  readonly traces: { readonly endpoint: string | null };
  /** Policies as text: they are checked against the pipeline's tables where it is loaded. */
  readonly retention: { readonly policies: string; readonly snapshotAgeMs: number; readonly snapshotsKept: number; readonly orphanGraceMs: number };
  readonly archive: { readonly bucket: string; readonly prefix: string; readonly storageClass: string | undefined };
  readonly compaction: { readonly bronzeBytes: number; readonly silverBytes: number; readonly goldBytes: number; readonly filesMin: number; readonly quietMs: number };
  /** Minutes between runs; 0: none. */
  readonly schedules: { readonly retentionMinutes: number; readonly auditMinutes: number; readonly compactionMinutes: number };
  readonly logLevel: string;
}

const deepFreeze = <T>(value: T): T => {
  if (value !== null && typeof value === 'object' && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
};

/**
 * The environment as one frozen config. Throws BAD_CONFIG that lists every problem at once, each with the variable, what
 * was expected and what was found (never the value of a secret).
 */
export const loadConfig = (env: NodeJS.ProcessEnv = process.env): Config => {
  // An empty variable is an unset one: compose files and shells cannot tell the two apart.
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = environmentSchema.safeParse(given);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => {
      const name = String(issue.path[0]);
      const found = given[name] === undefined ? 'nothing' : /SECRET|KEY|TOKEN/.test(name) ? 'a value' : JSON.stringify(given[name]);
      return `  ${name}: ${issue.message}; found ${found}`;
    });
    throw new TidemarkError('BAD_CONFIG', `bad configuration, ${problems.length} problem${problems.length === 1 ? '' : 's'}:\n${problems.join('\n')}`);
  }
  const e = parsed.data;
  return deepFreeze({
    kafka: { brokers: e.KAFKA_BROKERS, topicPrefix: e.TIDEMARK_TOPIC_PREFIX },
    schemaRegistry: { url: e.SCHEMA_REGISTRY_URL },
    temporal: { address: e.TEMPORAL_ADDRESS, namespace: e.TEMPORAL_NAMESPACE, uiUrl: e.TEMPORAL_UI_URL, taskQueue: e.TIDEMARK_TASK_QUEUE },
    s3: { endpoint: e.S3_ENDPOINT, region: e.S3_REGION, accessKeyId: e.AWS_ACCESS_KEY_ID, secretAccessKey: e.AWS_SECRET_ACCESS_KEY, bucket: e.TIDEMARK_BUCKET },
    pipelineUrl: e.TIDEMARK_PIPELINE.startsWith('file:') ? e.TIDEMARK_PIPELINE : pathToFileURL(resolve(e.TIDEMARK_PIPELINE)).href,
    streaming: { flushIntervalMs: e.FLUSH_INTERVAL_MS, flushIntervalMaxMs: e.FLUSH_INTERVAL_MAX_MS, flushBytes: e.FLUSH_BYTES, flushRows: e.FLUSH_ROWS, bufferBudgetBytes: e.BUFFER_BUDGET_BYTES, sessionTimeoutMs: e.CONSUMER_SESSION_TIMEOUT_MS, gapPolicy: e.GAP_POLICY },
    microBatch: { rowsMin: e.BATCH_ROWS_MIN, rowsMax: e.BATCH_ROWS_MAX, triggerMs: e.BATCH_TRIGGER_MS, runningMax: e.MICRO_BATCHES_RUNNING_MAX, threads: e.REFINE_THREADS },
    backfill: { threads: e.BACKFILL_THREADS },
    historyEventsMax: e.HISTORY_EVENTS_MAX,
    page: { token: e.PAGE_TOKEN, processes: e.PAGE_PROCESSES.map((text) => ({ name: text.slice(0, text.indexOf('=')), url: text.slice(text.indexOf('=') + 1).replace(/\/$/, '') })) },
    metrics: { port: e.METRICS_PORT ?? null, host: e.METRICS_HOST, tablesEveryMs: e.METRICS_TABLES_EVERY_MS },
    traces: { endpoint: e.OTEL_EXPORTER_OTLP_ENDPOINT ?? null },
    retention: { policies: e.RETENTION_POLICIES, snapshotAgeMs: e.SNAPSHOT_AGE_HOURS * 3_600_000, snapshotsKept: e.SNAPSHOTS_KEPT_MIN, orphanGraceMs: e.ORPHAN_GRACE_MINUTES * 60_000 },
    archive: { bucket: e.ARCHIVE_BUCKET ?? e.TIDEMARK_BUCKET, prefix: e.ARCHIVE_PREFIX, storageClass: e.ARCHIVE_STORAGE_CLASS },
    compaction: {
      bronzeBytes: e.COMPACTION_BRONZE_BYTES, silverBytes: e.COMPACTION_SILVER_BYTES, goldBytes: e.COMPACTION_GOLD_BYTES,
      filesMin: e.COMPACTION_FILES_MIN, quietMs: e.COMPACTION_QUIET_MINUTES * 60_000,
    },
    schedules: { retentionMinutes: e.RETENTION_EVERY_MINUTES, auditMinutes: e.AUDIT_EVERY_MINUTES, compactionMinutes: e.COMPACTION_EVERY_MINUTES },
    logLevel: e.LOG_LEVEL,
  });
};

/** What `--help` prints of the environment. */
export const environmentHelp = (): string => {
  const rows = Object.entries(environmentSchema.shape).map(([name, schema]) => [name, schema.description ?? ''] as const);
  const width = Math.max(...rows.map(([name]) => name.length));
  return ['Environment:', ...rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`)].join('\n');
};

/** The environment that makes another process see the same config: for processes that the demo and the tests start. */
export const configToEnvironment = (config: Config): Record<string, string> => ({
  KAFKA_BROKERS: config.kafka.brokers.join(','),
  TIDEMARK_TOPIC_PREFIX: config.kafka.topicPrefix,
  SCHEMA_REGISTRY_URL: config.schemaRegistry.url,
  TEMPORAL_ADDRESS: config.temporal.address,
  TEMPORAL_NAMESPACE: config.temporal.namespace,
  TEMPORAL_UI_URL: config.temporal.uiUrl ?? '',
  TIDEMARK_TASK_QUEUE: config.temporal.taskQueue,
  S3_ENDPOINT: config.s3.endpoint ?? '',
  S3_REGION: config.s3.region,
  AWS_ACCESS_KEY_ID: config.s3.accessKeyId,
  AWS_SECRET_ACCESS_KEY: config.s3.secretAccessKey,
  TIDEMARK_BUCKET: config.s3.bucket,
  TIDEMARK_PIPELINE: config.pipelineUrl,
  FLUSH_INTERVAL_MS: String(config.streaming.flushIntervalMs),
  FLUSH_INTERVAL_MAX_MS: String(config.streaming.flushIntervalMaxMs),
  FLUSH_BYTES: String(config.streaming.flushBytes),
  FLUSH_ROWS: String(config.streaming.flushRows),
  BUFFER_BUDGET_BYTES: String(config.streaming.bufferBudgetBytes),
  CONSUMER_SESSION_TIMEOUT_MS: String(config.streaming.sessionTimeoutMs),
  GAP_POLICY: config.streaming.gapPolicy,
  BATCH_TRIGGER_MS: String(config.microBatch.triggerMs),
  BATCH_ROWS_MIN: String(config.microBatch.rowsMin),
  BATCH_ROWS_MAX: String(config.microBatch.rowsMax),
  MICRO_BATCHES_RUNNING_MAX: String(config.microBatch.runningMax),
  HISTORY_EVENTS_MAX: String(config.historyEventsMax),
  BACKFILL_THREADS: String(config.backfill.threads),
  REFINE_THREADS: String(config.microBatch.threads),
  PAGE_TOKEN: config.page.token ?? '',
  PAGE_PROCESSES: config.page.processes.map(({ name, url }) => `${name}=${url}`).join(','),
  METRICS_PORT: config.metrics.port === null ? '' : String(config.metrics.port),
  METRICS_HOST: config.metrics.host,
  METRICS_TABLES_EVERY_MS: String(config.metrics.tablesEveryMs),
  OTEL_EXPORTER_OTLP_ENDPOINT: config.traces.endpoint ?? '',
  RETENTION_POLICIES: config.retention.policies,
  ARCHIVE_BUCKET: config.archive.bucket,
  ARCHIVE_PREFIX: config.archive.prefix,
  ARCHIVE_STORAGE_CLASS: config.archive.storageClass ?? '',
  SNAPSHOT_AGE_HOURS: String(config.retention.snapshotAgeMs / 3_600_000),
  SNAPSHOTS_KEPT_MIN: String(config.retention.snapshotsKept),
  ORPHAN_GRACE_MINUTES: String(config.retention.orphanGraceMs / 60_000),
  RETENTION_EVERY_MINUTES: String(config.schedules.retentionMinutes),
  AUDIT_EVERY_MINUTES: String(config.schedules.auditMinutes),
  COMPACTION_BRONZE_BYTES: String(config.compaction.bronzeBytes),
  COMPACTION_SILVER_BYTES: String(config.compaction.silverBytes),
  COMPACTION_GOLD_BYTES: String(config.compaction.goldBytes),
  COMPACTION_FILES_MIN: String(config.compaction.filesMin),
  COMPACTION_QUIET_MINUTES: String(config.compaction.quietMs / 60_000),
  COMPACTION_EVERY_MINUTES: String(config.schedules.compactionMinutes),
  LOG_LEVEL: config.logLevel,
});
