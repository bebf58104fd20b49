#!/usr/bin/env node
import '../src/config/require-node.ts';
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '@temporalio/client';
import type { Connection } from '@temporalio/client';
import { command, exitFailed, exitOk, megabytes, milliseconds, ProgressLine, runCommand, stopSignal, table, thousands, wholeNumber, untilStopped } from '../scripts/cli.ts';
import { ScriptProcess, cpuSeconds } from '../scripts/wire/child-process.ts';
import { openLake } from '../scripts/wire/lake.ts';
import type { Lake } from '../scripts/wire/lake.ts';
import { loadPipeline } from '../scripts/wire/pipeline.ts';
import { connectTemporal, prepareNamespace } from '../scripts/wire/temporal.ts';
import { auditConservation } from '../src/audit/conservation.ts';
import { configToEnvironment, loadConfig } from '../src/config/config.ts';
import type { Config } from '../src/config/config.ts';
import { pauseSignal, resumeSignal, stateQuery, streamWorkflowId, streamWorkflowType } from '../src/contracts/stream.ts';
import type { StreamState } from '../src/contracts/stream.ts';
import type { MemorySeries } from './memory-chart.ts';
import { memoryChart } from './memory-chart.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { freshnessQuantile, mergeFreshness } from '../src/domain/freshness.ts';
import { Coverage, IntervalSet } from '../src/domain/offsets.ts';
import { ensureTopics, fetchOffsetBounds } from '../src/kafka/topics.ts';
import { objectSource, openParquet, readColumns } from '../src/lake/parquet-reader.ts';
import { encodeDataFile } from '../src/lake/parquet-writer.ts';
import type { TableDefinition } from '../src/lake/schema.ts';
import { endpointEnvironment, startStack } from '../src/stack/index.ts';
import type { Stack } from '../src/stack/index.ts';
import { createLogger } from '../src/telemetry/logger.ts';

interface Options {
  rows: number;
  partitions: number;
  seed: number;
  rate: number;
  rateSeconds: number;
  topics?: string[];
  loadOnly?: boolean;
  json?: boolean;
}

const program = command('bench', 'Loads trades into Kafka, then measures each hop and the whole way, beside the limits beneath, in one run')
  .option('--rows <n>', 'Records of the load', wholeNumber(1_000), 4_000_000)
  .option('--partitions <n>', 'Topic partitions of each topic', wholeNumber(1), 3)
  .option('--seed <n>', 'Seed of the load', wholeNumber(0), 1)
  .option('--rate <n>', 'Records a second of the freshness measurement; 0 leaves it out', wholeNumber(0), 5_000)
  .option('--rate-seconds <n>', 'How long it lasts', wholeNumber(5), 40)
  .option('--load-only', 'Make the load, print topics, schemas and the truth, and keep the servers running until Ctrl-C')
  .option('--topics <names>', 'Measure topics that hold the load already (comma-separated, as --load-only printed them); KAFKA_BROKERS and SCHEMA_REGISTRY_URL say where', (text: string) => text.split(','))
  .option('--json', 'Print one JSON object');

/** Looking costs requests, and their CPU is taken from what is measured. */
const pollMs = 200;
const repeatRatio = 0.01;
const shares = { binance: { share: 0.6, symbols: ['BTCUSDT', 'ETHUSDT', 'SOLUSDT', 'XRPUSDT', 'DOGEUSDT', 'BNBUSDT'] }, kraken: { share: 0.4, symbols: ['BTC/USD', 'ETH/USD', 'SOL/USD', 'XRP/EUR'] } } as const;

interface Figure {
  rowsPerSecond: number;
  seconds: number;
  cpuSecondsPerMillion: number | null;
  peakRssBytes: number | null;
}

