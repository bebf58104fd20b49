import { DefaultLogger, Runtime } from '@temporalio/worker';
import type { LogEntry, WorkerOptions } from '@temporalio/worker';
import type { CommitBronzeFile } from '../../src/contracts/micro-batch.ts';
import { bronzeFileSuffix } from '../../src/contracts/bronze.ts';
import { datasetOf } from '../../src/datasets/pipeline.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { Coverage, parseTopicPartitionKey } from '../../src/domain/offsets.ts';
import type { CoverageJson } from '../../src/domain/offsets.ts';
import type { ObjectStore } from '../../src/lake/object-store.ts';
import type { Catalog } from '../../src/lake/table.ts';
import { bronzeLineage, filesOfOffsets } from '../../src/refine/lineage-files.ts';
import { findFreePorts } from '../../src/stack/ports.ts';
import type { Logger } from '../../src/telemetry/logger.ts';
import type { MicroBatchEvent } from '../../src/telemetry/micro-batch-metrics.ts';
import { traceparentName } from '../../src/telemetry/tracing.ts';
import type { Tracing } from '../../src/telemetry/tracing.ts';
import type { Telemetry } from './telemetry.ts';

const coreMetricsTimeoutMs = 3_000;
/** Bronze files whose spans a span of the Temporal Worker names: each costs a request. */
const linksMax = 8;

const toPino = (log: Logger) => new DefaultLogger('WARN', ({ level, message, meta }: LogEntry) => {
  const { error, ...rest } = (meta ?? {}) as Record<string, unknown>;
  const fields = { ...rest, ...(error === undefined ? {} : { err: error }) };
  if (level === 'ERROR') log.error(fields, message);
  else if (level === 'WARN') log.warn(fields, message);
  else log.debug(fields, message);
});

/** Temporal's own interceptors for traces: Workflows and their activities have spans. Loaded only where traces are on. */
export const tracingOptions = async ({ processor, resource }: Tracing): Promise<Pick<WorkerOptions, 'sinks' | 'interceptors'>> => {
  const { OpenTelemetryActivityInboundInterceptor, OpenTelemetryActivityOutboundInterceptor, makeWorkflowExporter } = await import('@temporalio/interceptors-opentelemetry/lib/worker/index.js');
  return {
    sinks: { exporter: makeWorkflowExporter(processor, resource) },
    interceptors: { activity: [(context) => ({ inbound: new OpenTelemetryActivityInboundInterceptor(context), outbound: new OpenTelemetryActivityOutboundInterceptor(context) })] },
  };
};

/** One line for each commit of a micro-batch. The logger adds source, micro-batch, Workflow ID and trace. */
export const logMicroBatch = (log: Logger, event: MicroBatchEvent): void => {
  if (event.type === 'silverPublished') {
    log.info({ rows: event.files.reduce((sum, { recordCount }) => sum + recordCount, 0), files: event.files.length, durationMs: event.committedAtMs - event.startedAtMs }, 'Silver published');
  } else if (event.type === 'goldMerged') {
    log.info({ rows: event.rows, duplicates: event.duplicates, durationMs: event.committedAtMs - event.startedAtMs }, 'Gold merged');
  } else if (Object.keys(event.rowsByType).length > 0) {
    log.warn({ rowsByType: event.rowsByType }, 'records refused, in the DLQ');
  }
};

let runtimeInstalled = false;

/**
 * Installs Temporal's Runtime, one for each process. Its Rust core stays silent on stdout, which belongs to the scripts'
 * results; its metrics have an exporter of their own, whose page is put behind ours.
 */
export const installRuntime = async (log: Logger, telemetry: Telemetry | undefined): Promise<void> => {
  if (runtimeInstalled) return;
  runtimeInstalled = true;
  const options = { logger: toPino(log), shutdownSignals: [] };
  if (!telemetry?.http) {
    Runtime.install(options);
    return;
  }
  const [port] = await findFreePorts(1);
  const bindAddress = `127.0.0.1:${port}`;
  Runtime.install({ ...options, telemetryOptions: { metrics: { prometheus: { bindAddress, countersTotalSuffix: true, unitSuffix: true, useSecondsForDurations: true } } } });
  telemetry.addExposition(async () => {
    const answer = await fetch(`http://${bindAddress}/metrics`, { signal: AbortSignal.timeout(coreMetricsTimeoutMs) });
    return answer.text();
  });
};

export interface TraceLinkDeps {
  tracing: Pick<Tracing, 'linkToActive'>;
  catalog: Pick<Catalog, 'load' | 'dataLocation'>;
  store: Pick<ObjectStore, 'head' | 'keyOf'>;
  pipeline: Pipeline;
}

/**
 * The same activities; those that begin with Bronze files link their span to the spans of these files, which the objects'
 * metadata names. So the way of a record is found from capture to Gold, though every batch has a trace of its own.
 */
export const withTraceLinks = <A extends object>(activities: A, { tracing, catalog, store, pipeline }: TraceLinkDeps): A => {
  const link = async (keysOf: () => Promise<string[]>): Promise<void> => {
    try {
      const keys = (await keysOf()).slice(0, linksMax);
      const heads = await Promise.all(keys.map((key) => store.head(key)));
      tracing.linkToActive(heads.flatMap(({ metadata }) => metadata[traceparentName] ?? []));
    } catch {
      // A link less; the activity itself says what is wrong with the store.
    }
  };
  const keysOfFiles = (source: string, files: readonly CommitBronzeFile[]): string[] => files.map(({ topicPartition, fileEpoch, startOffset, endOffset }) => {
    const { topic, partition } = parseTopicPartitionKey(topicPartition);
    const suffix = bronzeFileSuffix({ topic, partition, start: BigInt(startOffset), end: BigInt(endOffset), epoch: fileEpoch });
    return store.keyOf(catalog.dataLocation(datasetOf(pipeline, source).bronze.name, suffix));
  });
  const keysOfOffsets = async (source: string, intervals: CoverageJson): Promise<string[]> => {
    const files = await filesOfOffsets(await catalog.load(datasetOf(pipeline, source).bronze.name), Coverage.fromJson(intervals), bronzeLineage);
    return files.map(({ filePath }) => store.keyOf(filePath));
  };
  const before: Record<string, (input: never) => Promise<void>> = {
    commitBronze: ({ source, files }: { source: string; files: CommitBronzeFile[] }) => link(async () => keysOfFiles(source, files)),
    refineBatch: ({ source, intervals }: { source: string; intervals: CoverageJson }) => link(() => keysOfOffsets(source, intervals)),
  };
  return Object.fromEntries(Object.entries(activities).map(([name, activity]: [string, (input: never) => Promise<unknown>]) => {
    const prepare = before[name];
    return [name, prepare ? async (input: never) => {
      await prepare(input);
      return activity(input);
    } : activity];
  })) as A;
};
