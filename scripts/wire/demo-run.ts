import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '@temporalio/client';
import { auditConservation } from '../../src/audit/conservation.ts';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import type { BadRecord } from '../../src/capture/bad-records.ts';
import type { FeedTruth } from '../../src/capture/exchange-simulator.ts';
import { configToEnvironment, loadConfig } from '../../src/config/config.ts';
import type { Config } from '../../src/config/config.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import { stateQuery, streamWorkflowId } from '../../src/contracts/stream.ts';
import type { StreamState, StreamTotals } from '../../src/contracts/stream.ts';
import { pipelineTables } from '../../src/datasets/pipeline.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { TidemarkError, invariant } from '../../src/domain/errors.ts';
import { freshnessQuantile, mergeFreshness } from '../../src/domain/freshness.ts';
import { Coverage, IntervalSet } from '../../src/domain/offsets.ts';
import { ensureTopics, fetchOffsetBounds } from '../../src/kafka/topics.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { endpointEnvironment, startStack } from '../../src/stack/index.ts';
import type { Stack } from '../../src/stack/index.ts';
import { findFreePorts } from '../../src/stack/ports.ts';
import { createLogger } from '../../src/telemetry/logger.ts';
import { ProgressLine, exitFailed, exitOk, megabytes, milliseconds, table, thousands } from '../cli.ts';
import { ScriptProcess } from './child-process.ts';
import { openLake } from './lake.ts';
import type { Lake } from './lake.ts';
import { loadPipeline } from './pipeline.ts';
import { connectTemporal, prepareNamespace } from './temporal.ts';

export interface DemoOptions {
  source: { kind: 'simulator'; seed: number } | { kind: 'files'; files: string[] } | { kind: 'live' };
  trades: number;
  rate: number | undefined;
  keep: boolean;
  json: boolean;
  /** For the processes' logs. */
  folder: string;
  signal: AbortSignal;
}

const topicPartitions = 3;
const pageHost = '127.0.0.1';
const pollMs = 250;
/** The demo gives up when nothing has moved for this long. */
const stallMs = 180_000;
const hasEvent = (name: string) => (event: Record<string, unknown>): boolean => event['event'] === name;

/** What a capture process says at its end. */
interface CaptureResult {
  trades: number;
  produced: number;
  unparsable: number;
  offsets: Record<string, string>;
  simulator: FeedTruth[];
}

export interface DemoResult {
  ok: boolean;
  /** Why not, one line each. */
  problems: string[];
  rows: Record<string, number>;
  dlq: Record<string, number>;
  duplicates: number;
  freshness_ms: { p50: number | null; p99: number | null };
  peak_rss_bytes: Record<string, number>;
  tables: Record<string, string>;
  s3: { endpoint: string | undefined; region: string; bucket: string; access_key_id: string; secret_access_key: string };
  /** The operator's page. */
  page: string;
  temporal_ui: string | undefined;
  temporal_address: string;
  kafka_brokers: string;
  schema_registry: string;
}

/** Shares of the simulator's trades by feed: both exchanges, and both of Kraken's protocols. */
const simulatedFeeds = [
  { name: 'binance', share: 0.6, args: ['--exchange', 'binance'] },
  { name: 'kraken-v2', share: 0.3, args: ['--exchange', 'kraken', '--feed', 'v2'] },
  { name: 'kraken-v1', share: 0.1, args: ['--exchange', 'kraken', '--feed', 'v1'] },
] as const;
const liveFeeds = [
  { name: 'binance', args: ['--exchange', 'binance', '--symbol', 'BTCUSDT', '--symbol', 'ETHUSDT', '--symbol', 'SOLUSDT'] },
  { name: 'kraken', args: ['--exchange', 'kraken', '--feed', 'v2', '--symbol', 'BTC/USD', '--symbol', 'ETH/USD', '--symbol', 'SOL/USD'] },
] as const;
/** Drops and repetitions that the simulator makes, as reconnects at an exchange do. */
const dropEveryTrades = 15_000;
const duplicatesRatio = 0.015;
const rubbishFrames = 2;

