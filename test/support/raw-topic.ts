import { randomBytes } from 'node:crypto';
import kafkajs from 'kafkajs';
import { registerCodecs } from '../../src/kafka/codecs.ts';
import { fetchOffsetBounds } from '../../src/kafka/topics.ts';

/** Keeps the topics of a test apart from those of all others on the same broker. */
export const freshPrefix = (): string => `test-${randomBytes(6).toString('hex')}.`;

export interface ReadRecord {
  partition: number;
  offset: bigint;
  timestampMs: number;
  key: string | null;
  value: Buffer | null;
  headers: Record<string, string>;
}

/** All records of a topic as they are now, in offset order for each topic partition, read by kafkajs' own consumer. */
export const readWholeTopic = async (brokers: readonly string[], topic: string): Promise<ReadRecord[]> => {
  registerCodecs();
  const left = new Map(Object.entries(await fetchOffsetBounds(brokers, [topic])).filter(([, { low, high }]) => low < high).map(([key, { high }]) => [key, high]));
  const records: ReadRecord[] = [];
  if (left.size === 0) return records;
  const consumer = new kafkajs.Kafka({ brokers: [...brokers], logLevel: kafkajs.logLevel.NOTHING }).consumer({ groupId: `${freshPrefix()}reader` });
  const done = Promise.withResolvers<void>();
  try {
    await consumer.connect();
    await consumer.subscribe({ topic, fromBeginning: true });
    await consumer.run({
      eachBatch: ({ batch }) => {
        for (const { offset, timestamp, key, value, headers } of batch.messages) {
          records.push({
            partition: batch.partition, offset: BigInt(offset), timestampMs: Number(timestamp), key: key?.toString() ?? null, value,
            headers: Object.fromEntries(Object.entries(headers ?? {}).map(([name, text]) => [name, String(text)])),
          });
        }
        const tp = `${topic}/${batch.partition}`;
        if (BigInt(batch.lastOffset()) + 1n >= (left.get(tp) ?? 0n)) left.delete(tp);
        if (left.size === 0) done.resolve();
        return Promise.resolve();
      },
    });
    await done.promise;
  } finally {
    await consumer.disconnect();
  }
  return records.sort((a, b) => a.partition - b.partition || Number(a.offset - b.offset));
};
