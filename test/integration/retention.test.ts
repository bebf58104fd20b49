import { createHash, randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { compactedTables } from '../../src/compaction/tables.ts';
import { compactionWorkflowId } from '../../src/contracts/compaction.ts';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { openArchive } from '../../scripts/wire/retention.ts';
import { auditConservation } from '../../src/audit/conservation.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import type { BackfillInput, BackfillResult } from '../../src/contracts/backfill.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../../src/contracts/backfill.ts';
import type { DlqReplayInput, DlqReplayResult } from '../../src/contracts/dlq-replay.ts';
import { dlqReplayWorkflowId, dlqReplayWorkflowType, pauseReplaySignal, resumeReplaySignal } from '../../src/contracts/dlq-replay.ts';
import { reprocessSignals } from '../../src/contracts/reprocess.ts';
import { retentionSweepWorkflowId } from '../../src/contracts/retention.ts';
import type { RetentionSweepResult } from '../../src/contracts/retention.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import type { Archive } from '../../src/retention/archive.ts';
import { queryWithDuckDb } from '../support/readers/index.ts';
import { runScript as runScriptIn } from '../support/run-script.ts';
import type { ScriptOutcome } from '../support/run-script.ts';
import { configToEnvironment } from '../../src/config/config.ts';
import type { Config } from '../../src/config/config.ts';
import { sweepAhead } from '../support/sweep-ahead.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const minutes = 60_000;
const { s3 } = inject('stack');
const bronzeTable = 'bronze_binance_trades';
const silverTable = 'silver_binance_trades';
const goldTable = 'gold_crypto_trades';

let running: RunningPipeline;
let archive: Archive;

beforeAll(async () => {
  running = await startPipeline({ ARCHIVE_BUCKET: `cold-${randomUUID().slice(0, 8)}`, ARCHIVE_STORAGE_CLASS: 'STANDARD_IA' });
  const opened = openArchive(running.config, running.lake, running.pipeline);
  archive = opened.archive;
  // The Temporal Worker makes it too, some seconds after it was started.
  await opened.store.ensureBucket();
}, 2 * minutes);
afterAll(async () => {
  await running.stop();
}, minutes);

const runScript = (config: Config, script: string, args: readonly string[]): Promise<ScriptOutcome> => runScriptIn(script, args, configToEnvironment(config));
const load = (trades: number, seed: number) => running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed, trades, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.05 }));
const auditWith = (one?: Archive): Promise<AuditReport> => auditConservation({ catalog: running.lake.catalog, store: running.lake.store, pipeline: running.pipeline, topicPrefix: running.config.kafka.topicPrefix, ...(one ? { archive: one } : {}) });
const checksums = async (table: string): Promise<string[]> => {
  const { catalog, store } = running.lake;
  const bodies = await Promise.all((await (await catalog.load(table)).scan()).map(async ({ filePath }) => (await store.get(store.keyOf(filePath))).body));
  return bodies.map((body) => createHash('sha256').update(body).digest('hex')).sort();
};
const silverRows = async () => queryWithDuckDb(s3, { silver: await running.location(silverTable) }, 'SELECT message_id, symbol, price, quantity, kafka_partition, kafka_offset, bronze_ingestion_timestamp FROM silver ORDER BY 1');

const sweepAheadOfTime = () => sweepAhead(running, [bronzeTable, silverTable, goldTable, running.pipeline.dlqTable]);

test('with the stream running due rows go to the archive, come back byte for byte, and the audit is clean at each step', async () => {
  const { trades } = await load(4_000, 1);
  await running.untilMerged();
  const before = { bronze: await checksums(bronzeTable), silver: await silverRows(), gold: await running.rows(goldTable) };
  expect(before.gold).toBe(trades);

  // Records come while the sweeps begin: whatever of them is refined by then is as due as the rest.
  const [live, results] = await Promise.all([load(3_000, 2), sweepAheadOfTime()]);
  await running.untilMerged();
  for (const table of [bronzeTable, silverTable]) expect(results.get(table)!.archived.rows).toBeGreaterThanOrEqual(4_000);
  expect(results.get(goldTable)!.archived.rows).toBe(0);
  expect(await running.rows(goldTable)).toBe(trades + live.trades);
  expect((await auditWith(archive)).findings).toEqual([]);
  expect((await auditWith()).ok).toBe(false);
  // A foreign engine sees the table without the rows.
  const [{ n }] = await queryWithDuckDb(s3, { silver: await running.location(silverTable) }, 'SELECT count(*) AS n FROM silver') as [{ n: number }];
  expect(Number(n)).toBe(await running.rows(silverTable));
  expect(Number(n)).toBeLessThan(before.silver.length + live.trades);

  const again = await sweepAheadOfTime();
  await running.untilMerged();
  expect((await auditWith(archive)).findings).toEqual([]);
  expect(await running.rows(bronzeTable) + [results, again].reduce((sum, one) => sum + one.get(bronzeTable)!.archived.rows, 0)).toBeGreaterThanOrEqual(7_000);
  expect((await sweepAheadOfTime()).get(bronzeTable)!.archived.rows).toBe(0);

  for (const table of [bronzeTable, silverTable]) {
    const restored = await runScript(running.config, 'restore-archive.ts', ['--table', table, '--all', '--json']);
    expect(restored.stderr).not.toContain('    at ');
    expect(restored.code).toBe(0);
    const twice = await runScript(running.config, 'restore-archive.ts', ['--table', table, '--all', '--json']);
    expect(JSON.parse(twice.stdout)).toMatchObject({ rows: 0 });
  }
  expect((await checksums(bronzeTable)).filter((one) => before.bronze.includes(one))).toEqual(before.bronze);
  const rows = await silverRows();
  const ids = new Set(before.silver.map((row) => row['message_id']));
  expect(rows.filter((row) => ids.has(row['message_id']))).toEqual(before.silver);
  expect((await auditWith()).findings).toEqual([]);
}, 6 * minutes);

