#!/usr/bin/env node
import '../src/config/require-node.ts';
import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '@temporalio/client';
import { Option } from 'commander';
import { historyLines, inspectHistoryFile, markets, symbolOfFileName } from '../src/capture/history-file.ts';
import type { HistoryFile } from '../src/capture/history-file.ts';
import { createRecordEncoder } from '../src/capture/record-encoder.ts';
import { registerRawSchema } from '../src/capture/trade-sink.ts';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { stateQuery, streamWorkflowId } from '../src/contracts/stream.ts';
import type { StreamState } from '../src/contracts/stream.ts';
import { rawSchema } from '../src/datasets/binance-trades.ts';
import { TidemarkError, isTidemarkError } from '../src/domain/errors.ts';
import { IntervalSet } from '../src/domain/offsets.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import type { Catalog } from '../src/lake/table.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { createSchemaStore } from '../src/schema-registry/schema-store.ts';
import { importRecords } from '../src/streaming/import-records.ts';
import type { ImportedRecord, ImportOutcome } from '../src/streaming/import-records.ts';
import { createTemporalCheckpointClient } from '../src/streaming/temporal-checkpoint-client.ts';
import { createLogger } from '../src/telemetry/logger.ts';
import { ProgressLine, command, exitFailed, exitOk, milliseconds, runCommand, stopSignal, table, thousands } from './cli.ts';
import { openLake } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { connectTemporal } from './wire/temporal.ts';

interface Options {
  source: string;
  symbol?: string;
  market: string;
  wait: boolean;
  dryRun?: boolean;
  json?: boolean;
}

const program = command('import-history', 'Load Binance\'s historical trade files into the lake: CSV (plain, gzip or ZIP) or Parquet, with the columns id, price, qty, quote_qty, time, is_buyer_maker.')
  .argument('<file...>', 'The files, one after the other')
  .option('--source <name>', 'The source whose tables they go to', 'binance-trades')
  .option('--symbol <symbol>', 'Default: from the name of the file, as in BTCUSDT-trades-2023-10-01.csv')
  .addOption(new Option('--market <market>', 'Whose trades they are: ids of different markets have nothing to do with each other').choices(markets).default('spot'))
  .option('--no-wait', 'Do not wait until they are in Gold: micro-batches follow all the same')
  .option('--dry-run', 'Read the files, print what they hold, and change nothing')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', '\nA file becomes the Bronze rows of the topic import/<checksum>, offset = line; lines that are no trades go the same way into the DLQ, with their bytes.'
    + '\nImporting a file twice changes nothing, and one that was interrupted goes on. Trades that came live too are duplicates, and Gold keeps one of each.'
    + `\nExit code: 0 when all is in the lake, 1 if a micro-batch over it failed, 2 for a bad command line or a file that is none of trades.\n\n${environmentHelp()}`);

const pollMs = 500;
const topicOf = ({ checksum }: HistoryFile): string => `import/${checksum.slice(0, 32)}`;

interface Imported extends ImportOutcome {
  topic: string;
  file: HistoryFile;
  /** Null: not waited for. */
  inGold: boolean | null;
  durationMs: number;
}

/** What an import was, for people: nothing reads it back. */
const keepRecord = async (store: ObjectStore, file: HistoryFile): Promise<void> => {
  try {
    const { path: _path, ...facts } = file;
    await store.put(`${topicOf(file).replace(/^import\//, 'imports/')}.json`, JSON.stringify({ topic: topicOf(file), name: file.path.split('/').at(-1), ...facts, importedAt: new Date().toISOString() }), { condition: 'absent', contentType: 'application/json' });
  } catch (error) {
    if (!isTidemarkError(error, 'PRECONDITION_FAILED')) throw error;
  }
};

const when = (ms: number | null): string => (ms === null ? '–' : new Date(ms).toISOString().slice(0, 19));

