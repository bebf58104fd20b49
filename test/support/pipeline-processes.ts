import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '@temporalio/client';
import type { Connection } from '@temporalio/client';
import { ScriptProcess } from '../../scripts/wire/child-process.ts';
import { openLake } from '../../scripts/wire/lake.ts';
import type { Lake } from '../../scripts/wire/lake.ts';
import { loadPipeline } from '../../scripts/wire/pipeline.ts';
import { connectTemporal, prepareNamespace } from '../../scripts/wire/temporal.ts';
import { auditConservation } from '../../src/audit/conservation.ts';
import type { FrameSource } from '../../src/capture/frame-source.ts';
import { runCapture } from '../../src/capture/capture.ts';
import type { CaptureCounts } from '../../src/capture/capture.ts';
import { createKafkaTradeSink } from '../../src/capture/trade-sink.ts';
import type { TradeSink } from '../../src/capture/trade-sink.ts';
import { configToEnvironment, loadConfig } from '../../src/config/config.ts';
import type { Config } from '../../src/config/config.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import { stateQuery, streamWorkflowId } from '../../src/contracts/stream.ts';
import type { StreamState } from '../../src/contracts/stream.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { Coverage, IntervalSet } from '../../src/domain/offsets.ts';
import { createRecordProducer } from '../../src/kafka/producer.ts';
import { ensureTopics, fetchOffsetBounds } from '../../src/kafka/topics.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { endpointEnvironment } from '../../src/stack/index.ts';
import type { StackEndpoints } from '../../src/stack/index.ts';
import { createLogger } from '../../src/telemetry/logger.ts';

/**
 * The whole pipeline as its processes, apart from every other on the same servers: own bucket, own topics, own Temporal
 * namespace. A process that is killed is started again.
 */
export interface RunningPipeline {
  config: Config;
  pipeline: Pipeline;
  lake: Lake;
  temporal: Client;
  topics: string[];
  streamingWorker: ScriptProcess;
  temporalWorker: ScriptProcess;
  capture(source: FrameSource): Promise<CaptureCounts>;
  withSink<T>(use: (sink: TradeSink) => Promise<T>): Promise<T>;
  /** Waits until Gold covers every record that is at the broker now. Rejects when Gold stands still for too long before. */
  untilMerged(stallMsMax?: number): Promise<void>;
  state(source: string): Promise<StreamState>;
  audit(): Promise<AuditReport>;
  rows(table: string): Promise<number>;
  location(table: string): Promise<string>;
  /** Where the processes write their logs. */
  folder: string;
  /** Another process of the pipeline; stopped with it. */
  startProcess(name: string, script: string): ScriptProcess;
  stop(options?: { keepLogs?: boolean }): Promise<void>;
}

export interface PipelineOptions {
  environment?: Record<string, string>;
  /** What the processes are told in place of the servers' own endpoints: a proxy between the two. */
  processEndpoints?: StackEndpoints;
  /** More environment for the next life of a process. */
  beforeLife?: (name: string) => Record<string, string>;
  onRestart?: (name: string, how: string) => void;
}