test('beside a running backfill, a paused DLQ replay and the live stream sweeps take nothing that these need, say who needs it, and take all of it afterwards', async () => {
  const { temporal, config, pipeline, lake } = running;
  await produceBadRecords({ brokers: config.kafka.brokers, registry: createRegistryClient({ url: config.schemaRegistry.url }), exchange: 'binance', topicPrefix: config.kafka.topicPrefix });
  await load(1_500, 3);
  await running.untilMerged();
  const aged = [bronzeTable, silverTable, pipeline.dlqTable];
  const rowsNow = () => Promise.all([...aged, goldTable].map((table) => running.rows(table)));
  const sweepHeld = async (by: string): Promise<void> => {
    const [before, results] = [await rowsNow(), await sweepAhead(running, aged)];
    for (const table of aged.filter((name) => name !== pipeline.dlqTable)) {
      expect(results.get(table)!.archived.rows).toBe(0);
      expect(results.get(table)!.held).toEqual([expect.objectContaining({ reason: 'reprocess', detail: expect.stringContaining(by) as string })]);
    }
    for (const [i, rows] of (await rowsNow()).entries()) expect(rows).toBeGreaterThanOrEqual(before[i]!);
    expect((await auditWith(archive)).findings).toEqual([]);
  };

  const input: BackfillInput = { id: 'swept', source: 'binance-trades', range: { by: 'all' }, rowsPerSecond: null, parallelism: 1 };
  const backfill = await temporal.workflow.signalWithStart(backfillWorkflowType, { workflowId: backfillWorkflowId('swept'), taskQueue: config.temporal.taskQueue, args: [input], signal: reprocessSignals.pause });
  await expect.poll(async () => Object.keys((await lake.catalog.load(bronzeTable)).tags), { timeout: 4 * minutes }).toEqual([backfillWorkflowId('swept')]);
  const live = load(1_000, 4);
  await sweepHeld(backfillWorkflowId('swept'));
  await backfill.signal(reprocessSignals.resume);
  expect((await backfill.result() as BackfillResult).rows).toBeGreaterThan(1_000);
  await live;
  await running.untilMerged();

  const replay = await temporal.workflow.signalWithStart(dlqReplayWorkflowType, {
    workflowId: dlqReplayWorkflowId('swept'), taskQueue: config.temporal.taskQueue, signal: pauseReplaySignal,
    args: [{ id: 'swept', selection: { source: 'binance-trades' }, mode: { mode: 'flag', reason: 'looked at' }, actor: 'test' } satisfies DlqReplayInput],
  });
  await expect.poll(async () => Object.keys((await lake.catalog.load(pipeline.dlqTable)).tags), { timeout: 4 * minutes }).toEqual([dlqReplayWorkflowId('swept')]);
  await sweepHeld(dlqReplayWorkflowId('swept'));
  await replay.signal(resumeReplaySignal);
  expect((await replay.result() as DlqReplayResult).flagged).toBeGreaterThan(0);

  const swept = await sweepAhead(running, aged);
  for (const table of aged) expect([table, swept.get(table)!.held]).toEqual([table, []]);
  expect([await running.rows(bronzeTable), await running.rows(silverTable)]).toEqual([0, 0]);
  expect((await auditWith(archive)).findings).toEqual([]);
}, 10 * minutes);