await runCommand<Options>(program, async ({ source, symbol, market, wait, dryRun, json }, paths) => {
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  const dataset = pipeline.datasets.find((one) => one.source === source);
  if (!dataset || dataset.rawSchema.name !== rawSchema.name) {
    throw new TidemarkError('BAD_INPUT', `--source: expected a source of ${rawSchema.name} records (${pipeline.datasets.filter((one) => one.rawSchema.name === rawSchema.name).map((one) => one.source).join(', ')}), found ${source}`);
  }
  const signal = stopSignal();
  const log = createLogger('import-history', config.logLevel);
  const progress = new ProgressLine();
  const files: HistoryFile[] = [];
  for (const path of paths) {
    const name = symbol ?? symbolOfFileName(path);
    if (name === undefined) throw new TidemarkError('BAD_INPUT', `${path}: expected a name such as BTCUSDT-trades-2023-10-01.csv, or --symbol`);
    files.push(await inspectHistoryFile(path, { market, symbol: name }, (lines) => {
      signal.throwIfAborted();
      progress.show(`Reading ${path}: ${thousands(lines)} lines`);
    }));
  }
  for (const { path, bad, problems } of files) {
    if (bad === 0) continue;
    process.stderr.write(`import-history: ${path}: ${thousands(bad)} lines are no trades and go to the DLQ${problems.map(({ line, problem }) => `\n  line ${thousands(line + 1)}: ${problem}`).join('')}\n`);
  }
  if (dryRun) {
    if (json) process.stdout.write(`${JSON.stringify({ dryRun: true, files: files.map((file) => ({ topic: topicOf(file), ...file })) })}\n`);
    else process.stdout.write(`${table(['file', 'symbol', 'market', 'trades', 'bad lines', 'first', 'last', 'topic'], files.map((file) => [file.path, file.symbol, file.market, file.trades, file.bad, when(file.firstTimeMs), when(file.lastTimeMs), topicOf(file)]))}\n`);
    return exitOk;
  }

  const [lake, connection] = await Promise.all([openLake(config, pipeline), connectTemporal(config)]);
  try {
    const client = new Client({ connection, namespace: config.temporal.namespace });
    const registry = createRegistryClient({ url: config.schemaRegistry.url });
    const schemaId = await registerRawSchema(registry, 'binance', config.kafka.topicPrefix);
    await createSchemaStore({ store: lake.store, registry }).keep(schemaId, JSON.stringify(rawSchema));
    const checkpoints = createTemporalCheckpointClient({ client, taskQueue: config.temporal.taskQueue });
    const done: Imported[] = [];
    for (const file of files) {
      const startedMs = Date.now();
      const topic = topicOf(file);
      const encode = createRecordEncoder(rawSchema, schemaId);
      const key = Buffer.from(file.symbol);
      await keepRecord(lake.store, file);
      const outcome = await importRecords({
        source, topic, endOffset: file.lines, owner: `import/${hostname()}/${process.pid}/${randomUUID().slice(0, 8)}`, bronze: dataset.bronze,
        catalog: lake.catalog, store: lake.store, checkpoints, log, budgetBytes: config.streaming.bufferBudgetBytes,
        flush: { rowsMax: config.streaming.flushRows, bytesMax: config.streaming.flushBytes }, signal,
        async* records(from): AsyncGenerator<ImportedRecord[]> {
          let seen = from;
          for await (const lines of historyLines(file.path, file, file, from)) {
            seen = lines.at(-1)!.line + 1;
            yield lines.map((line) => ({ offset: line.line, key: line.trade ? key : null, value: line.trade ? encode(line.trade) : line.bytes }));
          }
          if (seen !== file.lines) throw new TidemarkError('BAD_INPUT', `${file.path}: expected ${file.lines} lines, found ${seen}: it changed while it was imported`);
        },
        onProgress: ({ read, accepted }) => progress.show(`Importing ${file.path}: ${thousands(read)} of ${thousands(file.lines)} lines read, ${thousands(accepted)} durable`),
      });
      const inGold = wait ? await untilInGold(lake.catalog, client, dataset.gold.name, source, `${topic}/0`, file.lines, signal, progress) : null;
      done.push({ topic, file, inGold, durationMs: Date.now() - startedMs, ...outcome });
      progress.done(`${file.path}: ${outcome.status === 'alreadyThere' ? 'is in the lake already' : `${thousands(outcome.rows)} rows into ${thousands(outcome.files)} Bronze files`}${inGold === null ? '' : inGold ? ', and through to Gold' : ', but a micro-batch over it failed: see npm run status'}`);
    }
    if (json) process.stdout.write(`${JSON.stringify({ files: done.map(({ file: { path, symbol: name, market: of, lines, trades, bad }, ...rest }) => ({ path, symbol: name, market: of, lines, trades, bad, ...rest })) })}\n`);
    else process.stdout.write(`${table(['file', 'trades', 'bad lines', 'status', 'took', 'topic'], done.map(({ file, topic, status, durationMs }) => [file.path, file.trades, file.bad, status === 'alreadyThere' ? 'was there' : 'imported', milliseconds(durationMs), topic]))}\n`);
    return done.some(({ inGold }) => inGold === false) ? exitFailed : exitOk;
  } finally {
    lake.store.close();
    await connection.close();
  }
});

/** False: a micro-batch over it failed for good. */
async function untilInGold(
  catalog: Pick<Catalog, 'load'>, client: Client, gold: string, source: string, topicPartition: string, lines: number, signal: AbortSignal, progress: ProgressLine,
): Promise<boolean> {
  const wanted = IntervalSet.of({ start: 0n, end: BigInt(lines) });
  for (;;) {
    signal.throwIfAborted();
    const { coverage } = await catalog.load(gold);
    const merged = coverage.of(topicPartition).intersect(wanted);
    if (merged.contains(wanted)) return true;
    const state = await client.workflow.getHandle(streamWorkflowId(source)).query<StreamState>(stateQuery).catch(() => null);
    if (state?.failed.some(({ intervals }) => topicPartition in intervals)) return false;
    progress.show(`In Gold: ${thousands(merged.size)} of ${thousands(lines)} lines`);
    await sleep(pollMs);
  }
}
