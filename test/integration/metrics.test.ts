import { readFileSync, readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { auditWorkflowId, auditWorkflowType } from '../../src/contracts/audit.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { findOnPath } from '../../src/stack/install.ts';
import { metricTable } from '../../src/telemetry/metric-table.ts';
import { whileReprocessIsPaused } from '../support/paused-reprocess.ts';
import type { PausedReprocess } from '../support/paused-reprocess.ts';
import { startPrometheus } from '../support/prometheus.ts';
import { promqlUse } from '../support/promql.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const minutes = 60_000;
const source = 'binance-trades';
const trades = 5_000;
let running: RunningPipeline;
let badCount = 0;

/** Series by name and labels as the page writes them. */
type Scrape = Map<string, number>;
const scrape = async (process: 'streamingWorker' | 'temporalWorker'): Promise<{ text: string; series: Scrape }> => {
  const ready = await running[process].event(({ event }) => event === 'ready');
  const text = await (await fetch(`${String(ready['http'])}/metrics`)).text();
  const series = new Map(text.split('\n').filter((line) => line !== '' && !line.startsWith('#')).map((line) => {
    const at = line.lastIndexOf(' ');
    return [line.slice(0, at), Number(line.slice(at + 1))] as const;
  }));
  return { text, series };
};
const until = async (process: 'streamingWorker' | 'temporalWorker', holds: (series: Scrape) => boolean): Promise<Scrape> => {
  for (;;) {
    // One that was killed does not answer until it is there again.
    const found = await scrape(process).catch(() => null);
    if (found && holds(found.series)) return found.series;
    await sleep(200);
  }
};

/** What Grafana would ask, for all sources. */
const dashboardQueries = (): { title: string; expression: string }[] => {
  const folder = new URL('../../deploy/grafana/dashboards/', import.meta.url);
  return readdirSync(folder).flatMap((file) => (JSON.parse(readFileSync(new URL(file, folder), 'utf8')) as { panels: { title: string; targets?: { expr: string }[] }[] }).panels
    .flatMap(({ title, targets = [] }) => targets.map(({ expr }) => ({ title: `${file}, ${title}`, expression: expr.replaceAll('$source', '.*') }))));
};

beforeAll(async () => {
  running = await startPipeline({ METRICS_PORT: '0', METRICS_TABLES_EVERY_MS: '500', BATCH_ROWS_MAX: '1000' });
  await running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed: 3, trades, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.02 }));
  const { kafka, schemaRegistry } = running.config;
  badCount = (await produceBadRecords({ brokers: kafka.brokers, registry: createRegistryClient({ url: schemaRegistry.url }), exchange: 'binance', topicPrefix: kafka.topicPrefix })).length;
  await running.untilMerged();
}, 3 * minutes);
afterAll(() => running?.stop(), minutes);

const whilePaused = async (look: (paused: PausedReprocess) => Promise<void>): Promise<void> => {
  await running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'kraken', seed: 5, trades: 2_500, symbols: ['BTC/USD'] }));
  await running.untilMerged();
  await whileReprocessIsPaused(running, { backfillOf: 'kraken-trades', replayOf: source, rowsPerSecond: 400 }, look);
};

