import type { CheckpointLedger } from '../src/domain/ledger.ts';
import { Coverage } from '../src/domain/offsets.ts';
import type { CoverageJson } from '../src/domain/offsets.ts';
import { firstWithin } from '../src/domain/payload.ts';
import type { BatchIntervals, StreamState } from '../src/contracts/stream.ts';

// Bytes of JSON for each list of the state: together with the totals they stay below one payload.
const listBytesMax = { topicPartitions: 20_000, open: 8_000, running: 6_000, failed: 9_000, again: 1_000, refused: 3_000, recent: 4_000, gaps: 4_000, workers: 4_000 };
/** Of one micro-batch. */
const intervalsBytesMax = 1_200;

const lastWithin = <T>(list: readonly T[], bytesMax: number): T[] => firstWithin([...list].reverse(), bytesMax).reverse();
const cut = (coverage: CoverageJson, bytesMax: number): CoverageJson => {
  // One entry for each interval: a topic partition in many pieces must not be an entry without bounds.
  const pieces = Object.entries(coverage).flatMap(([key, text]) => text.split(',').map((piece) => [key, piece] as const));
  const taken: CoverageJson = {};
  for (const [key, piece] of firstWithin(pieces, bytesMax)) taken[key] = taken[key] === undefined ? piece : `${taken[key]},${piece}`;
  return taken;
};
const batchIntervals = ({ batch, intervals }: { batch: number; intervals: CoverageJson }): BatchIntervals =>
  ({ batch, records: Number(Coverage.fromJson(intervals).size), intervals: cut(intervals, intervalsBytesMax) });

/** What the `state` query answers, and what the Web UI shows of it. */
export const streamState = (source: string, phase: StreamState['phase'], ledger: CheckpointLedger, { batchLimit, workers }: Pick<StreamState, 'batchLimit' | 'workers'>, after = ''): StreamState => {
  const { partitions, pending, open, running, again, failed, refused, recent, gaps, totals } = ledger.snapshot();
  const owners = new Set(Object.values(partitions).map(({ owner }) => owner));
  const pendingFiles = new Map<string, number>();
  for (const { topicPartition } of pending) pendingFiles.set(topicPartition, (pendingFiles.get(topicPartition) ?? 0) + 1);
  const entries = Object.entries(partitions).sort(([a], [b]) => (a < b ? -1 : 1)).filter(([key]) => key > after)
    .map(([key, partition]) => [key, { ...partition, pendingFiles: pendingFiles.get(key) ?? 0 }] as const);
  const listed = firstWithin(entries, listBytesMax.topicPartitions);
  return {
    source,
    phase,
    topicPartitions: Object.fromEntries(listed),
    topicPartitionsTotal: Object.keys(partitions).length,
    topicPartitionsAfter: listed.length < entries.length ? listed.at(-1)![0] : null,
    haltedTotal: ledger.haltedCount,
    pendingFilesTotal: pending.length,
    open: cut(open, listBytesMax.open),
    openRecords: ledger.openRecords,
    running: firstWithin(running.map(({ startedAtMs, divert, ...batch }) =>
      ({ ...batchIntervals(batch), startedAtMs, ...(divert === undefined ? {} : { divert }) })), listBytesMax.running),
    runningTotal: running.length,
    failed: lastWithin(failed.map(({ cause, failedAtMs, ...batch }) => ({ ...batchIntervals(batch), cause, failedAtMs })), listBytesMax.failed),
    failedTotal: failed.length,
    again: firstWithin(again.map(({ batch, divert }) => ({ batch, ...(divert === undefined ? {} : { divert }) })), listBytesMax.again),
    refused: lastWithin(refused, listBytesMax.refused),
    recent: lastWithin(recent, listBytesMax.recent),
    gaps: lastWithin(gaps, listBytesMax.gaps),
    batchLimit,
    workers: Object.fromEntries(lastWithin(Object.entries(workers).filter(([owner]) => owners.has(owner)).sort(([, a], [, b]) => a.atMs - b.atMs), listBytesMax.workers)),
    totals,
  };
};