interface Report {
  rows: number;
  seed: number;
  loadRowsPerSecond: number | null;
  limits: { kafkajsDrop: Figure; parquet: Record<string, number> };
  kafkaToBronze: Figure;
  bronzeToSilver: Figure;
  bronzeToGold: Figure;
  endToEnd: Figure & { streamingWorkerRssBytes: number; temporalWorkerRssBytes: number; serverCpuSecondsPerMillion: number; goldRows: number; duplicates: number; memory: MemorySeries[]; ok: boolean };
  freshness: { ratePerSecond: number; seconds: number; p50Ms: number | null; p99Ms: number | null; streamingWorkerRssBytes: number; temporalWorkerRssBytes: number; memory: MemorySeries[] } | null;
}

const hasEvent = (name: string) => (event: Record<string, unknown>): boolean => event['event'] === name;

/** One deployment on the servers: its own bucket and Temporal namespace, over the given topics. */
class Deployment {
  readonly config: Config;
  readonly pipeline: Pipeline;
  readonly lake: Lake;
  readonly connection: Connection;
  readonly temporal: Client;
  readonly folder: string;
  readonly processes: ScriptProcess[] = [];

  private constructor(config: Config, pipeline: Pipeline, lake: Lake, connection: Connection, folder: string) {
    this.config = config;
    this.pipeline = pipeline;
    this.lake = lake;
    this.connection = connection;
    this.folder = folder;
    this.temporal = new Client({ connection, namespace: config.temporal.namespace });
  }

  static async open(environment: Record<string, string | undefined>, folder: string): Promise<Deployment> {
    const id = randomBytes(3).toString('hex');
    const config = loadConfig({ LOG_LEVEL: 'warn', ...environment, TEMPORAL_NAMESPACE: `bench-${id}`, TIDEMARK_BUCKET: `bench-${id}` });
    const pipeline = await loadPipeline(config);
    const connection = await connectTemporal(config);
    await prepareNamespace(connection, config, createLogger('bench', 'error'));
    const lake = await openLake(config, pipeline);
    return new Deployment(config, pipeline, lake, connection, folder);
  }

  get topics(): string[] {
    return this.pipeline.datasets.map(({ topic }) => `${this.config.kafka.topicPrefix}${topic}`);
  }

  start(name: string, script: string, args: string[] = ['--json']): ScriptProcess {
    const started = new ScriptProcess({
      name, script, args, restarts: false, env: { ...process.env, ...configToEnvironment(this.config) }, logFile: join(this.folder, `${name}.log`),
    });
    this.processes.push(started);
    return started;
  }

  async broker(): Promise<Coverage> {
    const bounds = await fetchOffsetBounds(this.config.kafka.brokers, this.topics);
    return Coverage.of(Object.entries(bounds).map(([key, { low, high }]) => [key, IntervalSet.of({ start: low, end: high })] as const));
  }

  async covered(tables: readonly string[]): Promise<Coverage> {
    const versions = await Promise.all([...new Set(tables)].map((name) => this.lake.catalog.load(name)));
    return versions.reduce((sum, { coverage }) => sum.union(coverage), Coverage.empty);
  }

  /** Waits until the tables cover `wanted`; a process that ends before that fails the run. */
  async until(what: string, tables: readonly string[], wanted: Coverage, progress: ProgressLine, signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      const covered = await this.covered(tables);
      if (covered.contains(wanted)) return;
      progress.show(`${what}: ${thousands(covered.intersect(wanted).size)} of ${thousands(wanted.size)}`);
      for (const { name, pid } of this.processes) {
        if (pid === undefined) throw new TidemarkError('STACK_START_FAILED', `${what}: ${name} ended; its log is in ${this.folder}`);
      }
      await sleep(pollMs);
    }
  }

  async close(): Promise<void> {
    for (const running of [...this.processes].reverse()) await running.stop();
    this.lake.store.close();
    await this.connection.close();
  }
}

