import { parseTopicPartitionKey } from '../domain/offsets.ts';
import { fetchOffsetBounds } from '../kafka/topics.ts';
import type { KafkaBounds } from './offsets-audit.ts';

const isUnknownTopic = (error: unknown): boolean => {
  for (let current = error; current instanceof Error; current = current.cause) {
    if ('type' in current && current.type === 'UNKNOWN_TOPIC_OR_PARTITION') return true;
  }
  return false;
};

/** What the broker holds of a topic, by partition. A topic that was never created holds nothing. */
export const fetchKafkaBounds = async (brokers: readonly string[], topic: string): Promise<Map<number, KafkaBounds>> => {
  try {
    const bounds = await fetchOffsetBounds(brokers, [topic]);
    return new Map(Object.entries(bounds).map(([key, { low, high }]) => [parseTopicPartitionKey(key).partition, { logStart: low, logEnd: high }] as const));
  } catch (error) {
    if (isUnknownTopic(error)) return new Map();
    throw error;
  }
};
