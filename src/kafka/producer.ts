import kafkajs from 'kafkajs';
import type { Message, PartitionMetadata, Producer } from 'kafkajs';
import { TidemarkError, invariant } from '../domain/errors.ts';
import type { Interval } from '../domain/offsets.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { KafkaClientOptions } from './client.ts';
import { createKafka } from './client.ts';
import type { Compression } from './codecs.ts';
import { compressionTypes } from './codecs.ts';
import { PartitionMessages, recordBytesMax } from './record-set.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

export interface OutgoingRecord {
  /** Records of one key keep their order; null: spread over the topic partitions. */
  key: string | null;
  /** Null is a tombstone. The buffer must not change until the record is delivered. */
  value: Buffer | null;
  headers?: Readonly<Record<string, string>>;
}

/** Records that Kafka has, at offsets `baseOffset`, `baseOffset + 1`, … in their order. */
export interface Delivery {
  topic: string;
  partition: number;
  baseOffset: bigint;
  records: readonly OutgoingRecord[];
}

export interface RecordProducerOptions extends Pick<KafkaClientOptions, 'brokers' | 'onLog' | 'requestTimeoutMs'> {
  clientId?: string;
  /** Default lz4: with the broker on the same machine it costs less CPU in all than none, and a third of the bytes. */
  compression?: Compression;
  /** Longest a record waits for others before its record batch is sent. Default 5. */
  lingerMs?: number;
  /** Most bytes in one record batch. Below the broker's default `message.max.bytes` of 1 MiB, and that is its default. */
  batchBytesMax?: number;
  /** Most bytes of records that are not yet acknowledged; {@link RecordProducer.produce} waits at the bound. Default 16 MiB. */
  bufferedBytesMax?: number;
  onDelivered?: (delivery: Delivery) => void;
}

/**
 * An idempotent producer (acks=all). Once a record is taken it is delivered exactly once, in the order of its key, or
 * the producer fails for good and says so; while the broker is away it waits.
 */
export interface RecordProducer {
  /**
   * Takes the records, and resolves when all are in the buffer: awaiting it is the backpressure.
   *
   * @throws TidemarkError KAFKA_REFUSED when the broker refused a record, or the topic does not exist.
   */
  produce(topic: string, records: readonly OutgoingRecord[]): Promise<void>;
  /** Resolves when all that was taken is acknowledged; with a deadline, throws KAFKA_UNAVAILABLE when it is not by then. */
  flush(timeoutMs?: number): Promise<void>;
  /** Taken, not yet acknowledged. */
  readonly unacknowledged: { readonly records: number; readonly bytes: number };
  /** The offsets that the broker acknowledged: the truth of what was produced. */
  delivered(): Coverage;
  deliveredRecords(): number;
  /** Flushes (30 s at most) and disconnects. */
  close(timeoutMs?: number): Promise<void>;
  /** Disconnects and forgets what is not acknowledged: those records are in Kafka, or not. */
  abort(): Promise<void>;
}

/** Enough for the largest batch of small records; more would only hold the event loop for longer. */
const batchRecordsMax = 6_000;
const retryPauseMs = 500;
/** What kafkajs says of few retries is true for a caller that gives up afterwards; {@link createRecordProducer} does not. */
const retriesWarning = 'Limiting retries for the idempotent producer';

const errorChain = (error: unknown): Error[] => {
  const chain: Error[] = [];
  for (let next: unknown = error; next instanceof Error && chain.length < 8; next = next.cause) chain.push(next);
  return chain;
};

/** Refused for what it is, not for when it came. kafkajs wraps both kinds alike once its own retries are used up. */
const isRefusal = (error: unknown): boolean =>
  errorChain(error).some((cause) => (cause instanceof kafkajs.KafkaJSProtocolError && !cause.retriable) || cause instanceof TypeError || cause instanceof RangeError);

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Waits of a topic partition until its batch is full, its linger is over, or someone flushes. */
interface PartitionQueue {
  readonly topic: string;
  readonly partition: number;
  records: OutgoingRecord[];
  bytes: number;
  sending: boolean;
  linger: NodeJS.Timeout | undefined;
}

