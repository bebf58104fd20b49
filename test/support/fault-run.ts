import { randomUUID } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ScriptProcess } from '../../scripts/wire/child-process.ts';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import type { Exchange } from '../../src/capture/feed.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { createRandom } from '../../src/capture/random.ts';
import type { Random } from '../../src/capture/random.ts';
import type { TradeSink } from '../../src/capture/trade-sink.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import { microBatchWorkflowId } from '../../src/contracts/micro-batch.ts';
import { streamWorkflowId } from '../../src/contracts/stream.ts';
import { fetchOffsetBounds } from '../../src/kafka/topics.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import type { Stack, StackEndpoints } from '../../src/stack/index.ts';
import { crashEnvironment } from './crash-point.ts';
import type { CrashPoint } from './crash-point.ts';
import { startHttpFaultProxy, startTcpFaultProxy } from './fault-proxy.ts';
import type { HttpFault, HttpFaultProxy, TcpFaultProxy } from './fault-proxy.ts';
import { startPipelineOn } from './pipeline-processes.ts';
import type { RunningPipeline } from './pipeline-processes.ts';

/** Kills go on all the time, of each process by itself; the other faults follow one another beside them. */
export const killKinds = ['kill-streaming-worker', 'kill-temporal-worker'] as const;
export type KillKind = (typeof killKinds)[number];

export const faultKinds = [
  'kill-both', 'stop-streaming-worker', 'stop-temporal-worker', 'rebalance',
  's3-faults', 's3-lost-answers', 's3-away', 's3-full', 's3-slow',
  'temporal-away', 'temporal-lost-answers', 'temporal-slow', 'registry-away',
  'reset-stream', 'reset-micro-batch', 'terminate-stream',
  'temporal-restart', 'kafka-restart', 'kafka-stop',
] as const;
export type FaultKind = (typeof faultKinds)[number];

/** They strike a server itself: only where the servers are the run's own. */
export const serverFaults: readonly FaultKind[] = ['temporal-restart', 'kafka-restart', 'kafka-stop'];

export interface FaultRunOptions {
  endpoints: StackEndpoints;
  /** Absent: the servers are shared with others, and none of {@link serverFaults} is allowed. */
  servers?: Stack['servers'];
  seed: number;
  /** Kills until the faults end; where only other faults were asked for, so many of those. */
  kills: number;
  only?: readonly (KillKind | FaultKind)[];
  /** Trades a second and exchange while the faults last. */
  rate?: number;
  /** Longest sleep (SIGSTOP) of a streaming worker in ms, from 2 s on; long ones are rare. Default 8 s. */
  sleepMsMax?: number;
  /** Once everything is healed: how long Gold may stand still before all is merged. */
  stallMsMax?: number;
  onProgress?: (line: string) => void;
  signal?: AbortSignal;
}

export interface FaultRunResult {
  seed: number;
  ok: boolean;
  /** Why not, one line each. */
  problems: string[];
  /** Every SIGKILL of a process of the project, by where it struck. */
  kills: Record<string, number>;
  /** Every other fault, by kind. */
  faults: Record<string, number>;
  /** Requests to S3 and the registry that were struck, by what befell them. */
  struck: Record<string, number>;
  /** Acknowledged by Kafka, repetitions and bad records included. */
  records: number;
  trades: number;
  goldRows: number;
  /** Trades that Gold lacks, or offsets that Bronze lacks, whichever is more; and what is there too often. */
  lost: number;
  twice: number;
  seconds: number;
  /** From the last fault until Gold covered everything. */
  healSeconds: number;
  logs: string | null;
}

export const killsOf = ({ kills }: FaultRunResult): number => Object.values(kills).reduce((sum, count) => sum + count, 0);

interface Life {
  /** For the report. */
  name: string;
  point?: CrashPoint;
  /** Killed then, if it still lives. */
  afterMs: number;
}

