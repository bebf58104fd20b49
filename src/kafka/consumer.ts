import { setTimeout as setTimeoutPromise } from 'node:timers/promises';
import kafkajs from 'kafkajs';
import type { Broker, Cluster, Consumer, Kafka, PartitionAssigner } from 'kafkajs';
import { TidemarkError } from '../domain/errors.ts';
import type { TopicPartition } from '../domain/offsets.ts';
import { createKafka } from './client.ts';
import { fetchErrors, fetchRecords } from './fetch-protocol.ts';
import type { FetchLimits, FetchRequest, FetchedPartition } from './fetch-protocol.ts';
import { firstTimestampMs } from './record-batch.ts';
import type { Decompress } from './record-batch.ts';
import { fetchTopicId } from './topic-id.ts';

export { fetchErrors } from './fetch-protocol.ts';
export type { FetchRequest, FetchedPartition } from './fetch-protocol.ts';

/*
 * kafkajs keeps us in the consumer group; the reading is our own.
 *
 * kafkajs' consumer moves positions by itself: after each join it goes back to the group's committed offset, when an
 * offset is out of range it commits and takes the default offset, and record batches without records never reach the
 * caller, so that a jump cannot be told from a loss. Its positions cannot be trusted with an exactly-once checkpoint.
 * So all its topic partitions are paused for good: it joins, heartbeats and refreshes metadata. Records come by Fetch
 * requests of our own over its connections (a partition assigner is given the cluster, and that is public), each for
 * exactly the offset that we expect, with the answer's log start and error for each topic partition.
 */

export interface ConsumerLog {
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
}

/** What a {@link GroupConsumer} reads for. */
export interface PartitionReader {
  /** After each join of the group: the topic partitions that are ours now. What is absent was taken away. */
  assigned(partitions: readonly TopicPartition[]): void;
  /** What to fetch now. Asked before each fetch; an empty list waits for {@link GroupConsumer.wake}. */
  wanted(): readonly FetchRequest[];
  /** The answer for one topic partition. The next fetch of the same broker waits for it. Never rejects. */
  fetched(answer: FetchedPartition): Promise<void> | void;
  /** A fetch of these failed, or was refused: what is behind the names may be something else by now. */
  disturbed(topicPartitions: readonly TopicPartition[]): void;
}

export interface GroupConsumerOptions {
  brokers: readonly string[];
  clientId: string;
  groupId: string;
  topics: readonly string[];
  reader: PartitionReader;
  log: ConsumerLog;
  /** Bytes of one Fetch answer and how long the broker may wait for them. */
  fetch?: Partial<FetchLimits>;
  /** The broker takes the topic partitions away from a consumer that was silent for so long. */
  sessionTimeoutMs?: number;
  heartbeatIntervalMs?: number;
}

export const fetchDefaults: FetchLimits = { bytesMax: 4 * 1024 * 1024, bytesMin: 1, waitMs: 250 };
const idleMs = 250;
const backoffMs = { min: 100, max: 5_000 };

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const bodyCodec = (type: number): { decompress(body: Buffer): Promise<Buffer> } => {
  const codecs: Record<number, () => { decompress(body: Buffer): Promise<Buffer> }> = kafkajs.CompressionCodecs as never;
  const codec = codecs[type];
  if (!codec) throw new TidemarkError('RECORD_BATCH_UNREADABLE', `record batch: expected compression 0 to 4, found ${type}`);
  return codec();
};

/** Decompresses a record batch's records by the codecs that {@link createKafka} registered. */
export const decompressRecords: Decompress = (type, body) =>
  bodyCodec(type).decompress(Buffer.from(body.buffer, body.byteOffset, body.byteLength));

export class GroupConsumer {
  private readonly options: GroupConsumerOptions;
  private readonly kafka: Kafka;
  private readonly limits: FetchLimits;
  private consumer: Consumer | null = null;
  private cluster: Cluster | null = null;
  private readonly loops = new Map<string, Promise<void>>();
  private readonly idlers = new Set<() => void>();
  private readonly stopped = new AbortController();
  private starting: Promise<void> = Promise.resolve();

  constructor(options: GroupConsumerOptions) {
    this.options = options;
    this.limits = { ...fetchDefaults, ...options.fetch };
    this.kafka = createKafka({
      brokers: options.brokers,
      clientId: options.clientId,
      onLog: (level, message, fields) => options.log[level === 'error' ? 'warn' : 'info']({ group: options.groupId, ...pick(fields) }, `kafkajs: ${message}`),
    });
  }

  /** Joins the group; while Kafka is away it tries on. Returns at once. */
  start(): void {
    this.starting = this.join();
  }

