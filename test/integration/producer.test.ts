import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from 'vitest';
import type { Compression } from '../../src/kafka/codecs.ts';
import type { OutgoingRecord, RecordProducer, RecordProducerOptions } from '../../src/kafka/producer.ts';
import { createRecordProducer } from '../../src/kafka/producer.ts';
import { ensureTopics, fetchOffsetBounds } from '../../src/kafka/topics.ts';
import { startStack } from '../../src/stack/index.ts';
import type { Stack } from '../../src/stack/index.ts';
import { freshPrefix, readWholeTopic } from '../support/raw-topic.ts';
import type { ReadRecord } from '../support/raw-topic.ts';

const { kafka: { brokers: sharedBrokers } } = inject('stack');

const producerOf = async (options: Partial<RecordProducerOptions> & { brokers: readonly string[] }): Promise<RecordProducer> => {
  const producer = await createRecordProducer(options);
  onTestFinished(() => producer.abort());
  return producer;
};

const topicOn = async (brokers: readonly string[], partitions = 3): Promise<string> => {
  const topic = `${freshPrefix()}topic`;
  await ensureTopics(brokers, [{ topic, partitions }]);
  return topic;
};

const keys = Array.from({ length: 9 }, (_, i) => `key ${i}`);
const recordOf = (n: number, padding = ''): OutgoingRecord => ({ key: keys[n % keys.length]!, value: Buffer.from(`${n}${padding}`) });

/** Each number from 0 is there once, and the numbers of one key are in their order. */
const expectOnceInOrder = (records: readonly ReadRecord[], count: number): void => {
  const numbers = records.map(({ value }) => Number.parseInt(value!.toString(), 10));
  expect({ records: numbers.length, distinct: new Set(numbers).size }).toEqual({ records: count, distinct: count });
  const last = new Map<string, number>();
  const outOfOrder = records.filter(({ key }, i) => {
    const before = last.get(key!) ?? -1;
    last.set(key!, numbers[i]!);
    return numbers[i]! < before;
  });
  expect(outOfOrder).toEqual([]);
};

describe('a producer', () => {
  test.each<Compression>(['none', 'gzip', 'snappy', 'lz4', 'zstd'])('delivers every record once, and says at which offsets (compression %s)', async (compression) => {
    const topic = await topicOn(sharedBrokers);
    const delivered: [number, bigint, OutgoingRecord][] = [];
    const producer = await producerOf({ brokers: sharedBrokers, compression, onDelivered: ({ partition, baseOffset, records }) => {
      for (const [i, record] of records.entries()) delivered.push([partition, baseOffset + BigInt(i), record]);
    } });
    const count = 25_000;
    for (let n = 0; n < count; n += 1_000) await producer.produce(topic, Array.from({ length: 1_000 }, (_, i) => recordOf(n + i)));
    await producer.close();
    const records = await readWholeTopic(sharedBrokers, topic);
    expectOnceInOrder(records, count);
    expect(producer.deliveredRecords()).toBe(count);
    expect(producer.delivered().size).toBe(BigInt(count));
    const at = new Map(records.map((record) => [`${record.partition} ${record.offset}`, record]));
    expect(delivered).toHaveLength(count);
    expect(delivered.every(([partition, offset, { key, value }]) => {
      const found = at.get(`${partition} ${offset}`);
      return found?.key === key && found!.value!.equals(value!);
    })).toBe(true);
  });

  test('tombstones, empty values, missing keys and headers arrive as they were', async () => {
    const topic = await topicOn(sharedBrokers, 1);
    const producer = await producerOf({ brokers: sharedBrokers });
    await producer.produce(topic, [
      { key: 'tombstone', value: null },
      { key: null, value: Buffer.alloc(0) },
      { key: '', value: Buffer.from('v'), headers: { trace: 'é', empty: '' } },
    ]);
    await producer.close();
    expect((await readWholeTopic(sharedBrokers, topic)).map(({ key, value, headers }) => ({ key, value: value?.toString() ?? null, headers }))).toEqual([
      { key: 'tombstone', value: null, headers: {} },
      { key: null, value: '', headers: {} },
      { key: '', value: 'v', headers: { trace: 'é', empty: '' } },
    ]);
  });

  test('records without a key are spread over all topic partitions', async () => {
    const topic = await topicOn(sharedBrokers, 3);
    const producer = await producerOf({ brokers: sharedBrokers });
    await producer.produce(topic, Array.from({ length: 300 }, (_, n) => ({ key: null, value: Buffer.from(String(n)) })));
    await producer.close();
    expect(Object.values(producer.delivered().toJson())).toEqual(['0-100', '0-100', '0-100']);
  });

  test('records near the broker\'s bound go out, a larger one is refused for good', async () => {
    const topic = await topicOn(sharedBrokers, 1);
    const producer = await producerOf({ brokers: sharedBrokers, compression: 'none' });
    await producer.produce(topic, Array.from({ length: 5 }, (_, n) => recordOf(n, ' '.repeat(1_000_000))));
    await producer.flush();
    expectOnceInOrder(await readWholeTopic(sharedBrokers, topic), 5);
    await producer.produce(topic, [recordOf(5, ' '.repeat(2_000_000))]);
    await expect(producer.flush()).rejects.toMatchObject({ code: 'KAFKA_REFUSED' });
    await expect(producer.produce(topic, [recordOf(6)])).rejects.toMatchObject({ code: 'KAFKA_REFUSED' });
  });

  test('a topic that does not exist is refused, and none is made', async () => {
    const producer = await producerOf({ brokers: sharedBrokers });
    await expect(producer.produce(`${freshPrefix()}missing`, [recordOf(0)])).rejects.toMatchObject({ code: 'KAFKA_REFUSED', message: expect.stringContaining('expected it to exist') });
  });

  test('brokers that are not there are an error at once', async () => {
    await expect(createRecordProducer({ brokers: ['127.0.0.1:1'] })).rejects.toMatchObject({ code: 'KAFKA_UNAVAILABLE' });
  });
});

