import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import kafkajs from 'kafkajs';
import { bronzeTable } from '../src/datasets/dataset.ts';
import { CheckpointLedger } from '../src/domain/ledger.ts';
import { createKafka } from '../src/kafka/client.ts';
import { ensureTopics } from '../src/kafka/topics.ts';
import { createObjectStoreCatalog } from '../src/lake/object-store-catalog.ts';
import { createS3ObjectStore } from '../src/lake/s3-object-store.ts';
import { startStack } from '../src/stack/index.ts';
import type { CheckpointClient } from '../src/streaming/checkpoint-client.ts';
import { startStreamingWorker } from '../src/streaming/streaming-worker.ts';

// Kafka → Bronze alone: real broker and S3, the ledger in this process. Rows a second of one streaming worker, its CPU,
// and its peak memory over a backlog.

const { values: options } = parseArgs({ options: { rows: { type: 'string', default: '1000000' }, partitions: { type: 'string', default: '4' }, 'value-bytes': { type: 'string', default: '150' }, 'produce-to': { type: 'string' } } });
const rows = Number(options.rows);
const partitions = Number(options.partitions);
const quiet = (): void => undefined;
const log = { debug: quiet, info: quiet, warn: console.error, error: console.error };

const topic = 'bench';

if (options['produce-to']) {
  await load(options['produce-to'].split(','));
  process.exit(0);
}

const stack = await startStack({ servers: ['kafka', 's3'] });
try {
  const { brokers } = stack.endpoints.kafka;
  // In a process of its own: its memory is not the worker's.
  await promisify(execFile)(process.execPath, [fileURLToPath(import.meta.url), ...process.argv.slice(2), '--produce-to', brokers.join(',')]);
  const { endpoint, region, accessKeyId, secretAccessKey } = stack.endpoints.s3;
  const store = createS3ObjectStore({ bucket: 'bench', endpoint, region, credentials: { accessKeyId, secretAccessKey } });
  await store.ensureBucket();
  const ledger = CheckpointLedger.empty();
  const checkpoints: CheckpointClient = {
    claim: (_source, { owner, topicPartitions }) => Promise.resolve({ claims: ledger.claim(owner, topicPartitions, Date.now()) }),
    report: (_source, report) => Promise.resolve(void ledger.accept(report)),
    ledger: (_source, { topicPartitions }) => Promise.resolve({ ready: true, topicPartitions: ledger.view(topicPartitions) }),
  };
  let firstMs = 0;
  let written = 0;
  const { promise: finished, resolve } = Promise.withResolvers<void>();
  const worker = startStreamingWorker({
    sources: [{ source: 'bench', topics: [topic], bronze: bronzeTable('bronze_bench') }],
    kafka: { brokers },
    catalog: createObjectStoreCatalog({ store, namespace: 'bench' }),
    store, checkpoints, log,
    onEvent: (event) => {
      if (event.type === 'claimed' && firstMs === 0) firstMs = performance.now();
      if (event.type === 'fileWritten' && (written += event.rows) === rows) resolve();
    },
  });
  const peak = { heapMiB: 0, externalMiB: 0, arrayBuffersMiB: 0, rssMiB: 0 };
  const sampler = setInterval(() => {
    const { rss, heapTotal, external, arrayBuffers } = process.memoryUsage();
    const now = { heapMiB: heapTotal, externalMiB: external, arrayBuffersMiB: arrayBuffers, rssMiB: rss };
    for (const key of Object.keys(peak) as (keyof typeof peak)[]) peak[key] = Math.max(peak[key], Math.round(now[key] / 2 ** 20));
  }, 50);
  const cpuBefore = process.cpuUsage();
  await finished;
  const seconds = (performance.now() - firstMs) / 1000;
  const cpu = process.cpuUsage(cpuBefore);
  clearInterval(sampler);
  const { totals, budget } = worker.state();
  await worker.stop();
  store.close();
  process.stdout.write(`${JSON.stringify({
    rows, seconds: Number(seconds.toFixed(2)), rowsPerSecond: Math.round(rows / seconds), cpuSeconds: (cpu.user + cpu.system) / 1e6,
    rowsPerCpuSecond: Math.round(rows / ((cpu.user + cpu.system) / 1e6)), files: totals.files, encodeMs: Math.round(totals.encodeMs), putMs: Math.round(totals.putMs),
    budgetPeakMiB: Math.round(budget.peakBytes / 2 ** 20), budgetPauses: totals.budgetPauses, maxRssMiB: Math.round(process.resourceUsage().maxRSS / 1024), peak,
  })}\n`);
} finally {
  await stack.stop();
}

async function load(brokers: string[]): Promise<void> {
  const kafka = createKafka({ brokers, clientId: 'bench' });
  await ensureTopics(brokers, [{ topic, partitions }]);
  const producer = kafka.producer();
  await producer.connect();
  const value = Buffer.concat([randomBytes(Number(options['value-bytes']) / 3), Buffer.alloc(Number(options['value-bytes']) * 2 / 3, 'trade')]);
  const perSend = 5_000;
  for (let sent = 0; sent < rows; sent += perSend) {
    const messages = Array.from({ length: Math.min(perSend, rows - sent) }, (_, i) => {
      const own = Buffer.from(value);
      own.writeUInt32BE(sent + i, 0);
      return { key: 'BTCUSDT', value: own, partition: (sent / perSend) % partitions };
    });
    await producer.send({ topic, acks: 1, messages, compression: kafkajs.CompressionTypes.None });
  }
  await producer.disconnect();
}