const captureArguments = ({ source, trades, rate, folder }: DemoOptions): { name: string; args: string[] }[] => {
  const unparsable = ['--unparsable', join(folder, 'unparsable-frames.jsonl')];
  if (source.kind === 'files') {
    return [{ name: 'capture', args: [...source.files.flatMap((file) => ['--input', file]), ...(rate === undefined ? [] : ['--rate', String(rate)]), ...unparsable, '--json'] }];
  }
  if (source.kind === 'live') {
    return liveFeeds.map(({ name, args }) => ({ name: `capture ${name}`, args: [...args, '--limit', String(Math.ceil(trades / liveFeeds.length)), ...unparsable, '--json'] }));
  }
  let left = trades;
  return simulatedFeeds.flatMap(({ name, share, args }, i) => {
    const own = i === simulatedFeeds.length - 1 ? left : Math.min(left, Math.round(trades * share));
    left -= own;
    if (own === 0) return [];
    return [{
      name: `capture ${name}`,
      args: [
        ...args, '--simulate', '--trades', String(own), '--seed', String(source.seed), '--drop-every', String(Math.min(dropEveryTrades, Math.max(100, Math.floor(own / 3)))),
        '--duplicates', String(duplicatesRatio), '--rubbish', String(rubbishFrames),
        ...(rate === undefined ? [] : ['--rate', String(Math.max(1, Math.round(rate * own / trades)))]), ...unparsable, '--json',
      ],
    }];
  });
};

const environmentFile = ({ folder }: DemoOptions): string => join(folder, 'environment.sh');
const environmentLines = (config: Config): string =>
  Object.entries(configToEnvironment(config)).map(([name, value]) => `export ${name}='${value.replaceAll("'", "'\\''")}'\n`).join('');

const totalRows = async ({ catalog }: Lake, name: string): Promise<number> =>
  Number((await catalog.load(name)).currentSnapshot?.summary['total-records'] ?? 0);

/** Everything that the demo started, and how it is taken down. */
class DemoRun {
  readonly options: DemoOptions;
  readonly progress = new ProgressLine();
  readonly processes: ScriptProcess[] = [];
  private stack: Stack | null = null;
  /** Of those processes that others find by their port; it stays the same when one is started again. */
  private ports: Readonly<Record<string, number>> = {};

  constructor(options: DemoOptions) {
    this.options = options;
  }

  get pageUrl(): string {
    return `http://${pageHost}:${this.ports['temporal-worker']}`;
  }

  say(text: string): void {
    this.progress.done(text);
  }

  async startServers(): Promise<Config> {
    const { signal } = this.options;
    this.say('Starting the servers (the first time on a machine they are installed, which takes some minutes) …');
    this.stack = await startStack({
      signal,
      onProgress: ({ server, step, message }) => {
        if (step === 'installing' || step === 'starting') this.progress.show(`${server}: ${message}`);
        else this.say(`  ${server}: ${message}`);
      },
    });
    const [pagePort, streamingPort] = await findFreePorts(2);
    this.ports = { 'temporal-worker': pagePort!, 'streaming-worker': streamingPort! };
    return loadConfig({
      ...process.env, ...endpointEnvironment(this.stack.endpoints), METRICS_PORT: '0', METRICS_HOST: pageHost, PAGE_PROCESSES: `streaming worker=http://${pageHost}:${streamingPort}`,
    });
  }

  start(name: string, script: string, args: readonly string[], config: Config, restarts: boolean): ScriptProcess {
    const started = new ScriptProcess({
      name, script, args, restarts,
      env: { ...process.env, ...configToEnvironment(config), METRICS_PORT: String(this.ports[name] ?? 0) },
      logFile: join(this.options.folder, `${name.replaceAll(' ', '-')}.log`),
      onRestart: (which, how) => this.say(`  ${which} ended (${how}); it is started again`),
    });
    this.processes.push(started);
    return started;
  }