test('the scripts print the plan by table and partition, sweep through the Temporal Worker, and refuse what they do not know', async () => {
  const { config } = running;
  const plan = await runScript(config, 'start-retention.ts', ['--dry-run', '--json']);
  expect([plan.code, plan.stderr]).toEqual([0, expect.not.stringContaining('start-retention:')]);
  const { plans } = JSON.parse(plan.stdout) as { plans: { table: string; policy: string; partitions: unknown[] }[] };
  expect(plans.map(({ table, policy }) => [table, policy])).toEqual([
    ['bronze_binance_trades', '30/365'], ['silver_binance_trades', '30/365'], ['bronze_kraken_trades', '30/365'], ['silver_kraken_trades', '30/365'], ['silver_dlq_trades', '30/90'],
  ]);
  const swept = await runScript(config, 'start-retention.ts', ['--table', goldTable, '--table', bronzeTable, '--json']);
  expect(swept.stderr).not.toContain('    at ');
  expect(swept.code).toBe(0);
  const { results } = JSON.parse(swept.stdout) as { results: RetentionSweepResult[] };
  expect(results.map(({ table, archived }) => [table, archived.rows])).toEqual([[goldTable, 0], [bronzeTable, 0]]);
  for (const [script, args] of [['start-retention.ts', ['--table', 'nothing']], ['restore-archive.ts', ['--table', bronzeTable]], ['restore-archive.ts', ['--table', goldTable, '--all']], ['apply-schedules.ts', ['--what']]] as const) {
    expect([script, (await runScript(config, script, args)).code]).toEqual([script, 2]);
  }
  const refused = await runScript({ ...config, retention: { ...config.retention, policies: 'gold_crypto_trades=1/2,nothing=1/2' } }, 'apply-schedules.ts', []);
  expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('2 problems')]);
}, 3 * minutes);

test('Schedules are made once, show what differs, leave what an operator paused, and run the Workflows', async () => {
  const { config, temporal, pipeline } = running;
  const apply = async (schedules: Partial<typeof config.schedules> = {}, args: readonly string[] = []) => {
    const { code, stdout, stderr } = await runScript({ ...config, schedules: { ...config.schedules, ...schedules } }, 'apply-schedules.ts', ['--json', ...args]);
    expect([code, stderr]).toEqual([0, expect.not.stringContaining('    at ')]);
    return JSON.parse(stdout) as { changed: number; schedules: { scheduleId: string; action: string; changes: string[]; paused: boolean }[] };
  };
  const planned = await apply({}, ['--dry-run']);
  expect(planned.changed).toBe(planned.schedules.length);
  expect((await apply()).changed).toBe(planned.schedules.length);
  try {
    expect((await apply()).changed).toBe(0);
    const sweep = temporal.schedule.getHandle(retentionSweepWorkflowId(silverTable));
    await sweep.pause('looking into it');
    const other = await apply({ retentionMinutes: 720, auditMinutes: 0 });
    const byId = new Map(other.schedules.map((one) => [one.scheduleId, one]));
    expect(byId.get(retentionSweepWorkflowId(silverTable))).toMatchObject({ action: 'update', paused: true, changes: ['every: 24 h → 12 h'] });
    expect(byId.get('audit')).toMatchObject({ action: 'delete' });
    expect((await sweep.describe()).state.paused).toBe(true);
    // Changed by hand in the Web UI: it is shown, and put back. Every table that can be compacted has a Schedule.
    const compactions = other.schedules.filter(({ scheduleId }) => scheduleId.startsWith('compaction/'));
    expect(compactions.map(({ scheduleId, action }) => [scheduleId, action])).toEqual(compactedTables(pipeline).map(({ definition: { name } }) => [compactionWorkflowId(name), 'none']));
    const compaction = temporal.schedule.getHandle(compactionWorkflowId(goldTable));
    await compaction.update(({ action, policies, state }) => ({ action: { ...action, args: [{ table: silverTable }] }, policies, state, spec: { intervals: [{ every: '3 hours' }] } }));
    const byHand = (await apply({ retentionMinutes: 720, auditMinutes: 0 }, ['--dry-run'])).schedules.filter(({ action }) => action !== 'none');
    expect(byHand).toEqual([expect.objectContaining({ scheduleId: compactionWorkflowId(goldTable), action: 'update', changes: [
      'every: 3 h → 1 h', expect.stringMatching(/^at: 0 h → /) as string, `input: [{"table":"${silverTable}"}] → [{"table":"${goldTable}"}]`,
    ] })]);
    expect((await apply({ retentionMinutes: 720, auditMinutes: 0 })).changed).toBe(1);
    await compaction.trigger();
    // One at least: its own time may come in the middle of the test.
    await expect.poll(async () => (await compaction.describe()).info.recentActions.length, { timeout: 4 * minutes }).toBeGreaterThan(0);
    expect(await temporal.workflow.getHandle((await compaction.describe()).info.recentActions[0]!.action.workflow.workflowId).result()).toMatchObject({ table: goldTable, failed: [] });
    await sweep.trigger();
    await expect.poll(async () => (await sweep.describe()).info.recentActions.length, { timeout: 4 * minutes }).toBe(1);
    const { workflowId } = (await sweep.describe()).info.recentActions[0]!.action.workflow;
    expect(workflowId).toMatch(new RegExp(`^${retentionSweepWorkflowId(silverTable)}-20`));
    expect(await temporal.workflow.getHandle(workflowId).result()).toMatchObject({ table: silverTable, archived: { rows: 0 } });
  } finally {
    await apply({ retentionMinutes: 0, auditMinutes: 0, compactionMinutes: 0 });
  }
}, 10 * minutes);
