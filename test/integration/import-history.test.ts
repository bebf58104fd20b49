import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import type { CapturedBinanceTrade } from '../../src/capture/frame.ts';
import { configToEnvironment } from '../../src/config/config.ts';
import { readWithPyIceberg } from '../support/readers/index.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const { s3 } = inject('stack');
const minutes = 60_000;
let running: RunningPipeline;
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidemark-import-'));
  running = await startPipeline();
}, 2 * minutes);
afterAll(async () => {
  await running.stop();
  await rm(folder, { recursive: true, force: true });
}, minutes);

const script = fileURLToPath(new URL('../../scripts/import-history.ts', import.meta.url));
const environment = (more: Record<string, string> = {}): NodeJS.ProcessEnv => ({ ...process.env, ...configToEnvironment(running.config), LOG_LEVEL: 'warn', ...more });
const runImport = (...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> =>
  promisify(execFile)(process.execPath, [script, ...args], { env: environment() })
    .then((out) => ({ code: 0, ...out }), (error: { code: number; stdout: string; stderr: string }) => error);
interface Report { files: { topic: string; status: string; lines: number; trades: number; bad: number; rows: number; files: number; fromOffset: number; recoveredFiles: number; inGold: boolean }[] }
const imported = async (...args: string[]): Promise<Report> => {
  const { code, stdout, stderr } = await runImport('--json', ...args);
  expect({ code, stderr: code === 0 ? '' : stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout) as Report;
};

/** Years ago: a receive time of today would make them too old. */
const startMs = Date.parse('2019-03-01T10:00:00Z');
const csvOf = (ids: readonly number[]): string => ids.map((id) => `${id},${(4_000 + id / 100).toFixed(8)},0.25000000,${(1_000 + id / 400).toFixed(8)},${startMs + id * 40},${id % 2 === 0 ? 'True' : 'False'},True\n`).join('');
const tradeOf = (id: number): CapturedBinanceTrade => ({
  event_type: 'trade', event_time_ms: startMs + id * 40, symbol: 'BTCUSDT', trade_id: id, price: (4_000 + id / 100).toFixed(8), quantity: '0.25000000', trade_time_ms: startMs + id * 40,
  is_buyer_maker: id % 2 === 0, is_best_match: true, ingestion_timestamp: (startMs + id * 40) * 1_000, market: 'spot', native_id: null, extra: {},
});
const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);
const rowsOf = async (table: string, columns: string[]) => (await readWithPyIceberg(s3, await running.location(table), { columns })).rows;
const snapshotsOf = async (): Promise<(bigint | undefined)[]> => Promise.all(['bronze_binance_trades', 'silver_binance_trades', 'silver_dlq_trades', 'gold_crypto_trades']
  .map(async (name) => (await running.lake.catalog.load(name)).currentSnapshot?.snapshotId));

test('a historical file goes through to Gold by the same path; what came live too is a duplicate, what is no trade is in the DLQ with its bytes, and the promises hold', async () => {
  // Trades 200 to 499 came live.
  await running.withSink(async (sink) => {
    await sink.write('binance', range(200, 500).map(tradeOf));
    await sink.flush();
  });
  await running.untilMerged();
  const badLine = 'no,trade,at,all';
  const path = join(folder, 'BTCUSDT-trades-2019-03-01.csv.gz');
  await writeFile(path, gzipSync(`id,price,qty,quote_qty,time,is_buyer_maker,is_best_match\n${csvOf(range(0, 300))}${badLine}\n\n${csvOf(range(300, 1_000))}`));
  const before = await snapshotsOf();
  const dry = JSON.parse((await runImport('--dry-run', '--json', path)).stdout) as { files: { trades: number; bad: number; lines: number; problems: unknown[] }[] };
  expect(dry.files).toEqual([expect.objectContaining({ trades: 1_000, bad: 2, lines: 1_003, problems: [{ line: 301, problem: 'expected 7 fields, found 4' }, { line: 302, problem: 'expected 7 fields, found 1' }] })]);
  expect(await snapshotsOf()).toEqual(before);

  const { files: [first] } = await imported(path);
  expect(first).toMatchObject({ status: 'imported', lines: 1_003, trades: 1_000, bad: 2, rows: 1_002, fromOffset: 0, inGold: true });
  expect(first!.topic).toMatch(/^import\/[0-9a-f]{32}$/);

  const gold = await rowsOf('gold_crypto_trades', ['trade_id', 'symbol', 'exchange', 'price', 'kafka_topic', 'kafka_offset', 'timestamp']);
  expect(gold.map(({ trade_id: id }) => id).sort()).toEqual(range(0, 1_000).map((id) => `BINANCE-${id}`).sort());
  expect(gold.every(({ symbol, exchange }) => symbol === 'BTCUSDT' && exchange === 'BINANCE')).toBe(true);
  const silver = await rowsOf('silver_binance_trades', ['kafka_topic', 'kafka_offset', 'ingestion_timestamp', 'timestamp']);
  const own = silver.filter(({ kafka_topic: topic }) => topic === first!.topic);
  expect(own.length).toBe(1_000);
  expect(own.every((row) => row['ingestion_timestamp'] === row['timestamp'])).toBe(true);
  // Offset = line, the header's left out.
  expect(own.map(({ kafka_offset: offset }) => Number(offset)).sort((a, b) => a - b)).toEqual([...range(1, 301), ...range(303, 1_003)]);
  const dlq = await rowsOf('silver_dlq_trades', ['raw_record', 'kafka_topic', 'kafka_offset', 'error_type', 'error_reason']);
  expect(dlq.map(({ kafka_topic: topic, kafka_offset: offset, raw_record: raw, error_type: type }) => [topic, Number(offset), raw, type]).sort((a, b) => Number(a[1]) - Number(b[1])))
    .toEqual([[first!.topic, 301, Buffer.from(badLine).toString('hex'), 'schema_validation'], [first!.topic, 302, '', 'schema_validation']]);

  // No claims are made of offsets that no broker has.
  const report = await running.audit();
  expect(report.findings).toEqual([]);
  expect(report.ok).toBe(true);
  expect(report.sources[0]!.topicPartitions.find(({ topic }) => topic === first!.topic)).toMatchObject({ firstOffset: '0', nextOffset: '1003', logStart: null, logEnd: null, bronzeRows: 1_002, silverRows: 1_000, dlqRows: 2 });

  const settled = await snapshotsOf();
  expect((await imported(path)).files[0]).toMatchObject({ status: 'alreadyThere', rows: 0, files: 0, inGold: true });
  // The same lines unpacked are the same import.
  const unpacked = join(folder, 'BTCUSDT-trades-2019-03-01.csv');
  await writeFile(unpacked, `id,price,qty,quote_qty,time,is_buyer_maker,is_best_match\n${csvOf(range(0, 300))}${badLine}\n\n${csvOf(range(300, 1_000))}`);
  expect((await imported(unpacked)).files[0]).toMatchObject({ status: 'alreadyThere', topic: first!.topic });
  expect(await snapshotsOf()).toEqual(settled);
}, 8 * minutes);

test('an import that is killed goes on where the lake stands, and each line is there once', async () => {
  const trades = 40_000;
  const path = join(folder, 'ETHUSDT-trades-2019-03-01.csv');
  await writeFile(path, csvOf(range(0, trades)));
  const child = spawn(process.execPath, [script, '--json', '--no-wait', path], { env: environment({ FLUSH_ROWS: '1000' }), stdio: 'ignore' });
  const ended = once(child, 'exit');
  const bronzeRows = async (): Promise<number> => (await running.state('binance-trades')).totals.bronzeRows;
  const from = await bronzeRows();
  while ((await bronzeRows()) < from + 2_000 && child.exitCode === null) await sleep(20);
  child.kill('SIGKILL');
  await ended;
  const { files: [file] } = await imported(path);
  expect(file).toMatchObject({ inGold: true });
  // The killed one had come some way, and not to the end: else this tests nothing.
  expect(file!.rows).toBeLessThan(trades);
  const gold = await rowsOf('gold_crypto_trades', ['trade_id', 'symbol']);
  expect(new Set(gold.filter(({ symbol }) => symbol === 'ETHUSDT').map(({ trade_id: id }) => id)).size).toBe(trades);
  const { ok, findings } = await running.audit();
  expect({ ok, findings }).toEqual({ ok: true, findings: [] });
}, 8 * minutes);

test.each([
  [['nowhere.csv', '--symbol', 'BTCUSDT'], 'expected a file that can be read'],
  [[script], 'or --symbol'],
  [[script, '--symbol', 'BTCUSDT'], 'expected trades'],
  [['x.csv', '--market', 'moon'], 'Allowed choices are spot, usdm, coinm, us'],
  [['x.csv', '--source', 'kraken-trades'], 'expected a source of BinanceRawTrade records (binance-trades), found kraken-trades'],
])('what cannot be imported is refused before anything changes: %s', async (args, message) => {
  const { code, stderr } = await runImport(...args);
  expect(code).toBe(2);
  expect(stderr).toContain(message);
});
