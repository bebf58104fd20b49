import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { configToEnvironment } from '../../src/config/config.ts';
import { startOtlpReceiver } from '../support/otlp-receiver.ts';
import type { ReceivedSpan } from '../support/otlp-receiver.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const minutes = 60_000;
const trades = 2_000;
let receiver: Awaited<ReturnType<typeof startOtlpReceiver>>;
let running: RunningPipeline;
beforeAll(async () => {
  receiver = await startOtlpReceiver();
  running = await startPipeline({ OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url });
  const script = fileURLToPath(new URL('../../scripts/run-capture.ts', import.meta.url));
  await promisify(execFile)(process.execPath, [script, '--simulate', '--exchange', 'binance', '--trades', String(trades), '--json'], { env: { ...process.env, ...configToEnvironment(running.config) } });
  await running.untilMerged();
}, 3 * minutes);
afterAll(async () => {
  await running?.stop();
  await receiver?.close();
}, minutes);

const named = (name: string): ReceivedSpan[] => receiver.spans.filter((span) => span.name === name);
/** Each process sends its spans every few seconds, on its own: those that belong together come one after the other. */
const arrived = (look: () => Promise<void> | void): Promise<void> => vi.waitFor(look, { timeout: 2 * minutes, interval: 200 });

test('the way of a batch can be followed from capture through Kafka and Bronze to the Gold commit', async () => {
  await arrived(() => {
    const captured = new Map(named('capture batch').map((span) => [span.spanId, span]));
    const files = new Map(named('Bronze file').map((span) => [span.spanId, span]));
    expect(captured.size).toBeGreaterThan(0);
    // Kafka's headers: the file goes on the trace of the first capture batch in it, and links to the others.
    const continued = [...files.values()].filter(({ parentSpanId }) => parentSpanId !== '');
    expect(continued.length).toBeGreaterThan(0);
    for (const file of continued) {
      expect(captured.get(file.parentSpanId)?.traceId, file.spanId).toBe(file.traceId);
      for (const { spanId } of file.links) expect([...captured.keys()]).toContain(spanId);
    }
    // The metadata of the objects: commits and micro-batches link to the files that they took.
    for (const name of ['RunActivity:commitBronze', 'RunActivity:refineBatch']) {
      const links = named(name).flatMap((span) => span.links);
      expect(links.length, name).toBeGreaterThan(0);
      for (const { spanId } of links) expect([...files.keys()]).toContain(spanId);
    }
    // Temporal's interceptors: a trace for each micro-batch, activities and table commits inside.
    const [workflow] = named('RunWorkflow:microBatchWorkflow');
    const ofBatch = receiver.spans.filter(({ traceId }) => traceId === workflow!.traceId);
    for (const activity of ['refineBatch', 'publishSilver', 'publishDlq', 'mergeGold']) {
      expect(ofBatch.map(({ name }) => name)).toEqual(expect.arrayContaining([`StartActivity:${activity}`, `RunActivity:${activity}`]));
    }
    const publish = ofBatch.find(({ name }) => name === 'RunActivity:publishSilver')!;
    const commits = ofBatch.filter(({ name, parentSpanId }) => name === 'table commit' && parentSpanId === publish.spanId);
    expect(commits.map(({ attributes }) => attributes['tidemark.table'])).toEqual(['silver_binance_trades']);
  });
}, 3 * minutes);

test('a trace is of a batch: none is as long as the stream, and there is no span for each record', async () => {
  const traces = Map.groupBy(receiver.spans, ({ traceId }) => traceId);
  for (const spans of traces.values()) expect(spans.filter(({ name }) => name === 'RunWorkflow:microBatchWorkflow').length).toBeLessThanOrEqual(1);
  expect(named('RunWorkflow:streamWorkflow')).toEqual([]);
  expect(receiver.spans.length).toBeLessThan(trades / 2);
});

test('log lines of a micro-batch say source, number, Workflow ID and trace', async () => {
  await arrived(async () => {
    const lines = (await readFile(join(running.folder, 'temporal-worker.log'), 'utf8')).split('\n').filter((line) => line.includes('Gold merged')).map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines.length).toBeGreaterThan(0);
    const traceIds = new Set(named('RunWorkflow:microBatchWorkflow').map(({ traceId }) => traceId));
    for (const line of lines) {
      expect(line).toMatchObject({ source: 'binance-trades', microBatch: expect.any(Number) as number, workflowId: `micro-batch/binance-trades/${String(line['microBatch'])}`, activity: 'mergeGold' });
      expect([...traceIds]).toContain(line['trace_id']);
    }
  });
}, 3 * minutes);
