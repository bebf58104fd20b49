import kafkajs from 'kafkajs';
import type { Kafka, RetryOptions } from 'kafkajs';
import { registerCodecs } from './codecs.ts';

export interface KafkaClientOptions {
  /** host:port each. */
  brokers: readonly string[];
  clientId: string;
  /** Default: five retries within a few seconds, for calls that a person or a start-up waits for. */
  retry?: RetryOptions;
  connectionTimeoutMs?: number;
  requestTimeoutMs?: number;
  /** Takes what kafkajs has to say at level warn and above; default: nothing, since every failure also reaches the caller. */
  onLog?: (level: 'error' | 'warn', message: string, fields: Readonly<Record<string, unknown>>) => void;
}

/** A kafkajs client that reads every compression Kafka has. No connection is made yet. */
export const createKafka = ({ brokers, clientId, retry = {}, connectionTimeoutMs = 3_000, requestTimeoutMs = 30_000, onLog }: KafkaClientOptions): Kafka => {
  registerCodecs();
  return new kafkajs.Kafka({
    brokers: [...brokers],
    clientId,
    connectionTimeout: connectionTimeoutMs,
    requestTimeout: requestTimeoutMs,
    retry: { retries: 5, initialRetryTime: 100, maxRetryTime: 2_000, ...retry },
    logLevel: onLog ? kafkajs.logLevel.WARN : kafkajs.logLevel.NOTHING,
    logCreator: () => ({ level, log: { message, timestamp: _timestamp, ...fields } }) =>
      onLog?.(level === kafkajs.logLevel.ERROR ? 'error' : 'warn', message, fields),
  });
};
