import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { configToEnvironment } from '../../src/config/config.ts';
import type { CompactionResult, PlannedCompaction } from '../../src/contracts/compaction.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { queryWithDuckDb, readWithPyIceberg } from '../support/readers/index.ts';
import { runScript } from '../support/run-script.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const { s3 } = inject('stack');
const minutes = 60_000;
const bronze = 'bronze_binance_trades';
const gold = 'gold_crypto_trades';
const tables = [bronze, 'silver_binance_trades', gold, 'silver_dlq_trades'];

describe('a compaction on real servers', () => {
  let running: RunningPipeline;
  const script = (...args: string[]) => runScript('start-compaction.ts', ['--json', ...args], configToEnvironment(running.config));
  const ofTables = tables.flatMap((table) => ['--table', table]);
  const tablesOf = <T>(stdout: string): T[] => (JSON.parse(stdout) as { tables: T[] }).tables;
  const filesOf = async (table: string) => (await running.lake.catalog.load(table)).scan();
  const load = (seed: number, trades: number, rate?: number) => running.withSink((sink) => loadGeneratedTrades({
    sink, exchange: 'binance', seed, trades, symbols: ['BTCUSDT', 'ETHUSDT', 'SOLUSDT', 'XRPUSDT'], repeatRatio: 0.05, ...(rate === undefined ? {} : { rate }),
  }));
  /** Rows, and a sum over all columns of all rows, as DuckDB reads them. */
  const digest = async (table: string) => queryWithDuckDb(s3, { t: await running.location(table) }, 'SELECT count(*) AS n, CAST(sum(CAST(hash(t) AS HUGEINT)) AS VARCHAR) AS sum FROM t');

  beforeAll(async () => {
    running = await startPipeline({ BATCH_ROWS_MAX: '2000', BATCH_ROWS_MIN: '100', COMPACTION_QUIET_MINUTES: '0', COMPACTION_FILES_MIN: '3' });
  }, 2 * minutes);
  afterAll(() => running.stop(), minutes);

  test('leaves fewer files with the same rows in every column, as DuckDB and PyIceberg read them, and has nothing to do when it comes again', async () => {
    const { config } = running;
    // Each burst is a Bronze file or more of each topic partition.
    for (let burst = 1; burst <= 6; burst += 1) {
      await load(burst, 300);
      while (await running.rows(bronze) < burst * 300) await sleep(50);
    }
    await produceBadRecords({ brokers: config.kafka.brokers, registry: createRegistryClient({ url: config.schemaRegistry.url }), exchange: 'binance', topicPrefix: config.kafka.topicPrefix });
    await running.untilMerged();
    const before = new Map(await Promise.all(tables.map(async (table) => [table, { files: (await filesOf(table)).length, digest: await digest(table) }] as const)));
    const raw = async () => (await readWithPyIceberg(s3, await running.location(bronze), { columns: ['partition', 'offset', 'raw_bytes'] })).rows.map((row) => JSON.stringify(row)).sort();
    const rawBefore = await raw();

    const dryRun = await script('--dry-run', ...ofTables);
    expect(dryRun.code).toBe(0);
    const due = tablesOf<PlannedCompaction>(dryRun.stdout).find(({ table }) => table === bronze)!;
    expect(due.groups.length).toBeGreaterThan(0);
    for (const { group } of due.groups) expect(group).toMatch(/\.crypto\.trades\.binance\.raw\/[012]$/);
    expect((await filesOf(bronze)).length).toBe(before.get(bronze)!.files);

    const done = await script(...ofTables);
    expect(done).toMatchObject({ code: 0 });
    const results = tablesOf<CompactionResult>(done.stdout);
    expect(results.find(({ table }) => table === bronze)).toMatchObject({ groups: due.groups.length, filesOut: due.groups.length, filesIn: due.files, rows: due.rows, failed: [] });
    for (const table of tables) {
      expect(await digest(table), table).toEqual(before.get(table)!.digest);
      const result = results.find((one) => one.table === table)!;
      expect((await filesOf(table)).length, table).toBe(before.get(table)!.files - result.filesIn + result.filesOut);
    }
    expect((await filesOf(bronze)).length).toBeLessThan(before.get(bronze)!.files / 2);
    expect(await raw()).toEqual(rawBefore);
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });

    const again = await script(...ofTables);
    expect(tablesOf<CompactionResult>(again.stdout).map(({ groups }) => groups)).toEqual(results.map(() => 0));
    expect(await script('--table', 'nonsense')).toMatchObject({ code: 2 });
  }, 10 * minutes);

  test('beside the live stream, on buckets that it merges into, with the Temporal Worker killed in it: no row is lost or doubled', async () => {
    const before = await running.rows(gold);
    const loading = load(100, 4_000, 250);
    const start = async (): Promise<void> => {
      const { code, stderr } = await script('--table', gold, '--table', bronze);
      expect(code, stderr).toBe(0);
    };
    while (await running.rows(gold) < before + 1_000) await sleep(100);
    const rewrites = async () => (await running.lake.catalog.load(gold)).snapshots.filter(({ operation }) => operation === 'replace').map(({ snapshotId }) => snapshotId);
    // By their ids: the commits of the stream push old snapshots out, and a number may stay the same or fall.
    const earlier = new Set(await rewrites());
    const isCompacting = async () => (await rewrites()).some((id) => !earlier.has(id));
    // What is due depends on how the stream cut its micro-batches: again until the first one commits.
    const first = (async () => {
      do await start(); while (!(await isCompacting()));
    })();
    while (!(await isCompacting())) await sleep(50);
    process.kill(running.temporalWorker.pid!, 'SIGKILL');
    await first;
    await loading;
    await running.untilMerged();
    await start();
    expect(await running.rows(gold)).toBe(before + 4_000);
    const [keys] = await queryWithDuckDb(s3, { gold: await running.location(gold) }, 'SELECT count(*) AS n, count(DISTINCT (exchange, symbol, trade_id)) AS keys FROM gold');
    expect(keys).toEqual({ n: before + 4_000, keys: before + 4_000 });
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  }, 10 * minutes);
});
