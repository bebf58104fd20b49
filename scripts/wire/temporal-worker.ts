import { Client } from '@temporalio/client';
import { NativeConnection, Worker } from '@temporalio/worker';
import { createAuditActivities } from '../../activities/audit.ts';
import { createBackfillActivities } from '../../activities/backfill.ts';
import { createCompactionActivities } from '../../activities/compaction.ts';
import { createDlqReplayActivities } from '../../activities/dlq-replay.ts';
import { createMicroBatchActivities } from '../../activities/micro-batch.ts';
import { createReprocessActivities } from '../../activities/reprocess.ts';
import { createRetentionActivities } from '../../activities/retention.ts';
import { createRetentionExtensionActivities } from '../../activities/retention-extension.ts';
import { createStreamActivities } from '../../activities/stream.ts';
import { runAudit } from '../../src/audit/run-audit.ts';
import { createBackfillArchive } from '../../src/retention/backfill-archive.ts';
import type { Config } from '../../src/config/config.ts';
import { fetchTopicConfigs, setTopicConfig } from '../../src/kafka/topic-configs.ts';
import { invariant } from '../../src/domain/errors.ts';
import { RefinePool } from '../../src/refine/refine-pool.ts';
import { withCommitMetrics } from '../../src/telemetry/commit-metrics.ts';
import { withCommitSpans } from '../../src/telemetry/commit-spans.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { createSchemaStore } from '../../src/schema-registry/schema-store.ts';
import type { Logger } from '../../src/telemetry/logger.ts';
import { createLakeMetrics } from '../../src/telemetry/lake-metrics.ts';
import { createMicroBatchMetrics } from '../../src/telemetry/micro-batch-metrics.ts';
import { repeatLook } from '../../src/telemetry/slow-collector.ts';
import { createWorkflowMetrics } from '../../src/telemetry/workflow-metrics.ts';
import { isRunningIn, offsetsOfMicroBatchIn } from './backfill.ts';
import { openLake } from './lake.ts';
import { startPage } from './page.ts';
import { loadPipeline } from './pipeline.ts';
import { loadRetainedTables, openRetention } from './retention.ts';
import type { Telemetry } from './telemetry.ts';
import { installRuntime, logMicroBatch, tracingOptions, withTraceLinks } from './worker-telemetry.ts';
import { connectTemporal, prepareNamespace } from './temporal.ts';
import { loadWorkflowBundle } from './workflow-bundle.ts';

/** Activities at once: a few per running micro-batch and the stream's own; refining itself is bounded by the threads. */
const activitiesMax = 24;
const cachedWorkflowsMax = 100;
const compactionNiceness = 4;
const idleThreadMsMax = 30_000;
const backfillNiceness = 15;

/** All activities under their names. Temporal knows one implementation for a name: a second one would silently take its place. */
const oneOfEachName = (groups: readonly object[]): Record<string, (...args: never[]) => Promise<unknown>> => {
  const activities = new Map<string, (...args: never[]) => Promise<unknown>>();
  for (const [name, activity] of groups.flatMap((group) => Object.entries(group))) {
    invariant(!activities.has(name), () => `two activities are called ${name}`);
    activities.set(name, activity as (...args: never[]) => Promise<unknown>);
  }
  return Object.fromEntries(activities);
};

export interface RunningTemporalWorker {
  /** Resolves when the worker has stopped; rejects if it failed. */
  done: Promise<void>;
  /** Lets running activities end within the grace time, then stops. */
  stop(): Promise<void>;
}