const load = async (config: Config, folder: string, rows: number, seed: number, rate?: number): Promise<{ seconds: number; trades: number; repeated: number }> => {
  const started = performance.now();
  const counts = await Promise.all(Object.entries(shares).map(async ([exchange, { share, symbols }]) => {
    const own = Math.round(rows * share);
    const loader = new ScriptProcess({
      name: `load-${exchange}`, script: '../bench/load.ts', restarts: false, logFile: join(folder, `load-${exchange}.log`), env: { ...process.env, ...configToEnvironment(config) },
      args: [JSON.stringify({ exchange, rows: own, seed, repeatRatio, symbols, ...(rate === undefined ? {} : { rate: rate * share }) })],
    });
    const result = await loader.event(hasEvent('stopped'));
    await loader.stop();
    return result as unknown as { trades: number; repeated: number };
  }));
  return {
    seconds: (performance.now() - started) / 1000,
    trades: counts.reduce((sum, { trades }) => sum + trades, 0),
    repeated: counts.reduce((sum, { repeated }) => sum + repeated, 0),
  };
};

const figure = (rows: number, seconds: number, cpu: number | null, peakRssBytes: number | null): Figure =>
  ({ rowsPerSecond: rows / seconds, seconds, cpuSecondsPerMillion: cpu === null ? null : (cpu / rows) * 1e6, peakRssBytes });

const memoryOf = ({ name, rssSamples, peakRssBytes }: ScriptProcess): MemorySeries => ({ name, samples: rssSamples, peakBytes: peakRssBytes });

const serverCpu = async (stack: Stack): Promise<number> => {
  const used = await Promise.all(Object.values(stack.servers).map(({ pid }) => (pid === undefined ? null : cpuSeconds(pid))));
  return used.reduce<number>((sum, value) => sum + (value ?? 0), 0);
};

/** Rows a second of one thread that encodes real columns of a table to Parquet. */
const encodeRate = async ({ lake }: Deployment, definition: TableDefinition): Promise<number> => {
  const live = await (await lake.catalog.load(definition.name)).scan();
  const file = live.sort((a, b) => b.recordCount - a.recordCount)[0];
  if (!file) return 0;
  const parquet = await openParquet(objectSource(lake.store, lake.store.keyOf(file.filePath), file.fileSizeBytes));
  const batch = await readColumns(parquet, { columns: definition.fields.map(({ name }) => name) });
  let best = 0;
  for (let round = 0; round < 4; round += 1) {
    const started = process.threadCpuUsage();
    encodeDataFile({ fields: definition.fields, batch });
    const { user, system } = process.threadCpuUsage(started);
    best = Math.max(best, batch.rowCount / ((user + system) / 1e6));
  }
  return best;
};

