import { freshnessQuantile } from '../src/domain/freshness.ts';
import { Coverage } from '../src/domain/offsets.ts';
import type { CoverageJson } from '../src/domain/offsets.ts';
import type { DlqReplayProgress, ReplayMode } from '../src/contracts/dlq-replay.ts';
import type { MicroBatchInput, MicroBatchResult } from '../src/contracts/micro-batch.ts';
import type { ReprocessProgress, ReprocessPublished } from '../src/contracts/reprocess.ts';
import type { StreamState } from '../src/contracts/stream.ts';

// Markdown for the Temporal Web UI. Bounded: a stream of 500 topic partitions must not make a page of megabytes.
const rowsShown = 30;
const failedShown = 10;
const gapsShown = 10;
const workersShown = 10;

const number = (value: number | bigint): string => String(value).replace(/\B(?=(\d{3})+(?!\d))/g, ',');
const seconds = (ms: number | null): string => (ms === null ? 'unknown' : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`);

/** Said beside an activity or a child Workflow in the Web UI's timeline: how much it is about. */
export const countOf = (count: number | bigint, one: string): string => `${number(count)} ${one}${Number(count) === 1 ? '' : 's'}`;
/** Records that the intervals hold, holes apart. */
export const recordsOf = (intervals: CoverageJson): bigint => Coverage.fromJson(intervals).size;

export const streamDetails = (state: StreamState): string => {
  const { totals } = state;
  const partitions = Object.entries(state.topicPartitions);
  const lines = [
    `**${state.source}** is ${state.phase}: ${number(totals.bronzeRows)} rows in Bronze, ${number(totals.silverRows)} in Silver, `
    + `${number(totals.dlqRows)} in the DLQ, ${number(totals.goldRows)} in Gold, ${number(totals.duplicates)} duplicates removed (since this ledger began).`,
    '',
    `Kafka to Gold: p50 ${seconds(freshnessQuantile(totals.freshness, 0.5))}, p99 ${seconds(freshnessQuantile(totals.freshness, 0.99))}. `
    + `Open: ${number(state.openRecords)} records. Micro-batches: ${number(totals.batches)} done, ${state.runningTotal} running, ${state.failedTotal} failed.`,
    '',
    ...(state.batchLimit === null ? [] : [`The next micro-batch holds at most ${number(state.batchLimit.recordsMax)} records (${state.batchLimit.reason}).`, '']),
  ];
  for (const { batch, records, cause } of state.failed.slice(-failedShown)) {
    lines.push(`- micro-batch ${batch} **failed**, ${number(records)} records wait: ${cause}`);
  }
  if (state.failedTotal > failedShown) lines.push(`- … ${state.failedTotal - failedShown} more failed`);
  if (state.failedTotal > 0) lines.push('', 'Send the Signal `retryBatch` with the number of a failed micro-batch to refine it again, or `divertBatch` to put it into the DLQ whole.', '');
  for (const { topicPartition, startOffset, endOffset, cause } of state.refused.slice(-failedShown)) {
    lines.push(`- Bronze file **refused**: ${topicPartition} [${startOffset}, ${endOffset}): ${cause}; its records are read again`);
  }
  for (const gap of state.gaps.slice(-gapsShown)) lines.push(`- **gap** ${gap.topicPartition} [${gap.startOffset}, ${gap.endOffset}): retention overtook the reader`);
  const losses = Object.values(state.workers).flatMap((worker) => worker.losses).sort((a, b) => a.lossAtMs - b.lossAtMs);
  for (const { topicPartition, lossAtMs } of losses.slice(0, gapsShown)) {
    lines.push(`- **retention** overtakes the reader of ${topicPartition} at ${new Date(lossAtMs).toISOString()}, as things go: \`npm run extend-retention\` keeps its records longer`);
  }
  for (const [owner, { budgetShare, flushIntervalMs, flushReason }] of Object.entries(state.workers).slice(-workersShown)) {
    lines.push(`- ${owner}: buffers at ${Math.round(budgetShare * 100)} % of the budget; files close after ${seconds(flushIntervalMs)} (${flushReason})`);
  }
  if (partitions.length > 0) {
    lines.push('', '| topic partition | next offset | owner | epoch | pending files |', '| --- | --- | --- | --- | --- |');
    for (const [key, partition] of partitions.slice(0, rowsShown)) {
      lines.push(`| ${key}${partition.halted === null ? '' : ` **halted**: ${partition.halted}`} | ${partition.nextOffset ?? 'log start'} | ${partition.owner ?? '–'} | ${partition.epoch} | ${partition.pendingFiles} |`);
    }
    if (state.topicPartitionsTotal > rowsShown) lines.push(`| … ${state.topicPartitionsTotal - Math.min(rowsShown, partitions.length)} more${state.haltedTotal > 0 ? `, ${state.haltedTotal} halted in all` : ''} | | | | |`);
  }
  return lines.join('\n');
};