test('the counters of both processes add up to what the tables hold', async () => {
  const bronzeRows = await running.rows('bronze_binance_trades');
  const goldRows = (await (await running.lake.catalog.load('gold_crypto_trades')).scan()).filter(({ partition }) => partition['exchange'] === 'BINANCE').reduce((sum, { recordCount }) => sum + recordCount, 0);
  const streaming = await until('streamingWorker', (series) => series.get(`bronze_records_ingested_total{source="${source}"}`) === bronzeRows);
  expect(bronzeRows).toBeGreaterThanOrEqual(trades + badCount);
  expect(streaming.get(`kafka_records_consumed_total{source="${source}"}`)).toBe(bronzeRows);
  expect(streaming.get(`layer_freshness_seconds_count{source="${source}",layer="bronze"}`)).toBe(bronzeRows);
  // A micro-batch is counted right after its commit: the last one may have brought refused records and duplicates alone.
  const counted = (found: Scrape, name: string): number => found.get(`${name}{source="${source}"}`) ?? 0;
  const series = await until('temporalWorker', (found) => counted(found, 'gold_records_written_total') >= goldRows
    && counted(found, 'gold_records_written_total') + counted(found, 'duplicates_removed_total') + counted(found, 'silver_records_invalid_total') >= bronzeRows);
  const valid = series.get(`silver_records_valid_total{source="${source}"}`)!;
  const invalid = series.get(`silver_records_invalid_total{source="${source}"}`)!;
  expect({ sum: valid + invalid, invalid }).toEqual({ sum: bronzeRows, invalid: badCount });
  expect(series.get(`gold_records_written_total{source="${source}"}`)! + series.get(`duplicates_removed_total{source="${source}"}`)!).toBe(valid);
  expect(series.get(`duplicates_removed_total{source="${source}"}`)).toBeGreaterThan(0);
  expect(series.get(`freshness_seconds_count{source="${source}"}`)).toBe(valid);
  const byType = [...series].filter(([name]) => name.startsWith(`validation_errors_total{source="${source}"`)).reduce((sum, [, value]) => sum + value, 0);
  expect(byType).toBe(badCount);
  expect(series.get(`iceberg_commit_latency_seconds_count{table="silver_binance_trades"}`)).toBeGreaterThan(0);
  expect(series.get(`iceberg_commit_latency_seconds_count{table="gold_crypto_trades"}`)).toBeGreaterThan(0);
}, 2 * minutes);

test('a caught-up reader has no lag, its buffers are within their budget, and it is ready', async () => {
  const series = await until('streamingWorker', (found) => found.get(`bronze_kafka_lag_records{source="${source}"}`) === 0 && found.get('buffer_bytes') === 0);
  expect(series.get(`bronze_kafka_lag_seconds{source="${source}"}`)).toBe(0);
  expect(series.get('buffer_budget_bytes')).toBe(running.config.streaming.bufferBudgetBytes);
  for (const process of ['streamingWorker', 'temporalWorker'] as const) {
    const url = String(running[process].lastEvent(({ event }) => event === 'ready')!['http']);
    for (const path of ['/healthz', '/readyz']) expect((await fetch(`${url}${path}`)).status, `${process} ${path}`).toBe(200);
  }
}, minutes);

test('the page of the Temporal Worker has the figures of the lake and the metrics of Temporal\'s SDK', async () => {
  const series = await until('temporalWorker', (found) => found.has('lake_figures_timestamp_seconds') && found.has('workflows_running{workflow_type="streamWorkflow"}'));
  expect(series.get('data_file_count{table="silver_binance_trades"}')).toBeDefined();
  expect(series.get('metadata_file_count{table="silver_binance_trades"}')).toBeGreaterThan(0);
  expect([...series.keys()].some((name) => name.startsWith('temporal_'))).toBe(true);
  expect(series.get('process_resident_memory_bytes')).toBeGreaterThan(1e6);
}, minutes);

test('how far backfills and DLQ replays are is seen while they run, and no longer than that', async () => {
  await whilePaused(async ({ progress: { rowsTotal, rowsRefined } }) => {
    expect(rowsRefined).toBeLessThan(rowsTotal);
    const series = await until('temporalWorker', (found) => found.get('reprocess_rows_remaining{kind="dlq-replay"}') === badCount && found.get('reprocess_rows_remaining{kind="backfill"}') === rowsTotal - rowsRefined);
    expect(series.get('reprocess_progress_ratio{kind="backfill"}')).toBe(rowsRefined / rowsTotal);
    expect(series.get('reprocess_progress_ratio{kind="dlq-replay"}')).toBe(0);
    expect(series.get('workflows_running{workflow_type="backfillWorkflow"}')).toBe(1);
  });
  await until('temporalWorker', (found) => found.get('reprocess_rows_remaining{kind="backfill"}') === 0 && !found.has('reprocess_progress_ratio{kind="backfill"}') && !found.has('reprocess_progress_ratio{kind="dlq-replay"}'));
}, 4 * minutes);