export const startPipelineOn = async (endpoints: StackEndpoints, { environment = {}, processEndpoints = endpoints, beforeLife, onRestart }: PipelineOptions = {}): Promise<RunningPipeline> => {
  const id = randomBytes(4).toString('hex');
  const folder = await mkdtemp(join(tmpdir(), 'tidemark-pipeline-'));
  const config = loadConfig({
    ...endpointEnvironment(endpoints), TEMPORAL_NAMESPACE: `test-${id}`, TIDEMARK_BUCKET: `test-${id}`, TIDEMARK_TOPIC_PREFIX: `${id}.`,
    REFINE_THREADS: '1', FLUSH_INTERVAL_MS: '300', FLUSH_INTERVAL_MAX_MS: '300', LOG_LEVEL: 'info', ...environment,
  });
  const { brokers, topicPrefix } = config.kafka;
  const pipeline = await loadPipeline(config);
  const topics = pipeline.datasets.map(({ topic }) => `${topicPrefix}${topic}`);
  await ensureTopics(brokers, topics.map((topic) => ({ topic, partitions: 3 })));
  const connection: Connection = await connectTemporal(config);
  await prepareNamespace(connection, config, createLogger('test', 'silent'));
  const lake = await openLake(config, pipeline);
  const temporal = new Client({ connection, namespace: config.temporal.namespace });
  const processes: ScriptProcess[] = [];
  const startProcess = (name: string, script: string): ScriptProcess => {
    const started = new ScriptProcess({
      name, script, args: ['--json'], restarts: true, logFile: join(folder, `${name}.log`), ...(onRestart ? { onRestart } : {}),
      env: () => ({
        PATH: process.env['PATH'], HOME: process.env['HOME'], XDG_CACHE_HOME: process.env['XDG_CACHE_HOME'],
        ...configToEnvironment(config), ...endpointEnvironment(processEndpoints), ...beforeLife?.(name),
      }),
    });
    processes.push(started);
    return started;
  };
  const temporalWorker = startProcess('temporal-worker', 'run-temporal-worker.ts');
  const streamingWorker = startProcess('streaming-worker', 'run-streaming-worker.ts');

  const withSink = async <T>(use: (sink: TradeSink) => Promise<T>): Promise<T> => {
    const producer = await createRecordProducer({ brokers });
    try {
      return await use(createKafkaTradeSink({ producer, registry: createRegistryClient({ url: config.schemaRegistry.url }), topicPrefix }));
    } finally {
      await producer.close();
    }
  };
  const state = async (source: string): Promise<StreamState> => temporal.workflow.getHandle(streamWorkflowId(source)).query<StreamState>(stateQuery);

  return {
    config, pipeline, lake, temporal, topics, streamingWorker, temporalWorker, withSink, state, folder, startProcess,
    capture: (source) => withSink((sink) => runCapture({ source, sink })),
    untilMerged: async (stallMsMax = 180_000) => {
      const broker = await fetchOffsetBounds(brokers, topics);
      const wanted = Coverage.of(Object.entries(broker).map(([key, { low, high }]) => [key, IntervalSet.of({ start: low, end: high })] as const));
      const merged = async (): Promise<Coverage> => (await Promise.all(pipeline.datasets.map(async ({ gold }) => (await lake.catalog.load(gold.name)).coverage)))
        .reduce((sum, coverage) => sum.union(coverage), Coverage.empty);
      let grownMs = Date.now();
      for (let now = await merged(), before = now; !now.contains(wanted); before = now, now = await merged()) {
        if (now.size !== before.size) grownMs = Date.now();
        if (Date.now() - grownMs > stallMsMax) throw new Error(`Gold stood still for ${stallMsMax / 1_000} s, ${wanted.subtract(now).size} records before all was merged`);
        await sleep(250);
      }
    },
    audit: () => auditConservation({
      catalog: lake.catalog, store: lake.store, pipeline, topicPrefix,
      kafka: async (topic) => new Map(Object.entries(await fetchOffsetBounds(brokers, [topic]))
        .map(([key, { low, high }]) => [Number(key.slice(key.lastIndexOf('/') + 1)), { logStart: low, logEnd: high }] as const)),
    }),
    rows: async (table) => Number((await lake.catalog.load(table)).currentSnapshot?.summary['total-records'] ?? 0),
    location: async (table) => (await lake.catalog.load(table)).metadataLocation,
    stop: async ({ keepLogs = false } = {}) => {
      // Those that write last end last: what a streaming worker reports in its end still finds a Temporal Worker.
      for (const one of processes.toReversed()) await one.stop();
      lake.store.close();
      await connection.close();
      if (!keepLogs) await rm(folder, { recursive: true, force: true });
    },
  };
};
