import { setTimeout as sleep } from 'node:timers/promises';
import kafkajs from 'kafkajs';
import { TidemarkError } from '../domain/errors.ts';
import { createKafka } from './client.ts';

export interface TopicSpec {
  topic: string;
  /** Used when the topic is created; a topic that exists keeps what it has. */
  partitions: number;
  /** Topic configs as Kafka names them, e.g. `retention.ms`. */
  configs?: Readonly<Record<string, string>>;
  /** Default 1. */
  replicationFactor?: number;
}

const topicAlreadyExists = 'TOPIC_ALREADY_EXISTS';

/** A failed creation is one aggregate error with an error for each topic. */
const isOnlyAlreadyExists = (error: unknown): boolean =>
  error instanceof kafkajs.KafkaJSAggregateError
    && error.errors.every((inner) => typeof inner !== 'string' && 'type' in inner && inner.type === topicAlreadyExists);

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

const toldDeadlineMs = 30_000;
const toldPollMs = 50;
const notYetTold: ReadonlySet<unknown> = new Set(['UNKNOWN_TOPIC_OR_PARTITION', 'LEADER_NOT_AVAILABLE', 'NOT_LEADER_FOR_PARTITION']);

const isNotYetTold = (error: unknown): boolean => error instanceof Error && (('type' in error && notYetTold.has(error.type)) || isNotYetTold(error.cause));

/**
 * A broker tells of a topic, and leads its topic partitions, a moment after the controller has made it. kafkajs' own
 * `waitForLeaders` takes that for a failure.
 */
const onceTold = async <T>(ask: () => Promise<T>): Promise<T> => {
  const deadline = Date.now() + toldDeadlineMs;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!isNotYetTold(error) || Date.now() > deadline) throw error;
    }
    await sleep(toldPollMs);
  }
};

/**
 * Creates the topics that are missing, and waits until each has a leader for every topic partition.
 *
 * @returns The number of topic partitions of each topic.
 * @throws TidemarkError KAFKA_UNAVAILABLE when the brokers do not answer, BAD_INPUT when they refuse a topic.
 */
export const ensureTopics = async (brokers: readonly string[], topics: readonly TopicSpec[]): Promise<Record<string, number>> => {
  const admin = createKafka({ brokers, clientId: 'tidemark-admin' }).admin();
  try {
    await admin.connect();
    const existing = new Set(await admin.listTopics());
    const missing = topics.filter(({ topic }) => !existing.has(topic));
    if (missing.length > 0) {
      try {
        await admin.createTopics({
          waitForLeaders: false,
          topics: missing.map(({ topic, partitions, replicationFactor = 1, configs = {} }) => ({
            topic,
            numPartitions: partitions,
            replicationFactor,
            configEntries: Object.entries(configs).map(([name, value]) => ({ name, value })),
          })),
        });
      } catch (error) {
        // Another process that starts at the same time may have been first.
        if (!isOnlyAlreadyExists(error)) {
          if (!(error instanceof kafkajs.KafkaJSAggregateError)) throw error;
          throw new TidemarkError('BAD_INPUT', `topics ${missing.map(({ topic }) => topic).join(', ')}: refused by the broker: ${error.errors.map(messageOf).join('; ')}`, { cause: error });
        }
      }
    }
    const metadata = await onceTold(() => admin.fetchTopicMetadata({ topics: topics.map(({ topic }) => topic) }));
    for (const { topic } of missing) await onceTold(() => admin.fetchTopicOffsets(topic));
    return Object.fromEntries(metadata.topics.map(({ name, partitions }) => [name, partitions.length]));
  } catch (error) {
    if (error instanceof TidemarkError) throw error;
    throw new TidemarkError('KAFKA_UNAVAILABLE', `Kafka at ${brokers.join(',')}: topics could not be prepared: ${messageOf(error)}`, { cause: error });
  } finally {
    await admin.disconnect();
  }
};

/** Half-open [low, high) of each topic partition, as the broker has it now: `<topic>/<partition>` → bounds. */
export const fetchOffsetBounds = async (brokers: readonly string[], topics: readonly string[]): Promise<Record<string, { low: bigint; high: bigint }>> => {
  const admin = createKafka({ brokers, clientId: 'tidemark-admin' }).admin();
  try {
    await admin.connect();
    const bounds: Record<string, { low: bigint; high: bigint }> = {};
    for (const topic of topics) {
      for (const { partition, low, high } of await admin.fetchTopicOffsets(topic)) bounds[`${topic}/${partition}`] = { low: BigInt(low), high: BigInt(high) };
    }
    return bounds;
  } catch (error) {
    throw new TidemarkError('KAFKA_UNAVAILABLE', `Kafka at ${brokers.join(',')}: offsets of ${topics.join(', ')} could not be read: ${messageOf(error)}`, { cause: error });
  } finally {
    await admin.disconnect();
  }
};

/** What makes a topic's log start move. */
export interface TopicRetention {
  /** `retention.ms`; null: records do not age. */
  retentionMs: number | null;
  /** `retention.bytes` of each topic partition; null: any size. */
  retentionBytes: number | null;
}

/** Of each topic, as the brokers apply it. Throws KAFKA_UNAVAILABLE. */
export const fetchTopicRetention = async (brokers: readonly string[], topics: readonly string[]): Promise<Record<string, TopicRetention>> => {
  const admin = createKafka({ brokers, clientId: 'tidemark-admin' }).admin();
  try {
    await admin.connect();
    const { resources } = await admin.describeConfigs({
      includeSynonyms: false,
      resources: topics.map((name) => ({ type: kafkajs.ConfigResourceTypes.TOPIC, name, configNames: ['retention.ms', 'retention.bytes', 'cleanup.policy'] })),
    });
    return Object.fromEntries(resources.map(({ resourceName, configEntries }) => {
      const values = new Map(configEntries.map(({ configName, configValue }) => [configName, configValue] as const));
      const deletes = values.get('cleanup.policy')?.includes('delete') ?? true;
      const limit = (name: string): number | null => {
        const value = Number(values.get(name) ?? -1);
        return deletes && value >= 0 ? value : null;
      };
      return [resourceName, { retentionMs: limit('retention.ms'), retentionBytes: limit('retention.bytes') }] as const;
    }));
  } catch (error) {
    throw new TidemarkError('KAFKA_UNAVAILABLE', `Kafka at ${brokers.join(',')}: retention of ${topics.join(', ')} could not be read: ${messageOf(error)}`, { cause: error });
  } finally {
    await admin.disconnect();
  }
};

/**
 * Deletes what lies below the offsets, as retention does: the log start of each topic partition moves up to its offset.
 * Resolves once the broker tells the new log starts. Throws KAFKA_UNAVAILABLE.
 */
export const deleteRecords = async (brokers: readonly string[], topic: string, before: readonly { partition: number; offset: bigint }[]): Promise<void> => {
  const admin = createKafka({ brokers, clientId: 'tidemark-admin' }).admin();
  try {
    await admin.connect();
    // kafkajs knows the leaders only of topics that it was asked for before.
    await admin.fetchTopicOffsets(topic);
    await admin.deleteTopicRecords({ topic, partitions: before.map(({ partition, offset }) => ({ partition, offset: String(offset) })) });
  } catch (error) {
    throw new TidemarkError('KAFKA_UNAVAILABLE', `Kafka at ${brokers.join(',')}: records of ${topic} could not be deleted: ${messageOf(error)}`, { cause: error });
  } finally {
    await admin.disconnect();
  }
};
