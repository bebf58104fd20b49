import { expect, test } from 'vitest';
import { lakePage, nextOffsetOf } from '../../activities/stream.ts';
import type { LakeCursor } from '../../src/contracts/micro-batch.ts';
import { workerLossesMax } from '../../src/contracts/stream.ts';
import { CheckpointLedger, batchIntervalsMax, pendingFilesMax } from '../../src/domain/ledger.ts';
import { Coverage, IntervalSet } from '../../src/domain/offsets.ts';
import { jsonBytes, payloadBytesMax } from '../../src/domain/payload.ts';
import { streamState } from '../../workflows/stream-state.ts';

const farOffset = 123_456_789_012;
const epoch = 1_790_446_160_100;
const owners = Array.from({ length: 24 }, (_, i) => `streaming-worker-host-${i}-0b9d4c2e-7c55-4c8e-9d0e-3c1f6f0f2a11`);
const keysOf = (count: number, topic = 'market.crypto.trades.binance.raw'): string[] => Array.from({ length: count }, (_, i) => `${topic}/${i}`);
const longestTopic = 't'.repeat(249);

/** A ledger where everything that may grow has grown. */
const fullLedger = (keys: readonly string[], failedBatches: number): CheckpointLedger => {
  const ledger = CheckpointLedger.empty();
  ledger.reconcile({ nextOffsets: Object.fromEntries(keys.map((key) => [key, String(farOffset)])), open: {}, epochMax: epoch, batchMax: 41_000 });
  keys.forEach((key, i) => ledger.claim(owners[i % owners.length]!, [key], epoch + i));
  const report = (start: number, end: number): void => {
    for (const [i, key] of keys.entries()) {
      const owner = owners[i % owners.length]!;
      const range = { topicPartition: key, fileEpoch: epoch + i, startOffset: String(start), endOffset: String(end), rowCount: end - start, byteCount: 31_457_280, checksum: 'c'.repeat(64) };
      ledger.accept({ owner, epochs: { [key]: epoch + i }, ranges: [range], gaps: [] });
      if (ledger.pendingCount >= pendingFilesMax) ledger.bronzeCommitted(ledger.pendingFiles());
    }
    ledger.bronzeCommitted(ledger.pendingFiles());
  };
  report(farOffset, farOffset + 10_000);
  for (let n = 0; n < failedBatches; n += 1) {
    const batch = ledger.startBatch(3, 1_790_446_999_000 + n);
    if (!batch) break;
    if (n < 16) ledger.batchSucceeded(batch.batch, { bronzeRows: 150_000, silverRows: 149_000, dlqRows: 1_000, dlqByType: { price_validation: 300, quantity_validation: 300, schema_validation: 400 }, goldRows: 148_000, duplicates: 1_000, durationMs: 4_000, freshness: Object.fromEntries(Array.from({ length: 400 }, (_, i) => [String(i), 1_234_567])) });
    else ledger.batchFailed(batch.batch, `FILE_UNREADABLE: ${'x'.repeat(400)}`, 1_790_446_999_000);
  }
  for (let n = 0; n < 2; n += 1) ledger.startBatch(150_000, 1_790_446_999_000);
  report(farOffset + 10_000, farOffset + 20_000);
  for (const [i, key] of keys.slice(0, pendingFilesMax).entries()) {
    const start = farOffset + 20_000;
    ledger.accept({
      owner: owners[i % owners.length]!, epochs: { [key]: epoch + i }, gaps: [],
      ranges: [{ topicPartition: key, fileEpoch: epoch + i, startOffset: String(start), endOffset: String(start + 100_000), rowCount: 100_000, byteCount: 31_457_280, checksum: 'c' }],
    });
  }
  return ledger;
};

test.each([
  ['500 topic partitions', keysOf(500)],
  ['500 topic partitions of the longest topic name', keysOf(500, longestTopic)],
  ['500 topics of one partition each', Array.from({ length: 500 }, (_, i) => `market.crypto.trades.${i}.raw/0`)],
  ['5,000 topic partitions', keysOf(5_000)],
])('a ledger of %s, with 200 failed micro-batches, fits a payload when it is carried and when it is looked at', (_, keys) => {
  const ledger = fullLedger(keys, 216);
  expect(ledger.failedCount + ledger.runningCount).toBeGreaterThan(100);
  const carried = ledger.carry(true);
  expect(jsonBytes(carried)).toBeLessThan(payloadBytesMax - 1_024);
  const workers = Object.fromEntries(owners.map((owner, i) => [owner, {
    atMs: epoch + i, budgetShare: 0.123456789, flushIntervalMs: 10_000, flushReason: 'x'.repeat(100), losses: keys.slice(0, workerLossesMax).map((topicPartition) => ({ topicPartition, lossAtMs: epoch })),
  }]));
  let after: string | null = '';
  const listed: string[] = [];
  while (after !== null) {
    const state = streamState('binance-trades', 'running', ledger, { batchLimit: { recordsMax: 100_000, reason: 'x'.repeat(150), triggerMs: 5_000 }, workers }, after);
    expect(jsonBytes(state)).toBeLessThan(payloadBytesMax);
    expect(state).toMatchObject({ topicPartitionsTotal: keys.length, failedTotal: ledger.failedCount, runningTotal: ledger.runningCount, openRecords: ledger.openRecords });
    listed.push(...Object.keys(state.topicPartitions));
    after = state.topicPartitionsAfter;
  }
  expect(listed).toEqual([...keys].sort());
  // Nine seconds of 5,000 topic partitions were seen beside other work.
}, 120_000);

