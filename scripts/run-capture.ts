#!/usr/bin/env node
import '../src/config/require-node.ts';
import { appendFileSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { InvalidArgumentError } from 'commander';
import { runCapture } from '../src/capture/capture.ts';
import type { CaptureCounts, UnparsableFrame } from '../src/capture/capture.ts';
import { captureFileSource } from '../src/capture/capture-file.ts';
import { simulationOverCode } from '../src/capture/exchange-simulator.ts';
import type { ExchangeSimulator, FeedTruth } from '../src/capture/exchange-simulator.ts';
import { startExchangeSimulatorThread } from '../src/capture/exchange-simulator-thread.ts';
import type { FrameSource } from '../src/capture/frame-source.ts';
import { socketSource } from '../src/capture/socket-source.ts';
import { subscriptionOf } from '../src/capture/subscription.ts';
import { createKafkaTradeSink, rawTopicOf } from '../src/capture/trade-sink.ts';
import { loadConfig } from '../src/config/config.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { createRecordProducer } from '../src/kafka/producer.ts';
import { ensureTopics } from '../src/kafka/topics.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { createCaptureMetrics } from '../src/telemetry/capture-metrics.ts';
import { ProgressLine, command, exitOk, runCommand, stopSignal, table, thousands, wholeNumber } from './cli.ts';
import { startTelemetry } from './wire/telemetry.ts';

interface Options {
  exchange?: string;
  market?: string;
  feed?: string;
  symbol?: string[];
  url?: string;
  input?: string[];
  simulate?: boolean;
  trades: number;
  seed: number;
  dropEvery?: number;
  duplicates: number;
  rubbish: number;
  rate?: number;
  limit?: number;
  loop?: boolean;
  record?: string;
  unparsable: string;
  partitions: number;
  json?: boolean;
}

const share = (text: string): number => {
  const value = Number(text);
  if (text.trim() === '' || !(value >= 0 && value <= 1)) throw new InvalidArgumentError('Expected a number from 0 to 1.');
  return value;
};
const collect = (value: string, values: string[] = []): string[] => [...values, value];

/** The most that a count on the command line may be. */
const countMax = 1_000_000_000;

const program = command('run-capture', 'Take trades out of exchange frames and produce them to the raw topic of their exchange, as Avro in Confluent wire format.\nOne source: a live websocket (--exchange), capture files (--input), or the exchange simulator (--simulate).')
  .option('--exchange <name>', 'binance or kraken: live, or the one that the simulator speaks as (default: binance)')
  .option('--market <name>', 'binance: spot, usdm, coinm, us; kraken: spot, futures (default: spot)')
  .option('--feed <name>', 'binance: trade, aggTrade; kraken spot: v1, v2 (default: trade, v2)')
  .option('--symbol <name>', 'Symbol as the exchange writes it: BTCUSDT; BTC/USD; PI_XBTUSD; repeatable', collect)
  .option('--url <address>', 'Connect here instead of the exchange')
  .option('--input <file>', 'Capture file, gzip or plain; repeatable', collect)
  .option('--simulate', 'Start the exchange simulator and capture from it')
  .option('--trades <n>', 'Simulator: trades, all different', wholeNumber(1, countMax), 200_000)
  .option('--seed <n>', 'Simulator: the same seed gives the same trades', wholeNumber(0, 2 ** 32 - 1), 1)
  .option('--drop-every <n>', 'Simulator: drop the connection after this many trades, again and again', wholeNumber(1, countMax))
  .option('--duplicates <share>', 'Simulator: share of the trades that come again after the drops', share, 0)
  .option('--rubbish <n>', 'Simulator: frames that nobody can read', wholeNumber(0, countMax), 0)
  .option('--rate <n>', 'Most trades a second', wholeNumber(1, countMax))
  .option('--limit <n>', 'End after this many trades', wholeNumber(1, countMax))
  .option('--loop', 'Capture files: from the beginning again, until Ctrl-C or --limit')
  .option('--record <file>', 'Write the frames to this new capture file as well (gzip)')
  .option('--unparsable <file>', 'Frames that cannot be parsed are appended here, as JSON lines', 'out/unparsable-frames.jsonl')
  .option('--partitions <n>', 'Topic partitions of a raw topic that is created', wholeNumber(1, 10_000), 3)
  .option('--json', 'Print JSON lines: ready, and at the end stopped with all counts')
  .addHelpText('after', `
Environment:
  KAFKA_BROKERS          Kafka bootstrap brokers, host:port, comma-separated (default: 127.0.0.1:9092)
  SCHEMA_REGISTRY_URL    Base URL of the Confluent-compatible schema registry (default: http://127.0.0.1:8081)
  TIDEMARK_TOPIC_PREFIX  Put before each topic and subject

Examples:
  npm run capture -- --simulate --trades 200000 --drop-every 20000 --duplicates 0.015
  npm run capture -- --exchange kraken --symbol BTC/USD --record kraken.frames.gz
  npm run capture -- --input kraken.frames.gz --rate 5000 --loop`);

const symbolsOf = (exchange: string, market: string | undefined, feed: string | undefined): string[] => {
  if (exchange === 'binance') return market === 'coinm' ? ['BTCUSD_PERP', 'ETHUSD_PERP'] : ['BTCUSDT', 'ETHUSDT', 'SOLUSDT', 'XRPUSDT', 'DOGEUSDT'];
  if (market === 'futures') return ['PI_XBTUSD', 'PI_ETHUSD'];
  return feed === 'v1' ? ['XBT/USD', 'ETH/USD', 'SOL/USD', 'XRP/EUR'] : ['BTC/USD', 'ETH/USD', 'SOL/USD', 'XRP/EUR'];
};

/** A wrong combination of options is a bad command line. */
const checkSource = ({ input, simulate, exchange, symbol, url, loop, market, feed }: Options): void => {
  const chosen = [input && '--input', simulate && '--simulate', exchange && !simulate && '--exchange'].filter(Boolean);
  if (chosen.length !== 1) program.error(`error: expected one of --exchange, --input and --simulate, found ${chosen.length === 0 ? 'none' : chosen.join(' and ')}`);
  if (loop && !input) program.error('error: --loop needs --input');
  if (input && (symbol || url || market || feed)) program.error('error: a capture file says itself what it holds: --symbol, --market, --feed and --url go with --exchange');
  if (simulate && url) program.error('error: --simulate has its own address: --url goes with --exchange');
  if (!simulate && !input && !symbol) program.error('error: --exchange needs --symbol');
};

interface OpenSource {
  source: FrameSource;
  simulator?: ExchangeSimulator;
}

const openSource = async (options: Options): Promise<OpenSource> => {
  const { input, loop, simulate, exchange = 'binance', market, feed, url } = options;
  if (input) return { source: captureFileSource(input, { loop: loop ?? false }) };
  const request = { exchange, symbols: options.symbol ?? symbolsOf(exchange, market, feed), ...(market === undefined ? {} : { market }), ...(feed === undefined ? {} : { feed }) };
  // Before a server starts, so that a bad exchange or market is a bad command line.
  const subscription = subscriptionOf({ ...request, ...(url === undefined ? {} : { baseUrl: url }) });
  if (!simulate) return { source: socketSource(subscription) };
  const { seed, trades, rate, dropEvery, duplicates, rubbish } = options;
  const simulator = await startExchangeSimulatorThread({
    seed, trades, duplicatesRatio: duplicates, rubbishFrames: rubbish,
    ...(rate === undefined ? {} : { rate }), ...(dropEvery === undefined ? {} : { dropEveryTrades: dropEvery }),
  });
  const { urls } = simulator;
  const binanceUrls: Record<string, string> = { spot: urls.binance, usdm: urls.binanceUsdm, coinm: urls.binanceCoinm, us: urls.binanceUs };
  const krakenUrl = market === 'futures' ? urls.krakenFutures : feed === 'v1' ? urls.krakenV1 : urls.krakenV2;
  const baseUrl = exchange === 'binance' ? binanceUrls[market ?? 'spot']! : krakenUrl;
  return { simulator, source: socketSource(subscriptionOf({ ...request, baseUrl }), { overCode: simulationOverCode, backoffMs: 20, backoffMsMax: 1_000 }) };
};

/** Frames nobody could read, as JSON lines; the file is made with the first one. */
const unparsableWriter = (path: string) => {
  let isOpen = false;
  return ({ feed, receivedNs, reason, text }: UnparsableFrame): void => {
    if (!isOpen) mkdirSync(dirname(path), { recursive: true });
    isOpen = true;
    appendFileSync(path, `${JSON.stringify({ exchange: feed.exchange, market: feed.market, received_ns: receivedNs, reason, frame: text })}\n`);
  };
};

const progressOf = ({ trades, frames, produced, unparsable, connections, drops, durationMs }: CaptureCounts): string => {
  const parts = [`${thousands(frames)} frames`, `${thousands(trades)} trades`, `${thousands(produced)} produced`, `${thousands(Math.round((produced * 1_000) / Math.max(1, durationMs)))} a second`];
  if (connections > 0) parts.push(`${thousands(connections)} connections, ${thousands(drops)} dropped`);
  if (unparsable > 0) parts.push(`${thousands(unparsable)} unparsable`);
  return parts.join(' · ');
};

const summary = (counts: CaptureCounts, truth: readonly FeedTruth[], unparsableFile: string): string => {
  const kinds = table(['frames', 'count'], [...Object.entries(counts.kinds), ['unparsable', counts.unparsable] as const].map(([kind, count]) => [kind, count]));
  const offsets = table(['topic partition', 'offsets produced'], Object.entries(counts.offsets).map(([key, intervals]) => [key, intervals.replaceAll(',', ', ')]));
  const seconds = Math.max(1, counts.durationMs) / 1_000;
  const lines = [kinds, '', offsets, '', `${thousands(counts.trades)} trades in ${seconds.toFixed(1)} s, ${thousands(Math.round(counts.produced / seconds))} a second; ${thousands(counts.produced)} acknowledged`];
  if (counts.connections > 0) lines.push(`${thousands(counts.connections)} connections, ${thousands(counts.drops)} dropped`);
  for (const { exchange, market, feed, trades, repeated } of truth) lines.push(`simulator, ${exchange} ${market} ${feed}: ${thousands(trades)} different trades sent, ${thousands(repeated)} of them a second time`);
  if (counts.unparsable > 0) lines.push(`frames that could not be parsed are in ${unparsableFile}`);
  return lines.join('\n');
};

await runCommand<Options>(program, async (options) => {
  checkSource(options);
  // Capture does not touch S3: it needs no credentials.
  const config = loadConfig({ AWS_ACCESS_KEY_ID: 'unused', AWS_SECRET_ACCESS_KEY: 'unused', ...process.env });
  const signal = stopSignal();
  const { brokers, topicPrefix } = config.kafka;
  const telemetry = await startTelemetry(config, 'capture');
  const { log } = telemetry;
  const { source, simulator } = await openSource(options);
  try {
    await ensureTopics(brokers, (['binance', 'kraken'] as const).map((exchange) => ({ topic: rawTopicOf(exchange, topicPrefix).topic, partitions: options.partitions })));
    const producer = await createRecordProducer({ brokers, onLog: (level, message, fields) => log[level](fields, message) });
    try {
      const sink = createKafkaTradeSink({ producer, registry: createRegistryClient({ url: config.schemaRegistry.url }), topicPrefix, ...(telemetry.tracing ? { tracing: telemetry.tracing } : {}) });
      if (options.json) process.stdout.write(`${JSON.stringify({ event: 'ready', pid: process.pid, source: source.name, http: telemetry.http?.url ?? null })}\n`);
      else if (telemetry.http) process.stdout.write(`Capturing ${source.name}, metrics ${telemetry.http.url}/metrics\n`);
      telemetry.setReadiness(() => ({ ready: true, source: source.name }));
      const figures = createCaptureMetrics(telemetry.metrics);
      const progress = new ProgressLine();
      const counts = await runCapture({
        source, sink, signal,
        // The simulator keeps the rate itself, so that event times are those of sending.
        ...(options.rate === undefined || simulator ? {} : { rate: options.rate }),
        ...(options.limit === undefined ? {} : { tradesMax: options.limit }),
        ...(options.record === undefined ? {} : { recordTo: options.record }),
        keepUnparsable: unparsableWriter(options.unparsable),
        onProgress: (now) => {
          figures(now);
          progress.show(progressOf(now));
        },
      });
      await producer.close();
      const truth = await simulator?.truth() ?? [];
      progress.done(progressOf(counts));
      process.stdout.write(options.json ? `${JSON.stringify({ event: 'stopped', ...counts, simulator: truth })}\n` : `${summary(counts, truth, options.unparsable)}\n`);
      return exitOk;
    } catch (error) {
      await producer.abort();
      throw error instanceof Error ? error : new TidemarkError('KAFKA_UNAVAILABLE', 'capture failed', { cause: error });
    }
  } finally {
    await simulator?.stop();
    await telemetry.close();
  }
});
