import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { configToEnvironment } from '../../src/config/config.ts';
import { parseBronzeFileSuffix } from '../../src/contracts/bronze.ts';
import { pauseSignal, resumeSignal, streamWorkflowId } from '../../src/contracts/stream.ts';
import type { StreamState } from '../../src/contracts/stream.ts';
import { readWithPyIceberg } from '../support/readers/index.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const { s3 } = inject('stack');
const minutes = 60_000;
const source = 'kraken-trades';
const bronzeTable = 'bronze_kraken_trades';
let running: RunningPipeline;
beforeAll(async () => {
  running = await startPipeline();
}, 2 * minutes);
afterAll(() => running.stop(), minutes);

const load = (trades: number, seed: number) =>
  running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'kraken', seed, trades, symbols: ['BTC/USD', 'ETH/USD'], repeatRatio: 0 }));
const until = async (holds: (state: StreamState) => boolean): Promise<StreamState> => {
  for (;;) {
    const state = await running.state(source).catch(() => null);
    if (state !== null && holds(state)) return state;
    await sleep(100);
  }
};
const bronzeKeys = async (): Promise<string[]> => {
  const { store, catalog } = running.lake;
  const keys: string[] = [];
  for await (const { key } of store.list(store.keyOf(catalog.dataLocation(bronzeTable, '')))) keys.push(key);
  return keys;
};
const retryBatch = async (...args: string[]): Promise<{ code: number; result: unknown }> => {
  const script = fileURLToPath(new URL('../../scripts/retry-batch.ts', import.meta.url));
  const env = { ...process.env, ...configToEnvironment(running.config) };
  return promisify(execFile)(process.execPath, [script, '--source', source, '--json', ...args], { env })
    .then(({ stdout }) => ({ code: 0, result: JSON.parse(stdout) as unknown }), (error: { code: number; stdout: string }) => ({ code: error.code, result: error.stdout === '' ? null : JSON.parse(error.stdout) as unknown }));
};

test('a Bronze file that is damaged before its table commit is refused alone, and its records are read from Kafka again', async () => {
  await load(600, 1);
  await running.untilMerged();
  const before = new Set(await bronzeKeys());
  const { pid } = running.temporalWorker;
  process.kill(pid!, 'SIGSTOP');
  let damaged: string;
  try {
    await load(900, 2);
    let added: string[] = [];
    while (added.length === 0) {
      added = (await bronzeKeys()).filter((key) => !before.has(key));
      await sleep(50);
    }
    damaged = added[0]!;
    const { body, metadata } = await running.lake.store.get(damaged);
    await running.lake.store.put(damaged, new Uint8Array(body.length), { metadata });
  } finally {
    process.kill(pid!, 'SIGCONT');
  }
  await running.untilMerged();
  const state = await running.state(source);
  expect(state).toMatchObject({ haltedTotal: 0, failedTotal: 0 });
  expect(state.totals.refusedFiles).toBeGreaterThanOrEqual(1);
  expect(damaged).toContain(state.refused[0]!.topicPartition);
  expect(await running.rows('gold_crypto_trades')).toBe(1_500);
  expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
}, 3 * minutes);

test('a micro-batch over a damaged Bronze file is visible with its cause while the stream goes on, and goes to the DLQ on demand', async () => {
  const stream = running.temporal.workflow.getHandle(streamWorkflowId(source));
  const { catalog, store } = running.lake;
  const goldBefore = await running.rows('gold_crypto_trades');
  await stream.signal(pauseSignal);
  await until(({ phase }) => phase === 'paused');
  const before = new Set((await (await catalog.load(bronzeTable)).scan()).map(({ filePath }) => filePath));
  await load(300, 3);
  await until(({ openRecords, pendingFilesTotal }) => openRecords === 300 && pendingFilesTotal === 0);
  const [file] = (await (await catalog.load(bronzeTable)).scan()).filter(({ filePath }) => !before.has(filePath));
  const { metadata } = await store.get(store.keyOf(file!.filePath));
  await store.put(store.keyOf(file!.filePath), new Uint8Array(file!.fileSizeBytes), { metadata });
  await stream.signal(resumeSignal);

  const [failed] = (await until(({ failedTotal }) => failedTotal === 1)).failed;
  expect(failed).toMatchObject({ records: 300, cause: expect.stringContaining('FILE_UNREADABLE: ') as string });
  await load(200, 4);
  await until(({ openRecords, runningTotal, totals }) => openRecords === 0 && runningTotal === 0 && totals.goldRows >= goldBefore + 200);

  expect(await retryBatch('--batch', '4711')).toEqual({ code: 1, result: { source, action: 'retry', sent: [], unknown: [4711] } });
  expect(await retryBatch('--batch', String(failed!.batch))).toMatchObject({ code: 0, result: { action: 'retry', sent: [failed!.batch] } });
  const [again] = (await until(({ failedTotal }) => failedTotal === 1)).failed;
  expect(again).toMatchObject({ intervals: failed!.intervals, cause: failed!.cause });
  expect(await retryBatch('--all', '--divert')).toMatchObject({ code: 0, result: { action: 'divert', sent: [again!.batch] } });
  await running.untilMerged();

  const { rows } = await readWithPyIceberg(s3, await running.location('silver_dlq_trades'), { columns: ['error_type', 'error_reason', 'error_detail', 'raw_record'] });
  const reasons = Object.groupBy(rows, (row) => String(row['error_reason']));
  expect(rows.length).toBe(300);
  expect(reasons['bronze_unreadable']).toHaveLength(file!.recordCount);
  for (const row of rows) {
    expect(row['error_detail']).toContain(`micro-batch ${again!.batch} was diverted by an operator: FILE_UNREADABLE: `);
    expect(row['raw_record'] === null).toBe(row['error_reason'] === 'bronze_unreadable');
  }
  // The damaged file is found, and everything that follows from it: nothing outside of its offsets.
  const { findings } = await running.audit();
  const { topic, partition, start, end } = parseBronzeFileSuffix(file!.filePath.slice(catalog.dataLocation(bronzeTable, '').length));
  expect(findings.map(({ promise }) => promise)).toContain('files-intact');
  for (const finding of findings.filter(({ startOffset }) => startOffset !== null)) {
    expect(finding).toMatchObject({ topic, partition });
    expect(BigInt(finding.startOffset!) >= start && BigInt(finding.endOffset!) <= end, `${finding.detail} at [${finding.startOffset}, ${finding.endOffset})`).toBe(true);
  }
}, 3 * minutes);
