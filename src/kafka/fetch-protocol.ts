import type { Broker } from 'kafkajs';
import fetchRequest from 'kafkajs/src/protocol/requests/fetch/v11/request.js';
import type { AbortedTransaction } from './record-batch.ts';

/** Kafka's error codes that a fetch answers for a topic partition (Kafka protocol guide, "Error Codes"). */
export const fetchErrors = { none: 0, offsetOutOfRange: 1, unknownTopicOrPartition: 3, notLeader: 6 } as const;

export interface FetchRequest {
  topic: string;
  partition: number;
  offset: bigint;
  bytesMax: number;
}

export interface FetchedPartition {
  topic: string;
  partition: number;
  /** The offset that was asked for: what comes before the first record here is sparse. */
  fetchOffset: bigint;
  errorCode: number;
  /** -1 with an error. */
  highWatermark: bigint;
  /** -1 with an error. */
  logStart: bigint;
  aborted: AbortedTransaction[];
  recordSet: Buffer;
}

export interface FetchLimits {
  bytesMax: number;
  /** The broker answers as soon as it has this many bytes, or after `waitMs`. */
  bytesMin: number;
  waitMs: number;
}

/** The part of kafkajs' Broker that its types leave out: a request with an answer of our own decoding. */
interface BrokerConnections {
  connectionPool: {
    send<T>(exchange: {
      request: ReturnType<typeof fetchRequest>;
      response: { decode(payload: Buffer): Promise<{ clientSideThrottleTime: number; value: T }>; parse(decoded: { value: T }): Promise<T> };
      logResponseError: boolean;
    }): Promise<T>;
  };
}

const readCommitted = 1;
const consumerReplicaId = -1;

/**
 * One Fetch (v11) of topic partitions that `broker` leads. The record sets stay raw: see record-batch.ts. An error of
 * one topic partition comes as its `errorCode` and leaves the others alone, which kafkajs' own fetch does not.
 */
export const fetchRecords = async (broker: Broker, requests: readonly FetchRequest[], limits: FetchLimits): Promise<FetchedPartition[]> => {
  const byTopic = new Map<string, FetchRequest[]>();
  for (const request of requests) {
    const known = byTopic.get(request.topic);
    if (known) known.push(request);
    else byTopic.set(request.topic, [request]);
  }
  const request = fetchRequest({
    replicaId: consumerReplicaId,
    maxWaitTime: limits.waitMs,
    minBytes: limits.bytesMin,
    maxBytes: limits.bytesMax,
    isolationLevel: readCommitted,
    topics: [...byTopic].map(([topic, partitions]) => ({
      topic,
      partitions: partitions.map(({ partition, offset, bytesMax }) => ({ partition, fetchOffset: String(offset), maxBytes: bytesMax })),
    })),
  });
  try {
    return await (broker as unknown as BrokerConnections).connectionPool.send({
      request,
      response: {
        decode: (payload) => Promise.resolve(decodeFetchResponse(payload, byTopic)),
        parse: ({ value }) => Promise.resolve(value),
      },
      logResponseError: false,
    });
  } catch (error) {
    // As kafkajs does: a connection that was closed is only opened again after a disconnect.
    if (error instanceof Error && error.name === 'KafkaJSConnectionClosedError') await broker.disconnect();
    throw error;
  }
};

const decodeFetchResponse = (payload: Buffer, requested: ReadonlyMap<string, FetchRequest[]>): { clientSideThrottleTime: number; value: FetchedPartition[] } => {
  let at = 0;
  const int16 = (): number => { at += 2; return payload.readInt16BE(at - 2); };
  const int32 = (): number => { at += 4; return payload.readInt32BE(at - 4); };
  const int64 = (): bigint => { at += 8; return payload.readBigInt64BE(at - 8); };
  const clientSideThrottleTime = int32();
  int16(); // of the fetch session, which is not used
  int32();
  const value: FetchedPartition[] = [];
  for (let topics = int32(); topics > 0; topics -= 1) {
    const nameLength = int16();
    const topic = payload.toString('utf8', at, at + nameLength);
    at += nameLength;
    for (let partitions = int32(); partitions > 0; partitions -= 1) {
      const partition = int32();
      const errorCode = int16();
      const highWatermark = int64();
      int64(); // last stable offset: the broker keeps to it
      const logStart = int64();
      const aborted: AbortedTransaction[] = [];
      for (let count = int32(); count > 0; count -= 1) aborted.push({ producerId: int64(), firstOffset: int64() });
      int32(); // preferred read replica
      const size = Math.max(0, int32());
      const recordSet = payload.subarray(at, at + size);
      at += size;
      const fetchOffset = requested.get(topic)?.find((request) => request.partition === partition)?.offset;
      if (fetchOffset === undefined) continue;
      value.push({ topic, partition, fetchOffset, errorCode, highWatermark, logStart, aborted, recordSet });
    }
  }
  return { clientSideThrottleTime, value };
};
