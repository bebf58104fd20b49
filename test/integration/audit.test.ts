import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { Client } from '@temporalio/client';
import { NativeConnection, Worker } from '@temporalio/worker';
import { expect, inject, test } from 'vitest';
import { createAuditActivities } from '../../activities/audit.ts';
import { connectTemporal, prepareNamespace } from '../../scripts/wire/temporal.ts';
import { loadWorkflowBundle } from '../../scripts/wire/workflow-bundle.ts';
import { runAudit } from '../../src/audit/run-audit.ts';
import { configToEnvironment, loadConfig } from '../../src/config/config.ts';
import { auditWorkflowId, auditWorkflowType } from '../../src/contracts/audit.ts';
import type { AuditReport, AuditSummary } from '../../src/contracts/audit.ts';
import { auditFindingsTable } from '../../src/datasets/engine-tables.ts';
import { createKafka } from '../../src/kafka/client.ts';
import { ensureTopics, fetchOffsetBounds } from '../../src/kafka/topics.ts';
import { createS3ObjectStore } from '../../src/lake/s3-object-store.ts';
import { endpointEnvironment } from '../../src/stack/index.ts';
import { createLogger } from '../../src/telemetry/logger.ts';

const script = fileURLToPath(new URL('../../scripts/audit.ts', import.meta.url));
const pipelineModule = fileURLToPath(new URL('../audit/small-lake.ts', import.meta.url));

// The lake's module reads it when it is imported: topics of this file's own on the shared broker.
process.env['TIDEMARK_TOPIC_PREFIX'] = `audit-${randomUUID().slice(0, 8)}.`;
const { createHealthyLake, datasetOf, pipeline, topicOf } = await import('../audit/small-lake.ts');

const rows = 300;

/** A healthy lake in a bucket of its own, and topics that hold the same offsets. */
const createRealLake = async () => {
  const bucket = `audit-${randomUUID().slice(0, 8)}`;
  const config = loadConfig({
    ...endpointEnvironment(inject('stack')), TIDEMARK_BUCKET: bucket, TIDEMARK_PIPELINE: pipelineModule, TIDEMARK_TOPIC_PREFIX: process.env['TIDEMARK_TOPIC_PREFIX'],
    TIDEMARK_TASK_QUEUE: bucket, LOG_LEVEL: 'silent',
  });
  const { endpoint, accessKeyId, secretAccessKey, region } = config.s3;
  const store = createS3ObjectStore({ bucket, region, ...(endpoint ? { endpoint } : {}), credentials: { accessKeyId, secretAccessKey } });
  await store.ensureBucket();
  const lake = await createHealthyLake({ rows, store });
  const kafka = createKafka({ brokers: config.kafka.brokers, clientId: 'audit-test' });
  const { brokers } = config.kafka;
  const topics = pipeline.datasets.map(({ source }) => topicOf(source));
  await ensureTopics(brokers, topics.map((topic) => ({ topic, partitions: 2 })));
  // The tests of this file share the topics.
  if (Object.values(await fetchOffsetBounds(brokers, topics)).every(({ high }) => high === 0n)) {
    const producer = kafka.producer();
    await producer.connect();
    for (const topic of topics) {
      for (const partition of [0, 1]) await producer.send({ topic, messages: Array.from({ length: rows }, (_, i) => ({ partition, value: `reading ${i}` })) });
    }
    await producer.disconnect();
  }
  return { lake, config, store };
};

const runScript = async (config: ReturnType<typeof loadConfig>, args: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
  const child = spawn(process.execPath, [script, ...args], { env: { ...process.env, ...configToEnvironment(config) }, stdio: ['ignore', 'pipe', 'pipe'] });
  const output = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) child[name].setEncoding('utf8').on('data', (text: string) => { output[name] += text; });
  const [code] = await once(child, 'close') as [number];
  return { code, ...output };
};

