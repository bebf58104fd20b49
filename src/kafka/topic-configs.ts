import { setTimeout as sleep } from 'node:timers/promises';
import kafkajs from 'kafkajs';
import type { Admin } from 'kafkajs';
import { TidemarkError } from '../domain/errors.ts';
import { createKafka } from './client.ts';

export interface TopicConfigs {
  /** What holds for the topic, wherever it is set. */
  effective: Readonly<Record<string, string>>;
  /** What is set on the topic itself. */
  overrides: Readonly<Record<string, string>>;
}

const withAdmin = async <T>(brokers: readonly string[], topic: string, what: string, use: (admin: Admin) => Promise<T>): Promise<T> => {
  const admin = createKafka({ brokers, clientId: 'tidemark-admin' }).admin();
  try {
    await admin.connect();
    return await use(admin);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (error instanceof kafkajs.KafkaJSProtocolError && error.type === 'UNKNOWN_TOPIC_OR_PARTITION') {
      throw new TidemarkError('BAD_INPUT', `topic ${topic}: expected one that Kafka has, found none`, { cause: error });
    }
    if (error instanceof kafkajs.KafkaJSProtocolError && !error.retriable) throw new TidemarkError('KAFKA_REFUSED', `topic ${topic}: Kafka refuses to ${what}: ${message}`, { cause: error });
    throw new TidemarkError('KAFKA_UNAVAILABLE', `Kafka at ${brokers.join(',')}: could not ${what} of ${topic}: ${message}`, { cause: error });
  } finally {
    await admin.disconnect();
  }
};

const describe = async (admin: Admin, topic: string): Promise<TopicConfigs> => {
  const { resources: [resource] } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: topic }] });
  const entries = resource?.configEntries ?? [];
  const named = (list: typeof entries): Record<string, string> => Object.fromEntries(list.map(({ configName, configValue }) => [configName, configValue]));
  return { effective: named(entries), overrides: named(entries.filter(({ configSource }) => Number(configSource) === topicConfigSource)) };
};
const topicConfigSource = 1;
/** Somebody else may have set another value meanwhile: then ours is never told. */
const toldDeadlineMs = 10_000;
const toldPollMs = 20;

/** Throws BAD_INPUT for a topic that does not exist, KAFKA_UNAVAILABLE. */
export const fetchTopicConfigs = (brokers: readonly string[], topic: string): Promise<TopicConfigs> =>
  withAdmin(brokers, topic, 'read the configuration', (admin) => describe(admin, topic));

/**
 * Sets one config of a topic, or takes it back to the brokers' default (null). kafkajs knows only AlterConfigs, which
 * replaces them all: the others are sent along as they are. Resolves once the broker tells the new value, a moment after the
 * controller has it: who asks next must not be told the old one. Throws BAD_INPUT, KAFKA_REFUSED, KAFKA_UNAVAILABLE.
 */
export const setTopicConfig = (brokers: readonly string[], topic: string, name: string, value: string | null): Promise<void> =>
  withAdmin(brokers, topic, 'change the configuration', async (admin) => {
    const { [name]: _old, ...others } = (await describe(admin, topic)).overrides;
    const wanted = { ...others, ...(value === null ? {} : { [name]: value }) };
    await admin.alterConfigs({
      validateOnly: false,
      resources: [{ type: kafkajs.ConfigResourceTypes.TOPIC, name: topic, configEntries: Object.entries(wanted).map(([key, text]) => ({ name: key, value: text })) }],
    });
    const deadline = Date.now() + toldDeadlineMs;
    while ((await describe(admin, topic)).overrides[name] !== wanted[name] && Date.now() < deadline) await sleep(toldPollMs);
  });
