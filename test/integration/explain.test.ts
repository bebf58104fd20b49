import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import type { BadRecord } from '../../src/capture/bad-records.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { configToEnvironment } from '../../src/config/config.ts';
import { dlqResolutionsTable } from '../../src/datasets/engine-tables.ts';
import { readRows } from '../../src/dlq/read-rows.ts';
import type { RecordStory } from '../../src/explain/explain-record.ts';
import type { LiveFile } from '../../src/lake/table.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { readWithPyIceberg } from '../support/readers/index.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const { s3 } = inject('stack');
const minutes = 60_000;
let running: RunningPipeline;
let bad: BadRecord[];
/** Silver as an engine that is not ours reads it. */
let silver: Record<string, unknown>[];

beforeAll(async () => {
  running = await startPipeline({ TEMPORAL_UI_URL: 'http://temporal.example' });
  const { config, withSink } = running;
  await withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed: 5, trades: 2_000, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.1 }));
  bad = await produceBadRecords({
    brokers: config.kafka.brokers, registry: createRegistryClient({ url: config.schemaRegistry.url }), exchange: 'binance', topicPrefix: config.kafka.topicPrefix,
  });
  await running.untilMerged();
  silver = (await readWithPyIceberg(s3, await running.location('silver_binance_trades'), {
    columns: ['message_id', 'trade_id', 'symbol', 'exchange', 'kafka_topic', 'kafka_partition', 'kafka_offset'],
  })).rows;
}, 5 * minutes);
afterAll(() => running.stop(), minutes);

interface Explained { record: string; found: number; records: RecordStory[]; durationMs: number }
const explain = async (...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
  const env = { ...process.env, ...configToEnvironment(running.config) };
  return promisify(execFile)(process.execPath, [fileURLToPath(new URL('../../scripts/explain.ts', import.meta.url)), ...args], { env })
    .then((out) => ({ code: 0, ...out }), (error: { code: number; stdout: string; stderr: string }) => error);
};
const explained = async (...args: string[]): Promise<Explained> => {
  const { code, stdout, stderr } = await explain('--json', ...args);
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as Explained;
};
const keyOf = (row: Record<string, unknown>): string => `${String(row['exchange'])} ${String(row['symbol'])} ${String(row['trade_id'])}`;
const pairs = (): Record<string, unknown>[][] => Object.values(Object.groupBy(silver, keyOf)).filter((rows) => rows?.length === 2) as Record<string, unknown>[][];
const placeOf = (row: Record<string, unknown>) => ({ topic: row['kafka_topic'], partition: row['kafka_partition'], offset: String(row['kafka_offset']) });

test('a message_id tells the record\'s whole way, with the micro-batch in the Web UI, and which duplicate won', async () => {
  const [a, b] = pairs()[0]!;
  // Records of one symbol share a topic partition.
  const [won, lost] = Number(a!['kafka_offset']) < Number(b!['kafka_offset']) ? [a!, b!] : [b!, a!];
  const { records: [loser, ...more] } = await explained(String(lost['message_id']));
  expect(more).toEqual([]);
  expect(loser).toMatchObject({
    ...placeOf(lost), source: 'binance-trades', messageId: lost['message_id'], verdict: expect.stringMatching(/^A duplicate/) as string,
    bronze: { status: 'present', table: 'bronze_binance_trades', writer: { workflowId: 'stream/binance-trades' } },
    silver: [{ table: 'silver_binance_trades', ruleVersion: 'binance-trades/1', values: { trade_id: lost['trade_id'], symbol: lost['symbol'] } }],
    dlq: [], resolutions: [], rewrites: [],
    gold: [{ table: 'gold_crypto_trades', isOwn: false, winner: { ...placeOf(won), messageId: won['message_id'] } }],
    copies: [{ ...placeOf(won), messageId: won['message_id'] }],
  });
  const { workflowId, url } = loser!.silver[0]!.writer!;
  expect(workflowId).toMatch(/^micro-batch\/binance-trades\/\d+$/);
  expect(url).toBe(`http://temporal.example/namespaces/${running.config.temporal.namespace}/workflows/${encodeURIComponent(workflowId)}`);
  expect(loser!.silver[0]!.schemaId).toBe(loser!.bronze.status === 'present' && loser!.bronze.schemaId);
  const { records: [winner] } = await explained(String(won['message_id']));
  expect(winner).toMatchObject({ ...placeOf(won), verdict: 'In Gold.', gold: [{ isOwn: true }], copies: [placeOf(lost)] });
}, 5 * minutes);

