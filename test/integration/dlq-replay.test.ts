import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { createRecordEncoder } from '../../src/capture/record-encoder.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { registerRawSchema } from '../../src/capture/trade-sink.ts';
import { configToEnvironment } from '../../src/config/config.ts';
import type { BackfillInput } from '../../src/contracts/backfill.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../../src/contracts/backfill.ts';
import { dlqReplayWorkflowId, dlqReplayWorkflowType, pauseReplaySignal, resumeReplaySignal, replayProgressQuery } from '../../src/contracts/dlq-replay.ts';
import type { DlqReplayInput, DlqReplayProgress, DlqReplayResult, DlqSelection, ReplayMode } from '../../src/contracts/dlq-replay.ts';
import { rawSchema } from '../../src/datasets/binance-trades.ts';
import { createRecordProducer } from '../../src/kafka/producer.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { readWithPyIceberg } from '../support/readers/index.ts';
import { startPipelineOn } from '../support/pipeline-processes.ts';
import type { RunningPipeline } from '../support/pipeline-processes.ts';
import { binanceRaw } from '../support/raw-records.ts';
import { runScript } from '../support/run-script.ts';
import { badReleaseVariable } from '../support/strict-market-data.ts';

const { s3 } = inject('stack');
const minutes = 60_000;
const source = 'binance-trades';
const pipelineModule = fileURLToPath(new URL('../support/strict-market-data.ts', import.meta.url));
/** No registry gives out ids this high. */
const unknownSchemaId = 0x7fff_ff01;

let running: RunningPipeline;
let schemaId: number;
let isBadRelease = true;
beforeAll(async () => {
  running = await startPipelineOn(inject('stack'), {
    environment: { TIDEMARK_PIPELINE: pipelineModule },
    beforeLife: (name): Record<string, string> => (name === 'temporal-worker' && isBadRelease ? { [badReleaseVariable]: '1' } : {}),
  });
  const { kafka, schemaRegistry } = running.config;
  schemaId = await registerRawSchema(createRegistryClient({ url: schemaRegistry.url }), 'binance', kafka.topicPrefix);
}, 2 * minutes);
afterAll(() => running?.stop(), minutes);

const replay = async (...args: string[]): Promise<DlqReplayResult> => {
  const { code, stdout, stderr } = await runScript('replay-dlq.ts', ['--source', source, '--json', ...args], configToEnvironment(running.config));
  if (code !== 0) throw new Error(`replay-dlq ended with ${code}: ${stderr}`);
  return JSON.parse(stdout) as DlqReplayResult;
};
/** As the script starts it, without the script's own start. */
const execute = (mode: ReplayMode, { selection = {}, ...given }: { selection?: Partial<DlqSelection>; attemptsMax?: number } = {}): Promise<DlqReplayResult> => {
  const id = randomUUID();
  return running.temporal.workflow.execute(dlqReplayWorkflowType, {
    workflowId: dlqReplayWorkflowId(id), taskQueue: running.config.temporal.taskQueue,
    args: [{ id, selection: { source, ...selection }, mode, actor: 'test', ...given } satisfies DlqReplayInput],
  }) as Promise<DlqReplayResult>;
};
const rowsOf = async (table: string, columns: string[]) => (await readWithPyIceberg(s3, await running.location(table), { columns })).rows;

const produce = async (values: (Buffer | null)[]): Promise<void> => {
  const producer = await createRecordProducer({ brokers: running.config.kafka.brokers });
  await producer.produce(running.topics[0]!, values.map((value) => ({ key: 'BTCUSDT', value })));
  await producer.close();
};

