import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { openArchive } from '../../scripts/wire/retention.ts';
import { auditConservation } from '../../src/audit/conservation.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { configToEnvironment } from '../../src/config/config.ts';
import type { Archive } from '../../src/retention/archive.ts';
import { queryWithDuckDb } from '../support/readers/index.ts';
import { runScript as runScriptIn } from '../support/run-script.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';
import { sweepAhead } from '../support/sweep-ahead.ts';
import { rowTexts } from '../support/table-rows.ts';

const minutes = 60_000;
const source = 'binance-trades';
const [bronze, silver, gold] = ['bronze_binance_trades', 'silver_binance_trades', 'gold_crypto_trades'] as const;
const halfHourMs = 1_800_000;

let running: RunningPipeline;
let archive: Archive;
beforeAll(async () => {
  running = await startPipeline({ ARCHIVE_BUCKET: `cold-${randomUUID().slice(0, 8)}` });
  ({ archive } = openArchive(running.config, running.lake, running.pipeline));
}, 2 * minutes);
afterAll(() => running.stop(), minutes);

const run = async (script: string, ...args: string[]): Promise<Record<string, unknown>> => {
  const { code, stdout, stderr } = await runScriptIn(script, [...args, '--json'], configToEnvironment(running.config));
  expect([script, code, stderr.includes('    at ')], stderr).toEqual([script, 0, false]);
  return JSON.parse(stdout) as Record<string, unknown>;
};
const rowsOf = async (table: string): Promise<string[]> => rowTexts(running.lake.store, await running.lake.catalog.load(table));
const audit = (one?: Archive): Promise<AuditReport> => auditConservation({ catalog: running.lake.catalog, store: running.lake.store, pipeline: running.pipeline, topicPrefix: running.config.kafka.topicPrefix, ...(one ? { archive: one } : {}) });
const statesOf = async (table: string): Promise<Set<string>> => new Set((await archive.list(table)).map(({ manifest: { state } }) => state));

test('a backfill of rows that retention took, Bronze and Silver, restores what it needs by itself: each row is there once, and what it left in the archive can be restored', async () => {
  const { trades } = await running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed: 3, trades: 2_000, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.05 }));
  await running.untilMerged();
  const before = { silver: await rowsOf(silver), gold: await rowsOf(gold), bronze: await running.rows(bronze) };
  expect(before.gold).toHaveLength(trades);
  // It begins and ends within an hour: Silver files are in it by half.
  const end = Math.floor(Date.now() / (2 * halfHourMs)) * 2 * halfHourMs - halfHourMs;
  const range = `${new Date(end - 2 * halfHourMs).toISOString()}..${new Date(end).toISOString()}`;
  const [{ n }] = await queryWithDuckDb(inject('stack').s3, { silver: await running.location(silver) },
    `SELECT count(*) AS n FROM silver WHERE epoch_ms("timestamp") >= ${end - 2 * halfHourMs} AND epoch_ms("timestamp") < ${end}`) as [{ n: number }];
  const inRange = Number(n);
  expect(inRange).toBeGreaterThan(100);
  expect(inRange).toBeLessThan(before.bronze);

  await sweepAhead(running, [bronze, silver]);
  expect([await running.rows(bronze), await running.rows(silver)]).toEqual([0, 0]);
  const plan = { offsetsArchived: String(inRange), offsetsRefinedArchived: String(inRange), offsetsNotRefined: '0' };
  expect(await run('start-backfill.ts', '--source', source, '--event-time', range, '--dry-run')).toMatchObject(plan);
  const all = { offsetsArchived: String(before.bronze), offsetsRefinedArchived: String(before.bronze) };
  for (const [option, text] of [['--kafka-time', '2020-01-01T00:00Z..2100-01-01T00:00Z'], ['--refined', '2020-01-01T00:00Z..2100-01-01T00:00Z']] as const) {
    expect(await run('start-backfill.ts', '--source', source, option, text, '--dry-run'), option).toMatchObject(all);
  }
  expect([await running.rows(bronze), await statesOf(bronze), await statesOf(silver)]).toEqual([0, new Set(['archived']), new Set(['archived'])]);

  expect(await run('start-backfill.ts', '--source', source, '--event-time', range, '--wait')).toMatchObject({ ok: true, rows: inRange, silverRows: inRange, silver: { addedRows: inRange, removedRows: inRange } });
  expect(await rowsOf(gold)).toEqual(before.gold);
  expect((await audit(archive)).findings).toEqual([]);
  const wanted = new Set(before.silver);
  const now = await rowsOf(silver);
  expect(now.filter((row) => !wanted.has(row))).toEqual([]);
  expect(new Set(now).size).toBe(now.length);
  expect((await archive.list(silver)).every(({ manifest: { state } }) => state === 'restored' || state === 'archived')).toBe(true);
  expect(await statesOf(silver)).toContain('restored');

  // What stayed in the archive goes back beside it.
  for (const table of [bronze, silver]) await run('restore-archive.ts', '--table', table, '--all');
  expect(await rowsOf(silver)).toEqual(before.silver);
  expect(await running.rows(bronze)).toBe(before.bronze);
  expect((await audit()).findings).toEqual([]);
  // And it ages again like any other row.
  expect(await statesOf(silver)).toEqual(new Set(['restored']));
}, 6 * minutes);
