// What metrics cost a streaming worker and a Temporal Worker: CPU for each Bronze file and micro-batch, and for each scrape.
import { addDelay } from '../src/domain/freshness.ts';
import type { FreshnessJson } from '../src/domain/freshness.ts';
import { Metrics } from '../src/telemetry/metrics.ts';
import { createMicroBatchMetrics } from '../src/telemetry/micro-batch-metrics.ts';
import { createStreamingMetrics } from '../src/telemetry/streaming-metrics.ts';

const rounds = 20_000;
const source = 'binance-trades';
const metrics = new Metrics();
const streaming = createStreamingMetrics(metrics, [source]);
const microBatch = createMicroBatchMetrics(metrics, [source]);
const produced = Array.from({ length: 32 }, (_, n) => ({ timestampMs: Date.now() - n * 20, records: 300 }));
const freshness: FreshnessJson = {};
for (let n = 0; n < 100; n += 1) addDelay(freshness, 500 + n * 30, 1_000);

const cpuMicros = async (times: number, work: (round: number) => void | Promise<void>): Promise<number> => {
  const from = process.cpuUsage();
  for (let round = 0; round < times; round += 1) await work(round);
  const { user, system } = process.cpuUsage(from);
  return (user + system) / times;
};

const perFile = await cpuMicros(rounds, () => {
  streaming.onEvent({ type: 'recordsTaken', source, topicPartition: 't/0', records: 10_000, bytes: 2_000_000, lag: 0 });
  streaming.onEvent({ type: 'fileWritten', source, topicPartition: 't/0', rows: 10_000, bytes: 400_000, reason: 'time', encodeMs: 8, putMs: 12, produced });
});
const perBatch = await cpuMicros(rounds, (batch) => {
  microBatch({ type: 'goldMerged', source, batch, table: 'gold', rows: 99_000, duplicates: 1_000, freshness, attempts: 1, commitMs: 30, startedAtMs: 0, committedAtMs: 3_000 });
});
const perScrape = await cpuMicros(2_000, async () => void await metrics.text());
process.stdout.write(`${JSON.stringify({ cpu_us_per_bronze_file: perFile, cpu_us_per_micro_batch: perBatch, cpu_us_per_scrape: perScrape })}\n`);