const table = (names: string): string => `/(${names})_[a-z_]+`;
const version = (names: string): string => `${table(names)}/metadata/v\\d+\\.metadata\\.json`;
const hint = (names: string): string => `${table(names)}/metadata/version-hint\\.text`;
type NamedPoint = Omit<CrashPoint, 'at' | 'nth'> & { name: string; nthMax: number };

const streamingPoints: readonly NamedPoint[] = [
  { name: 'claim', call: 'grpc', match: 'ExecuteMultiOperation$', nthMax: 3 },
  { name: 'file write', call: 'put', match: `${table('bronze')}/data/`, nthMax: 8 },
  { name: 'signal', call: 'grpc', match: 'SignalWorkflowExecution$', nthMax: 3 },
  { name: 'ledger query', call: 'grpc', match: 'QueryWorkflow$', nthMax: 3 },
  { name: 'offset commit', call: 'kafka', match: '8', nthMax: 1 },
  { name: 'fetch', call: 'kafka', match: '1', nthMax: 12 },
  { name: 'group join', call: 'kafka', match: '11', nthMax: 2 },
];
const temporalPoints: readonly NamedPoint[] = [
  { name: 'Bronze manifest', call: 'put', match: `${table('bronze')}/metadata/.*\\.avro`, nthMax: 4 },
  { name: 'Bronze version', call: 'put', match: version('bronze'), nthMax: 4 },
  { name: 'Bronze hint', call: 'put', match: hint('bronze'), nthMax: 4 },
  { name: 'Silver file', call: 'put', match: `${table('silver')}/data/`, nthMax: 4 },
  { name: 'staged batch', call: 'put', match: '/staging/', nthMax: 2 },
  { name: 'Silver version', call: 'put', match: version('silver'), nthMax: 3 },
  { name: 'Silver hint', call: 'put', match: hint('silver'), nthMax: 3 },
  { name: 'DLQ version', call: 'put', match: '/silver_dlq_trades/metadata/v\\d+', nthMax: 2 },
  { name: 'DLQ hint', call: 'put', match: '/silver_dlq_trades/metadata/version-hint', nthMax: 2 },
  { name: 'Gold file', call: 'put', match: `${table('gold')}/data/`, nthMax: 4 },
  { name: 'Gold version', call: 'put', match: version('gold'), nthMax: 2 },
  { name: 'Gold hint', call: 'put', match: hint('gold'), nthMax: 2 },
];

/** A step by the name that reports give it, e.g. `after signal`. */
export const crashPointNamed = (name: string, nth = 1): CrashPoint => {
  const [at, ...rest] = name.split(' ');
  const found = [...streamingPoints, ...temporalPoints].find((point) => point.name === rest.join(' '));
  if (!found || (at !== 'before' && at !== 'after')) throw new Error(`no step ${name}`);
  return { at, call: found.call, match: found.match, nth };
};

const between = (random: Random, min: number, max: number): number => min + random.below(max - min + 1);
const pick = <T>(random: Random, among: readonly T[]): T => among[random.below(among.length)]!;

const planLife = (random: Random, points: readonly NamedPoint[], startMs: number): Life => {
  const roll = random.unit();
  if (roll < 0.7) {
    const { name, call, match, nthMax } = pick(random, points);
    const at = random.below(2) === 0 ? 'before' : 'after';
    return { name: `${at} ${name}`, point: { at, call, match, nth: between(random, 1, nthMax) }, afterMs: startMs + 12_000 };
  }
  // Now and then time to work something off, so that later steps are reached too.
  return { name: 'any moment', afterMs: roll > 0.93 ? startMs + 12_000 : between(random, 300, startMs + 5_000) };
};

const symbols: Record<Exchange, string[]> = { binance: ['BTCUSDT', 'ETHUSDT', 'SOLUSDT'], kraken: ['BTC/USD', 'ETH/USD', 'XRP/EUR'] };

