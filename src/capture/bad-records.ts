import { createRecordProducer } from '../kafka/producer.ts';
import type { OutgoingRecord } from '../kafka/producer.ts';
import type { RegistryClient } from '../schema-registry/registry-client.ts';
import { wireHeaderBytes } from '../schema-registry/wire-codec.ts';
import type { Exchange } from './feed.ts';
import type { CapturedTrade } from './frame.ts';
import { symbolOf } from './frame.ts';
import { generateTrades } from './generated-trades.ts';
import { createRecordEncoder } from './record-encoder.ts';
import { rawTopicOf, registerRawSchema } from './trade-sink.ts';

/** A record that refining must refuse, where it is, and why it must be refused. */
export interface BadRecord {
  kind: string;
  topic: string;
  partition: number;
  offset: bigint;
  /** The DLQ's error_type. */
  errorType: string;
  /** The DLQ's error_reason. */
  reason: string;
}

export interface BadRecordsOptions {
  brokers: readonly string[];
  registry: Pick<RegistryClient, 'register' | 'setCompatibility'>;
  exchange: Exchange;
  topicPrefix?: string;
  /** Key and symbol of the records that have one. Default: one of the exchange's own. */
  symbol?: string;
  /** Ids of the trades, so that records of two calls differ. Default 1. */
  seed?: number;
}

interface BadKind {
  kind: string;
  errorType: string;
  reason: string;
  value(good: CapturedTrade, encode: (trade: CapturedTrade) => Buffer): Buffer | null;
}

const hourMicros = 3_600_000_000;
/** No registry gives out ids this high. */
const unknownSchemaId = 0x7fff_fff0;

const withField = (fields: Partial<Record<'price' | 'quantity' | 'symbol' | 'market', string>>) =>
  (good: CapturedTrade, encode: (trade: CapturedTrade) => Buffer): Buffer => {
    const { quantity, symbol, ...rest } = fields;
    return 'symbol' in good
      ? encode({ ...good, ...fields })
      : encode({ ...good, ...rest, ...(quantity === undefined ? {} : { volume: quantity }), ...(symbol === undefined ? {} : { pair: symbol }) });
  };

/** The trade as if it had been received this much later, or earlier. */
const receivedLater = (micros: number) => (good: CapturedTrade, encode: (trade: CapturedTrade) => Buffer): Buffer =>
  encode({ ...good, ingestion_timestamp: good.ingestion_timestamp + micros });

const edited = (edit: (value: Buffer) => Buffer) => (good: CapturedTrade, encode: (trade: CapturedTrade) => Buffer): Buffer => edit(Buffer.from(encode(good)));

const kinds: readonly BadKind[] = [
  { kind: 'tombstone', errorType: 'schema_validation', reason: 'null_value', value: () => null },
  { kind: 'no wire header', errorType: 'schema_validation', reason: 'invalid_magic_byte', value: () => Buffer.from('{"e":"trade","p":"1.0"}') },
  { kind: 'unknown schema id', errorType: 'schema_validation', reason: 'unknown_schema_id', value: edited((value) => { value.writeInt32BE(unknownSchemaId, 1); return value; }) },
  { kind: 'truncated body', errorType: 'schema_validation', reason: 'body_does_not_decode', value: edited((value) => value.subarray(0, wireHeaderBytes + Math.floor((value.length - wireHeaderBytes) / 2))) },
  { kind: 'trailing bytes', errorType: 'schema_validation', reason: 'trailing_bytes', value: edited((value) => Buffer.concat([value, Buffer.from([0, 1, 2])])) },
  { kind: 'negative price', errorType: 'price_validation', reason: 'price_must_be_positive', value: withField({ price: '-28165.47' }) },
  { kind: 'price of zero', errorType: 'price_validation', reason: 'price_must_be_positive', value: withField({ price: '0' }) },
  { kind: 'nine decimals', errorType: 'quantity_validation', reason: 'quantity_not_representable', value: withField({ quantity: '0.123456789' }) },
  { kind: 'empty symbol', errorType: 'symbol_validation', reason: 'symbol_required', value: withField({ symbol: '' }) },
  { kind: 'future time', errorType: 'timestamp_validation', reason: 'timestamp_in_future', value: receivedLater(-hourMicros) },
  { kind: 'time of two years ago', errorType: 'timestamp_validation', reason: 'timestamp_too_old', value: receivedLater(2 * 365 * 24 * hourMicros) },
  { kind: 'unknown market', errorType: 'unknown_error', reason: 'unknown_error', value: withField({ market: 'moon' }) },
];

/** How many records {@link produceBadRecords} makes. */
export const badRecordKinds = kinds.length;

/**
 * Puts one record of each bad kind straight into the raw topic, as a broken producer would, and says where each is and
 * what must become of it.
 */
export const produceBadRecords = async ({ brokers, registry, exchange, topicPrefix = '', symbol = exchange === 'binance' ? 'BTCUSDT' : 'BTC/USD', seed = 1 }: BadRecordsOptions): Promise<BadRecord[]> => {
  const { topic, rawSchema } = rawTopicOf(exchange, topicPrefix);
  const encode = createRecordEncoder(rawSchema, await registerRawSchema(registry, exchange, topicPrefix));
  const good = generateTrades({ exchange, seed, trades: kinds.length, symbols: [symbol], startMicros: Date.now() * 1_000 - hourMicros, spanMicros: hourMicros / 2, burstRatio: 0 });
  const outgoing = new Map<OutgoingRecord, BadKind>();
  for (const bad of kinds) {
    const [trade] = good.next().value as CapturedTrade[];
    outgoing.set({ key: symbolOf(trade!), value: bad.value(trade!, encode) }, bad);
  }
  const produced: BadRecord[] = [];
  const producer = await createRecordProducer({
    brokers,
    onDelivered: ({ partition, baseOffset, records }) => {
      for (const [i, record] of records.entries()) {
        const { kind, errorType, reason } = outgoing.get(record)!;
        produced.push({ kind, topic, partition, offset: baseOffset + BigInt(i), errorType, reason });
      }
    },
  });
  try {
    await producer.produce(topic, [...outgoing.keys()]);
    await producer.close();
  } catch (error) {
    await producer.abort();
    throw error;
  }
  return produced;
};
