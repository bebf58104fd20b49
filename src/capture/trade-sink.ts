import type { AvroRecordSchema } from '../datasets/dataset.ts';
import binanceTrades from '../datasets/binance-trades.ts';
import krakenTrades from '../datasets/kraken-trades.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import type { OutgoingRecord, RecordProducer } from '../kafka/producer.ts';
import type { RegistryClient } from '../schema-registry/registry-client.ts';
import { traceparentName } from '../telemetry/tracing.ts';
import type { Tracing } from '../telemetry/tracing.ts';
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

/**
 * The first record of each key says the trace: so every topic partition that the batch reaches has it. All records saying it
 * would make Bronze larger and tell no more.
 */
const markFirstOfKeys = (records: OutgoingRecord[], traceparent: string): void => {
  const seen = new Set<string | null>();
  for (const [at, record] of records.entries()) {
    if (seen.has(record.key)) continue;
    seen.add(record.key);
    records[at] = { ...record, headers: { [traceparentName]: traceparent } };
  }
};

export interface KafkaTradeSinkOptions {
  producer: RecordProducer;
  registry: Pick<RegistryClient, 'register' | 'setCompatibility'>;
  topicPrefix?: string;
  /** A span for each write; the first record of each key carries its traceparent as a header. */
  tracing?: Pick<Tracing, 'start'>;
}

/**
 * Trades as Confluent-framed Avro records in the raw topic of their exchange, keyed by symbol. The schema of an exchange
 * is registered with its first trade.
 */
export const createKafkaTradeSink = ({ producer, registry, topicPrefix = '', tracing }: KafkaTradeSinkOptions): TradeSink => {
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
      const records = trades.map((trade): OutgoingRecord => ({ key: symbolOf(trade), value: encode(trade) }));
      const span = tracing?.start('capture batch', { attributes: { 'messaging.system': 'kafka', 'messaging.destination.name': topic, 'messaging.batch.message_count': records.length } });
      if (span && span.traceparent !== '') markFirstOfKeys(records, span.traceparent);
      try {
        await producer.produce(topic, records);
        span?.end();
      } catch (error) {
        span?.end(error);
        throw error;
      }
    },
    flush: (timeoutMs) => producer.flush(timeoutMs),
    abort: () => void producer.abort(),
    produced: () => ({ records: producer.deliveredRecords(), offsets: producer.delivered().toJson() }),
  };
};
