import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { metricTable } from '../../src/telemetry/metric-table.ts';
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
    const { series } = await scrape(process);
    if (holds(series)) return series;
    await sleep(200);
  }
};

beforeAll(async () => {
  running = await startPipeline({ METRICS_PORT: '0' });
  await running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'binance', seed: 3, trades, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.02 }));
  const { kafka, schemaRegistry } = running.config;
  badCount = (await produceBadRecords({ brokers: kafka.brokers, registry: createRegistryClient({ url: schemaRegistry.url }), exchange: 'binance', topicPrefix: kafka.topicPrefix })).length;
  await running.untilMerged();
}, 3 * minutes);
afterAll(() => running?.stop(), minutes);

test('the counters of both processes add up to what the tables hold', async () => {
  const bronzeRows = await running.rows('bronze_binance_trades');
  const goldRows = await running.rows('gold_crypto_trades');
  const streaming = await until('streamingWorker', (series) => series.get(`bronze_records_ingested_total{source="${source}"}`) === bronzeRows);
  expect(bronzeRows).toBeGreaterThanOrEqual(trades + badCount);
  expect(streaming.get(`kafka_records_consumed_total{source="${source}"}`)).toBe(bronzeRows);
  expect(streaming.get(`layer_freshness_seconds_count{source="${source}",layer="bronze"}`)).toBe(bronzeRows);
  const series = await until('temporalWorker', (found) => (found.get(`gold_records_written_total{source="${source}"}`) ?? 0) >= goldRows);
  const valid = series.get(`silver_records_valid_total{source="${source}"}`)!;
  const invalid = series.get(`silver_records_invalid_total{source="${source}"}`)!;
  expect({ sum: valid + invalid, invalid }).toEqual({ sum: bronzeRows, invalid: badCount });
  expect(series.get(`gold_records_written_total{source="${source}"}`)! + series.get(`duplicates_removed_total{source="${source}"}`)!).toBe(valid);
  expect(series.get(`duplicates_removed_total{source="${source}"}`)).toBeGreaterThan(0);
  expect(series.get(`freshness_seconds_count{source="${source}"}`)).toBe(valid);
  const byType = [...series].filter(([name]) => name.startsWith('validation_errors_total')).reduce((sum, [, value]) => sum + value, 0);
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
    const lines = log.split('\n').filter((line) => line !== '');
    expect(lines.length, process).toBeLessThan(trades / 20);
    for (const line of lines.filter((text) => text.startsWith('{'))) expect(JSON.parse(line), line).toHaveProperty('level');
  }
});