/** Starts a Temporal Worker with all Workflows and activities of the pipeline. Resolves once it polls its task queue. */
export const startTemporalWorker = async (config: Config, log: Logger, telemetry?: Telemetry): Promise<RunningTemporalWorker> => {
  await installRuntime(log, telemetry);
  const pipeline = await loadPipeline(config);
  // A bad policy stops the process before it takes any work.
  loadRetainedTables(config, pipeline);
  const refinePool = new RefinePool(config, log);
  // One thread for all merges: they follow each other into the same Gold buckets, and share the cache of its keys. Where one thread
  // refines, it merges too: another would hold as much memory again, for cores that a small machine does not have.
  const mergePool = config.microBatch.threads === 1 ? refinePool : new RefinePool({ ...config, microBatch: { threads: 1 } }, log);
  // Compactions take turns, give way to all else, and leave no thread behind.
  const compactionPool = new RefinePool({ ...config, microBatch: { threads: 1 }, niceness: compactionNiceness }, log, { idleMsMax: idleThreadMsMax });
  // Threads of their own, which give way to those of the live stream; none is started before the first backfill.
  const backfillPool = new RefinePool({ ...config, microBatch: { threads: config.backfill.threads }, niceness: backfillNiceness }, log, { idleMsMax: idleThreadMsMax });
  const [lake, clientConnection, connection, workflowBundle] = await Promise.all([
    openLake(config, pipeline), connectTemporal(config), NativeConnection.connect({ address: config.temporal.address }), loadWorkflowBundle({ traced: telemetry?.tracing != null }), refinePool.open(), mergePool.open(),
  ]);
  const { store } = lake;
  const sources = pipeline.datasets.map(({ source }) => source);
  const onMicroBatch = telemetry && createMicroBatchMetrics(telemetry.metrics, sources);
  telemetry?.metrics.set('batch_trigger_interval_seconds', {}, config.microBatch.triggerMs / 1_000);
  const measured = telemetry ? withCommitMetrics(lake.catalog, telemetry.metrics) : lake.catalog;
  const tracing = telemetry?.tracing ?? null;
  const catalog = tracing ? withCommitSpans(measured, tracing) : measured;
  const linked = <A extends object>(activities: A): A => (tracing ? withTraceLinks(activities, { tracing, catalog, store, pipeline }) : activities);
  await prepareNamespace(clientConnection, config, log);
  const registry = createRegistryClient({ url: config.schemaRegistry.url });
  const temporal = new Client({ connection: clientConnection, namespace: config.temporal.namespace });
  const retention = await openRetention(config, pipeline, { store, catalog }, temporal);
  const worker = await Worker.create({
    connection,
    namespace: config.temporal.namespace,
    taskQueue: config.temporal.taskQueue,
    workflowBundle,
    ...(tracing ? await tracingOptions(tracing) : {}),
    activities: oneOfEachName([
      linked(createStreamActivities({
        catalog, store, pipeline, temporal,
        limits: {
          batchRecordsMax: config.microBatch.rowsMax, adaptive: { batchRecordsMin: config.microBatch.rowsMin, batchTriggerMs: config.microBatch.triggerMs },
          runningMax: config.microBatch.runningMax, historyEventsMax: config.historyEventsMax,
        },
      })),
      createCompactionActivities({ catalog, pipeline, policies: config.compaction, pool: compactionPool }),
      createRetentionActivities(retention),
      createAuditActivities({ audit: (input, options) => runAudit(config, input, options) }),
      createRetentionExtensionActivities({
        store, fetchConfigs: (topic) => fetchTopicConfigs(config.kafka.brokers, topic), setConfig: (topic, name, value) => setTopicConfig(config.kafka.brokers, topic, name, value),
      }),
      linked(createMicroBatchActivities({ catalog, store, pipeline, refinePool, mergePool, onEvent: (event) => {
        onMicroBatch?.(event);
        logMicroBatch(log, event);
      } })),
      createDlqReplayActivities({ catalog, store, pipeline, refinePool, mergePool, registry, schemas: createSchemaStore({ store, registry }), topicPrefix: config.kafka.topicPrefix, isRunning: isRunningIn(temporal) }),
      createReprocessActivities({ catalog, store, pipeline, pool: backfillPool, isRunning: isRunningIn(temporal) }),
      createBackfillActivities({ catalog, store, pipeline, pool: backfillPool, chunkRowsMax: config.microBatch.rowsMax, historyEventsMax: config.historyEventsMax, offsetsOfMicroBatch: offsetsOfMicroBatchIn(temporal), archive: createBackfillArchive(retention) }),
    ]),
    maxConcurrentActivityTaskExecutions: activitiesMax,
    maxCachedWorkflows: cachedWorkflowsMax,
    // By default the SDK holds heartbeats back for 80 % of the timeout, which leaves no room for one that is missed.
    maxHeartbeatThrottleInterval: '2 seconds',
    defaultHeartbeatThrottleInterval: '2 seconds',
    // How long a Workflow stands still when the Temporal Worker that has it in its cache was killed.
    stickyQueueScheduleToStartTimeout: '5 seconds',
    shutdownGraceTime: '5 seconds',
    shutdownForceTime: '20 seconds',
  });
  const stopped = new AbortController();
  const looks = telemetry?.http ? [
    createLakeMetrics({
      catalog, store, pipeline, metrics: telemetry.metrics, signal: stopped.signal,
      archive: { store: retention.archive.store, prefixOf: (table) => retention.archive.tablePrefix(table) },
    }),
    createWorkflowMetrics(temporal, telemetry.metrics),
  ] : [];
  const looking = looks.map((look) => repeatLook({
    look, everyMs: config.metrics.tablesEveryMs, signal: stopped.signal, onFailure: (error) => log.warn({ err: error }, 'figures for /metrics could not be read'),
  }));
  if (telemetry?.http) looking.push(startPage({ config, pipeline, http: telemetry.http, metrics: telemetry.metrics, catalog, store, temporal, log, signal: stopped.signal }).done);
  telemetry?.setReadiness(() => ({ ready: worker.getState() === 'RUNNING', worker: worker.getState() }));
  const done = worker.run().finally(async () => {
    stopped.abort();
    await Promise.all(looking);
    await Promise.all([refinePool.close(), mergePool.close(), compactionPool.close(), backfillPool.close()]);
    await connection.close();
    await clientConnection.close();
  });
  return {
    done,
    stop: async () => {
      if (worker.getState() === 'RUNNING') worker.shutdown();
      await done;
    },
  };
};