const measure = async (options: Options, stack: Stack, folder: string, progress: ProgressLine, signal: AbortSignal): Promise<Report> => {
  const environment: Record<string, string | undefined> = { ...process.env, ...endpointEnvironment(stack.endpoints) };
  const first = await Deployment.open({ ...environment, TIDEMARK_TOPIC_PREFIX: await prefixOf(options) }, folder);
  let loadRowsPerSecond: number | null = null;
  if (options.topics === undefined) {
    await ensureTopics(first.config.kafka.brokers, first.topics.map((topic) => ({ topic, partitions: options.partitions })));
    progress.show(`loading ${thousands(options.rows)} records into Kafka`);
    const loaded = await load(first.config, folder, options.rows, options.seed);
    loadRowsPerSecond = (loaded.trades + loaded.repeated) / loaded.seconds;
  }
  const wanted = await first.broker();
  const rows = Number(wanted.size);

  progress.show('limit: kafkajs consuming and dropping');
  const drop = new ScriptProcess({
    name: 'limit-consume', script: '../bench/limit-consume.ts', restarts: false, logFile: join(folder, 'limit-consume.log'), env: { ...process.env },
    args: [JSON.stringify({ brokers: first.config.kafka.brokers, topics: first.topics, rows })],
  });
  const dropped = await drop.event(hasEvent('stopped')) as { rowsPerSecond: number; cpuSecondsPerMillion: number };
  await drop.stop();

  // Kafka → Bronze with the micro-batches paused, then Bronze → Silver → Gold with nothing to read.
  const sources = first.pipeline.datasets.map(({ source }) => source);
  const bronzeTables = first.pipeline.datasets.map(({ bronze }) => bronze.name);
  const silverTables = first.pipeline.datasets.map(({ silver }) => silver.name);
  const goldTables = first.pipeline.datasets.map(({ gold }) => gold.name);
  const refiner = first.start('temporal-worker', 'run-temporal-worker.ts');
  await refiner.event(hasEvent('ready'), signal);
  for (const source of sources) {
    await first.temporal.workflow.signalWithStart(streamWorkflowType, {
      workflowId: streamWorkflowId(source), taskQueue: first.config.temporal.taskQueue, args: [{ source }], signal: pauseSignal, signalArgs: [],
    });
  }
  let started = performance.now();
  const reader = first.start('streaming-worker', 'run-streaming-worker.ts');
  await first.until('Kafka → Bronze', bronzeTables, wanted, progress, signal);
  let seconds = (performance.now() - started) / 1000;
  await reader.sample();
  const kafkaToBronze = figure(rows, seconds, reader.cpuSeconds, reader.peakRssBytes);
  await reader.stop();
  first.processes.splice(first.processes.indexOf(reader), 1);

  await refiner.sample();
  const cpuBefore = refiner.cpuSeconds;
  started = performance.now();
  for (const source of sources) await first.temporal.workflow.getHandle(streamWorkflowId(source)).signal(resumeSignal);
  await first.until('Bronze → Silver', silverTables, wanted, progress, signal);
  const silverSeconds = (performance.now() - started) / 1000;
  await first.until('Silver → Gold', goldTables, wanted, progress, signal);
  seconds = (performance.now() - started) / 1000;
  await refiner.sample();
  const bronzeToGold = figure(rows, seconds, refiner.cpuSeconds - cpuBefore, refiner.peakRssBytes);
  const bronzeToSilver = figure(rows, silverSeconds, null, null);
  progress.show('limit: one thread encoding to Parquet');
  const dataset = first.pipeline.datasets[0]!;
  const parquet: Record<string, number> = {};
  for (const definition of [dataset.bronze, dataset.silver, dataset.gold]) parquet[definition.name] = await encodeRate(first, definition);
  await first.close();

  // The whole way, from the start of cold processes to the last row in Gold.
  const whole = await Deployment.open({ ...environment, TIDEMARK_TOPIC_PREFIX: first.config.kafka.topicPrefix }, folder);
  const serversBefore = await serverCpu(stack);
  started = performance.now();
  const [temporalWorker, streamingWorker] = [whole.start('temporal-worker', 'run-temporal-worker.ts'), whole.start('streaming-worker', 'run-streaming-worker.ts')];
  await whole.until('end to end', [...silverTables, ...goldTables], wanted, progress, signal);
  await whole.until('end to end', goldTables, wanted, progress, signal);
  seconds = (performance.now() - started) / 1000;
  await Promise.all([temporalWorker.sample(), streamingWorker.sample()]);
  const serverSeconds = await serverCpu(stack) - serversBefore;
  progress.show('auditing');
  const audit = await auditConservation({ catalog: whole.lake.catalog, store: whole.lake.store, pipeline: whole.pipeline, topicPrefix: whole.config.kafka.topicPrefix, verification: 'keys', signal });
  const endToEnd = {
    ...figure(rows, seconds, temporalWorker.cpuSeconds + streamingWorker.cpuSeconds, null),
    streamingWorkerRssBytes: streamingWorker.peakRssBytes,
    temporalWorkerRssBytes: temporalWorker.peakRssBytes,
    memory: [streamingWorker, temporalWorker].map(memoryOf),
    serverCpuSecondsPerMillion: (serverSeconds / rows) * 1e6,
    goldRows: audit.gold.reduce((sum, gold) => sum + gold.rows, 0),
    duplicates: audit.gold.reduce((sum, gold) => sum + gold.duplicates, 0),
    ok: audit.ok,
  };
  await whole.close();

  let freshness: Report['freshness'] = null;
  if (options.rate > 0) {
    const live = await Deployment.open({ ...environment, TIDEMARK_TOPIC_PREFIX: `rate-${randomBytes(3).toString('hex')}.` }, folder);
    await ensureTopics(live.config.kafka.brokers, live.topics.map((topic) => ({ topic, partitions: options.partitions })));
    const both = [live.start('temporal-worker', 'run-temporal-worker.ts'), live.start('streaming-worker', 'run-streaming-worker.ts')] as const;
    await Promise.all(both.map((one) => one.event(hasEvent('ready'), signal)));
    progress.show(`freshness at ${thousands(options.rate)} records a second for ${options.rateSeconds} s`);
    await load(live.config, folder, options.rate * options.rateSeconds, options.seed, options.rate);
    await live.until('freshness', goldTables, await live.broker(), progress, signal);
    let histogram: Record<string, number> = {};
    for (const source of sources) {
      const handle = live.temporal.workflow.getHandle(streamWorkflowId(source));
      let state = await handle.query<StreamState>(stateQuery);
      while (state.running.length > 0) {
        await sleep(100);
        state = await handle.query<StreamState>(stateQuery);
      }
      histogram = mergeFreshness(histogram, state.totals.freshness);
    }
    await Promise.all(both.map((one) => one.sample()));
    freshness = {
      ratePerSecond: options.rate, seconds: options.rateSeconds, p50Ms: freshnessQuantile(histogram, 0.5), p99Ms: freshnessQuantile(histogram, 0.99),
      temporalWorkerRssBytes: both[0].peakRssBytes, streamingWorkerRssBytes: both[1].peakRssBytes, memory: [both[1], both[0]].map(memoryOf),
    };
    await live.close();
  }
  return {
    rows, seed: options.seed, loadRowsPerSecond,
    limits: { kafkajsDrop: { ...figure(rows, rows / dropped.rowsPerSecond, null, null), cpuSecondsPerMillion: dropped.cpuSecondsPerMillion }, parquet },
    kafkaToBronze, bronzeToSilver, bronzeToGold, endToEnd, freshness,
  };
};