  /** Asks {@link PartitionReader.wanted} again at once. */
  wake(): void {
    for (const wakeOne of this.idlers) wakeOne();
  }

  /** The first offset that the broker still has, and the next one that it will give (of committed records). */
  async logBounds({ topic, partition }: TopicPartition): Promise<{ start: bigint; end: bigint }> {
    const { cluster } = this;
    if (!cluster) throw new TidemarkError('KAFKA_UNAVAILABLE', `${topic}/${partition}: the consumer is not connected`);
    try {
      const offsetAt = async (fromBeginning: boolean): Promise<bigint> => {
        const [answer] = await cluster.fetchTopicsOffset([{ topic, partitions: [{ partition }], fromBeginning }]);
        return BigInt(answer!.partitions[0]!.offset);
      };
      return { start: await offsetAt(true), end: await offsetAt(false) };
    } catch (error) {
      throw new TidemarkError('KAFKA_UNAVAILABLE', `${topic}/${partition}: its log bounds could not be read: ${messageOf(error)}`, { cause: error });
    }
  }

  /** See topic-id.ts; null: the broker is too old to tell. Throws KAFKA_UNAVAILABLE. */
  async topicId(topic: string): Promise<string | null> {
    return this.asking(topic, async (cluster) => fetchTopicId(await cluster.findBroker({ nodeId: String(cluster.getNodeIds()[0]) }), topic));
  }

  /**
   * Kafka timestamp of the record batch at the offset, that is, of its first record; null: nothing is there (any more).
   * Reads one batch. Throws KAFKA_UNAVAILABLE.
   */
  async timestampAt({ topic, partition }: TopicPartition, offset: bigint): Promise<number | null> {
    return this.asking(`${topic}/${partition}`, async (cluster) => {
      const leader = Object.entries(cluster.findLeaderForPartitions(topic, [partition])).find(([, led]) => led.includes(partition))?.[0];
      if (leader === undefined) return null;
      // A broker gives the first record batch whole, however little is asked for.
      const [answer] = await fetchRecords(await cluster.findBroker({ nodeId: leader }), [{ topic, partition, offset, bytesMax: 1 }], { bytesMax: 1, bytesMin: 1, waitMs: 0 });
      return answer?.errorCode === fetchErrors.none ? firstTimestampMs(answer.recordSet) : null;
    });
  }

  private async asking<T>(subject: string, ask: (cluster: Cluster) => Promise<T>): Promise<T> {
    const { cluster } = this;
    if (!cluster) throw new TidemarkError('KAFKA_UNAVAILABLE', `${subject}: the consumer is not connected`);
    try {
      return await ask(cluster);
    } catch (error) {
      // The brokers may be others by now, or elsewhere.
      await cluster.refreshMetadata().catch(() => undefined);
      if (error instanceof TidemarkError) throw error;
      throw new TidemarkError('KAFKA_UNAVAILABLE', `${subject}: Kafka does not answer: ${messageOf(error)}`, { cause: error });
    }
  }

  /** The group's committed offsets are for lag tools alone; a refusal (a rebalance, say) is reported and forgotten. */
  async commitOffsets(offsets: readonly (TopicPartition & { offset: bigint })[]): Promise<void> {
    try {
      await this.consumer?.commitOffsets(offsets.map(({ topic, partition, offset }) => ({ topic, partition, offset: String(offset) })));
    } catch (error) {
      this.options.log.info({ group: this.options.groupId, error: messageOf(error) }, 'offset commit refused');
    }
  }

  /** Ends the fetches and leaves the group. */
  async stop(): Promise<void> {
    this.stopped.abort();
    this.wake();
    await this.starting;
    await Promise.all(this.loops.values());
    await this.consumer?.disconnect().catch((error: unknown) => {
      this.options.log.info({ group: this.options.groupId, error: messageOf(error) }, 'leaving the group failed');
    });
  }

  private async join(): Promise<void> {
    for (let attempt = 0; !this.stopped.signal.aborted; attempt += 1) {
      const consumer = this.createConsumer();
      try {
        await consumer.subscribe({ topics: [...this.options.topics], fromBeginning: true });
        this.consumer = consumer;
        await consumer.run({ autoCommit: false, eachBatchAutoResolve: false, eachBatch: () => Promise.resolve() });
        return;
      } catch (error) {
        this.options.log.warn({ group: this.options.groupId, topics: this.options.topics, error: messageOf(error) }, 'joining the consumer group failed, trying again');
        await consumer.disconnect().catch(() => undefined);
        await this.sleep(backoff(attempt));
      }
    }
  }