  async stop(): Promise<void> {
    // Readers first, so that nothing is claimed again while the Temporal Worker goes.
    for (const running of [...this.processes].reverse()) await running.stop();
    await this.stack?.stop();
  }
}

/**
 * Runs the main job. `whileUp` gets the exit code when the result has been printed, with everything still running; what it
 * awaits keeps it running.
 */
export const runDemo = async (options: DemoOptions, whileUp: (code: number) => Promise<void>): Promise<void> => {
  const run = new DemoRun(options);
  try {
    const config = await run.startServers();
    const pipeline = await loadPipeline(config);
    const topics = pipeline.datasets.map(({ topic }) => `${config.kafka.topicPrefix}${topic}`);
    await ensureTopics(config.kafka.brokers, topics.map((topic) => ({ topic, partitions: topicPartitions })));
    const connection = await connectTemporal(config);
    try {
      await prepareNamespace(connection, config, createLogger('demo', 'error'));
      const lake = await openLake(config, pipeline);
      const temporal = new Client({ connection, namespace: config.temporal.namespace });
      const result = await flow(run, config, pipeline, lake, temporal, topics);
      if (result === null) return;
      await writeFile(environmentFile(options), environmentLines(config), { mode: 0o600 });
      await whileUp(print(run, config, result) ? exitOk : exitFailed);
    } finally {
      await connection.close();
    }
  } finally {
    await run.stop();
  }
};

