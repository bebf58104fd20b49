import fc from 'fast-check';
import { expect, test } from 'vitest';
import { CheckpointLedger } from '../../src/domain/ledger.ts';
import type { LakeState, LedgerRange, LedgerReport } from '../../src/domain/ledger.ts';
import { Coverage, IntervalSet } from '../../src/domain/offsets.ts';

const key = 'trades/0';
const range = (start: number, end: number, fileEpoch = 1): LedgerRange =>
  ({ topicPartition: key, fileEpoch, startOffset: String(start), endOffset: String(end), rowCount: end - start, byteCount: 10, checksum: 'c' });
const outcome = { bronzeRows: 0, silverRows: 0, dlqRows: 0, dlqByType: {}, goldRows: 0, duplicates: 0, durationMs: 1, freshness: {} };
const lake = (over: Partial<LakeState> = {}): LakeState => ({ nextOffsets: {}, open: {}, epochMax: 0, batchMax: 0, ...over });

test('a range is accepted only from the current owner, at the current epoch, and where the last one ended', () => {
  const ledger = CheckpointLedger.empty();
  const [first] = ledger.claim('a', [key], 100);
  expect(first).toEqual({ topicPartition: key, epoch: 100, nextOffset: null });
  const report = (owner: string, epoch: number, ...ranges: LedgerRange[]) => ledger.accept({ owner, epochs: { [key]: epoch }, ranges, gaps: [] }).accepted;

  expect(report('a', 100, range(0, 10))).toBe(1);
  expect(report('a', 100, range(0, 10))).toBe(0); // the same signal twice
  expect(report('a', 100, range(20, 30))).toBe(0); // one was lost before it
  expect(report('a', 100, range(20, 30), range(10, 20))).toBe(2); // order within a report does not matter
  const [second] = ledger.claim('b', [key], 50);
  expect(second!.epoch).toBeGreaterThan(100); // a clock that went back does not take the epoch back
  expect(second!.nextOffset).toBe('30');
  expect(report('a', 100, range(30, 40))).toBe(0); // the zombie
  expect(report('b', 100, range(30, 40))).toBe(0);
  expect(report('b', second!.epoch, range(30, 40, 100))).toBe(1); // a file of the zombie, found again
});

test('a gap moves the next offset, and what is below it is never accepted', () => {
  const ledger = CheckpointLedger.empty();
  ledger.reconcile(lake({ nextOffsets: { [key]: '10' } }));
  const [claim] = ledger.claim('a', [key], 1);
  const epochs = { [key]: claim!.epoch };
  const gap = { topicPartition: key, startOffset: '10', endOffset: '25', detectedAtMs: 5 };
  ledger.accept({ owner: 'a', epochs, ranges: [range(25, 30)], gaps: [gap] });
  expect(ledger.view([key])[key]!.nextOffset).toBe('30');
  expect(ledger.pendingGaps()).toEqual([gap]);
  expect(ledger.snapshot().totals.gapRecords).toBe(15);
});

test('a halt is taken behind everything before it, from the current owner only, and lasts until the next claim', () => {
  const ledger = CheckpointLedger.empty();
  const [claim] = ledger.claim('a', [key], 1);
  const epochs = { [key]: claim!.epoch };
  const halt = { topicPartition: key, offset: '20', cause: 'LOG_TRUNCATED: the log ends at 5' };
  const haltedAfter = (report: Partial<LedgerReport>): string | null => {
    ledger.accept({ owner: 'a', epochs, ranges: [], gaps: [], ...report });
    return ledger.snapshot().partitions[key]!.halted;
  };
  expect(haltedAfter({ ranges: [range(0, 10)], halts: [halt] })).toBe(null); // [10, 20) has not come yet
  expect(haltedAfter({ ranges: [range(10, 20)], halts: [halt], owner: 'zombie' })).toBe(null);
  expect(haltedAfter({ ranges: [range(10, 20)], halts: [halt] })).toBe(halt.cause);
  expect(haltedAfter({ ranges: [range(20, 30)], halts: [{ ...halt, offset: '30', cause: 'another' }] })).toBe(halt.cause);
  expect(ledger.view([key])[key]).toMatchObject({ nextOffset: '20', halted: true });
  expect(ledger.haltedCount).toBe(1);
  ledger.claim('b', [key], 2);
  expect(ledger.view([key])[key]!.halted).toBe(false);
});

