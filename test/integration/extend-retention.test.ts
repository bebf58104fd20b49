import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Worker } from '@temporalio/worker';
import { afterAll, afterEach, beforeAll, expect, inject, test, vi } from 'vitest';
import { createRetentionExtensionActivities } from '../../activities/retention-extension.ts';
import { openStore } from '../../scripts/wire/lake.ts';
import { configToEnvironment, loadConfig } from '../../src/config/config.ts';
import type { Config } from '../../src/config/config.ts';
import { extendRetentionWorkflowId, extendRetentionWorkflowType } from '../../src/contracts/retention-extension.ts';
import type { ExtendRetentionInput, RetentionExtension } from '../../src/contracts/retention-extension.ts';
import { fetchTopicConfigs, setTopicConfig } from '../../src/kafka/topic-configs.ts';
import { ensureTopics } from '../../src/kafka/topics.ts';
import type { S3ObjectStore } from '../../src/lake/s3-object-store.ts';
import { endpointEnvironment } from '../../src/stack/index.ts';
import { loadExtension } from '../../src/streaming/retention-extension.ts';
import { connectEnvironment } from '../workflows/environment.ts';
import type { Environment } from '../workflows/environment.ts';

const minutes = 60_000;
const hour = 3_600_000;
const id = randomUUID().slice(0, 8);
let environment: Environment;
let config: Config;
let store: S3ObjectStore;
let worker: Worker;
let working: Promise<void>;
/** Stands between the activities and Kafka. */
let beforeSet: (value: string | null) => Promise<void> | void = () => {};

beforeAll(async () => {
  const stack = inject('stack');
  environment = await connectEnvironment(stack.temporal.address);
  config = loadConfig({ ...endpointEnvironment(stack), TIDEMARK_BUCKET: `retention-${id}`, TIDEMARK_TOPIC_PREFIX: `${id}.`, TIDEMARK_TASK_QUEUE: `retention-${id}`, TEMPORAL_NAMESPACE: 'default' });
  store = openStore(config);
  await store.ensureBucket();
  const { brokers } = config.kafka;
  worker = await Worker.create({
    connection: environment.temporal.nativeConnection, taskQueue: config.temporal.taskQueue, workflowBundle: environment.bundle, debugMode: true,
    activities: createRetentionExtensionActivities({
      store, fetchConfigs: (topic) => fetchTopicConfigs(brokers, topic),
      setConfig: async (topic, name, value) => {
        await beforeSet(value);
        await setTopicConfig(brokers, topic, name, value);
      },
    }),
  });
  working = worker.run();
}, 120_000);
afterEach(() => {
  beforeSet = () => {};
});
afterAll(async () => {
  worker.shutdown();
  await working;
  store.close();
  await environment.temporal.teardown();
});