const flow = async (run: DemoRun, config: Config, pipeline: Pipeline, lake: Lake, temporal: Client, topics: readonly string[]): Promise<DemoOutcome | null> => {
  const { options } = run;
  const { signal } = options;
  const temporalWorker = run.start('temporal-worker', 'run-temporal-worker.ts', ['--json'], config, true);
  const streamingWorker = run.start('streaming-worker', 'run-streaming-worker.ts', ['--json'], config, true);
  const [worker, streaming] = await Promise.all([temporalWorker, streamingWorker].map((one) => one.event(hasEvent('ready'), signal)));
  run.say(`  Temporal Worker: ready (pid ${String(worker?.['pid'])}), operator's page ${run.pageUrl}\n  streaming worker: ready (pid ${String(streaming?.['pid'])})`);
  const captures = captureArguments(options).map(({ name, args }) => run.start(name, 'run-capture.ts', args, config, false));

  const bad: Promise<BadRecord[]> = options.source.kind === 'simulator'
    ? Promise.all(captures.map((capture) => capture.event(hasEvent('ready'), signal))).then(async () => {
      const registry = createRegistryClient({ url: config.schemaRegistry.url });
      const made = await Promise.all((['binance', 'kraken'] as const).map((exchange) =>
        produceBadRecords({ brokers: config.kafka.brokers, registry, exchange, topicPrefix: config.kafka.topicPrefix, seed: 9_000_001 })));
      return made.flat();
    })
    : Promise.resolve([]);
  const captured = Promise.all(captures.map(async (capture) => await capture.event(hasEvent('stopped'), signal) as unknown as CaptureResult));
  const produced = Promise.all([captured, bad]);
  let finished = false;
  const end = produced.finally(() => {
    finished = true;
  });
  end.catch(() => {});

  const startedAt = performance.now();
  let movedAt = performance.now();
  let last = '';
  const goldTables = [...new Set(pipeline.datasets.map(({ gold }) => gold.name))];
  const waiting = async (): Promise<boolean> => {
    const broker = await fetchOffsetBounds(config.kafka.brokers, topics);
    const [bronze, silver, gold] = await Promise.all([
      pipeline.datasets.map((dataset) => dataset.bronze.name), pipeline.datasets.map((dataset) => dataset.silver.name), goldTables,
    ].map(async (names) => (await Promise.all(names.map((name) => totalRows(lake, name)))).reduce((sum, rows) => sum + rows, 0)));
    const inKafka = Object.values(broker).reduce((sum, { low, high }) => sum + Number(high - low), 0);
    const line = `Kafka ${thousands(inKafka)} → Bronze ${thousands(bronze!)} → Silver ${thousands(silver!)} → Gold ${thousands(gold!)}`;
    run.progress.show(`${line} · ${((performance.now() - startedAt) / 1000).toFixed(0)} s`);
    if (line !== last) movedAt = performance.now();
    last = line;
    if (performance.now() - movedAt > stallMs) throw new TidemarkError('KAFKA_UNAVAILABLE', `nothing has moved for ${stallMs / 1000} s: ${line}; logs: ${options.folder}`);
    if (!finished) return true;
    const wanted = Coverage.of(Object.entries(broker).map(([key, { low, high }]) => [key, IntervalSet.of({ start: low, end: high })] as const));
    const covered = await Promise.all(goldTables.map(async (name) => (await lake.catalog.load(name)).coverage));
    return !covered.reduce((sum, coverage) => sum.union(coverage), Coverage.empty).contains(wanted);
  };
  while (await waiting()) {
    if (signal.aborted) {
      run.say('Stopped before the end.');
      return null;
    }
    // A capture that failed ends the demo: its promise rejects.
    await Promise.race([sleep(pollMs), end.then(() => sleep(pollMs))]);
  }
  const [captureResults, badRecords] = await produced;
  run.say(`  ${last} · ${((performance.now() - startedAt) / 1000).toFixed(1)} s`);
  const states = await settledStates(pipeline, temporal, signal);

  run.progress.show('Auditing: offset by offset, key by key …');
  const audit = await auditConservation({
    catalog: lake.catalog, store: lake.store, pipeline, signal, topicPrefix: config.kafka.topicPrefix,
    kafka: async (topic) => new Map(Object.entries(await fetchOffsetBounds(config.kafka.brokers, [topic]))
      .map(([key, { low, high }]) => [Number(key.slice(key.lastIndexOf('/') + 1)), { logStart: low, logEnd: high }] as const)),
    onProgress: ({ phase, subject, rows }) => run.progress.show(`Auditing ${phase}: ${subject}, ${thousands(rows)} rows`),
  });
  for (const one of run.processes) await one.sample();
  const versions = await Promise.all(pipelineTables(pipeline).map(({ name }) => lake.catalog.load(name)));
  const dlq: Record<string, number> = {};
  for (const { partition, recordCount } of await (await lake.catalog.load(pipeline.dlqTable)).scan()) {
    const type = String(partition['error_type']);
    dlq[type] = (dlq[type] ?? 0) + recordCount;
  }
  return {
    audit, captureResults, badRecords, states, dlq, seconds: (performance.now() - startedAt) / 1000,
    locations: Object.fromEntries(versions.map(({ name, metadataLocation }) => [name, metadataLocation])),
    peaks: Object.fromEntries(run.processes.map(({ name, peakRssBytes }) => [name.replaceAll(' ', '_').replaceAll('-', '_'), peakRssBytes])),
  };
};

interface DemoOutcome {
  audit: AuditReport;
  captureResults: CaptureResult[];
  badRecords: BadRecord[];
  states: Record<string, StreamState>;
  seconds: number;
  locations: Record<string, string>;
  peaks: Record<string, number>;
  /** Rows by error type. */
  dlq: Record<string, number>;
}