export const createRecordProducer = async ({
  brokers, onLog, requestTimeoutMs, clientId = 'tidemark-capture', compression = 'lz4', lingerMs = 5,
  batchBytesMax = 900 * KiB, bufferedBytesMax = 16 * MiB, onDelivered,
}: RecordProducerOptions): Promise<RecordProducer> => {
  invariant(bufferedBytesMax >= batchBytesMax, () => `bufferedBytesMax: expected at least batchBytesMax (${batchBytesMax}), found ${bufferedBytesMax}`);
  const kafka = createKafka({
    brokers, clientId, ...(requestTimeoutMs ? { requestTimeoutMs } : {}),
    ...(onLog ? { onLog: (level, message, fields) => { if (!message.startsWith(retriesWarning)) onLog(level, message, fields); } } : {}),
  });
  // Few retries in kafkajs, since this file repeats a send itself, and can be stopped while it does.
  const producer: Producer = kafka.producer({
    idempotent: true, maxInFlightRequests: 1, allowAutoTopicCreation: false, retry: { retries: 5 },
    createPartitioner: kafkajs.Partitioners.DefaultPartitioner,
  });
  const admin = kafka.admin();
  try {
    await Promise.all([producer.connect(), admin.connect()]);
  } catch (cause) {
    await Promise.allSettled([producer.disconnect(), admin.disconnect()]);
    throw new TidemarkError('KAFKA_UNAVAILABLE', `Kafka at ${brokers.join(',')}: no connection: ${messageOf(cause)}`, { cause });
  }

  const topics = new Map<string, { queues: PartitionQueue[]; partitionOf: (record: OutgoingRecord) => number }>();
  const unacknowledged = { records: 0, bytes: 0 };
  const delivered = new Map<string, { start: bigint; end: bigint }[]>();
  let deliveredRecords = 0;
  const ended: { failure: TidemarkError | undefined; aborted: boolean } = { failure: undefined, aborted: false };
  let flushing = 0;
  let settled = Promise.withResolvers<void>();

  /** Wakes all that wait for room or for a flush. */
  const settle = (): void => {
    const { resolve } = settled;
    settled = Promise.withResolvers<void>();
    resolve();
  };

  const throwFailure = (): void => {
    if (ended.failure) throw ended.failure;
  };

  const fail = (error: TidemarkError): void => {
    ended.failure ??= error;
    settle();
  };

  const loadTopic = async (topic: string) => {
    let partitionMetadata: PartitionMetadata[];
    try {
      partitionMetadata = (await admin.fetchTopicMetadata({ topics: [topic] })).topics.flatMap(({ partitions }) => partitions);
    } catch (cause) {
      const missing = errorChain(cause).some((inner) => inner instanceof kafkajs.KafkaJSProtocolError && inner.type === 'UNKNOWN_TOPIC_OR_PARTITION');
      throw missing
        ? new TidemarkError('KAFKA_REFUSED', `topic ${topic}: expected it to exist, found none at ${brokers.join(',')}`, { cause })
        : new TidemarkError('KAFKA_UNAVAILABLE', `topic ${topic}: no metadata from ${brokers.join(',')}: ${messageOf(cause)}`, { cause });
    }
    // kafkajs's own choice (murmur2, as the Java client has it), remembered: symbols are few.
    const choose = kafkajs.Partitioners.DefaultPartitioner();
    const chosen = new Map<string, number>();
    let next = 0;
    const partitionOf = ({ key }: OutgoingRecord): number => {
      if (key === null) return next++ % partitionMetadata.length;
      let partition = chosen.get(key);
      if (partition === undefined) {
        partition = choose({ topic, partitionMetadata, message: { key, value: null } });
        if (chosen.size < 100_000) chosen.set(key, partition);
      }
      return partition;
    };
    const queues: PartitionQueue[] = partitionMetadata.map((_, partition) => ({ topic, partition, records: [], bytes: 0, sending: false, linger: undefined }));
    const state = { queues, partitionOf };
    topics.set(topic, state);
    return state;
  };

  /** The first records of the queue, as many as one record batch may hold. */
  const takeBatch = (queue: PartitionQueue): { records: OutgoingRecord[]; bytes: number } => {
    let bytes = 0;
    let count = 0;
    while (count < queue.records.length && count < batchRecordsMax) {
      const size = recordBytesMax(queue.records[count]!);
      if (count > 0 && bytes + size > batchBytesMax) break;
      bytes += size;
      count += 1;
    }
    const records = count === queue.records.length ? queue.records : queue.records.slice(0, count);
    queue.records = count === queue.records.length ? [] : queue.records.slice(count);
    queue.bytes -= bytes;
    return { records, bytes };
  };

  const remember = ({ topic, partition, baseOffset, records }: Delivery): void => {
    const key = topicPartitionKey(topic, partition);
    const end = baseOffset + BigInt(records.length);
    const intervals = delivered.get(key) ?? [];
    if (intervals.length === 0) delivered.set(key, intervals);
    const last = intervals.at(-1);
    if (last?.end === baseOffset) last.end = end;
    else intervals.push({ start: baseOffset, end });
    deliveredRecords += records.length;
  };

  /**
   * Sends one record batch of one topic partition until it is acknowledged. A send holds one batch alone: when it fails
   * with an unknown outcome, kafkajs takes its sequence numbers back, and the same batch goes out again under the same
   * numbers, so the broker knows it. With two batches in one send, the one that had arrived would get new numbers.
   */
  const sendBatch = async ({ topic, partition }: PartitionQueue, records: OutgoingRecord[]): Promise<void> => {
    for (;;) {
      try {
        const [answer] = await producer.send({
          topic,
          acks: -1,
          compression: compressionTypes[compression],
          messages: PartitionMessages.fromRecords(partition, records) as Message[],
        });
        invariant(answer?.baseOffset !== undefined, () => `topic ${topic}: the broker acknowledged ${records.length} records without an offset`);
        const delivery = { topic, partition, baseOffset: BigInt(answer.baseOffset), records };
        remember(delivery);
        onDelivered?.(delivery);
        return;
      } catch (cause) {
        if (ended.aborted) throw cause;
        if (isRefusal(cause) || !(cause instanceof kafkajs.KafkaJSError)) {
          throw new TidemarkError('KAFKA_REFUSED', `topic ${topic}, topic partition ${partition}: ${records.length} records refused: ${messageOf(cause)}`, { cause });
        }
        onLog?.('warn', `Kafka does not answer; ${unacknowledged.records} records wait`, { topic, partition, error: messageOf(cause) });
        await new Promise((resolve) => { setTimeout(resolve, retryPauseMs); });
      }
    }
  };

  const isDue = (queue: PartitionQueue): boolean =>
    queue.records.length > 0 && (queue.linger === undefined || flushing > 0 || queue.bytes >= batchBytesMax || queue.records.length >= batchRecordsMax);

  const drain = async (queue: PartitionQueue): Promise<void> => {
    if (queue.sending) return;
    queue.sending = true;
    try {
      while (!ended.failure && !ended.aborted && isDue(queue)) {
        clearTimeout(queue.linger);
        const { records, bytes } = takeBatch(queue);
        await sendBatch(queue, records);
        unacknowledged.records -= records.length;
        unacknowledged.bytes -= bytes;
        // What came meanwhile has waited for a whole round trip: it is due.
        queue.linger = undefined;
        settle();
      }
    } catch (error) {
      fail(error instanceof TidemarkError ? error : new TidemarkError('KAFKA_UNAVAILABLE', `topic ${queue.topic}: stopped before all records were acknowledged`, { cause: error }));
    } finally {
      queue.sending = false;
    }
  };

  const startLinger = (queue: PartitionQueue): void => {
    if (queue.sending || queue.linger) return;
    queue.linger = setTimeout(() => {
      queue.linger = undefined;
      void drain(queue);
    }, lingerMs);
  };

  const allQueues = (): PartitionQueue[] => [...topics.values()].flatMap(({ queues }) => queues);

  const produce = async (topic: string, records: readonly OutgoingRecord[]): Promise<void> => {
    throwFailure();
    const { queues, partitionOf } = topics.get(topic) ?? await loadTopic(topic);
    for (const record of records) {
      while (unacknowledged.bytes >= bufferedBytesMax) {
        await settled.promise;
        throwFailure();
      }
      const queue = queues[partitionOf(record)]!;
      const bytes = recordBytesMax(record);
      queue.records.push(record);
      queue.bytes += bytes;
      unacknowledged.records += 1;
      unacknowledged.bytes += bytes;
      startLinger(queue);
      if (!queue.sending && isDue(queue)) void drain(queue);
    }
  };

  const flush = async (timeoutMs?: number): Promise<void> => {
    flushing += 1;
    const deadline = timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs);
    const expired = new Promise<void>((resolve) => { deadline?.addEventListener('abort', () => resolve()); });
    try {
      for (const queue of allQueues()) void drain(queue);
      while (unacknowledged.records > 0) {
        throwFailure();
        if (deadline?.aborted) throw new TidemarkError('KAFKA_UNAVAILABLE', `Kafka at ${brokers.join(',')}: ${unacknowledged.records} records not acknowledged within ${timeoutMs} ms`);
        await Promise.race([settled.promise, expired]);
      }
      throwFailure();
    } finally {
      flushing -= 1;
    }
  };

  const disconnect = async (): Promise<void> => {
    for (const queue of allQueues()) clearTimeout(queue.linger);
    await Promise.allSettled([producer.disconnect(), admin.disconnect()]);
  };

  const abort = async (): Promise<void> => {
    ended.aborted = true;
    fail(new TidemarkError('KAFKA_UNAVAILABLE', 'the producer was stopped before all records were acknowledged'));
    await disconnect();
  };

  return {
    produce,
    flush,
    unacknowledged,
    delivered: () => Coverage.of([...delivered].map(([key, intervals]) => [key, IntervalSet.of(...intervals as Interval[])] as const)),
    deliveredRecords: () => deliveredRecords,
    close: async (timeoutMs = 30_000) => {
      try {
        await flush(timeoutMs);
      } catch (error) {
        await abort();
        throw error;
      }
      await disconnect();
    },
    abort,
  };
};