/** Trades with repetitions without pause, in loads of their own seeds; the truth is counted where they are written. */
const feed = async (running: RunningPipeline, seed: number, rate: number, stop: AbortSignal): Promise<{ trades: number; records: number }> => {
  const keys = new Set<string>();
  let records = 0;
  await running.withSink(async (sink) => {
    const counted: TradeSink = {
      ...sink,
      write: async (exchange, trades) => {
        for (const trade of trades) {
          keys.add('trade_id' in trade ? `${trade.symbol} ${trade.trade_id}` : `${trade.pair} ${trade.native_id}`);
          records += 1;
        }
        await sink.write(exchange, trades);
      },
    };
    const one = async (exchange: Exchange, first: number): Promise<void> => {
      for (let load = first; !stop.aborted; load += 2) {
        await loadGeneratedTrades({ sink: counted, exchange, seed: seed * 1_000 + load, trades: rate, rate, symbols: symbols[exchange], repeatRatio: 0.05 });
      }
    };
    await Promise.all([one('binance', 0), one('kraken', 1)]);
  });
  return { trades: keys.size, records };
};

/**
 * One run: a pipeline of its own works while kills and faults follow the schedule that the seed gives; then everything
 * heals, all must be merged within the time, and the audit must find nothing.
 */
export const runFaults = async (options: FaultRunOptions): Promise<FaultRunResult> => {
  const { endpoints, servers, seed, kills: killsWanted, rate = 400, sleepMsMax = 8_000, stallMsMax = 150_000, onProgress = () => {}, signal } = options;
  const startedMs = Date.now();
  const wanted = new Set<KillKind | FaultKind>(options.only ?? [...killKinds, ...faultKinds.filter((kind) => servers || !serverFaults.includes(kind))]);
  const random = createRandom(seed);
  const kills: Record<string, number> = {};
  const faults: Record<string, number> = {};
  const problems: string[] = [];
  const say = (line: string): void => onProgress(`[${((Date.now() - startedMs) / 1_000).toFixed(1)} s] ${line}`);
  const total = (counts: Record<string, number>): number => Object.values(counts).reduce((sum, count) => sum + count, 0);
  const killing = killKinds.some((kind) => wanted.has(kind));
  let over = false;
  const isOver = (): boolean => over ||= signal?.aborted === true || total(killing ? kills : faults) >= killsWanted;

  const s3 = await startHttpFaultProxy(endpoints.s3.endpoint);
  const registry = await startHttpFaultProxy(endpoints.schemaRegistry.url);
  const temporal = await startTcpFaultProxy(endpoints.temporal.address);
  const lives = new Map<string, Life>();
  const killers: Record<string, { kind: KillKind; random: Random; points: readonly NamedPoint[]; startMs: number }> = {
    'streaming-worker': { kind: 'kill-streaming-worker', random: createRandom(seed * 7 + 1), points: streamingPoints, startMs: 2_000 },
    'temporal-worker': { kind: 'kill-temporal-worker', random: createRandom(seed * 7 + 2), points: temporalPoints, startMs: 4_000 },
  };
  let running: RunningPipeline | undefined;
  const processOf = (name: string): ScriptProcess | undefined => (name === 'temporal-worker' ? running?.temporalWorker : running?.streamingWorker);
  const killNow = ({ name, pid }: ScriptProcess): void => {
    if (pid === undefined) return;
    lives.set(name, { name: 'any moment', afterMs: 0 });
    process.kill(pid, 'SIGKILL');
  };
  const beforeLife = (name: string): Record<string, string> => {
    const killer = killers[name];
    if (!killer || !wanted.has(killer.kind) || isOver()) return {};
    const life = planLife(killer.random, killer.points, killer.startMs);
    lives.set(name, life);
    setTimeout(() => {
      const target = processOf(name);
      if (lives.get(name) === life && target && !isOver()) killNow(target);
    }, life.afterMs);
    return life.point ? crashEnvironment(life.point) : {};
  };
  const onRestart = (name: string, how: string): void => {
    const where = `${name}: ${how === 'SIGKILL' ? lives.get(name)?.name ?? 'any moment' : how}`;
    lives.delete(name);
    if (how === 'SIGKILL') kills[where] = (kills[where] ?? 0) + 1;
    else faults[where] = (faults[where] ?? 0) + 1;
    say(`${where} (${total(kills)} kills)`);
  };
  const stopped: { feed: AbortController } = { feed: new AbortController() };
  let feeding: ReturnType<typeof feed> | undefined;
  let healSeconds = 0;
  const closeProxies = (): Promise<unknown> => Promise.all([s3.close(), registry.close(), temporal.close()]);
  try {
    running = await startPipelineOn(endpoints, {
      environment: { FLUSH_INTERVAL_MS: '300', FLUSH_ROWS: '400', BATCH_ROWS_MAX: '10000', REFINE_THREADS: '1', CONSUMER_SESSION_TIMEOUT_MS: '3000', LOG_LEVEL: 'warn' },
      processEndpoints: {
        ...endpoints, s3: { ...endpoints.s3, endpoint: s3.url }, schemaRegistry: { url: registry.url }, temporal: { ...endpoints.temporal, address: temporal.address },
      },
      beforeLife, onRestart,
    });
    feeding = feed(running, seed, rate, stopped.feed.signal);
    // A failure is told where it is awaited.
    feeding.catch(() => undefined);
    const { config } = running;
    const bad = await produceBadRecords({
      brokers: config.kafka.brokers, registry: createRegistryClient({ url: config.schemaRegistry.url }), exchange: 'binance', topicPrefix: config.kafka.topicPrefix, seed: 99,
    });

    const context: FaultContext = { running, random, s3, registry, temporal, servers, sleepMsMax, say, killNow };
    const others = faultKinds.filter((kind) => wanted.has(kind));
    while (!isOver()) {
      await sleep(between(random, 200, 1_200));
      if (others.length === 0 || isOver()) continue;
      const kind = pick(random, others);
      say(kind);
      faults[kind] = (faults[kind] ?? 0) + 1;
      try {
        await strike[kind](context);
      } catch (error) {
        // A fault that could not be made (a server that is away already answers no Reset) is no fault of the pipeline.
        say(`${kind}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    say('healing');
    const healingMs = Date.now();
    stopped.feed.abort();
    const truth = await feeding;
    let isMerged = true;
    try {
      await running.untilMerged(stallMsMax);
    } catch (error) {
      isMerged = false;
      problems.push(error instanceof Error ? error.message : String(error), ...await stateLines(running));
    }
    healSeconds = (Date.now() - healingMs) / 1_000;
    say('audit');
    const report = await running.audit();
    const bounds = await fetchOffsetBounds(config.kafka.brokers, running.topics);
    const records = Object.values(bounds).reduce((sum, { low, high }) => sum + Number(high - low), 0);
    const judged = judge(report, { ...truth, records: truth.records + bad.length }, records, isMerged);
    problems.push(...judged.problems);
    const ok = problems.length === 0;
    const logs = ok ? null : running.folder;
    await running.stop({ keepLogs: !ok });
    running = undefined;
    return {
      seed, ok, problems, kills, faults, struck: mergeCounts(s3.struck, registry.struck), records, trades: truth.trades, ...judged.figures,
      seconds: (Date.now() - startedMs) / 1_000, healSeconds, logs,
    };
  } finally {
    over = true;
    stopped.feed.abort();
    await feeding?.catch(() => undefined);
    await running?.stop({ keepLogs: true }).catch(() => undefined);
    await closeProxies();
  }
};

const mergeCounts = (...all: Readonly<Record<string, number>>[]): Record<string, number> => {
  const sum: Record<string, number> = {};
  for (const counts of all) for (const [name, count] of Object.entries(counts)) sum[name] = (sum[name] ?? 0) + count;
  return sum;
};

/** The audit's verdict, and the truth of the feed beside it. */
const judge = (audit: AuditReport, truth: { trades: number; records: number }, atBroker: number, isMerged: boolean): { problems: string[]; figures: { goldRows: number; lost: number; twice: number } } => {
  const problems = audit.findings.slice(0, 20).map(({ promise, subject, topic, partition, startOffset, endOffset, detail }) =>
    `${promise} ${subject}${topic === null ? '' : ` ${topic}/${partition} [${startOffset}, ${endOffset})`}: ${detail}`);
  if (!audit.ok && problems.length === 0) problems.push('the audit is not ok');
  const bronzeRows = audit.sources.reduce((sum, source) => sum + source.bronzeRows, 0);
  const goldRows = audit.gold.reduce((sum, { rows }) => sum + rows, 0);
  if (truth.records !== atBroker) problems.push(`Kafka: expected the ${truth.records} records that were acknowledged, found ${atBroker}`);
  if (bronzeRows !== atBroker) problems.push(`Bronze: expected ${atBroker} rows, found ${bronzeRows}`);
  // What is not merged yet is late, not lost: the audit tells whether what is merged is right.
  const missing = isMerged ? truth.trades - goldRows : 0;
  if (isMerged && goldRows !== truth.trades) problems.push(`Gold: expected ${truth.trades} different trades, found ${goldRows}`);
  return { problems, figures: { goldRows, lost: Math.max(0, atBroker - bronzeRows, missing), twice: Math.max(0, bronzeRows - atBroker, goldRows - truth.trades) } };
};

const stateLines = async (running: RunningPipeline): Promise<string[]> => {
  const lines: string[] = [];
  for (const { source } of running.pipeline.datasets) {
    try {
      const { phase, topicPartitions, open, running: batches, failed } = await running.state(source);
      lines.push(`  ${source}: ${JSON.stringify({ phase, topicPartitions, open, batches, failed })}`);
    } catch (error) {
      lines.push(`  ${source}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  for (const name of ['streaming-worker', 'temporal-worker']) {
    const log = await readFile(`${running.folder}/${name}.log`, 'utf8').catch(() => '');
    lines.push(...log.trimEnd().split('\n').slice(-8).map((line) => `  ${name}: ${line.slice(0, 400)}`));
  }
  return lines;
};

interface FaultContext {
  running: RunningPipeline;
  random: Random;
  s3: HttpFaultProxy;
  registry: HttpFaultProxy;
  temporal: TcpFaultProxy;
  servers: Stack['servers'] | undefined;
  sleepMsMax: number;
  say(line: string): void;
  killNow(target: ScriptProcess): void;
}

/** Stops a process or a server for a while, and always wakes it again. */
const suspend = async (pid: number | undefined, milliseconds: number): Promise<void> => {
  if (pid === undefined) return;
  process.kill(pid, 'SIGSTOP');
  await sleep(milliseconds);
  try {
    process.kill(pid, 'SIGCONT');
  } catch {
    // Killed while it slept.
  }
};

const strikeRequests = async (proxy: HttpFaultProxy, milliseconds: number, fault: () => HttpFault | undefined): Promise<void> => {
  proxy.onRequest = fault;
  await sleep(milliseconds);
  proxy.onRequest = undefined;
};

const beAway = async (proxy: Pick<HttpFaultProxy, 'leave' | 'back'>, milliseconds: number): Promise<void> => {
  proxy.leave();
  await sleep(milliseconds);
  proxy.back();
};

/** As the Web UI does it: back to one of the Workflow Tasks that were completed, whichever the seed says. */
export const resetWorkflow = async ({ temporal, config }: RunningPipeline, workflowId: string, random: Random): Promise<void> => {
  const handle = temporal.workflow.getHandle(workflowId);
  const { runId } = await handle.describe();
  const { events } = await temporal.workflow.getHandle(workflowId, runId).fetchHistory();
  const completed = (events ?? []).filter(({ workflowTaskCompletedEventAttributes }) => workflowTaskCompletedEventAttributes).map(({ eventId }) => eventId!);
  if (completed.length === 0) return;
  await temporal.workflowService.resetWorkflowExecution({
    namespace: config.temporal.namespace,
    workflowExecution: { workflowId, runId },
    workflowTaskFinishEventId: pick(random, completed),
    reason: 'fault run',
    requestId: randomUUID(),
  });
};

const anySource = ({ running, random }: FaultContext): string => pick(random, running.pipeline.datasets).source;

const strike: Record<FaultKind, (context: FaultContext) => Promise<void>> = {
  'kill-both': async ({ running, killNow }) => {
    for (const one of [running.streamingWorker, running.temporalWorker]) killNow(one);
  },
  'stop-streaming-worker': ({ running, random, sleepMsMax }) => suspend(running.streamingWorker.pid, Math.round(2_000 * (sleepMsMax / 2_000) ** random.unit())),
  'stop-temporal-worker': ({ running, random }) => suspend(running.temporalWorker.pid, between(random, 2_000, 12_000)),
  'rebalance': async ({ running, random, say }) => {
    const second = running.startProcess('second-streaming-worker', 'run-streaming-worker.ts');
    await sleep(between(random, 3_000, 8_000));
    if (random.below(2) === 0) {
      // A zombie: it sleeps past its session, the others take over, and it wakes with files that it believes in.
      say('the second streaming worker sleeps');
      await suspend(second.pid, between(random, 3_500, 8_000));
    }
    await second.stop();
  },
  's3-faults': async ({ s3, random }) => {
    const kinds: readonly HttpFault[] = ['lostAnswer', 'cutAnswer', 'halfAnswer', 'cutRequest', 'refused', 'full', between(random, 50, 1_500)];
    const share = 0.1 + 0.4 * random.unit();
    await strikeRequests(s3, between(random, 1_000, 5_000), () => (random.unit() < share ? pick(random, kinds) : undefined));
  },
  's3-lost-answers': ({ s3, random }) => strikeRequests(s3, between(random, 500, 3_000), () => (random.unit() < 0.5 ? 'lostAnswer' : undefined)),
  's3-away': ({ s3, random }) => beAway(s3, between(random, 500, 6_000)),
  's3-full': ({ s3, random }) => strikeRequests(s3, between(random, 500, 4_000), () => 'full'),
  's3-slow': ({ s3, random }) => strikeRequests(s3, between(random, 1_000, 4_000), () => between(random, 50, 700)),
  'temporal-away': ({ temporal, random }) => beAway(temporal, between(random, 500, 6_000)),
  'temporal-lost-answers': ({ temporal, random }) => temporal.loseAnswers(sleep(between(random, 300, 2_500))),
  'temporal-slow': async ({ temporal, random }) => {
    temporal.delayMs = between(random, 20, 200);
    await sleep(between(random, 1_000, 4_000));
    temporal.delayMs = 0;
  },
  'registry-away': ({ registry, random }) => beAway(registry, between(random, 500, 6_000)),
  'reset-stream': (context) => resetWorkflow(context.running, streamWorkflowId(anySource(context)), context.random),
  'reset-micro-batch': async (context) => {
    const source = anySource(context);
    const { running, recent } = await context.running.state(source);
    const batches = [...running, ...recent].map(({ batch }) => batch);
    if (batches.length > 0) await resetWorkflow(context.running, microBatchWorkflowId(source, pick(context.random, batches)), context.random);
  },
  'terminate-stream': async (context) => {
    await context.running.temporal.workflow.getHandle(streamWorkflowId(anySource(context))).terminate('fault run');
  },
  'temporal-restart': async ({ servers }) => servers?.temporal.restart(),
  'kafka-restart': async ({ servers }) => servers?.kafka.restart(),
  'kafka-stop': ({ servers, random }) => suspend(servers?.kafka.pid, between(random, 500, 6_000)),
};
