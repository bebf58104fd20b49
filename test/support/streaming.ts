import { hash, randomUUID } from 'node:crypto';
import { expect, inject, onTestFinished, vi } from 'vitest';
import kafkajs from 'kafkajs';
import type { Admin, Kafka } from 'kafkajs';
import { bronzeFileSuffix } from '../../src/contracts/bronze.ts';
import { bronzeTable } from '../../src/datasets/dataset.ts';
import { parseTopicPartitionKey } from '../../src/domain/offsets.ts';
import { createKafka } from '../../src/kafka/client.ts';
import { ensureTopics } from '../../src/kafka/topics.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import type { ObjectStore } from '../../src/lake/object-store.ts';
import { bytesSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { createS3ObjectStore } from '../../src/lake/s3-object-store.ts';
import type { Catalog } from '../../src/lake/table.ts';
import { startStreamingWorker } from '../../src/streaming/streaming-worker.ts';
import type { StreamingEvent, StreamingLog, StreamingWorker, StreamingWorkerOptions } from '../../src/streaming/streaming-worker.ts';
import { FakeCheckpoints } from './fake-checkpoints.ts';

export interface Lane {
  topic: string;
  source: string;
  kafka: Kafka;
  brokers: string[];
  store: ObjectStore;
  catalog: Catalog;
  bronze: ReturnType<typeof bronzeTable>;
  checkpoints: FakeCheckpoints;
  events: StreamingEvent[];
  log: StreamingLog;
  start(options?: Partial<StreamingWorkerOptions>): StreamingWorker;
}

/** How long a test waits for what must come: a group that forms again takes seconds, on a busy machine many. */
export const waitMs = 60_000;

const quiet = (): void => undefined;
const verboseLog = (level: string) => (fields: object, message: string): void => {
  process.stderr.write(`${level} ${message} ${JSON.stringify(fields)}\n`);
};
export const testLog: StreamingLog = process.env['TIDEMARK_TEST_LOG']
  ? { debug: verboseLog('debug'), info: verboseLog('info'), warn: verboseLog('warn'), error: verboseLog('error') }
  : { debug: quiet, info: quiet, warn: quiet, error: quiet };

/** A topic of its own, a bucket of its own, a fake ledger, and workers that are stopped with the test. */
export const createLane = async ({ partitions = 1, configs = {}, brokers = inject('stack').kafka.brokers }: { partitions?: number; configs?: Record<string, string>; brokers?: string[] } = {}): Promise<Lane> => {
  const stack = inject('stack');
  const id = randomUUID().slice(0, 8);
  const topic = `streaming-${id}`;
  const kafka = createKafka({ brokers, clientId: 'streaming-test' });
  await ensureTopics(brokers, [{ topic, partitions, configs }]);
  const { endpoint, region, accessKeyId, secretAccessKey } = stack.s3;
  const store = createS3ObjectStore({ bucket: `streaming-${id}`, endpoint, region, credentials: { accessKeyId, secretAccessKey } });
  await store.ensureBucket();
  const catalog = createObjectStoreCatalog({ store, namespace: 'test' });
  const bronze = bronzeTable('bronze_test');
  const checkpoints = new FakeCheckpoints();
  const events: StreamingEvent[] = [];
  const workers: StreamingWorker[] = [];
  onTestFinished(async () => {
    await Promise.all(workers.map((worker) => worker.kill().catch(() => undefined)));
    store.close();
  });
  const lane: Lane = {
    topic, source: `source-${id}`, kafka, brokers, store, catalog, bronze, checkpoints, events, log: testLog,
    start: (options = {}) => {
      const worker = startStreamingWorker({
        sources: [{ source: lane.source, topics: [topic], bronze }],
        kafka: { brokers, sessionTimeoutMs: 6_000, heartbeatIntervalMs: 300 },
        catalog, store, checkpoints, log: testLog,
        flush: { intervalMs: 200 },
        reportIntervalMs: 50,
        onEvent: (event) => events.push(event),
        ...options,
      });
      workers.push(worker);
      return worker;
    },
  };
  return lane;
};

export interface SentRecord {
  key?: Buffer | string | null;
  value: Buffer | string | null;
  headers?: Record<string, string | string[]>;
}

/** Sends to one topic partition; the values become the truth that {@link expectExactlyOnce} compares with. */
export const produce = async (lane: Lane, partition: number, records: readonly SentRecord[], compression = kafkajs.CompressionTypes.None): Promise<{ baseOffset: bigint }> => {
  const producer = lane.kafka.producer({ idempotent: true });
  await producer.connect();
  try {
    let baseOffset: bigint | null = null;
    for (let from = 0; from < records.length; from += 2_000) {
      const answer = await producer.send({
        topic: lane.topic, acks: -1, compression,
        messages: records.slice(from, from + 2_000).map(({ key = null, value, headers }) => ({ partition, key, value, ...(headers ? { headers } : {}) })),
      });
      baseOffset ??= BigInt(answer[0]!.baseOffset!);
    }
    return { baseOffset: baseOffset ?? 0n };
  } finally {
    await producer.disconnect();
  }
};

/** Sends small batches to every topic partition until it is stopped; then tells how many each one got. */
export const keepProducing = (lane: Lane, partitions: number): { stop(): Promise<number[]> } => {
  const sent = Array.from({ length: partitions }, () => 0);
  const stopping = new AbortController();
  const producing = (async () => {
    const producer = lane.kafka.producer({ idempotent: true });
    await producer.connect();
    while (!stopping.signal.aborted) {
      for (let partition = 0; partition < partitions; partition += 1) {
        await producer.send({ topic: lane.topic, acks: -1, messages: Array.from({ length: 20 }, (_, i) => ({ partition, value: `${partition}-${sent[partition]! + i}` })) });
        sent[partition]! += 20;
      }
    }
    await producer.disconnect();
  })();
  return {
    stop: async () => {
      stopping.abort();
      await producing;
      return sent;
    },
  };
};

export const withAdmin = async <T>(lane: Lane, use: (admin: Admin) => Promise<T>): Promise<T> => {
  const admin = lane.kafka.admin();
  await admin.connect();
  try {
    return await use(admin);
  } finally {
    await admin.disconnect();
  }
};

/** What retention does: the log starts at `offset` afterwards. */
export const deleteRecords = (lane: Lane, partition: number, offset: bigint): Promise<void> => withAdmin(lane, async (admin) => {
  await admin.fetchTopicOffsets(lane.topic); // else kafkajs knows no leaders
  await admin.deleteTopicRecords({ topic: lane.topic, partitions: [{ partition, offset: String(offset) }] });
});

export const texts = (count: number, prefix = 'record'): SentRecord[] => Array.from({ length: count }, (_, i) => ({ key: `k${i % 7}`, value: `${prefix}-${i}` }));

/** What the broker has: offset → value. Read by a consumer of its own, aborted records left out. */
export const readTopic = async (lane: Lane, partition: number): Promise<Map<bigint, string | null>> => {
  const admin = lane.kafka.admin();
  await admin.connect();
  const bounds = (await admin.fetchTopicOffsets(lane.topic)).find((found) => found.partition === partition)!;
  await admin.disconnect();
  const values = new Map<bigint, string | null>();
  if (bounds.low === bounds.high) return values;
  const consumer = lane.kafka.consumer({ groupId: `truth-${randomUUID()}`, maxWaitTimeInMs: 100 });
  await consumer.connect();
  await consumer.subscribe({ topic: lane.topic, fromBeginning: true });
  let reached = BigInt(bounds.low);
  // Batches of control records alone never reach eachBatch, but this event has them.
  consumer.on(consumer.events.END_BATCH_PROCESS, ({ payload }) => {
    if (payload.partition === partition) reached = BigInt(payload.lastOffset) + 1n;
  });
  await consumer.run({
    autoCommit: false,
    eachBatch: ({ batch }) => {
      if (batch.partition !== partition) return Promise.resolve();
      for (const { offset, value } of batch.messages) values.set(BigInt(offset), value === null ? null : value.toString());
      return Promise.resolve();
    },
  });
  await vi.waitFor(() => expect(reached).toBeGreaterThanOrEqual(BigInt(bounds.high)), { timeout: waitMs, interval: 50 });
  await consumer.disconnect();
  return values;
};

/** The rows that the ledger has accepted for one topic partition, by offset; fails if any offset is there twice or outside its range. */
export const readAccepted = async (lane: Lane, partition: number): Promise<{ rows: Map<bigint, string | null>; ranges: { start: bigint; end: bigint }[] }> => {
  const rows = new Map<bigint, string | null>();
  const ranges: { start: bigint; end: bigint }[] = [];
  for (const range of lane.checkpoints.rangesOf(`${lane.topic}/${partition}`)) {
    const { topic } = parseTopicPartitionKey(range.topicPartition);
    const start = BigInt(range.startOffset);
    const end = BigInt(range.endOffset);
    const key = lane.store.keyOf(lane.catalog.dataLocation(lane.bronze.name, bronzeFileSuffix({ topic, partition, start, end, epoch: range.fileEpoch })));
    const { body } = await lane.store.get(key);
    expect(hash('sha256', body, 'hex')).toBe(range.checksum);
    const { columns, rowCount } = await readColumns(await openParquet(bytesSource(body)), { columns: ['offset', 'raw_bytes', 'partition'] });
    expect(rowCount).toBe(range.rowCount);
    for (let row = 0; row < rowCount; row += 1) {
      const offset = (columns['offset'] as BigInt64Array)[row]!;
      if (offset < start || offset >= end) expect.fail(`offset ${offset} is not in [${start}, ${end})`);
      if (rows.has(offset)) expect.fail(`offset ${offset} is there twice`);
      const value = (columns['raw_bytes'] as (Uint8Array | null)[])[row]!;
      rows.set(offset, value === null ? null : Buffer.from(value).toString());
    }
    ranges.push({ start, end });
  }
  return { rows, ranges };
};

/** Every record of the topic partition is in an accepted Bronze file exactly once, and the ranges follow on without a hole. */
export const expectExactlyOnce = async (lane: Lane, partition: number, gaps: { start: bigint; end: bigint }[] = []): Promise<void> => {
  const truth = await readTopic(lane, partition);
  const { rows, ranges } = await readAccepted(lane, partition);
  const steps = [...ranges, ...gaps].sort((a, b) => (a.start < b.start ? -1 : 1));
  for (const [index, step] of steps.entries()) if (index > 0) expect(step.start).toBe(steps[index - 1]!.end);
  const wrong = [...truth].filter(([offset, value]) => rows.get(offset) !== value).map(([offset]) => offset);
  expect(wrong.slice(0, 10), 'offsets that are missing or hold something else').toEqual([]);
  const lowest = [...truth.keys()].reduce((a, b) => (a < b ? a : b));
  expect([...rows.keys()].filter((offset) => offset >= lowest && !truth.has(offset)).slice(0, 10), 'offsets that are no records').toEqual([]);
};

/** Waits until the ledger has accepted everything below `offset`. */
export const accepted = async (lane: Lane, partition: number, offset: bigint, timeout = waitMs): Promise<void> => {
  await vi.waitFor(() => expect(lane.checkpoints.next(`${lane.topic}/${partition}`) ?? 0n).toBeGreaterThanOrEqual(offset), { timeout, interval: 30 });
};
