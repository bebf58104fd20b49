import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, inject, test, vi } from 'vitest';
import type { Compression } from '../../src/kafka/codecs.ts';
import { createRecordProducer } from '../../src/kafka/producer.ts';
import { ensureTopics } from '../../src/kafka/topics.ts';
import { cacheFolder } from '../../src/stack/index.ts';
import { freshPrefix, readWholeTopic } from '../support/raw-topic.ts';

// A JVM that compiles its source first takes seconds, on a busy machine many.
vi.setConfig({ testTimeout: 240_000 });

const { kafka: { brokers } } = inject('stack');
const libraries = join(cacheFolder(process.env), 'servers', 'kafka-2.13-4.1.0', 'lib');
const source = fileURLToPath(new URL('../support/KafkaInterop.java', import.meta.url));

/** Kafka's own Java client; its jars are where the stack has installed the broker. */
const java = async (...args: string[]): Promise<string> => {
  const { stdout } = await promisify(execFile)('java', ['-XX:TieredStopAtLevel=1', '-cp', join(libraries, '*'), source, ...args]);
  return stdout;
};

const compressions: readonly Compression[] = ['none', 'gzip', 'snappy', 'lz4', 'zstd'];
const count = 20_000;
const valueOf = (n: number): string => `value number ${n} of a topic that compresses well`;

const topicsOf = async (): Promise<Map<Compression, string>> => {
  const prefix = freshPrefix();
  const topics = new Map(compressions.map((compression) => [compression, `${prefix}${compression}`]));
  await ensureTopics(brokers, [...topics.values()].map((topic) => ({ topic, partitions: 2 })));
  return topics;
};

describe.runIf(existsSync(libraries))(`Kafka's Java client${existsSync(libraries) ? '' : ' (left out: the broker was not installed by the stack)'}`, () => {
  test('reads what our producer writes, in every compression, to the byte', async () => {
    const topics = await topicsOf();
    const expected: string[] = [];
    for (const [compression, topic] of topics) {
      const lines = new Map<number, string[]>();
      const producer = await createRecordProducer({ brokers, compression, onDelivered: ({ partition, baseOffset, records }) => {
        const own = lines.get(partition) ?? [];
        lines.set(partition, own);
        for (const [i, { key, value }] of records.entries()) own.push(`${partition} ${baseOffset + BigInt(i)} ${key} ${value?.toString()}\n`);
      } });
      await producer.produce(topic, Array.from({ length: count }, (_, n) => ({ key: `key ${n % 9}`, value: Buffer.from(valueOf(n)) })));
      await producer.close();
      const digest = createHash('sha256');
      for (const partition of [...lines.keys()].sort()) for (const line of lines.get(partition)!) digest.update(line);
      expected.push(`${topic} ${count} ${digest.digest('hex')}`);
    }
    expect((await java('digest', brokers.join(','), ...topics.values())).trim().split('\n')).toEqual(expected);
  });

  test('writes what our codecs read, and puts each key into the topic partition that ours does', async () => {
    const topics = await topicsOf();
    await java('produce', brokers.join(','), ...[...topics].map(([compression, topic]) => `${topic}:${compression}:${count}`));
    const ours = await ensureTopics(brokers, [{ topic: `${freshPrefix()}ours`, partitions: 2 }]);
    const [topicOfOurs] = Object.keys(ours) as [string];
    const producer = await createRecordProducer({ brokers });
    await producer.produce(topicOfOurs, Array.from({ length: 9 }, (_, n) => ({ key: `key ${n}`, value: null })));
    await producer.close();
    const partitionOf = new Map((await readWholeTopic(brokers, topicOfOurs)).map(({ key, partition }) => [key, partition]));
    for (const topic of topics.values()) {
      const records = await readWholeTopic(brokers, topic);
      expect(records.map(({ value }) => value!.toString()).sort(), topic).toEqual(Array.from({ length: count }, (_, n) => valueOf(n)).sort());
      expect(records.filter(({ key, partition }) => partitionOf.get(key) !== partition), topic).toEqual([]);
    }
  });
});