test('the script ends with 0 on a healthy lake, with 1 and exact offsets on a damaged one, and with 2 on a bad command line', async () => {
  const { lake, config, store } = await createRealLake();
  const healthy = await runScript(config, ['--json']);
  expect(healthy.stderr).not.toContain('Error');
  const report = JSON.parse(healthy.stdout) as AuditReport;
  expect(report.findings).toEqual([]);
  expect(healthy.code).toBe(0);
  expect(report.sources.map(({ source, bronzeRows, kafkaLag }) => ({ source, bronzeRows, kafkaLag }))).toEqual(['north', 'south'].map((source) => ({ source, bronzeRows: 2 * rows, kafkaLag: '0' })));
  expect(report.tables.find(({ table }) => table === datasetOf('north').bronze.name)!.checksummedFiles).toBe(4);

  const file = lake.bronzeFiles[0]!;
  await store.delete([store.keyOf(file.filePath)]);
  const damaged = await runScript(config, []);
  expect(damaged.code).toBe(1);
  expect(damaged.stdout).toContain(file.filePath);
  expect(damaged.stdout).toContain(`${topicOf('north')}/0  [0, 150)`);
  const recorded = await (await lake.catalog.load(auditFindingsTable.name)).scan();
  expect(recorded.map(({ recordCount }) => recordCount)).toEqual([expect.any(Number)]);

  const elsewhere = await runScript(config, ['--range', `${topicOf('south')}/0:0-100`, '--source', 'south']);
  expect(elsewhere).toMatchObject({ code: 0 });
  for (const args of [['--source', 'east'], ['--range', 'nonsense'], ['--memory', '0'], ['--unknown']]) {
    const refused = await runScript(config, args);
    expect(refused.code).toBe(2);
    expect(refused.stderr).not.toContain('    at ');
  }
}, 300_000);

test('a source without rows is found by what the broker holds', async () => {
  const { lake, config } = await createRealLake();
  const { bronze, silver } = datasetOf('south');
  for (const table of [bronze.name, silver.name]) {
    const files = await (await lake.catalog.load(table)).scan();
    await lake.catalog.commit(table, { commitId: randomUUID(), add: [], remove: files.map(({ filePath }) => filePath) });
  }
  const report = await runAudit(config, { sources: ['south'] });
  expect(report.findings).toContainEqual(expect.objectContaining({ promise: 'source-has-rows', subject: 'south', topic: topicOf('south') }));
}, 120_000);

test('the Workflow gives the same verdict as the script, and shows it in its details', async () => {
  const { lake, config, store } = await createRealLake();
  await store.delete([store.keyOf(lake.bronzeFiles[0]!.filePath)]);
  const clientConnection = await connectTemporal(config);
  await prepareNamespace(clientConnection, config, createLogger('audit-test', 'silent'));
  const connection = await NativeConnection.connect({ address: config.temporal.address });
  const worker = await Worker.create({
    connection, namespace: config.temporal.namespace, taskQueue: config.temporal.taskQueue, workflowBundle: await loadWorkflowBundle(),
    activities: createAuditActivities({ audit: (input, options) => runAudit(config, input, options) }),
    // Deadlocks are looked for against the wall clock: a machine under load must not look like one.
    debugMode: true,
  });
  try {
    await worker.runUntil(async () => {
      const client = new Client({ connection: clientConnection, namespace: config.temporal.namespace });
      const handle = await client.workflow.start(auditWorkflowType, {
        workflowId: `${auditWorkflowId}/${config.temporal.taskQueue}`, taskQueue: config.temporal.taskQueue, args: [{ sources: ['north'] }],
      });
      const summary = await handle.result() as AuditSummary;
      expect(summary.ok).toBe(false);
      expect(summary.findings).toContainEqual(expect.objectContaining({ promise: 'bronze-covered', topic: topicOf('north'), startOffset: '0', endOffset: '150' }));
      const { currentDetails } = await handle.query<{ currentDetails: string }>('__temporal_workflow_metadata');
      expect(currentDetails).toContain(`**bronze-covered** bronze_north ${topicOf('north')}/0 [0, 150)`);
    });
  } finally {
    await connection.close();
    await clientConnection.close();
  }
}, 120_000);

test('an audit that is aborted ends at once, and its thread with it', async () => {
  const { config } = await createRealLake();
  const controller = new AbortController();
  const auditing = runAudit(config, {}, { signal: controller.signal, onProgress: () => controller.abort(new Error('stopped')) });
  await expect(auditing).rejects.toThrow('stopped');
}, 120_000);
