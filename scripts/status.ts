#!/usr/bin/env node
import '../src/config/require-node.ts';
import { Client } from '@temporalio/client';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import type { Config } from '../src/config/config.ts';
import { stateQuery, streamWorkflowId } from '../src/contracts/stream.ts';
import type { StateQuery, StreamState } from '../src/contracts/stream.ts';
import { ingestGapsTable } from '../src/datasets/engine-tables.ts';
import type { Dataset } from '../src/datasets/dataset.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import { dlqStates } from '../src/contracts/dlq-replay.ts';
import { loadDlqRate, loadDlqStates } from '../src/dlq/rates.ts';
import type { DlqStates } from '../src/dlq/rates.ts';
import { dlqRatePercentLimits } from '../src/domain/dlq-rate.ts';
import type { DlqRate } from '../src/domain/dlq-rate.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { freshnessQuantile } from '../src/domain/freshness.ts';
import type { Archive } from '../src/retention/archive.ts';
import { measureLake, sizeByTier } from '../src/retention/lake-size.ts';
import type { StoredSize } from '../src/retention/lake-size.ts';
import { fetchOffsetBounds } from '../src/kafka/topics.ts';
import { command, exitOk, fileSize, milliseconds, runCommand, table } from './cli.ts';
import { openArchive } from './wire/retention.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import type { Lake } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { connectTemporal } from './wire/temporal.ts';

interface TopicPartitionStatus {
  topicPartition: string;
  owner: string | null;
  nextOffset: string | null;
  logEnd: string | null;
  lagRecords: number | null;
  pendingFiles: number;
  unrefinedRecords: number;
  halted: string | null;
}
interface SourceStatus {
  source: string;
  /** Null: no stream workflow runs, or it cannot be asked. */
  phase: StreamState['phase'] | null;
  problem: string | null;
  topicPartitions: TopicPartitionStatus[];
  rows: { bronze: number; silver: number; dlq: number };
  dlqByType: Record<string, number>;
  /** Of the records refined in the last hour, those that were refused. */
  dlqRate: DlqRate;
  dlqStates: DlqStates;
  batchLimit: StreamState['batchLimit'];
  /** Streaming workers that hold claims, as each last reported. */
  workers: StreamState['workers'];
  microBatches: { running: number; failed: StreamState['failed']; recent: StreamState['recent'] };
  gaps: StreamState['gaps'];
  freshnessMs: { p50: number | null; p99: number | null };
}
interface Status {
  sources: SourceStatus[];
  gold: Record<string, { rows: number }>;
  gapRows: number;
  /** By table, tier and day. */
  stored: StoredSize[];
}