describe('a DLQ replay', () => {
  test('recovers what a bad release refused, under the rules of the release that mends it: exact in Gold, and the audit finds nothing', async () => {
    const { trades } = await running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed: 3, trades: 2_000, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.05 }));
    await running.untilMerged();
    const refused = await running.rows('silver_dlq_trades');
    expect(refused).toBeGreaterThan(100);
    expect(await running.rows('gold_crypto_trades')).toBeLessThan(trades);

    isBadRelease = false;
    process.kill(running.temporalWorker.pid!, 'SIGKILL');
    const dryRun = await replay('--rules', '--dry-run');
    expect(dryRun).toMatchObject({ dryRun: true, rows: refused, counts: { selected: refused, recovered: refused, refused: 0 } });
    const result = await replay('--rules', '--id', 'mend', '--reason', 'symbol_required', '--chunk-rows', '150');
    expect(result).toMatchObject({ selected: refused, recovered: refused, refused: 0, notRefined: 0 });
    expect(await running.rows('gold_crypto_trades')).toBe(trades);
    expect(await running.rows('silver_dlq_trades')).toBe(refused);
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });

    // The same id runs once; another one finds nothing open.
    expect(await replay('--rules', '--id', 'mend')).toEqual({ ...result });
    expect(await replay('--rules')).toMatchObject({ selected: 0, recovered: 0 });
    expect(await running.rows('gold_crypto_trades')).toBe(trades);
  }, 8 * minutes);

  test('decodes with another schema id, mends with a cleanse function, purges and flags; what stays refused has one attempt more', async () => {
    const encode = createRecordEncoder(rawSchema, schemaId);
    const now = Date.now();
    const good = (given: Parameters<typeof binanceRaw>[0]): Buffer => encode(binanceRaw({ ingestion_timestamp: now * 1_000, trade_time_ms: now, event_time_ms: now, ...given }));
    const unknown = good({ trade_id: 1 });
    unknown.writeInt32BE(unknownSchemaId, 1);
    await produce([
      unknown, good({ trade_id: 2, price: '28,165.47' }), good({ trade_id: 3, price: '0', quantity: '0', extra: { X: 'NA' } }), good({ trade_id: 4, price: '-1' }), Buffer.from('{"p":"1.0"}'),
    ]);
    await running.untilMerged();
    const gold = await running.rows('gold_crypto_trades');

    const byReason = (reason: string) => ({ reasons: [reason] });
    const prices = { errorTypes: ['price_validation'] };
    expect(await execute({ mode: 'schema', schemaId }, { selection: byReason('unknown_schema_id') })).toMatchObject({ selected: 1, recovered: 1, goldRows: 1 });
    expect(await execute({ mode: 'cleanse', cleanse: 'price-separators' }, { selection: prices })).toMatchObject({ selected: 3, recovered: 1, kept: 2 });
    expect(await execute({ mode: 'cleanse', cleanse: 'binance-no-trades' }, { selection: prices })).toMatchObject({ selected: 2, purged: 1, kept: 1 });
    expect(await execute({ mode: 'rules' })).toMatchObject({ selected: 2, refused: 2, refusedByReason: { price_must_be_positive: 1, invalid_magic_byte: 1 } });
    expect(await replay('--flag', 'the feed sent JSON', '--yes', '--reason', 'invalid_magic_byte')).toMatchObject({ selected: 1, flagged: 1 });
    expect(await execute({ mode: 'rules' }, { attemptsMax: 2 })).toMatchObject({ selected: 1, quarantined: 1 });
    expect(await execute({ mode: 'rules' })).toMatchObject({ selected: 0, leftQuarantined: 1 });

    expect(await running.rows('gold_crypto_trades')).toBe(gold + 2);
    const resolutions = await rowsOf('dlq_resolutions', ['action', 'reason', 'attempt', 'schema_id', 'offset']);
    expect(resolutions.filter(({ action }) => action !== 'recovered').map(({ action, reason, attempt }) => [action, reason, attempt]).sort()).toEqual([
      ['flagged', 'the feed sent JSON', 1], ['purged', 'no trade: the feed reports order type NA with a price of 0', 0],
      ['quarantined', 'price_must_be_positive', 2], ['refused', 'invalid_magic_byte', 1], ['refused', 'price_must_be_positive', 1],
    ]);
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  }, 8 * minutes);

  test('is met by a backfill over all of its offsets: the same rows in Silver and Gold, and the purged record is not back', async () => {
    const columns = ['message_id', 'trade_id', 'symbol', 'price', 'quantity', 'schema_id', 'kafka_topic', 'kafka_partition', 'kafka_offset', 'bronze_ingestion_timestamp'];
    const tables = async () => Promise.all(['silver_binance_trades', 'gold_crypto_trades'].map(async (table) => (await rowsOf(table, columns)).map((row) => JSON.stringify(row)).sort()));
    const openOf = async () => (await running.audit()).sources.map(({ dlqOpenRows }) => dlqOpenRows);
    const [before, openBefore] = [await tables(), await openOf()];
    const { temporal, config } = running;
    await temporal.workflow.execute(backfillWorkflowType, {
      workflowId: backfillWorkflowId('after'), taskQueue: config.temporal.taskQueue,
      args: [{ id: 'after', source, range: { by: 'all' }, rowsPerSecond: null, parallelism: 2 } satisfies BackfillInput],
    });
    expect(await tables()).toEqual(before);
    expect(await openOf()).toEqual(openBefore);
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  }, 8 * minutes);

  test('is paused, resumed and cancelled; cancelled before it publishes it leaves the tables as they were', async () => {
    await produce([Buffer.from('one'), Buffer.from('two')]);
    await running.untilMerged();
    const id = 'held';
    const tables = ['silver_binance_trades', 'gold_crypto_trades', 'silver_dlq_trades', 'dlq_resolutions'];
    const snapshots = () => Promise.all(tables.map(async (table) => (await running.lake.catalog.load(table)).currentSnapshot?.snapshotId));
    const before = await snapshots();
    const handle = await running.temporal.workflow.signalWithStart(dlqReplayWorkflowType, {
      workflowId: dlqReplayWorkflowId(id), taskQueue: running.config.temporal.taskQueue, signal: pauseReplaySignal,
      args: [{ id, selection: { source }, mode: { mode: 'rules' }, actor: 'test', chunkRows: 1 } satisfies DlqReplayInput],
    });
    const until = async (holds: (progress: DlqReplayProgress) => boolean): Promise<DlqReplayProgress> => {
      for (;;) {
        // A Worker that is slow to answer is asked again.
        const progress = await handle.query<DlqReplayProgress>(replayProgressQuery).catch(() => null);
        if (progress && holds(progress)) return progress;
        await sleep(50);
      }
    };
    expect(await until(({ phase }) => phase === 'staging')).toMatchObject({ paused: true, rowsTotal: 2, rowsRefined: 0 });
    const env = configToEnvironment(running.config);
    expect(JSON.parse((await runScript('dlq.ts', ['progress', id, '--json'], env)).stdout)).toMatchObject({ id, paused: true, phase: 'staging' });
    await handle.cancel();
    await expect(handle.result()).rejects.toThrow('Workflow execution cancelled');
    expect(await snapshots()).toEqual(before);

    // Started again under its id it plans anew, and goes on when it is resumed.
    const again = await running.temporal.workflow.signalWithStart(dlqReplayWorkflowType, {
      workflowId: dlqReplayWorkflowId(id), taskQueue: running.config.temporal.taskQueue, signal: pauseReplaySignal,
      args: [{ id, selection: { source }, mode: { mode: 'rules' }, actor: 'test' } satisfies DlqReplayInput],
    });
    await again.signal(resumeReplaySignal);
    expect(await again.result()).toMatchObject({ selected: 2, refused: 2 });
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  }, 8 * minutes);

  test('shows what it is about: the summary, the list, and one record with its bytes, its schema and its resolutions', async () => {
    const env = configToEnvironment(running.config);
    const [record] = (await rowsOf('dlq_resolutions', ['topic', 'partition', 'offset', 'action'])).filter(({ action }) => action === 'quarantined');
    const place = `${String(record!['topic'])}/${String(record!['partition'])}/${String(record!['offset'])}`;
    const [summary, list, shown, missing] = await Promise.all([
      runScript('dlq.ts', ['summary', '--json', '--days', '36500'], env), runScript('dlq.ts', ['list', '--source', source, '--state', 'quarantined', '--json'], env),
      runScript('dlq.ts', ['show', place, '--json'], env), runScript('dlq.ts', ['show', `${running.topics[0]!}/0/999999`], env),
    ]);
    const { byState, rows } = JSON.parse(summary.stdout) as { byState: Record<string, number>; rows: number };
    expect(rows).toBe(await running.rows('silver_dlq_trades'));
    expect(byState).toMatchObject({ open: 2, purged: 1, flagged: 1, quarantined: 1 });
    expect(JSON.parse(list.stdout)).toMatchObject({ more: false, entries: [{ state: 'quarantined', attempts: 2, reason: 'price_must_be_positive' }] });
    expect(JSON.parse(shown.stdout)).toMatchObject({
      state: 'quarantined', errorType: 'price_validation', schema: { id: schemaId }, decoded: { fields: { trade_id: 4, price: '-1' }, stoppedAt: null, trailingBytes: 0 },
      today: { outcome: 'refused', reason: 'price_must_be_positive' }, resolutions: [{ action: 'refused', attempt: 1 }, { action: 'quarantined', attempt: 2 }],
    });
    const { schema } = JSON.parse(shown.stdout) as { schema: { lake: string; registry: string } };
    expect(schema.lake).toBe(schema.registry);
    expect(missing.code).toBe(1);
  }, 8 * minutes);

  test('a command line that closes records wants --yes, and one that says no mode is a bad one', async () => {
    const env = configToEnvironment(running.config);
    const lines = [['--purge', 'x'], [], ['--rules', '--schema-id', '1'], ['--rules', '--sample', '5'], ['--cleanse', 'nothing-like-it', '--dry-run'], ['--rules', '--from', 'yesterday']];
    const outcomes = await Promise.all(lines.map((args) => runScript('replay-dlq.ts', ['--source', source, ...args], env)));
    expect(outcomes.map(({ code }) => code)).toEqual(lines.map(() => 2));
  }, 8 * minutes);
});
