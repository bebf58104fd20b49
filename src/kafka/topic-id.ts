import { Buffer } from 'node:buffer';
import type { Broker } from 'kafkajs';
import { TidemarkError } from '../domain/errors.ts';

/*
 * A topic's id: the same for as long as the topic lives, and another one once it was deleted and made again under its
 * name. kafkajs ends at Metadata v6; the id comes with v10 (Kafka 2.8), a "flexible" version: lengths are varints of
 * length + 1, and each structure ends with a list of tagged fields, of which we know none.
 */
const metadataKey = 3;
const version = 10;

interface BrokerInternals {
  versions: Record<number, { minVersion: number; maxVersion: number }> | null;
  connectionPool: {
    send<T>(exchange: {
      request: { apiKey: number; apiVersion: number; apiName: string; encode(): Promise<unknown> };
      response: { decode(payload: Buffer): Promise<T>; parse(decoded: T): Promise<T> };
      logResponseError: boolean;
    }): Promise<T>;
  };
}

const uvarint = (value: number): number[] => (value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...uvarint(value >>> 7)]);

const encodeRequest = (topic: string): Buffer => {
  const name = Buffer.from(topic);
  return Buffer.concat([
    // Tagged fields of the request header; then one topic: no id, its name, no tagged fields.
    Buffer.from([0, ...uvarint(2)]), Buffer.alloc(16), Buffer.from(uvarint(name.length + 1)), name, Buffer.from([0]),
    // Do not create it, no lists of authorized operations, no tagged fields.
    Buffer.from([0, 0, 0, 0]),
  ]);
};

/** The id of a topic in a Metadata v10 answer; null: the broker does not know the topic. */
export const topicIdOf = (payload: Buffer, topic: string): string | null => {
  let at = 0;
  const skip = (bytes: number): void => { at += bytes; };
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = payload[at]!;
      at += 1;
      value |= (byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const tags = (): void => {
    for (let count = varint(); count > 0; count -= 1) {
      varint();
      skip(varint());
    }
  };
  const text = (): string => {
    const length = Math.max(0, varint() - 1);
    skip(length);
    return payload.toString('utf8', at - length, at);
  };
  const each = (read: () => void): void => {
    for (let count = varint() - 1; count > 0; count -= 1) {
      read();
    }
  };
  tags(); // of the response header
  skip(4); // throttle time
  each(() => { skip(4); text(); skip(4); text(); tags(); }); // brokers: node id, host, port, rack
  text(); // cluster id
  skip(4); // controller id
  let found: string | null = null;
  each(() => {
    const errorCode = payload.readInt16BE(at);
    skip(2);
    const name = text();
    if (name === topic && errorCode === 0) found = payload.toString('hex', at, at + 16);
    skip(16 + 1); // id, is internal
    each(() => { // partitions: error, index, leader, leader epoch; replicas, in-sync ones, those offline
      skip(14);
      for (let list = 0; list < 3; list += 1) each(() => skip(4));
      tags();
    });
    skip(4); // authorized operations
    tags();
  });
  return found;
};

/** 32 hex digits; null: the broker is older than topic ids. Throws KAFKA_UNAVAILABLE when it does not know the topic (yet, or any more). */
export const fetchTopicId = async (broker: Broker, topic: string): Promise<string | null> => {
  const { versions, connectionPool } = broker as unknown as BrokerInternals;
  if ((versions?.[metadataKey]?.maxVersion ?? 0) < version) return null;
  const request = encodeRequest(topic);
  const id = await connectionPool.send<string | null>({
    // kafkajs takes what looks like one of its encoders.
    request: { apiKey: metadataKey, apiVersion: version, apiName: 'Metadata', encode: () => Promise.resolve({ buf: request, buffer: request }) },
    response: { decode: (payload) => Promise.resolve(topicIdOf(payload, topic)), parse: (id) => Promise.resolve(id) },
    logResponseError: false,
  }).catch(async (error: unknown) => {
    // As in fetch-protocol.ts: a connection that was closed is only opened again after a disconnect.
    if (error instanceof Error && error.name === 'KafkaJSConnectionClosedError') await broker.disconnect();
    throw error;
  });
  if (id === null) throw new TidemarkError('KAFKA_UNAVAILABLE', `${topic}: the broker knows no topic of this name`);
  return id;
};