const program = command('status', 'What each stream does: lag, next offsets, pending files, the last micro-batches, rows by layer, the DLQ by error type, what is stored by table and tier')
  .option('--source <name>', 'Only this source; repeatable', (name: string, names: string[] = []) => [...names, name])
  .option('--days', 'Print what is stored by day too')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\n${environmentHelp()}`);

const stateOf = async (client: Client, source: string): Promise<{ state: StreamState | null; problem: string | null }> => {
  try {
    const handle = client.workflow.getHandle(streamWorkflowId(source));
    const state = await handle.query<StreamState>(stateQuery);
    // A stream of many topic partitions answers in pages.
    while (state.topicPartitionsAfter !== null) {
      const { topicPartitions, topicPartitionsAfter } = await handle.query<StreamState, [StateQuery]>(stateQuery, { after: state.topicPartitionsAfter });
      Object.assign(state.topicPartitions, topicPartitions);
      state.topicPartitionsAfter = topicPartitionsAfter;
    }
    return { state, problem: null };
  } catch (error) {
    return { state: null, problem: error instanceof Error ? error.message : String(error) };
  }
};

const rowsOf = async ({ catalog }: Lake, name: string): Promise<number> =>
  Number((await catalog.load(name)).currentSnapshot?.summary['total-records'] ?? 0);

const sourceStatus = async (config: Config, pipeline: Pipeline, lake: Lake, client: Client, dataset: Dataset): Promise<SourceStatus> => {
  const topic = `${config.kafka.topicPrefix}${dataset.topic}`;
  const [{ state, problem }, broker, bronze, silver, dlq] = await Promise.all([
    stateOf(client, dataset.source),
    fetchOffsetBounds(config.kafka.brokers, [topic]).catch((): Record<string, { low: bigint; high: bigint }> => ({})),
    lake.catalog.load(dataset.bronze.name), rowsOf(lake, dataset.silver.name), lake.catalog.load(pipeline.dlqTable),
  ]);
  const gold = await lake.catalog.load(dataset.gold.name);
  const unrefined = bronze.coverage.subtract(gold.coverage);
  const keys = new Set([...Object.keys(broker), ...Object.keys(state?.topicPartitions ?? {}), ...bronze.coverage.keys()]);
  const dlqByType: Record<string, number> = {};
  for (const { partition, recordCount } of await dlq.scan({ partition: { bronze_source: dataset.source } })) {
    const type = String(partition['error_type']);
    dlqByType[type] = (dlqByType[type] ?? 0) + recordCount;
  }
  return {
    source: dataset.source,
    phase: state?.phase ?? null,
    problem,
    topicPartitions: [...keys].sort().map((key) => {
      const known = state?.topicPartitions[key];
      const next = known?.nextOffset ?? bronze.coverage.of(key).intervals.at(-1)?.end.toString() ?? null;
      const bounds = broker[key];
      return {
        topicPartition: key,
        owner: known?.owner ?? null,
        nextOffset: next,
        logEnd: bounds ? String(bounds.high) : null,
        lagRecords: bounds ? Number(bounds.high - (next === null ? bounds.low : BigInt(next))) : null,
        pendingFiles: known?.pendingFiles ?? 0,
        unrefinedRecords: Number(unrefined.of(key).size),
        halted: known?.halted ?? null,
      };
    }),
    rows: {
      bronze: Number(bronze.currentSnapshot?.summary['total-records'] ?? 0),
      silver,
      dlq: Object.values(dlqByType).reduce((sum, count) => sum + count, 0),
    },
    dlqByType,
    dlqRate: await loadDlqRate({ catalog: lake.catalog, pipeline }, dataset, Date.now()),
    dlqStates: await loadDlqStates({ ...lake, pipeline }, dataset.source),
    batchLimit: state?.batchLimit ?? null,
    workers: state?.workers ?? {},
    microBatches: { running: state?.runningTotal ?? 0, failed: state?.failed ?? [], recent: state?.recent ?? [] },
    gaps: state?.gaps ?? [],
    freshnessMs: { p50: freshnessQuantile(state?.totals.freshness ?? {}, 0.5), p99: freshnessQuantile(state?.totals.freshness ?? {}, 0.99) },
  };
};

const loadStatus = async (config: Config, pipeline: Pipeline, lake: Lake, archive: Archive, client: Client, datasets: readonly Dataset[]): Promise<Status> => {
  const sources = await Promise.all(datasets.map((dataset) => sourceStatus(config, pipeline, lake, client, dataset)));
  const gold: Status['gold'] = {};
  for (const name of new Set(datasets.map((dataset) => dataset.gold.name))) {
    gold[name] = { rows: await rowsOf(lake, name) };
  }
  return { sources, gold, gapRows: await rowsOf(lake, ingestGapsTable.name), stored: await measureLake({ catalog: lake.catalog, archive, pipeline }) };
};

const recentShown = 5;

const printed = ({ sources, gold, stored }: Status, withDays: boolean): string => {
  const lines: string[] = [];
  for (const source of sources) {
    const { rows, microBatches, freshnessMs } = source;
    lines.push(
      `${source.source}: ${source.phase ?? 'no answer from its stream workflow'} · Bronze ${rows.bronze.toLocaleString('en')}, Silver ${rows.silver.toLocaleString('en')}, DLQ ${rows.dlq.toLocaleString('en')}`
      + ` · Kafka to Gold p50 ${milliseconds(freshnessMs.p50)}, p99 ${milliseconds(freshnessMs.p99)}`,
      ...(source.problem === null ? [] : [`  ${source.problem}`]),
      '',
      table(['topic partition', 'next offset', 'log end', 'lag', 'pending files', 'unrefined', 'owner'], source.topicPartitions.map((one) => [
        one.topicPartition, one.nextOffset === null ? null : BigInt(one.nextOffset), one.logEnd === null ? null : BigInt(one.logEnd), one.lagRecords,
        one.pendingFiles, one.unrefinedRecords, one.owner ?? '–',
      ])),
      '',
    );
    if (microBatches.recent.length > 0) {
      lines.push(
        table(['micro-batch', 'Bronze', 'Silver', 'DLQ', 'Gold', 'duplicates', 'took'], microBatches.recent.slice(-recentShown).reverse().map((one) => [
          one.batch, one.bronzeRows, one.silverRows, one.dlqRows, one.goldRows, one.duplicates, milliseconds(one.durationMs),
        ])),
        '',
      );
    }
    if (source.batchLimit) lines.push(`next micro-batch: at most ${source.batchLimit.recordsMax.toLocaleString('en')} records (${source.batchLimit.reason})`, '');
    for (const { batch, records, cause } of microBatches.failed) lines.push(`micro-batch ${batch} FAILED, ${records.toLocaleString('en')} records wait for npm run retry-batch: ${cause}`);
    for (const { topicPartition, halted } of source.topicPartitions) if (halted !== null) lines.push(`HALTED ${topicPartition}: ${halted}`);
    for (const [owner, { budgetShare, flushIntervalMs, flushReason, losses }] of Object.entries(source.workers)) {
      lines.push(`${owner}: buffers at ${Math.round(budgetShare * 100)} % of the budget, files close after ${milliseconds(flushIntervalMs)} (${flushReason})`);
      for (const { topicPartition, lossAtMs } of losses) lines.push(`RETENTION overtakes the reader of ${topicPartition} at ${new Date(lossAtMs).toISOString()}, as things go: npm run extend-retention`);
    }
    for (const gap of source.gaps) lines.push(`GAP ${gap.topicPartition} [${gap.startOffset}, ${gap.endOffset}): the broker no longer had these records`);
    const { percent: rate, level, records } = source.dlqRate;
    const { byState, recoveryPercent } = source.dlqStates;
    if (rate !== null) {
      lines.push(`DLQ rate over the last hour: ${rate.toFixed(2)} % of ${records.toLocaleString('en')} records${level === 'ok' ? '' : `, ${level.toUpperCase()} (above ${dlqRatePercentLimits[level]} %)`}`
        + `${recoveryPercent === null ? '' : ` · recovered ${recoveryPercent.toFixed(1)} % of all refused: ${dlqStates.map((state) => `${state} ${byState[state].toLocaleString('en')}`).join(', ')}`}`, '');
    }
    const types = Object.entries(source.dlqByType).sort(([, a], [, b]) => b - a);
    if (types.length > 0) lines.push(table(['DLQ error type', 'rows'], types), '');
  }
  lines.push(table(['Gold table', 'rows'], Object.entries(gold).map(([name, { rows }]) => [name, rows])));
  lines.push('', table(['stored in', 'tier', 'files', 'rows', 'size'], sizeByTier(stored).map((one) => [one.table, one.tier, one.files, one.rows, fileSize(one.bytes)])));
  if (withDays) lines.push('', table(['stored in', 'tier', 'day', 'files', 'rows', 'size'], stored.map((one) => [one.table, one.tier, one.day ?? '–', one.files, one.rows, fileSize(one.bytes)])));
  return lines.join('\n');
};

await runCommand<{ source?: string[]; days?: boolean; json?: boolean }>(program, async ({ source: names, days, json }) => {
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  for (const name of names ?? []) {
    if (!pipeline.datasets.some(({ source }) => source === name)) {
      throw new TidemarkError('BAD_INPUT', `--source: expected one of ${pipeline.datasets.map(({ source }) => source).join(', ')}, found ${name}`);
    }
  }
  const datasets = pipeline.datasets.filter(({ source }) => names?.includes(source) ?? true);
  const connection = await connectTemporal(config);
  const lake = openLakeReadOnly(config, pipeline);
  const { archive, store: archiveStore } = openArchive(config, lake, pipeline);
  try {
    const status = await loadStatus(config, pipeline, lake, archive, new Client({ connection, namespace: config.temporal.namespace }), datasets);
    process.stdout.write(`${json ? JSON.stringify(status) : printed(status, days ?? false)}\n`);
    return exitOk;
  } finally {
    archiveStore.close();
    lake.store.close();
    await connection.close();
  }
});