const prefixOf = async ({ topics }: Options): Promise<string> => {
  if (topics === undefined) return `bench-${randomBytes(3).toString('hex')}.`;
  const { datasets } = await loadPipeline(loadConfig({ AWS_ACCESS_KEY_ID: 'unused', AWS_SECRET_ACCESS_KEY: 'unused', ...process.env }));
  const prefixes = new Set(topics.map((topic) => {
    const dataset = datasets.find((candidate) => topic.endsWith(candidate.topic));
    if (!dataset) throw new TidemarkError('BAD_INPUT', `--topics: expected names that end with ${datasets.map((one) => one.topic).join(' or ')}, found ${topic}`);
    return topic.slice(0, topic.length - dataset.topic.length);
  }));
  if (prefixes.size !== 1) throw new TidemarkError('BAD_INPUT', `--topics: expected one prefix for all, found ${[...prefixes].join(', ')}`);
  return [...prefixes][0]!;
};

const printed = (report: Report): string => {
  const { limits, endToEnd, freshness } = report;
  const row = (name: string, { rowsPerSecond, seconds, cpuSecondsPerMillion, peakRssBytes }: Figure): (string | number | null)[] => [
    name, Math.round(rowsPerSecond), seconds.toFixed(1), cpuSecondsPerMillion === null ? null : cpuSecondsPerMillion.toFixed(2),
    peakRssBytes === null ? null : megabytes(peakRssBytes), (rowsPerSecond / limits.kafkajsDrop.rowsPerSecond).toFixed(2),
  ];
  return [
    `${thousands(report.rows)} records, seed ${report.seed}${report.loadRowsPerSecond === null ? '' : `, loaded at ${thousands(Math.round(report.loadRowsPerSecond))} a second`}`,
    '',
    table(['', 'rows/s', 'seconds', 'CPU s / million rows', 'peak RSS', 'of kafkajs dropping'], [
      row('limit: kafkajs consumes and drops', limits.kafkajsDrop),
      ...Object.entries(limits.parquet).map(([name, rate]) => [`limit: one thread encodes ${name}`, Math.round(rate), '', (1e6 / rate).toFixed(2), null, (rate / limits.kafkajsDrop.rowsPerSecond).toFixed(2)]),
      row('Kafka → Bronze (process start included)', report.kafkaToBronze),
      row('Bronze → Silver + DLQ (Gold merged beside it)', report.bronzeToSilver),
      row('Bronze → Gold', report.bronzeToGold),
      row('Kafka → Gold, end to end (process start included)', endToEnd),
    ]),
    '',
    `end to end: streaming worker ${megabytes(endToEnd.streamingWorkerRssBytes)}, Temporal Worker ${megabytes(endToEnd.temporalWorkerRssBytes)}, servers ${endToEnd.serverCpuSecondsPerMillion.toFixed(2)} CPU s a million rows; `
    + `Gold ${thousands(endToEnd.goldRows)}, duplicates ${thousands(endToEnd.duplicates)}, audit ${endToEnd.ok ? 'clean' : 'FOUND VIOLATIONS'}`,
    memoryChart(endToEnd.memory),
    ...(freshness === null ? [] : [`Kafka → committed Gold row at ${thousands(freshness.ratePerSecond)} a second for ${freshness.seconds} s: p50 ${milliseconds(freshness.p50Ms)}, p99 ${milliseconds(freshness.p99Ms)}; `
      + `streaming worker ${megabytes(freshness.streamingWorkerRssBytes)}, Temporal Worker ${megabytes(freshness.temporalWorkerRssBytes)}`, memoryChart(freshness.memory)]),
  ].join('\n');
};