test('what 500 topic partitions carry to the next run is all that is needed to go on; only texts are shortened', () => {
  const ledger = fullLedger(keysOf(500), 216);
  const { ledger: next, complete } = CheckpointLedger.restore(ledger.carry(true));
  expect(complete).toBe(true);
  const shortened = (one: CheckpointLedger) => {
    const { failed, ...state } = one.snapshot();
    return { ...state, recent: [], gaps: [], refused: [], failed: failed.map(({ batch, intervals, failedAtMs }) => ({ batch, intervals, failedAtMs })) };
  };
  expect(shortened(next)).toEqual(shortened(ledger));
});

test('a ledger that does not fit a payload leaves its claims out, and says that the lake has to be asked', () => {
  const ledger = fullLedger(keysOf(5_000), 40);
  const { ledger: next, complete } = CheckpointLedger.restore(ledger.carry(true));
  expect(complete).toBe(false);
  expect(next.snapshot()).toMatchObject({ partitions: {}, pending: [], open: {}, running: ledger.running, nextBatch: ledger.snapshot().nextBatch, totals: ledger.snapshot().totals });
  expect(CheckpointLedger.restore(CheckpointLedger.empty().carry(false)).complete).toBe(false);
});

test('micro-batches over 500 topic partitions take them in turns, within a payload, until nothing is open', () => {
  const ledger = CheckpointLedger.empty();
  const keys = keysOf(500, longestTopic);
  ledger.reconcile({ nextOffsets: {}, open: Object.fromEntries(keys.map((key) => [key, `${farOffset}-${farOffset + 10}`])), epochMax: 0, batchMax: 0 });
  const seen = new Set<string>();
  for (let n = 0; n < 5; n += 1) {
    const batch = ledger.startBatch(150_000, 1)!;
    expect(Object.keys(batch.intervals).length).toBe(batchIntervalsMax);
    expect(jsonBytes({ source: 'binance-trades', ...batch, stagedKey: 'k'.repeat(100) })).toBeLessThan(payloadBytesMax);
    for (const key of Object.keys(batch.intervals)) seen.add(key);
    ledger.batchSucceeded(batch.batch, { bronzeRows: 0, silverRows: 0, dlqRows: 0, dlqByType: {}, goldRows: 0, duplicates: 0, durationMs: 1, freshness: {} });
  }
  expect(seen.size).toBe(500);
  expect(ledger.openRecords).toBe(0);
});

test('pages of the lake\'s state fit a payload and together hold every topic partition and interval once', () => {
  const keys = keysOf(500);
  const nextOffsets = new Map(keys.map((key) => [key, BigInt(farOffset)]));
  const pieces = IntervalSet.of(...Array.from({ length: 3_000 }, (_, i) => ({ start: BigInt(farOffset + i * 10), end: BigInt(farOffset + i * 10 + 5) })));
  const open = Coverage.of(keys.map((key, i) => [key, i === 77 ? pieces : IntervalSet.of({ start: BigInt(farOffset), end: BigInt(farOffset + 100) })] as const));
  let from: LakeCursor | null | undefined;
  let found = Coverage.empty;
  const seen = new Set<string>();
  let pages = 0;
  while (from !== null) {
    const { next, ...page } = lakePage(nextOffsets, open, from);
    expect(jsonBytes({ lake: { ...page, epochMax: epoch, batchMax: 41_000 }, next, limits: {} })).toBeLessThan(payloadBytesMax);
    const part = Coverage.fromJson(page.open);
    expect(part.overlaps(found)).toBe(false);
    found = found.union(part);
    for (const key of Object.keys(page.nextOffsets)) seen.add(key);
    from = next;
    pages += 1;
  }
  expect([seen.size, found.equals(open)]).toEqual([500, true]);
  expect(pages).toBeGreaterThan(2);
});

test('a topic partition is read on behind its Bronze files and the gaps that follow on, never past a hole', () => {
  const set = (text: string) => IntervalSet.parse(text);
  expect(nextOffsetOf(set('0-100'), set(''))).toBe(100n);
  expect(nextOffsetOf(set('0-100'), set('100-150,150-180'))).toBe(180n);
  expect(nextOffsetOf(set('0-100,150-200'), set('100-150'))).toBe(200n);
  expect(nextOffsetOf(set(''), set('40-70'))).toBe(70n);
  // A refused file [100, 120) before the gap: its records are asked for again.
  expect(nextOffsetOf(set('0-100'), set('120-150'))).toBe(100n);
});