/** The streams' states once no micro-batch runs: Gold is committed a moment before its Workflow ends. */
const settledStates = async (pipeline: Pipeline, temporal: Client, signal: AbortSignal): Promise<Record<string, StreamState>> => {
  const states: Record<string, StreamState> = {};
  for (const { source } of pipeline.datasets) {
    for (;;) {
      signal.throwIfAborted();
      try {
        const state = await temporal.workflow.getHandle(streamWorkflowId(source)).query<StreamState>(stateQuery);
        states[source] = state;
        if (state.running.length === 0 && Object.keys(state.open).length === 0) break;
      } catch {
        // The Temporal Worker may be on its way up again.
      }
      await sleep(pollMs);
    }
  }
  return states;
};

const totalsOf = (states: Record<string, StreamState>): StreamTotals[] => Object.values(states).map(({ totals }) => totals);

/** What does not add up; empty if the law held. */
const problemsOf = ({ audit, captureResults, badRecords, states, dlq }: DemoOutcome): string[] => {
  const problems: string[] = [];
  if (!audit.ok) {
    problems.push(`the audit found ${thousands(audit.findingsTotal)} violations:`);
    for (const { promise, subject, topic, partition, startOffset, endOffset, detail } of audit.findings.slice(0, 20)) {
      problems.push(`  ${promise} ${subject}${topic === null ? '' : ` ${topic}/${partition} [${startOffset}, ${endOffset})`}: ${detail}`);
    }
  }
  const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);
  const producedRecords = sum(captureResults.map(({ produced }) => produced)) + badRecords.length;
  const bronzeRows = sum(audit.sources.map((source) => source.bronzeRows));
  if (bronzeRows !== producedRecords) problems.push(`Bronze: expected the ${thousands(producedRecords)} records that were acknowledged, found ${thousands(bronzeRows)}`);
  const expected: Record<string, number> = {};
  for (const { errorType } of badRecords) expected[errorType] = (expected[errorType] ?? 0) + 1;
  for (const [type, count] of Object.entries(expected)) {
    if (dlq[type] !== count) problems.push(`DLQ: expected the ${count} records of ${type} that were made, found ${dlq[type] ?? 0}`);
  }
  const truth = captureResults.flatMap(({ simulator }) => simulator);
  if (truth.length > 0) {
    const distinct = sum(truth.map(({ trades }) => trades));
    const goldRows = sum(audit.gold.map(({ rows }) => rows));
    if (goldRows !== distinct) problems.push(`Gold: expected the ${thousands(distinct)} different trades that the simulator made, found ${thousands(goldRows)}`);
  }
  for (const [source, state] of Object.entries(states)) {
    for (const { batch, cause } of state.failed) problems.push(`micro-batch ${batch} of ${source} failed: ${cause}`);
  }
  return problems;
};

const resultOf = (config: Config, outcome: DemoOutcome, pageUrl: string): DemoResult => {
  const { audit, states, locations, peaks } = outcome;
  const freshness = totalsOf(states).reduce((sum, totals) => mergeFreshness(sum, totals.freshness), {});
  const problems = problemsOf(outcome);
  return {
    ok: problems.length === 0,
    problems,
    rows: Object.fromEntries(audit.tables.map(({ table: name, rows }) => [name, rows])),
    dlq: outcome.dlq,
    duplicates: audit.gold.reduce((sum, { duplicates }) => sum + duplicates, 0),
    freshness_ms: { p50: freshnessQuantile(freshness, 0.5), p99: freshnessQuantile(freshness, 0.99) },
    peak_rss_bytes: peaks,
    tables: locations,
    s3: {
      endpoint: config.s3.endpoint, region: config.s3.region, bucket: config.s3.bucket,
      access_key_id: config.s3.accessKeyId, secret_access_key: config.s3.secretAccessKey,
    },
    page: pageUrl,
    temporal_ui: config.temporal.uiUrl,
    temporal_address: config.temporal.address,
    kafka_brokers: config.kafka.brokers.join(','),
    schema_registry: config.schemaRegistry.url,
  };
};

