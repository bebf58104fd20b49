import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { describe, expect, inject, onTestFinished, test } from 'vitest';
import { badRecordKinds, produceBadRecords } from '../../src/capture/bad-records.ts';
import { runCapture } from '../../src/capture/capture.ts';
import { simulationOverCode, startExchangeSimulator } from '../../src/capture/exchange-simulator.ts';
import type { ExchangeSimulator, SimulatorOptions } from '../../src/capture/exchange-simulator.ts';
import type { Exchange } from '../../src/capture/feed.ts';
import { socketSource } from '../../src/capture/socket-source.ts';
import { subscriptionOf } from '../../src/capture/subscription.ts';
import { createKafkaTradeSink, rawTopicOf } from '../../src/capture/trade-sink.ts';
import type { BinanceRawTrade } from '../../src/datasets/binance-trades.ts';
import binanceTrades from '../../src/datasets/binance-trades.ts';
import { dlqTable } from '../../src/datasets/engine-tables.ts';
import type { KrakenRawTrade } from '../../src/datasets/kraken-trades.ts';
import krakenTrades from '../../src/datasets/kraken-trades.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import { createRecordProducer } from '../../src/kafka/producer.ts';
import { ensureTopics, fetchOffsetBounds } from '../../src/kafka/topics.ts';
import { objectSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { DecoderCache } from '../../src/refine/decoders.ts';
import { refineBronze } from '../../src/refine/refine.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { hasWireHeader, wireHeaderBytes, wireSchemaId } from '../../src/schema-registry/wire-codec.ts';
import { putBronzeFile } from '../support/bronze-file.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import { avroTypeOf } from '../support/raw-records.ts';
import { freshPrefix, readWholeTopic } from '../support/raw-topic.ts';

const { kafka: { brokers }, schemaRegistry } = inject('stack');
const registry = createRegistryClient({ url: schemaRegistry.url });

const minutes = 60_000;
const lane = async (partitions = 3) => {
  const topicPrefix = freshPrefix();
  await ensureTopics(brokers, (['binance', 'kraken'] as const).map((exchange) => ({ topic: rawTopicOf(exchange, topicPrefix).topic, partitions })));
  return topicPrefix;
};

const simulate = async (options: Partial<SimulatorOptions>): Promise<ExchangeSimulator> => {
  const simulator = await startExchangeSimulator({ seed: 11, trades: 10_000, ...options });
  onTestFinished(() => simulator.stop());
  return simulator;
};

describe.each<[Exchange, (simulator: ExchangeSimulator) => string, string[]]>([
  ['binance', ({ urls }) => urls.binance, ['BTCUSDT', 'ETHUSDT', 'SOLUSDT']],
  ['kraken', ({ urls }) => urls.krakenV2, ['BTC/USD', 'ETH/USD', 'SOL/USD']],
])('trades of %s', (exchange, urlOf, symbols) => {
  test('are in the raw topic once each as they arrived, by symbol in their order, at the offsets that capture says', async () => {
    const topicPrefix = await lane();
    const simulator = await simulate({ dropEveryTrades: 2_500, duplicatesRatio: 0.05, rubbishFrames: 2 });
    const producer = await createRecordProducer({ brokers });
    onTestFinished(() => producer.abort());
    const startedMs = Date.now();
    const counts = await runCapture({
      source: socketSource(subscriptionOf({ exchange, symbols, baseUrl: urlOf(simulator) }), { overCode: simulationOverCode, backoffMs: 5 }),
      sink: createKafkaTradeSink({ producer, registry, topicPrefix }),
    });
    const [truth] = await simulator.truth();
    expect(truth!.repeated).toBeGreaterThan(100);
    expect(counts).toMatchObject({ trades: 10_000 + truth!.repeated, produced: 10_000 + truth!.repeated, unparsable: 2 });

    const { topic, subject, rawSchema } = rawTopicOf(exchange, topicPrefix);
    const bounds = await fetchOffsetBounds(brokers, [topic]);
    expect(counts.offsets).toEqual(Object.fromEntries(Object.entries(bounds).filter(([, { high }]) => high > 0n).map(([key, { low, high }]) => [key, `${low}-${high}`])));

    const schemaId = await registry.register(subject, rawSchema);
    const type = avroTypeOf(rawSchema);
    const records = await readWholeTopic(brokers, topic);
    expect(records).toHaveLength(counts.trades);
    const partitionOf = new Map<string, number>();
    const lastId = new Map<string, number>();
    const distinct = new Set<string>();
    const ordered: boolean[] = [];
    for (const { key, value, partition, timestampMs } of records) {
      expect(hasWireHeader(value!)).toBe(true);
      expect(wireSchemaId(value!)).toBe(schemaId);
      const trade = type.fromBuffer(value!.subarray(wireHeaderBytes)) as BinanceRawTrade | KrakenRawTrade;
      const symbol = 'symbol' in trade ? trade.symbol : trade.pair;
      const id = Number('trade_id' in trade ? trade.trade_id : trade.native_id);
      expect(key).toBe(symbol);
      expect(partitionOf.get(symbol) ?? partition).toBe(partition);
      expect(timestampMs).toBeGreaterThanOrEqual(startedMs - 1);
      partitionOf.set(symbol, partition);
      // After a drop some come again; then the ids go on where they were.
      const isNew = !distinct.has(`${symbol} ${id}`);
      ordered.push(!isNew || id === (lastId.get(symbol) ?? id - 1) + 1);
      if (isNew) lastId.set(symbol, id);
      distinct.add(`${symbol} ${id}`);
    }
    expect(distinct.size).toBe(10_000);
    expect(ordered.every(Boolean)).toBe(true);
  }, 3 * minutes);

  test('of each bad kind are refused for the very reason that was foretold', async () => {
    const topicPrefix = await lane();
    const bad = await produceBadRecords({ brokers, registry, exchange, topicPrefix });
    expect(bad).toHaveLength(badRecordKinds);
    const { topic, subject, rawSchema } = rawTopicOf(exchange, topicPrefix);
    const records = await readWholeTopic(brokers, topic);
    expect(records).toHaveLength(badRecordKinds);
    const store = createMemoryObjectStore();
    const { partition } = records[0]!;
    const file = await putBronzeFile(store, { topic, partition, startOffset: 0n, values: records.map(({ value }) => value) });
    const schemaId = await registry.register(subject, rawSchema);
    const dataset = exchange === 'binance' ? binanceTrades : krakenTrades;
    const decoders = new DecoderCache(dataset, {
      load: (id) => (id === schemaId
        ? Promise.resolve({ id, schema: JSON.stringify(rawSchema), fingerprint: '' })
        : Promise.reject(new TidemarkError('SCHEMA_NOT_FOUND', `schema id ${id}: not found`))),
      keep: () => Promise.reject(new Error('refining keeps no schemas')),
    });
    const plan = { [`${topic}/${partition}`]: `0-${badRecordKinds}` };
    const { silverRows, dlqFiles } = await refineBronze(
      { store, dataset, decoders, dlqTable: 'dlq', dataLocation: (table, suffix) => store.location(`${table}/data/${suffix}`) },
      { source: dataset.source, batchId: 'batch', nowMs: Date.now(), bronzeFiles: [file], silver: plan, dlq: plan },
    );
    expect(silverRows).toBe(0);
    const found: Record<string, string> = {};
    for (const { filePath, fileSizeBytes } of dlqFiles) {
      const { rowCount, columns } = await readColumns(await openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes)), { columns: dlqTable('dlq').fields.map(({ name }) => name) });
      for (let i = 0; i < rowCount; i += 1) found[String(columns['kafka_offset']![i])] = `${String(columns['error_type']![i])}: ${String(columns['error_reason']![i])}`;
    }
    expect(found).toEqual(Object.fromEntries(bad.map(({ offset, errorType, reason }) => [String(offset), `${errorType}: ${reason}`])));
  });
});

