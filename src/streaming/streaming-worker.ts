import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { BronzeWriter } from './bronze-writer.ts';
import { ByteBudget } from './byte-budget.ts';
import type { CheckpointClient } from './checkpoint-client.ts';
import { systemClock } from './clock.ts';
import type { Clock } from './clock.ts';
import { FlushPace } from './flush-pace.ts';
import { flushDefaults } from './flush-policy.ts';
import type { FlushLimits } from './flush-policy.ts';
import type { PartitionBuffer } from './partition-buffer.ts';
import { SourceReader, closeAtBudget } from './source-reader.ts';
import type { LaneState, StreamingEvent, StreamingLog } from './source-reader.ts';
import type { AtStep } from './steps.ts';
import { TopicIdentity } from './topic-identity.ts';
import type { FlushFacts, FlushInterval } from '../domain/adaptive-limits.ts';
import { GroupConsumer } from '../kafka/consumer.ts';
import type { GroupConsumerOptions } from '../kafka/consumer.ts';
import { fetchTopicRetention } from '../kafka/topics.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { bytesSource, openParquet } from '../lake/parquet-reader.ts';
import type { Field } from '../lake/schema.ts';
import { magicByte, wireHeaderBytes } from '../schema-registry/wire-codec.ts';
import type { Catalog } from '../lake/table.ts';
import type { Tracing } from '../telemetry/tracing.ts';

export type { StreamingEvent, StreamingLog } from './source-reader.ts';

export interface StreamingSource {
  /** Names the stream workflow. */
  source: string;
  topics: readonly string[];
  /** Kafka consumer group; default `tidemark-<source>`. */
  groupId?: string;
  bronze: { name: string; fields: readonly Field[] };
}

export interface StreamingWorkerOptions {
  sources: readonly StreamingSource[];
  kafka: { brokers: readonly string[]; clientId?: string } & Pick<GroupConsumerOptions, 'fetch' | 'sessionTimeoutMs' | 'heartbeatIntervalMs'>;
  catalog: Pick<Catalog, 'dataLocation'>;
  store: ObjectStore;
  checkpoints: CheckpointClient;
  log: StreamingLog;
  /** All buffers of the process together; default 40 MiB. */
  budgetBytes?: number;
  flush?: Partial<FlushLimits>;
  gapPolicy?: 'continue' | 'halt';
  /** Most bytes of one topic partition in one fetch answer; default 1 MiB. */
  partitionBytesMax?: number;
  /** Signals of one source are at least this far apart; default 1 s. */
  reportIntervalMs?: number;
  /** How often the ledger is looked at when there is nothing to report; default 10 s. */
  lookIntervalMs?: number;
  /** How often accepted offsets are committed to the consumer group, for lag tools; default 5 s. */
  offsetCommitIntervalMs?: number;
  /** How often the broker's retention is looked at; default 30 s. */
  forecastIntervalMs?: number;
  /** Told of the schema ids of the records in each Bronze file. */
  onSchemaIds?: (ids: ReadonlySet<number>) => void;
  /** Unique for this process; made up by default. */
  owner?: string;
  clock?: Clock;
  onEvent?: (event: StreamingEvent) => void;
  atStep?: AtStep;
  tracing?: Pick<Tracing, 'start'>;
}

export interface StreamingTotals {
  records: number;
  recordBytes: number;
  files: number;
  rows: number;
  fileBytes: number;
  recoveredFiles: number;
  gaps: number;
  claimsLost: number;
  budgetPauses: number;
  encodeMs: number;
  putMs: number;
}

export interface StreamingState {
  owner: string;
  sources: Record<string, Record<string, LaneState>>;
  totals: StreamingTotals;
  budget: { limit: number; usedBytes: number; /** 0 to 1. */ usedShare: number; peakBytes: number; full: boolean };
  /** How long buffers stay open now, and why. */
  flush: FlushInterval & FlushFacts;
}

export interface StreamingWorker {
  /** Resolves after a stop; rejects when a bug, or a crash at a step, ended it. */
  readonly done: Promise<void>;
  state(): StreamingState;
  /** Closes and reports what is buffered, then leaves the group; what does not fit into the deadline is left to the next owner. */
  stop(options?: { deadlineMs?: number }): Promise<void>;
  /** Ends at once, as a crash would: nothing is closed or reported. Waits until its connections are gone. */
  kill(): Promise<void>;
}