/** Prints the outcome; true if the law held. */
const print = (run: DemoRun, config: Config, outcome: DemoOutcome): boolean => {
  const { options } = run;
  const { audit, badRecords } = outcome;
  const result = resultOf(config, outcome, run.pageUrl);
  const people = options.json ? process.stderr : process.stdout;
  const lines: string[] = [''];
  lines.push(table(['source', 'Kafka', 'Bronze', 'Silver', 'DLQ'], audit.sources.map((source) => [
    source.source, source.topicPartitions.reduce((sum, { logStart, logEnd }) => sum + Number(BigInt(logEnd ?? 0) - BigInt(logStart ?? 0)), 0),
    source.bronzeRows, source.silverRows, source.dlqRows,
  ])));
  lines.push('', table(['Gold table', 'rows', 'from Silver rows', 'duplicates removed'], audit.gold.map((gold) => [gold.table, gold.rows, gold.silverRows, gold.duplicates])));
  const types = Object.entries(result.dlq).sort(([, a], [, b]) => b - a);
  if (types.length > 0) lines.push('', table(['DLQ by error type', 'rows'], types));
  if (badRecords.length > 0) lines.push(`(${badRecords.length} bad records were put among the trades on purpose)`);
  lines.push('', `Kafka to Gold: p50 ${milliseconds(result.freshness_ms.p50)}, p99 ${milliseconds(result.freshness_ms.p99)}. The whole flow took ${outcome.seconds.toFixed(1)} s, audit included.`);
  lines.push('', table(['process', 'peak memory'], Object.entries(result.peak_rss_bytes).map(([name, bytes]) => [name, megabytes(bytes)])));
  lines.push('', result.ok
    ? `The conservation law holds: every offset of Kafka is in Bronze once, every Bronze row in Silver or the DLQ once, every key in Gold once (audited in ${(audit.durationMs / 1000).toFixed(1)} s).`
    : `THE CONSERVATION LAW IS BROKEN\n${result.problems.map((problem) => `  ${problem}`).join('\n')}`);
  if (options.keep) {
    const gold = result.tables[audit.gold[0]!.table];
    const endpoint = new URL(config.s3.endpoint ?? 'https://s3.amazonaws.com');
    lines.push(
      '', 'Everything is left running:', `  operator's page  ${run.pageUrl}`, `  Temporal Web UI  ${config.temporal.uiUrl ?? config.temporal.address}`,
      ...run.processes.flatMap((one) => {
        const http = one.lastEvent(hasEvent('ready'))?.['http'];
        return typeof http === 'string' && one.pid !== undefined ? [`  metrics          ${http}/metrics (${one.name})`] : [];
      }),
      `  lake             ${config.s3.endpoint ?? 'S3'}, bucket ${config.s3.bucket}, warehouse/${goldNamespace(gold)}`,
      `  DuckDB           INSTALL httpfs; LOAD httpfs; INSTALL iceberg; LOAD iceberg;`,
      `                   CREATE SECRET (TYPE s3, KEY_ID '${config.s3.accessKeyId}', SECRET '${config.s3.secretAccessKey}', REGION '${config.s3.region}', ENDPOINT '${endpoint.host}', URL_STYLE 'path', USE_SSL ${endpoint.protocol === 'https:'});`,
      `                   SELECT exchange, symbol, count(*) AS trades, sum(price * quantity) AS notional FROM iceberg_scan('${gold}') GROUP BY ALL ORDER BY trades DESC;`,
      `  the streams      source ${environmentFile(options)} && npm run status`,
      `  logs             ${options.folder}`,
      '  stop it          npm run demo -- --stop',
    );
  } else {
    lines.push('', 'Look around yourself: npm run demo -- --keep leaves the Temporal Web UI, the lake and all processes running.');
  }
  people.write(`${lines.join('\n')}\n`);
  if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
  return result.ok;
};

const goldNamespace = (location: string | undefined): string => {
  const match = /\/warehouse\/([^/]+)\//.exec(location ?? '');
  invariant(match, () => `no namespace in the table location ${location}`);
  return match[1]!;
};
