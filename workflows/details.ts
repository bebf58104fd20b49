import { freshnessQuantile } from '../src/domain/freshness.ts';
import { Coverage } from '../src/domain/offsets.ts';
import type { MicroBatchResult } from '../src/contracts/micro-batch.ts';
import type { StreamState } from '../src/contracts/stream.ts';

// Markdown for the Temporal Web UI. Bounded: a stream of 500 topic partitions must not make a page of megabytes.
const rowsShown = 30;

const number = (value: number | bigint): string => String(value).replace(/\B(?=(\d{3})+(?!\d))/g, ',');
const seconds = (ms: number | null): string => (ms === null ? 'unknown' : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`);

export const streamDetails = (state: StreamState): string => {
  const { totals } = state;
  const partitions = Object.entries(state.topicPartitions).sort(([a], [b]) => (a < b ? -1 : 1));
  const lines = [
    `**${state.source}** is ${state.phase}: ${number(totals.bronzeRows)} rows in Bronze, ${number(totals.silverRows)} in Silver, `
    + `${number(totals.dlqRows)} in the DLQ, ${number(totals.goldRows)} in Gold, ${number(totals.duplicates)} duplicates removed (since this ledger began).`,
    '',
    `Kafka to Gold: p50 ${seconds(freshnessQuantile(totals.freshness, 0.5))}, p99 ${seconds(freshnessQuantile(totals.freshness, 0.99))}. `
    + `Open: ${number(Coverage.fromJson(state.open).size)} records. Micro-batches: ${totals.batches} done, ${state.running.length} running, ${state.failed.length} failed.`,
    '',
  ];
  for (const failed of state.failed.slice(0, 10)) lines.push(`- micro-batch ${failed.batch} **failed**: ${failed.cause}`);
  for (const gap of state.gaps.slice(-10)) lines.push(`- **gap** ${gap.topicPartition} [${gap.startOffset}, ${gap.endOffset}): retention overtook the reader`);
  if (partitions.length > 0) {
    lines.push('', '| topic partition | next offset | owner | epoch | pending files |', '| --- | --- | --- | --- | --- |');
    for (const [key, partition] of partitions.slice(0, rowsShown)) {
      lines.push(`| ${key} | ${partition.nextOffset ?? 'log start'} | ${partition.owner ?? '–'} | ${partition.epoch} | ${partition.pendingFiles} |`);
    }
    if (partitions.length > rowsShown) lines.push(`| … ${partitions.length - rowsShown} more | | | | |`);
  }
  return lines.join('\n');
};

export const microBatchDetails = (phase: string, intervals: Record<string, string>, result: Partial<MicroBatchResult>): string => {
  const entries = Object.entries(intervals);
  const lines = [`Phase: **${phase}**`, ''];
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