test('a trade id that two symbols share gives both records, and --where one of them', async () => {
  const shared = Object.values(Object.groupBy(silver, (row) => String(row['trade_id']))).find((rows) => new Set(rows!.map((row) => row['symbol'])).size === 2);
  const id = String((shared ?? pairs()[0])![0]!['trade_id']);
  const wanted = new Set(silver.filter((row) => row['trade_id'] === id).map(keyOf));
  const { records } = await explained(id);
  expect(new Set(records.map(({ silver: [row] }) => `${row!.values['exchange']} ${row!.values['symbol']} ${row!.values['trade_id']}`))).toEqual(wanted);
  const [symbol] = silver.filter((row) => row['trade_id'] === id).map((row) => String(row['symbol']));
  const { records: narrowed } = await explained(id, '--where', `symbol=${symbol}`, '--where', 'exchange=BINANCE');
  expect(narrowed.map(({ silver: [row] }) => row!.values['symbol'])).toEqual([symbol]);
  const hour = narrowed[0]!.silver[0]!.values['timestamp']!.slice(0, 13);
  expect((await explained(id, '--hour', hour, '--where', `symbol=${symbol}`)).found).toBe(1);
  expect((await explain(id, '--hour', '2001-01-01T00')).code).toBe(1);
}, 5 * minutes);

test('a refused record is explained by its place: reasons, detail, and what was decided about it since', async () => {
  const refused = bad.find(({ kind }) => kind === 'nine decimals')!;
  const { topic, partition, offset } = refused;
  const { catalog, store } = running.lake;
  const { bytes, metrics } = encodeDataFile({
    fields: dlqResolutionsTable.fields,
    batch: {
      rowCount: 1,
      columns: {
        topic: { constant: topic }, partition: { constant: partition }, offset: { constant: offset }, action: { constant: 'flagged' }, replay_id: { constant: 'r1' },
        reason: { constant: 'a vendor was told' }, actor: { constant: 'ops' }, attempt: { constant: 1 }, resolved_at: { constant: 1_700_000_000_000_000n }, bronze_source: { constant: 'binance-trades' },
      },
    },
  });
  const filePath = catalog.dataLocation(dlqResolutionsTable.name, `${randomUUID()}.parquet`);
  await store.put(store.keyOf(filePath), bytes);
  await catalog.commit(dlqResolutionsTable.name, { commitId: `dlq-replay/r1`, add: [{ filePath, partition: { bronze_source: 'binance-trades' }, ...metrics }] });

  const expected = {
    topic, partition, offset: String(offset), silver: [], gold: [], verdict: `In the DLQ (${refused.reason}), flagged.`,
    bronze: { status: 'present' }, dlq: [{ table: 'silver_dlq_trades', errorType: refused.errorType, reasons: refused.reason }],
    resolutions: [{ action: 'flagged', actor: 'ops', attempt: 1, reason: 'a vendor was told', replay: { workflowId: 'dlq-replay/r1' } }],
  };
  expect((await explained(`${topic}/${partition}/${offset}`)).records).toMatchObject([expected]);
  expect((await explained('binance-trades', String(partition), String(offset))).records).toMatchObject([expected]);
  const { stdout } = await explain(`${topic}/${partition}/${offset}`);
  for (const word of ['Kafka ', 'Bronze ', 'DLQ ', 'a vendor was told', refused.reason]) expect(stdout).toContain(word);
}, 5 * minutes);

test('a record whose file a backfill replaced names that backfill, and its neighbours do not', async () => {
  const { catalog, store } = running.lake;
  const table = await catalog.load('silver_binance_trades');
  const [old, other] = await table.scan();
  const firstOf = async (file: LiveFile): Promise<string> => {
    for await (const { batch: { columns } } of readRows(store, [file], ['message_id'])) return String(columns['message_id']![0]);
    throw new Error('a data file without rows');
  };
  const [inside, outside] = [await firstOf(old!), await firstOf(other!)];
  const { body } = await store.get(store.keyOf(old!.filePath));
  const filePath = catalog.dataLocation(table.name, `${randomUUID()}.parquet`);
  await store.put(store.keyOf(filePath), body);
  await catalog.commit(table.name, { commitId: 'backfill/b7/publish', add: [{ ...old!, filePath }], remove: [old!.filePath] });
  expect((await explained(inside)).records).toMatchObject([{
    silver: [{ file: filePath, writer: { workflowId: 'backfill/b7' } }],
    rewrites: [{ table: table.name, operation: 'overwrite', writer: { workflowId: 'backfill/b7' } }],
  }]);
  expect((await explained(outside)).records).toMatchObject([{ rewrites: [] }]);
}, 5 * minutes);

test('what is nowhere says so with exit code 1, and a bad command line exits 2', async () => {
  const nowhere = await explain('6f1b5e1e-0b0e-5d0c-9b7e-2f6a3c9d4e10');
  expect(nowhere).toMatchObject({ code: 1, stdout: expect.stringContaining('offsets tried') as string });
  const topic = running.topics[0]!;
  expect(await explain(topic, '0', '99999999')).toMatchObject({ code: 1, stdout: expect.stringContaining('Not in the lake.') as string });
  expect((await explain('BINANCE-1', '--where', 'colour=red')).code).toBe(2);
  expect((await explain()).code).toBe(2);
  expect((await explain('a', 'b')).code).toBe(2);
}, 5 * minutes);
