import type { AvroRecordSchema } from '../datasets/dataset.ts';
import binanceTrades from '../datasets/binance-trades.ts';
import krakenTrades from '../datasets/kraken-trades.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import type { OutgoingRecord, RecordProducer } from '../kafka/producer.ts';
import type { RegistryClient } from '../schema-registry/registry-client.ts';
import type { Exchange } from './feed.ts';
import type { CapturedTrade } from './frame.ts';
import { symbolOf } from './frame.ts';
import type { RecordEncoder } from './record-encoder.ts';
import { createRecordEncoder } from './record-encoder.ts';

/** Where trades go. */
export interface TradeSink {
  /** Resolves when the sink has room for more: awaiting it is the backpressure. */
  write(exchange: Exchange, trades: readonly CapturedTrade[]): Promise<void>;
  /** Resolves when all that was written is durable; throws when it is not within the time. */
  flush(timeoutMs?: number): Promise<void>;
  /** Makes what waits in {@link write} and {@link flush} fail: for a stop that has waited long enough. */
  abort(): void;
  /** Durable so far. */
  produced(): { records: number; offsets: CoverageJson };
}

interface RawTopic {
  topic: string;
  subject: string;
  rawSchema: AvroRecordSchema;
}

const datasets = { binance: binanceTrades, kraken: krakenTrades } as const satisfies Record<Exchange, RawTopic>;

/** The raw topic of an exchange, as a pipeline with this topic prefix calls it, and its value subject. */
export const rawTopicOf = (exchange: Exchange, topicPrefix = ''): RawTopic => {
  const { topic, subject, rawSchema } = datasets[exchange];
  return { topic: `${topicPrefix}${topic}`, subject: `${topicPrefix}${subject}`, rawSchema };
};

/** Readers of old records must be able to read new ones, and refining reads both with the newest schema. */
const compatibility = 'BACKWARD';

/** Registers the raw schema of an exchange under its subject, and gives the schema id. Repeatable. */
export const registerRawSchema = async (registry: Pick<RegistryClient, 'register' | 'setCompatibility'>, exchange: Exchange, topicPrefix = ''): Promise<number> => {
  const { subject, rawSchema } = rawTopicOf(exchange, topicPrefix);
  const schemaId = await registry.register(subject, rawSchema);
  await registry.setCompatibility(subject, compatibility);
  return schemaId;
};

export interface KafkaTradeSinkOptions {
  producer: RecordProducer;
  registry: Pick<RegistryClient, 'register' | 'setCompatibility'>;
  topicPrefix?: string;
}

/**
 * Trades as Confluent-framed Avro records in the raw topic of their exchange, keyed by symbol. The schema of an exchange
 * is registered with its first trade.
 */
export const createKafkaTradeSink = ({ producer, registry, topicPrefix = '' }: KafkaTradeSinkOptions): TradeSink => {
  const encoders = new Map<Exchange, { topic: string; encode: RecordEncoder }>();

  const encoderOf = async (exchange: Exchange) => {
    const known = encoders.get(exchange);
    if (known) return known;
    const { topic, rawSchema } = rawTopicOf(exchange, topicPrefix);
    const encoder = { topic, encode: createRecordEncoder(rawSchema, await registerRawSchema(registry, exchange, topicPrefix)) };
    encoders.set(exchange, encoder);
    return encoder;
  };

  return {
    async write(exchange, trades) {
      const { topic, encode } = encoders.get(exchange) ?? await encoderOf(exchange);
      await producer.produce(topic, trades.map((trade): OutgoingRecord => ({ key: symbolOf(trade), value: encode(trade) })));
    },
    flush: (timeoutMs) => producer.flush(timeoutMs),
    abort: () => void producer.abort(),
    produced: () => ({ records: producer.deliveredRecords(), offsets: producer.delivered().toJson() }),
  };
};