await runCommand<Options>(program, async (options) => {
  const signal = stopSignal();
  const progress = new ProgressLine();
  const folder = await mkdtemp(join(tmpdir(), 'tidemark-bench-'));
  const stack = await startStack({ signal, onProgress: ({ server, message }) => progress.show(`${server}: ${message}`) });
  let isKept = true;
  try {
    if (options.loadOnly) {
      const environment = { ...process.env, ...endpointEnvironment(stack.endpoints), TIDEMARK_TOPIC_PREFIX: await prefixOf(options) };
      const config = loadConfig(environment);
      const { datasets } = await loadPipeline(config);
      const topics = datasets.map(({ topic }) => `${config.kafka.topicPrefix}${topic}`);
      await ensureTopics(config.kafka.brokers, topics.map((topic) => ({ topic, partitions: options.partitions })));
      const loaded = await load(config, folder, options.rows, options.seed);
      const truth = {
        brokers: config.kafka.brokers, schema_registry: config.schemaRegistry.url, topics, schemas: datasets.map(({ rawSchema }) => rawSchema),
        records: loaded.trades + loaded.repeated, distinct_trades: loaded.trades, duplicates: loaded.repeated, seed: options.seed,
      };
      process.stdout.write(`${JSON.stringify(truth, null, options.json ? 0 : 2)}\n`);
      progress.done('The servers run until Ctrl-C.');
      await untilStopped(signal);
      return exitOk;
    }
    const report = await measure(options, stack, folder, progress, signal);
    process.stdout.write(`${options.json ? JSON.stringify(report) : `\n${printed(report)}`}\n`);
    isKept = false;
    return report.endToEnd.ok ? exitOk : exitFailed;
  } finally {
    await stack.stop();
    if (isKept) process.stderr.write(`logs: ${folder}\n`);
    else await rm(folder, { recursive: true, force: true });
  }
});