const prometheus = await findOnPath('prometheus', process.env);
/** What a healthy pipeline without capture need not have: queries that name nothing else may be without an answer. */
const withoutSeries = [
  'capture_records_produced_total', 'iceberg_commit_failures_total', 'ingest_gap_last_timestamp_seconds', 'retention_time_to_loss_seconds',
];
test.skipIf(prometheus === undefined)('a real Prometheus answers every query of the dashboards, and no shipped alert fails or fires (skipped where prometheus is not on the PATH)', async () => {
  await running.temporal.workflow.execute(auditWorkflowType, { workflowId: auditWorkflowId, taskQueue: running.config.temporal.taskQueue, args: [{}] });
  const targetOf = async (process: 'streamingWorker' | 'temporalWorker'): Promise<string> => new URL(String((await running[process].event(({ event }) => event === 'ready'))['http'])).host;
  const server = await startPrometheus(prometheus!, { 'streaming-worker': await targetOf('streamingWorker'), 'temporal-worker': await targetOf('temporalWorker') });
  try {
    await whilePaused(async () => {
      // Rates need two scrapes with something between them.
      await running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed: 4, trades: 500, symbols: ['BTCUSDT'], repeatRatio: 0.02 }));
      await running.untilMerged();
      const ask = async (): Promise<string[]> => (await Promise.all(dashboardQueries().map(async ({ title, expression }) => {
        const answer = await server.query(expression).catch((error: unknown) => String(error));
        if (typeof answer === 'string') return [`${title}: ${expression}: ${answer}`];
        return answer.length > 0 || promqlUse(expression).metrics.every((name) => withoutSeries.includes(name)) ? [] : [`${title}: ${expression}: no series`];
      }))).flat();
      await expect.poll(ask, { timeout: minutes, interval: 500 }).toEqual([]);
    });
    const rules = await server.rules();
    expect(rules.length).toBeGreaterThan(15);
    expect(rules.filter(({ health, state }) => health !== 'ok' || state === 'firing')).toEqual([]);
  } finally {
    await server.stop();
  }
}, 5 * minutes);

test('every series is one that the table declares, or Temporal\'s', async () => {
  for (const process of ['streamingWorker', 'temporalWorker'] as const) {
    const { text } = await scrape(process);
    const declared = [...text.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name!).filter((name) => !name.startsWith('temporal_'));
    expect(declared.filter((name) => !(name in metricTable)), process).toEqual([]);
  }
}, minutes);

test('a run at level info logs no line for each record', async () => {
  for (const process of ['streaming-worker', 'temporal-worker']) {
    const log = await readFile(join(running.folder, `${process}.log`), 'utf8');
    // The process writes on: what stands behind the last line break may be the half of a line.
    const lines = log.slice(0, log.lastIndexOf('\n') + 1).split('\n').filter((line) => line !== '');
    expect(lines.length, process).toBeLessThan(trades / 20);
    for (const line of lines.filter((text) => text.startsWith('{'))) expect(JSON.parse(line), line).toHaveProperty('level');
  }
});

test('the share of refused records and the findings of the last audit are there again after the process was killed', async () => {
  const { lake, temporal, config } = running;
  const gold = await lake.catalog.load('gold_crypto_trades');
  const [lost] = await gold.scan();
  await lake.catalog.commit(gold.name, { commitId: `lost ${lost!.filePath}`, add: [], remove: [lost!.filePath] });
  await temporal.workflow.execute(auditWorkflowType, { workflowId: auditWorkflowId, taskQueue: config.temporal.taskQueue, args: [{}] });
  const figures = (series: Scrape): (number | undefined)[] => ['audit_findings{promise="gold-complete"}', 'audit_findings{promise="gold-once"}', `dlq_rate_percent{source="${source}"}`].map((name) => series.get(name));
  const before = figures(await until('temporalWorker', (series) => (series.get('audit_findings{promise="gold-complete"}') ?? 0) > 0));
  const { pid } = running.temporalWorker;
  process.kill(pid!, 'SIGKILL');
  const after = await until('temporalWorker', (series) => series.has('lake_figures_timestamp_seconds'));
  expect(running.temporalWorker.pid).not.toBe(pid);
  expect(figures(after)).toEqual(before);
  expect(before[2]).toBeGreaterThan(0);
  await lake.catalog.commit(gold.name, { commitId: `found ${lost!.filePath}`, add: [lost!] });
}, 3 * minutes);
