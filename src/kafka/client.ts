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

const emitWarning: typeof process.emitWarning = process.emitWarning.bind(process);
let quiet = false;

/** kafkajs 2.2.4 sets a timer with a negative delay on each connection; Node 24 makes it 1 ms, as before, and writes a warning to stderr. */
const dropTimerWarning = (): void => {
  if (quiet) return;
  quiet = true;
  process.emitWarning = ((warning: string | Error, ...rest: [string?]) => {
    if (rest[0] !== 'TimeoutNegativeWarning') emitWarning(warning, ...rest);
  }) as typeof process.emitWarning;
};

/** A kafkajs client that reads every compression Kafka has. No connection is made yet. */
export const createKafka = ({ brokers, clientId, retry = {}, connectionTimeoutMs = 3_000, requestTimeoutMs = 30_000, onLog }: KafkaClientOptions): Kafka => {
  registerCodecs();
  dropTimerWarning();
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