export const microBatchDetails = (phase: string, { intervals, divert }: Pick<MicroBatchInput, 'intervals' | 'divert'>, result: Partial<MicroBatchResult>): string => {
  const entries = Object.entries(intervals);
  const lines = [`Phase: **${phase}**`, '', ...(divert === undefined ? [] : [divert, ''])];
  if (result.bronzeRows !== undefined) {
    const types = Object.entries(result.dlqByType ?? {}).map(([type, count]) => `${type} ${number(count)}`).join(', ');
    lines.push(`Bronze ${number(result.bronzeRows)} → Silver ${number(result.silverRows ?? 0)} + DLQ ${number(result.dlqRows ?? 0)}${types === '' ? '' : ` (${types})`}`);
  }
  if (result.goldRows !== undefined) {
    lines.push(`→ Gold ${number(result.goldRows)}, ${number(result.duplicates ?? 0)} duplicates removed; Kafka to Gold p99 ${seconds(freshnessQuantile(result.freshness ?? {}, 0.99))}`);
  }
  lines.push('', '| topic partition | offsets |', '| --- | --- |');
  for (const [key, text] of entries.slice(0, rowsShown)) lines.push(`| ${key} | ${text.length > 200 ? `${text.slice(0, 200)}…` : text} |`);
  if (entries.length > rowsShown) lines.push(`| … ${entries.length - rowsShown} more | |`);
  return lines.join('\n');
};

const modeText = (mode: ReplayMode): string => {
  switch (mode.mode) {
    case 'rules': return 'with the rules as they are now';
    case 'schema': return `decoded with schema id ${mode.schemaId}`;
    case 'cleanse': return `through the cleanse function \`${mode.cleanse}\``;
    case 'purge': return `purge: ${mode.reason}`;
    case 'flag': return `flag: ${mode.reason}`;
  }
};
const reasonsShown = 20;

export const dlqReplayDetails = ({ source, mode, phase, paused, plan, rowsTotal, rowsRefined, chunksTotal, chunksRefined, counts, gold }: DlqReplayProgress): string => {
  const lines = [`DLQ replay of **${source}**, ${modeText(mode)}: **${phase}**${paused ? ' (paused)' : ''}`, ''];
  if (plan) lines.push(`${number(rowsRefined)} of ${number(rowsTotal)} rows refined, ${number(chunksRefined)} of ${number(chunksTotal)} chunks, on the DLQ's snapshot ${plan.snapshotId ?? '–'}.`);
  if (plan && plan.notRefined > 0) lines.push(`${number(plan.notRefined)} more rows fit; their micro-batch is still publishing: they stay for the next replay.`);
  if (plan && plan.quarantined > 0) lines.push(`${number(plan.quarantined)} more rows fit and are quarantined: name them to try again.`);
  lines.push('', '| recovered | refused again | quarantined | purged | flagged | kept |', '| --- | --- | --- | --- | --- | --- |',
    `| ${number(counts.recovered)} | ${number(counts.refused)} | ${number(counts.quarantined)} | ${number(counts.purged)} | ${number(counts.flagged)} | ${number(counts.kept)} |`, '');
  const reasons = Object.entries(counts.refusedByReason).sort(([, a], [, b]) => b - a);
  for (const [reason, count] of reasons.slice(0, reasonsShown)) lines.push(`- ${number(count)} refused again: ${reason}`);
  if (gold) lines.push('', `Gold has ${number(gold.goldRows)} rows more, ${number(gold.duplicates)} duplicates were dropped.`);
  return lines.join('\n');
};

export const reprocessDetails = (progress: ReprocessProgress): string => {
  const { source, phase, rowsTotal, rowsRefined, chunksTotal, chunksRefined, chunksRunning, silverRows, dlqRows, dlqByType, published, rowsPerSecondLimit, parallelism, refiningMs } = progress;
  const rate = refiningMs > 0 ? rowsRefined / refiningMs * 1_000 : 0;
  const lines = [
    `**${source}**: **${phase}**${progress.isPublishing ? ', past the point of no return: it only rolls forward' : ''}`, '',
    `Refined ${number(rowsRefined)} of ${number(rowsTotal)} rows (${rowsTotal === 0 ? 100 : Math.floor(rowsRefined / rowsTotal * 100)} %), ${chunksRefined} of ${chunksTotal} chunks, ${chunksRunning} of at most ${parallelism} running, `
    + `${number(Math.round(rate))} rows a second${rowsPerSecondLimit === null ? '' : `, limited to ${number(rowsPerSecondLimit)}`}${rate > 0 && phase === 'refining' ? `, ${seconds((rowsTotal - rowsRefined) / rate * 1_000)} left` : ''}.`, '',
    `Silver ${number(silverRows)}, DLQ ${number(dlqRows)}${dlqRows === 0 ? '' : ` (${Object.entries(dlqByType).map(([type, count]) => `${type} ${number(count)}`).join(', ')})`}`, '',
  ];
  const table = (name: string, one: ReprocessPublished | null): string => (one ? `| ${name} | ${number(one.addedRows)} | ${number(one.removedRows)} | ${one.snapshotId ?? '–'} |` : `| ${name} | – | – | – |`);
  if (progress.isPublishing) lines.push('| table | rows added | rows replaced | snapshot |', '| --- | --- | --- | --- |', table('Silver', published.silver), table('DLQ', published.dlq), table('Gold', published.gold), '');
  lines.push('Signals: `pause`, `resume`, `throttle` with {"rowsPerSecond": 20000, "parallelism": 2}. Cancelling before it publishes leaves the tables as they were.');
  return lines.join('\n');
};