/** Schema ids that the records' values name. */
const schemaIdsOf = ({ values, rows }: PartitionBuffer): Set<number> => {
  const ids = new Set<number>();
  let last = -1;
  values.forEachValue(rows, (bytes, at, length) => {
    if (length < wireHeaderBytes || bytes[at] !== magicByte) return;
    const id = (bytes[at + 1]! << 24) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!;
    if (id === last || id < 0) return;
    last = id;
    ids.add(id);
  });
  return ids;
};

const budgetWarningShare = 0.8;
const budgetWarningEveryMs = 60_000;
const stopDeadlineMsDefault = 15_000;
/** Buffers are looked at so often in each flush interval. */
const looksPerInterval = 5;

/** Consumes the sources until it is stopped. Kafka, S3 and Temporal may be away at any time, now included: it waits for them. */
export const startStreamingWorker = (options: StreamingWorkerOptions): StreamingWorker => {
  const clock = options.clock ?? systemClock;
  const owner = options.owner ?? `${hostname()}/${process.pid}/${randomUUID().slice(0, 8)}`;
  const limits: FlushLimits = { ...flushDefaults, ...options.flush };
  const pace = new FlushPace({ intervalMinMs: limits.intervalMs, intervalMaxMs: Math.max(limits.intervalMs, limits.intervalMaxMs ?? 0) }, clock.nowMs());
  const flush: FlushLimits = {
    ...limits,
    get intervalMs() {
      return pace.intervalMs;
    },
  };
  const totals: StreamingTotals = {
    records: 0, recordBytes: 0, files: 0, rows: 0, fileBytes: 0, recoveredFiles: 0, gaps: 0, claimsLost: 0, budgetPauses: 0, encodeMs: 0, putMs: 0,
  };
  const onEvent = (event: StreamingEvent): void => {
    count(totals, event);
    if (event.type === 'recordsTaken') pace.taken(event.topicPartition, event.records, clock.nowMs());
    options.onEvent?.(event);
  };
  const atStep: AtStep = options.atStep ?? (() => undefined);
  const { promise: done, resolve, reject } = Promise.withResolvers<void>();
  // A caller that only ever stops the worker does not look at it.
  done.catch(() => undefined);

  const parts: { reader: SourceReader; consumer: GroupConsumer; source: string }[] = [];
  let ended: Promise<void> | null = null;
  const endAll = (): Promise<void> => {
    clearInterval(timer);
    return Promise.all(parts.map(async ({ reader, consumer }) => {
      await reader.stop();
      await consumer.stop();
    })).then(() => undefined);
  };
  const fail = (cause: unknown): void => {
    if (ended) return;
    options.log.error({ owner, error: cause instanceof Error ? cause.stack : String(cause) }, 'streaming worker failed');
    ended = (async () => {
      await endAll().catch(() => undefined);
      reject(cause);
    })();
  };

  const budget = new ByteBudget(options.budgetBytes ?? 40 * 1024 * 1024, (full) => {
    onEvent({ type: 'budget', full, usedBytes: budget.usedBytes });
    // Not now: this comes from the middle of a buffer that is being filled, or given back.
    setImmediate(() => {
      if (full) closeBuffers();
      else for (const { consumer } of parts) consumer.wake();
    });
  });
  const closeBuffers = (): void => {
    if (!ended && budget.full) closeAtBudget(parts.map(({ reader }) => reader), budget);
  };
  let budgetWarnedMs = -Infinity;
  /** Not at each change: under a backlog the level goes up and down many times a second. */
  const lookAtBudget = (): void => {
    if (budget.usedShare < budgetWarningShare || clock.nowMs() - budgetWarnedMs < budgetWarningEveryMs) return;
    budgetWarnedMs = clock.nowMs();
    options.log.warn({ owner, usedBytes: budget.usedBytes, limitBytes: budget.limit, share: Number(budget.usedShare.toFixed(2)) }, 'the byte budget is nearly used up: S3 takes less than Kafka gives');
    for (const { reader } of parts) reader.tellHealth();
  };
  const { onSchemaIds } = options;
  const writer = new BronzeWriter({
    store: options.store, budget, clock, atStep, ...(options.tracing ? { tracing: options.tracing } : {}),
    ...(onSchemaIds ? { onEncoded: (buffer: PartitionBuffer) => onSchemaIds(schemaIdsOf(buffer)) } : {}),
    onRetry: (key, error) => options.log.warn({ key, error: error.message }, 'Bronze file not stored, trying again'),
  });

  const identity = new TopicIdentity(options.store);
  for (const { source, topics, groupId = `tidemark-${source}`, bronze } of options.sources) {
    const reader = new SourceReader({
      source, owner, bronzeFields: bronze.fields,
      dataLocation: (suffix) => options.catalog.dataLocation(bronze.name, suffix),
      store: options.store, checkpoints: options.checkpoints, writer, budget, flush, clock, log: options.log, onEvent, atStep,
      readFooter: async (bytes) => {
        const { rowCount, keyValueMetadata } = await openParquet(bytesSource(bytes));
        return { rowCount, keyValueMetadata };
      },
      gapPolicy: options.gapPolicy ?? 'continue',
      partitionBytesMax: options.partitionBytesMax ?? 1024 * 1024,
      reportIntervalMs: options.reportIntervalMs ?? 1_000,
      lookIntervalMs: options.lookIntervalMs ?? 10_000,
      offsetCommitIntervalMs: options.offsetCommitIntervalMs ?? 5_000,
      forecastIntervalMs: options.forecastIntervalMs ?? 30_000,
      identity,
      retention: (of) => fetchTopicRetention(options.kafka.brokers, of),
      health: () => ({ budgetShare: budget.usedShare, flushIntervalMs: pace.intervalMs, flushReason: pace.current.reason }),
      onFatal: fail,
      closeBuffersAtBudget: closeBuffers,
    });
    const consumer = new GroupConsumer({
      ...options.kafka, clientId: options.kafka.clientId ?? `tidemark-streaming-${source}`, groupId, topics, reader, log: options.log,
    });
    parts.push({ reader, consumer, source });
  }
  const timer = setInterval(() => {
    pace.look(clock.nowMs());
    lookAtBudget();
    for (const { reader } of parts) reader.closeDue();
  }, Math.max(10, limits.intervalMs / looksPerInterval));
  for (const { reader, consumer } of parts) {
    reader.start(consumer);
    consumer.start();
  }

  return {
    done,
    state: () => ({
      owner,
      sources: Object.fromEntries(parts.map(({ source, reader }) => [source, reader.state()])),
      totals: { ...totals },
      budget: { limit: budget.limit, usedBytes: budget.usedBytes, usedShare: budget.usedShare, peakBytes: budget.peakBytes, full: budget.full },
      flush: pace.current,
    }),
    stop: async ({ deadlineMs = stopDeadlineMsDefault } = {}) => {
      ended ??= (async () => {
        const deadline = AbortSignal.timeout(deadlineMs);
        await Promise.all(parts.map(({ reader }) => reader.drain(deadline)));
        await endAll();
      })().then(resolve, reject);
      await ended;
    },
    kill: async () => {
      ended ??= endAll().then(resolve, reject);
      await ended;
    },
  };
};

const count = (totals: StreamingTotals, event: StreamingEvent): void => {
  switch (event.type) {
    case 'recordsTaken':
      totals.records += event.records;
      totals.recordBytes += event.bytes;
      break;
    case 'fileWritten':
      totals.files += 1;
      totals.rows += event.rows;
      totals.fileBytes += event.bytes;
      totals.encodeMs += event.encodeMs;
      totals.putMs += event.putMs;
      break;
    case 'recovered':
      totals.recoveredFiles += event.files;
      break;
    case 'gap':
      totals.gaps += 1;
      break;
    case 'claimLost':
      totals.claimsLost += 1;
      break;
    case 'budget':
      totals.budgetPauses += event.full ? 1 : 0;
      break;
    case 'claimed':
    case 'reading':
    case 'reported':
    case 'accepted':
    case 'halted':
      break;
  }
};
