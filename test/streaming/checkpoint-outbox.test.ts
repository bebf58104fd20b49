import { expect, test } from 'vitest';
import { topicPartitionsAtOnceMax } from '../../src/contracts/stream.ts';
import type { CheckpointRange } from '../../src/contracts/stream.ts';
import { CheckpointOutbox, reportBytesMax } from '../../src/streaming/checkpoint-outbox.ts';

const range = (topicPartition: string, start: bigint, end: bigint): CheckpointRange =>
  ({ topicPartition, fileEpoch: 1, startOffset: String(start), endOffset: String(end), rowCount: Number(end - start), byteCount: 100, checksum: 'a'.repeat(64) });
const add = (outbox: CheckpointOutbox, key: string, start: bigint, end: bigint): void => outbox.addFile(key, start, end)(range(key, start, end));
const view = (key: string, epoch: number, next: bigint | null, owner = 'me') => ({ ready: true, topicPartitions: { [key]: { owner, epoch, nextOffset: next === null ? null : String(next) } } });

test('a file that is not durable yet holds back those behind it', () => {
  const outbox = new CheckpointOutbox();
  outbox.claim('t/0', 1, 0n);
  const first = outbox.addFile('t/0', 0n, 5n);
  add(outbox, 't/0', 5n, 9n);
  expect(outbox.collect('me')).toBe(null);
  first(range('t/0', 0n, 5n));
  expect(outbox.collect('me')?.ranges.map(({ startOffset }) => startOffset)).toEqual(['0', '5']);
});

test('nothing leaves before the ledger was seen to have it', () => {
  const outbox = new CheckpointOutbox();
  outbox.claim('t/0', 1, 0n);
  add(outbox, 't/0', 0n, 5n);
  add(outbox, 't/0', 5n, 9n);
  expect(outbox.settle('me', { 't/0': 1 }, view('t/0', 1, null))).toEqual({ accepted: [], stale: [] });
  expect(outbox.collect('me')?.ranges).toHaveLength(2);
  expect(outbox.settle('me', { 't/0': 1 }, view('t/0', 1, 5n))).toEqual({ accepted: [{ topicPartition: 't/0', offset: 5n, files: [range('t/0', 0n, 5n)] }], stale: [] });
  expect(outbox.collect('me')?.ranges.map(({ startOffset }) => startOffset)).toEqual(['5']);
  outbox.settle('me', { 't/0': 1 }, view('t/0', 1, 9n));
  expect(outbox.isEmpty).toBe(true);
});

test('a halt goes behind the files before it, and is told again until the ledger shows it', () => {
  const outbox = new CheckpointOutbox();
  outbox.claim('t/0', 1, 0n);
  const first = outbox.addFile('t/0', 0n, 5n);
  outbox.halt('t/0', 'LOG_TRUNCATED: x');
  expect([outbox.isReportable, outbox.collect('me')]).toEqual([false, null]);
  first(range('t/0', 0n, 5n));
  const halts = [{ topicPartition: 't/0', offset: '5', cause: 'LOG_TRUNCATED: x' }];
  expect(outbox.collect('me')).toMatchObject({ epochs: { 't/0': 1 }, ranges: [{ startOffset: '0' }], halts });
  const shown = (halted: boolean) => ({ ready: true, topicPartitions: { 't/0': { owner: 'me', epoch: 1, nextOffset: '5', halted } } });
  outbox.settle('me', { 't/0': 1 }, shown(false));
  expect([outbox.isReportable, outbox.isEmpty]).toEqual([true, false]);
  expect(outbox.collect('me')).toEqual({ owner: 'me', epochs: { 't/0': 1 }, ranges: [], gaps: [], halts });
  outbox.settle('me', { 't/0': 1 }, shown(true));
  expect([outbox.isReportable, outbox.isEmpty, outbox.collect('me')]).toEqual([false, true, null]);
  outbox.claim('t/0', 2, 5n);
  expect(outbox.isEmpty).toBe(true);
});