  private createConsumer(): Consumer {
    const { groupId, topics, reader, sessionTimeoutMs = 30_000, heartbeatIntervalMs = 1_000 } = this.options;
    const assigner: PartitionAssigner = (config) => {
      this.cluster = config.cluster;
      return kafkajs.PartitionAssigners.roundRobin(config);
    };
    const consumer = this.kafka.consumer({
      groupId,
      partitionAssigners: [assigner],
      allowAutoTopicCreation: false,
      sessionTimeout: sessionTimeoutMs,
      heartbeatInterval: heartbeatIntervalMs,
      maxWaitTimeInMs: idleMs,
      metadataMaxAge: 60_000,
    });
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      if (this.stopped.signal.aborted || consumer !== this.consumer) return;
      // Synchronous with the join, so before kafkajs' first fetch.
      consumer.pause(topics.map((topic) => ({ topic })));
      reader.assigned(Object.entries(payload.memberAssignment).flatMap(([topic, partitions]) => partitions.map((partition) => ({ topic, partition }))));
      this.superviseLoops();
      this.wake();
    });
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      if (payload.restart || this.stopped.signal.aborted || consumer !== this.consumer) return;
      this.options.log.warn({ group: groupId, error: messageOf(payload.error) }, 'consumer crashed, joining the group again');
      this.starting = this.join();
    });
    return consumer;
  }

  /** One fetch loop for each broker, so that an idle one that holds its answer back does not delay the others. */
  private superviseLoops(): void {
    for (const nodeId of this.cluster?.getNodeIds() ?? []) {
      const id = String(nodeId);
      if (this.loops.has(id)) continue;
      this.loops.set(id, this.fetchLoop(id).finally(() => this.loops.delete(id)));
    }
  }

  private async fetchLoop(nodeId: string): Promise<void> {
    let failures = 0;
    while (!this.stopped.signal.aborted) {
      const { cluster } = this;
      if (!cluster?.getNodeIds().some((id) => String(id) === nodeId)) return;
      let requests: readonly FetchRequest[] = [];
      try {
        requests = this.ledBy(cluster, nodeId, this.options.reader.wanted());
        if (requests.length === 0) {
          await this.idle();
          this.superviseLoops();
          continue;
        }
        const broker: Broker = await cluster.findBroker({ nodeId });
        const answers = await fetchRecords(broker, requests, this.limits);
        let moved = false;
        for (const answer of answers) {
          if (this.stopped.signal.aborted) return;
          if (answer.errorCode === fetchErrors.none || answer.errorCode === fetchErrors.offsetOutOfRange) await this.options.reader.fetched(answer);
          else {
            moved = true;
            this.options.reader.disturbed([answer]);
          }
        }
        if (moved) {
          // The topic partition moved to another broker, or is moving.
          await cluster.refreshMetadata();
          this.superviseLoops();
          await this.sleep(backoff(0));
        }
        failures = 0;
      } catch (error) {
        if (requests.length > 0) this.options.reader.disturbed(requests);
        if (failures > 0) this.options.log.warn({ group: this.options.groupId, broker: nodeId, error: messageOf(error) }, 'fetch failed, trying again');
        await this.sleep(backoff(failures));
        failures += 1;
        await cluster.refreshMetadata().catch(() => undefined);
      }
    }
  }

  private ledBy(cluster: Cluster, nodeId: string, requests: readonly FetchRequest[]): FetchRequest[] {
    const led = new Map<string, Set<number>>();
    for (const topic of new Set(requests.map((request) => request.topic))) {
      const partitions = requests.filter((request) => request.topic === topic).map(({ partition }) => partition);
      led.set(topic, new Set(cluster.findLeaderForPartitions(topic, partitions)[nodeId]));
    }
    return requests.filter(({ topic, partition }) => led.get(topic)!.has(partition));
  }

  /** Until {@link wake}, for a while. */
  private idle(): Promise<void> {
    if (this.stopped.signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const wakeOne = (): void => {
        clearTimeout(timer);
        this.idlers.delete(wakeOne);
        resolve();
      };
      const timer = setTimeout(wakeOne, idleMs);
      this.idlers.add(wakeOne);
    });
  }

  /** A backoff: only {@link stop} cuts it short. */
  private async sleep(ms: number): Promise<void> {
    await setTimeoutPromise(ms, undefined, { signal: this.stopped.signal }).catch(() => undefined);
  }
}

const backoff = (attempt: number): number => Math.min(backoffMs.max, backoffMs.min * 2 ** attempt) * (0.5 + Math.random() / 2);

/** Of what kafkajs logs: never whole payloads. */
const pick = (fields: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(['error', 'broker', 'retryCount', 'topic', 'partition'].filter((name) => fields[name] !== undefined).map((name) => [name, fields[name]]));