const extend = (...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> =>
  promisify(execFile)(process.execPath, [fileURLToPath(new URL('../../scripts/extend-retention.ts', import.meta.url)), ...args], { env: { ...process.env, ...configToEnvironment(config) } })
    .then((out) => ({ code: 0, ...out }), (error: { code: number; stdout: string; stderr: string }) => error);
const extended = async (...args: string[]): Promise<Record<string, unknown>> => {
  const { code, stdout, stderr } = await extend(...args, '--json');
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as Record<string, unknown>;
};
const createTopic = async (name: string, configs: Record<string, string> = {}): Promise<string> => {
  const topic = `${id}.${name}`;
  await ensureTopics(config.kafka.brokers, [{ topic, partitions: 1, configs }]);
  return topic;
};
const overridesOf = async (topic: string): Promise<Record<string, string>> => ({ ...(await fetchTopicConfigs(config.kafka.brokers, topic)).overrides });
const handleOf = (topic: string) => environment.temporal.client.workflow.getHandle(extendRetentionWorkflowId(topic));

test('a topic is extended, extended again, and put back to exactly what it was; its other configs are left alone', async () => {
  const before = { 'retention.ms': String(hour), 'segment.bytes': '1048576' };
  const topic = await createTopic('market.crypto.trades.binance.raw', before);
  const planned = await extended('--source', 'binance-trades', '--for', '1h', '--dry-run');
  expect(planned['changes']).toEqual([{ topic, nowMs: hour, retentionMs: expect.any(Number) as number, untilMs: expect.any(Number) as number }]);
  expect(await overridesOf(topic)).toEqual(before);
  expect(await extended('--status')).toEqual({ extensions: [] });

  const from = Date.now();
  const { extensions: [first] } = await extended('--source', 'binance-trades', '--for', '1h') as { extensions: RetentionExtension[] };
  expect(first).toMatchObject({ topic, previous: String(hour), beforeMs: hour });
  // What is there now stays for the extension, whole.
  expect(first!.retentionMs).toBeGreaterThan(2 * hour - 60_000);
  expect(first!.untilMs - from).toBeGreaterThanOrEqual(hour);
  expect(await overridesOf(topic)).toEqual({ ...before, 'retention.ms': String(first!.retentionMs) });

  const { extensions: [second] } = await extended('--topic', topic, '--for', '3h') as { extensions: RetentionExtension[] };
  expect(second).toMatchObject({ previous: String(hour), beforeMs: hour, startedAtMs: first!.startedAtMs });
  expect(second!.retentionMs).toBeGreaterThan(4 * hour - 60_000);
  expect(second!.retentionMs).toBeLessThan(4 * hour + 60_000);
  expect(await extended('--status')).toEqual({ extensions: [second] });
  const listed = await extend('--status');
  expect(listed.stdout).toContain(topic);

  expect(await extended('--source', 'binance-trades', '--restore')).toEqual({ restored: [topic], notExtended: [] });
  expect(await handleOf(topic).result()).toBe('restored');
  expect(await overridesOf(topic)).toEqual(before);
  expect(await extend('--topic', topic, '--restore')).toMatchObject({ code: 1, stdout: `${topic}: was not extended\n` });
}, 4 * minutes);

test('when its time is over it goes back by itself; a topic that had no retention of its own has none again', async () => {
  const topic = await createTopic('by-itself', { 'segment.bytes': '1048576' });
  const input: ExtendRetentionInput = { topic, retentionMs: 500 * 24 * hour, untilMs: Date.now() + 2_000 };
  // It goes back once the test has seen it raised, however long that took.
  const isSeen = Promise.withResolvers<void>();
  beforeSet = (value) => (value === null ? isSeen.promise : undefined);
  const handle = await environment.temporal.client.workflow.start(extendRetentionWorkflowType, { workflowId: extendRetentionWorkflowId(topic), taskQueue: config.temporal.taskQueue, args: [input] });
  await vi.waitFor(async () => expect(await overridesOf(topic)).toEqual({ 'segment.bytes': '1048576', 'retention.ms': String(input.retentionMs) }), { timeout: 40_000 });
  isSeen.resolve();
  expect(await handle.result()).toBe('restored');
  expect(Date.now()).toBeGreaterThanOrEqual(input.untilMs);
  expect(await overridesOf(topic)).toEqual({ 'segment.bytes': '1048576' });
  expect(await loadExtension(store, topic)).toBe(null);
}, 4 * minutes);

test('killed between its record and Kafka, or with Temporal\'s history gone, the old value is known and put back', async () => {
  const topic = await createTopic('interrupted', { 'retention.ms': '7200000' });
  let failures = 0;
  beforeSet = () => {
    failures += 1;
    if (failures <= 2) throw new Error('killed (injected fault)');
  };
  const { extensions: [extension] } = await extended('--topic', topic, '--for', '5h') as { extensions: RetentionExtension[] };
  expect(failures).toBeGreaterThan(2);
  expect(extension).toMatchObject({ previous: '7200000' });
  await handleOf(topic).terminate('lost (injected fault)');
  expect(await extended('--topic', topic, '--restore')).toEqual({ restored: [topic], notExtended: [] });
  expect(await overridesOf(topic)).toEqual({ 'retention.ms': '7200000' });
}, 4 * minutes);

test('a retention that somebody set meanwhile is left as it is', async () => {
  const topic = await createTopic('changed', { 'retention.ms': '7200000' });
  await extended('--topic', topic, '--for', '5h');
  await setTopicConfig(config.kafka.brokers, topic, 'retention.ms', '123456789');
  await extended('--topic', topic, '--restore');
  expect(await handleOf(topic).result()).toBe('changedMeanwhile');
  expect(await overridesOf(topic)).toEqual({ 'retention.ms': '123456789' });
}, 4 * minutes);

test.each([
  [['--for', '1h'], 'expected --topic or --source'],
  [['--topic', `${id}.nowhere`, '--for', '1h'], 'expected one that Kafka has'],
  [['--topic', 'x', '--for', '1 h'], 'Expected a duration'],
  [['--topic', 'x', '--for', '1h', '--restore'], 'expected one of --for, --until, --status and --restore'],
  [['--source', 'nothing', '--for', '1h'], 'expected one of binance-trades'],
])('a bad command line changes nothing and exits 2: %s', async (args, message) => {
  const { code, stderr } = await extend(...args);
  expect(code).toBe(2);
  expect(stderr).toContain(message);
}, 4 * minutes);

test('a topic whose records live for ever, and a retention that is not longer, are refused', async () => {
  const topic = await createTopic('for-ever', { 'retention.ms': '-1' });
  expect(await extend('--topic', topic, '--for', '1h')).toMatchObject({ code: 2, stderr: expect.stringContaining('nothing expires') as string });
  const short = await createTopic('longer', { 'retention.ms': '7200000' });
  expect(await extend('--topic', short, '--for', '1h', '--to', '1h')).toMatchObject({ code: 2, stderr: expect.stringContaining('expected more than the 7200000 ms') as string });
  expect(await overridesOf(short)).toEqual({ 'retention.ms': '7200000' });
}, 4 * minutes);