test('a schema that readers of old records could not follow is refused by the subject', async () => {
  const topicPrefix = await lane();
  await produceBadRecords({ brokers, registry, exchange: 'binance', topicPrefix });
  const { subject, rawSchema } = rawTopicOf('binance', topicPrefix);
  const incompatible = { ...rawSchema, fields: [...rawSchema.fields, { name: 'without_default', type: 'string' }] };
  await expect(registry.register(subject, incompatible)).rejects.toMatchObject({ code: 'SCHEMA_INCOMPATIBLE' });
});

describe('the capture command', () => {
  const script = fileURLToPath(new URL('../../scripts/run-capture.ts', import.meta.url));
  const run = async (args: readonly string[], env: NodeJS.ProcessEnv = {}) => {
    const child = spawn(process.execPath, [script, ...args], {
      env: { ...process.env, KAFKA_BROKERS: brokers.join(','), SCHEMA_REGISTRY_URL: schemaRegistry.url, ...env }, stdio: ['ignore', 'pipe', 'pipe'],
    });
    onTestFinished(() => { child.kill('SIGKILL'); });
    const [stdout, stderr] = [text(child.stdout), text(child.stderr)];
    return { child, ended: once(child, 'close').then(async ([code]) => ({ code: Number(code), stdout: await stdout, stderr: await stderr })) };
  };

  test('captures from the simulator, keeps what it cannot parse, and ends with its counts as one line of JSON', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tidemark-capture-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const unparsable = join(folder, 'deep', 'unparsable.jsonl');
    const { ended } = await run(['--simulate', '--exchange', 'kraken', '--feed', 'v1', '--trades', '3000', '--drop-every', '1000', '--duplicates', '0.1', '--rubbish', '3', '--unparsable', unparsable, '--record', join(folder, 'frames.gz'), '--json'], { TIDEMARK_TOPIC_PREFIX: freshPrefix() });
    const { code, stdout, stderr } = await ended;
    expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
    const stopped = JSON.parse(stdout.trim().split('\n').at(-1)!) as { event: string; trades: number; produced: number; simulator: { trades: number; repeated: number }[] };
    const [truth] = stopped.simulator;
    expect(stopped).toMatchObject({ event: 'stopped', trades: 3_000 + truth!.repeated, produced: 3_000 + truth!.repeated, unparsable: 3 });
    expect((await readFile(unparsable, 'utf8')).trim().split('\n').map((line) => Object.keys(JSON.parse(line) as object))).toEqual(Array.from({ length: 3 }, () => ['exchange', 'market', 'received_ns', 'reason', 'frame']));
    // The recording gives the same trades again.
    const again = await run(['--input', join(folder, 'frames.gz'), '--unparsable', unparsable, '--json'], { TIDEMARK_TOPIC_PREFIX: freshPrefix() });
    expect(JSON.parse((await again.ended).stdout.trim().split('\n').at(-1)!)).toMatchObject({ trades: stopped.trades, unparsable: 3 });
  }, 3 * minutes);

  test('a stop flushes what was taken, and says where it is', async () => {
    const topicPrefix = freshPrefix();
    const { child, ended } = await run(['--simulate', '--rate', '2000', '--trades', '10000000', '--json'], { TIDEMARK_TOPIC_PREFIX: topicPrefix });
    const { topic } = rawTopicOf('binance', topicPrefix);
    await expect.poll(async () => Object.values(await fetchOffsetBounds(brokers, [topic]).catch(() => ({}))).reduce((sum, { high }) => sum + Number(high), 0), { timeout: 90_000, interval: 200 }).toBeGreaterThan(1_000);
    child.kill('SIGINT');
    const { code, stdout } = await ended;
    expect(code).toBe(0);
    const stopped = JSON.parse(stdout.trim().split('\n').at(-1)!) as { trades: number; produced: number; offsets: Record<string, string> };
    expect(stopped.produced).toBe(stopped.trades);
    const bounds = await fetchOffsetBounds(brokers, [topic]);
    expect(Object.values(bounds).reduce((sum, { high }) => sum + Number(high), 0)).toBe(stopped.produced);
  }, 3 * minutes);

  test.each([
    [['--rate', '0', '--simulate'], 'Expected a whole number'],
    [[], 'expected one of'],
    [['--input', 'a', '--simulate'], 'found --input and --simulate'],
    [['--exchange', 'mtgox', '--symbol', 'a'], 'expected binance or kraken'],
    [['--simulate', '--exchange', 'kraken', '--market', 'moon'], 'expected spot, futures'],
    [['--unknown'], 'unknown option'],
  ])('a bad command line says what was expected, and exits 2: %j', async (args, message) => {
    const { code, stderr } = await (await run(args)).ended;
    expect(code).toBe(2);
    expect(stderr).toContain(message);
  });

  test('a broker that is not there is one message without a stack, and exit 1', async () => {
    const { code, stderr } = await (await run(['--simulate', '--trades', '1'], { KAFKA_BROKERS: '127.0.0.1:1' })).ended;
    expect(code).toBe(1);
    expect(stderr).toContain('Kafka at 127.0.0.1:1');
    expect(stderr).not.toContain('    at ');
  });
});