test('another owner, a newer epoch, or a ledger that went back: claim again', () => {
  const outbox = new CheckpointOutbox();
  const stale = (found: ReturnType<typeof view>, reported = 2): string[] => {
    outbox.claim('t/0', 2, 10n);
    add(outbox, 't/0', 10n, 20n);
    return outbox.settle('me', { 't/0': reported }, found).stale;
  };
  expect(stale(view('t/0', 3, 10n, 'other'))).toEqual(['t/0']);
  expect(stale(view('t/0', 2, 10n, 'other'))).toEqual(['t/0']);
  expect(stale(view('t/0', 2, 8n))).toEqual(['t/0']);
  expect(stale(view('t/0', 2, 15n)), 'a range of ours was cut by another').toEqual(['t/0']);
  expect(stale(view('t/0', 0, null, 'other')), 'built again from a lake without our files').toEqual(['t/0']);
  expect(stale(view('t/0', 1, 3n, 'other'), 1), 'claimed again since the report').toEqual([]);
  expect(stale(view('t/0', 2, 10n)), 'the Signal was lost').toEqual([]);
});

test('a place in line of an earlier claim is void', () => {
  const outbox = new CheckpointOutbox();
  outbox.claim('t/0', 1, 0n);
  const durable = outbox.addFile('t/0', 0n, 5n);
  outbox.claim('t/0', 2, 0n);
  durable(range('t/0', 0n, 5n));
  expect(outbox.collect('me')).toBe(null);
  outbox.close('t/0');
  expect(outbox.isEmpty).toBe(true);
});

test('ranges must follow on: a hole is a bug, not a report', () => {
  const outbox = new CheckpointOutbox();
  outbox.claim('t/0', 1, 0n);
  add(outbox, 't/0', 0n, 5n);
  expect(() => outbox.addFile('t/0', 6n, 9n)).toThrow('expected a range from 5');
  expect(() => outbox.addFile('t/1', 0n, 9n)).toThrow('t/1 is not claimed');
});

test('gaps keep their turn among the files', () => {
  const outbox = new CheckpointOutbox();
  outbox.claim('t/0', 4, 0n);
  add(outbox, 't/0', 0n, 5n);
  outbox.addGap({ topicPartition: 't/0', startOffset: '5', endOffset: '50', detectedAtMs: 1 });
  add(outbox, 't/0', 50n, 60n);
  expect(outbox.collect('me')).toMatchObject({ owner: 'me', epochs: { 't/0': 4 }, ranges: [{ startOffset: '0' }, { startOffset: '50' }], gaps: [{ startOffset: '5', endOffset: '50' }] });
});

test('more topic partitions than one report can name take turns', () => {
  const outbox = new CheckpointOutbox();
  const partitions = 400;
  for (let partition = 0; partition < partitions; partition += 1) {
    outbox.claim(`t/${partition}`, 1, 0n);
    add(outbox, `t/${partition}`, 0n, 1n);
  }
  const named = new Set<string>();
  for (let i = 0; i < 4; i += 1) {
    const report = outbox.collect('me')!;
    expect(Object.keys(report.epochs).length).toBeLessThanOrEqual(topicPartitionsAtOnceMax);
    for (const key of Object.keys(report.epochs)) named.add(key);
  }
  expect(named.size).toBe(partitions);
});

test('however much waits, a report stays within its size, in order, and every topic partition has its turn', () => {
  const outbox = new CheckpointOutbox();
  const topic = 'x'.repeat(200);
  for (let partition = 0; partition < 30; partition += 1) {
    const key = `${topic}/${partition}`;
    outbox.claim(key, 1, 0n);
    for (let i = 0n; i < 50n; i += 1n) add(outbox, key, i, i + 1n);
  }
  const report = outbox.collect('me')!;
  expect(JSON.stringify(report).length).toBeLessThanOrEqual(reportBytesMax);
  expect(report.ranges.length).toBeGreaterThan(60);
  expect(new Set(report.ranges.map(({ topicPartition }) => topicPartition)).size).toBe(30);
  for (const key of Object.keys(report.epochs)) {
    const starts = report.ranges.filter(({ topicPartition }) => topicPartition === key).map(({ startOffset }) => Number(startOffset));
    expect(starts).toEqual(starts.map((_, i) => i));
  }
});