test('an offset is at any time pending, open, running, failed or refined, and never two of them', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constant('report' as const), rows: fc.integer({ min: 1, max: 50 }) }),
    fc.record({ kind: fc.constant('commit' as const), files: fc.integer({ min: 1, max: 3 }) }),
    fc.record({ kind: fc.constant('start' as const), records: fc.integer({ min: 1, max: 60 }) }),
    fc.record({ kind: fc.constantFrom('succeed' as const, 'fail' as const, 'lose' as const, 'retry' as const, 'restore' as const, 'reconcile' as const), pick: fc.nat() }),
  );
  fc.assert(fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
    let ledger = CheckpointLedger.empty();
    const [claim] = ledger.claim('a', [key], 1);
    let next = 0;
    let refined = IntervalSet.empty;
    let committed = IntervalSet.empty;
    for (const one of steps) {
      const before = ledger.snapshot();
      if (one.kind === 'report') {
        ledger.accept({ owner: 'a', epochs: { [key]: claim!.epoch }, ranges: [range(next, next + one.rows)], gaps: [] });
        next += one.rows;
      } else if (one.kind === 'commit') {
        const files = ledger.pendingFiles(one.files);
        for (const file of files) committed = committed.union(IntervalSet.of({ start: BigInt(file.startOffset), end: BigInt(file.endOffset) }));
        ledger.bronzeCommitted(files);
      } else if (one.kind === 'start') {
        const batch = ledger.startBatch(one.records, 1);
        // One that goes again keeps its intervals, however many.
        if (batch && before.again.length === 0) expect(Coverage.fromJson(batch.intervals).size <= BigInt(one.records)).toBe(true);
      } else if (one.kind === 'restore') {
        ledger = CheckpointLedger.restore(ledger.carry(true)).ledger;
        expect(ledger.snapshot()).toEqual(before);
      } else if (one.kind === 'reconcile') {
        const open = Coverage.of([[key, committed.subtract(refined)]]);
        const end = committed.intervals.at(-1)?.end;
        ledger.reconcile(lake({ nextOffsets: end === undefined ? {} : { [key]: String(end) }, open: open.toJson() }));
      } else if (one.kind === 'retry') {
        const failed = before.failed[one.pick % Math.max(1, before.failed.length)];
        expect(ledger.retryBatch(failed?.batch ?? -1)).toBe(failed !== undefined);
      } else {
        const running = before.running[one.pick % Math.max(1, before.running.length)];
        if (!running) continue;
        if (one.kind === 'fail') ledger.batchFailed(running.batch, 'cause', 1);
        else if (one.kind === 'lose') ledger.batchLost(running.batch);
        else {
          ledger.batchSucceeded(running.batch, outcome);
          refined = refined.union(Coverage.fromJson(running.intervals).of(key));
        }
      }
      const state = ledger.snapshot();
      const parts = [
        IntervalSet.of(...state.pending.map((file) => ({ start: BigInt(file.startOffset), end: BigInt(file.endOffset) }))),
        Coverage.fromJson(state.open).of(key),
        ...[...state.running, ...state.again, ...state.failed].map(({ intervals }) => Coverage.fromJson(intervals).of(key)),
        refined,
      ];
      const size = parts.reduce((sum, part) => sum + part.size, 0n);
      expect(size).toBe(BigInt(next));
      expect(parts.reduce((sum, part) => sum.union(part), IntervalSet.empty).size).toBe(BigInt(next));
    }
  }), { numRuns: 300 });
});

test('after a lost Temporal the ledger is what the lake says, and its epochs and micro-batch numbers go on', () => {
  const ledger = CheckpointLedger.empty();
  ledger.reconcile(lake({ nextOffsets: { [key]: '100' }, open: { [key]: '60-100' }, epochMax: 7_000, batchMax: 12 }));
  const [claim] = ledger.claim('a', [key], 5);
  expect(claim).toEqual({ topicPartition: key, epoch: 7_001, nextOffset: '100' });
  expect(ledger.startBatch(1_000, 1)).toEqual({ batch: 13, intervals: { [key]: '60-100' }, startedAtMs: 1 });
});

test('a micro-batch takes an equal share of each topic partition, so that none starves', () => {
  const ledger = CheckpointLedger.empty();
  ledger.reconcile(lake({ open: { 'a/0': '0-1000', 'a/1': '0-10', 'a/2': '5-500' } }));
  const batch = ledger.startBatch(210, 1)!;
  const sizes = Coverage.fromJson(batch.intervals).entries().map(([name, set]) => [name, Number(set.size)]);
  expect(sizes).toEqual([['a/0', 100], ['a/1', 10], ['a/2', 100]]);
});