test('topics are made by two at once, and keep the partitions they have', async () => {
  const topic = `${freshPrefix()}topic`;
  expect(await Promise.all([ensureTopics(sharedBrokers, [{ topic, partitions: 3 }]), ensureTopics(sharedBrokers, [{ topic, partitions: 3 }])])).toEqual([{ [topic]: 3 }, { [topic]: 3 }]);
  expect(await ensureTopics(sharedBrokers, [{ topic, partitions: 7 }])).toEqual({ [topic]: 3 });
  await expect(ensureTopics(sharedBrokers, [{ topic: 'not a topic name', partitions: 1 }])).rejects.toMatchObject({ code: 'BAD_INPUT' });
});

test('topics that were just made can be asked at once: the broker knows of them, and leads them', async () => {
  const empty = { low: 0n, high: 0n };
  await Promise.all(Array.from({ length: 8 }, async () => {
    const topic = await topicOn(sharedBrokers);
    expect(await fetchOffsetBounds(sharedBrokers, [topic])).toEqual({ [`${topic}/0`]: empty, [`${topic}/1`]: empty, [`${topic}/2`]: empty });
  }));
});

describe('while its broker fails', () => {
  let stack: Stack;
  let brokers: readonly string[];
  beforeAll(async () => {
    // A broker of its own: other tests go on with theirs.
    stack = await startStack({ servers: ['kafka'], env: { ...process.env, KAFKA_BROKERS: '' } });
    ({ brokers } = stack.endpoints.kafka);
  }, 120_000);
  afterAll(() => stack.stop());

  test('killed and started again in the middle, every record is there once and in order', async () => {
    const topic = await topicOn(brokers);
    const producer = await producerOf({ brokers });
    let count = 0;
    const feeding = new AbortController();
    const feed = (async () => {
      while (!feeding.signal.aborted) {
        await producer.produce(topic, Array.from({ length: 200 }, (_, i) => recordOf(count + i)));
        count += 200;
        await sleep(1);
      }
    })();
    await expect.poll(() => producer.deliveredRecords(), { timeout: 60_000 }).toBeGreaterThan(5_000);
    await stack.servers.kafka.restart();
    const before = producer.deliveredRecords();
    await expect.poll(() => producer.deliveredRecords(), { timeout: 60_000 }).toBeGreaterThan(before);
    feeding.abort();
    await feed;
    await producer.close(60_000);
    expect(producer.deliveredRecords()).toBe(count);
    expectOnceInOrder(await readWholeTopic(brokers, topic), count);
  }, 180_000);

  test('when an answer comes too late and the batch goes out again, the broker takes it once', async () => {
    const topic = await topicOn(brokers);
    const warnings: string[] = [];
    const producer = await producerOf({ brokers, requestTimeoutMs: 400, onLog: (_level, message) => warnings.push(message) });
    await producer.produce(topic, Array.from({ length: 100 }, (_, n) => recordOf(n)));
    await producer.flush();
    const { pid } = stack.servers.kafka;
    process.kill(pid!, 'SIGSTOP');
    onTestFinished(() => { process.kill(pid!, 'SIGCONT'); });
    await producer.produce(topic, Array.from({ length: 1_000 }, (_, n) => recordOf(100 + n)));
    await expect.poll(() => warnings.some((warning) => warning.includes('Kafka does not answer')), { timeout: 60_000 }).toBe(true);
    process.kill(pid!, 'SIGCONT');
    await producer.close(60_000);
    expectOnceInOrder(await readWholeTopic(brokers, topic), 1_100);
  }, 180_000);

  test('its buffer stays within its bound, and a caller waits', async () => {
    const topic = await topicOn(brokers);
    const bufferedBytesMax = 1024 * 1024;
    const producer = await producerOf({ brokers, bufferedBytesMax });
    await producer.produce(topic, [recordOf(0)]);
    await producer.flush();
    await stack.servers.kafka.stop('SIGKILL');
    let taken = 0;
    const producing = (async () => {
      for (let n = 1; n < 5_000; n += 1) {
        await producer.produce(topic, [recordOf(n, ' '.repeat(1_000))]);
        taken = n;
      }
    })();
    await expect.poll(() => producer.unacknowledged.bytes, { timeout: 60_000 }).toBeGreaterThanOrEqual(bufferedBytesMax);
    await expect(producer.flush(300)).rejects.toMatchObject({ code: 'KAFKA_UNAVAILABLE' });
    expect(producer.unacknowledged.bytes).toBeLessThan(bufferedBytesMax + 2_000);
    expect(taken).toBeLessThan(2_000);
    await stack.servers.kafka.restart();
    await producing;
    await producer.close(60_000);
    expectOnceInOrder(await readWholeTopic(brokers, topic), 5_000);
  }, 180_000);

  test('a stop without the broker ends, and says what is not acknowledged', async () => {
    const topic = await topicOn(brokers);
    const producer = await producerOf({ brokers });
    await producer.produce(topic, [recordOf(0)]);
    await producer.flush();
    await stack.servers.kafka.stop('SIGKILL');
    await producer.produce(topic, Array.from({ length: 10 }, (_, n) => recordOf(1 + n)));
    await expect(producer.close(500)).rejects.toMatchObject({ code: 'KAFKA_UNAVAILABLE', message: expect.stringContaining('10 records not acknowledged') });
  }, 120_000);
});
