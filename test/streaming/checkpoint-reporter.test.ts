import * as fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import type { CheckpointRange } from '../../src/contracts/stream.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import type { CheckpointClient } from '../../src/streaming/checkpoint-client.ts';
import { CheckpointOutbox } from '../../src/streaming/checkpoint-outbox.ts';
import { CheckpointReporter } from '../../src/streaming/checkpoint-reporter.ts';
import type { Clock } from '../../src/streaming/clock.ts';
import { FakeCheckpoints } from '../support/fake-checkpoints.ts';
import type { ReportFault } from '../support/fake-checkpoints.ts';

const quiet = (): void => undefined;
const log = { info: quiet, warn: quiet };
const key = 't/0';
const range = (start: bigint, end: bigint): CheckpointRange =>
  ({ topicPartition: key, fileEpoch: 1, startOffset: String(start), endOffset: String(end), rowCount: 1, byteCount: 1, checksum: `${start}-${end}` });

/** Time passes only by sleeping: then at once. Except for a sleep without an end. */
const jumpingClock = (): Clock & { at: number } => {
  const clock = {
    at: 1_000,
    nowMs: () => clock.at,
    sleep: async (ms: number, signal?: AbortSignal): Promise<void> => {
      if (ms === Infinity) {
        await new Promise((resolve) => { signal?.addEventListener('abort', resolve, { once: true }); });
        return;
      }
      await new Promise((resolve) => { setImmediate(resolve); });
      if (!signal?.aborted) clock.at += ms;
    },
  };
  return clock;
};

/** Time passes only when the test says so. */
const handClock = (): Clock & { pass(ms: number): void } => {
  let at = 1_000;
  const asleep = new Set<{ untilMs: number; wake: () => void }>();
  return {
    nowMs: () => at,
    sleep: (ms, signal) => new Promise((resolve) => {
      const sleeper = { untilMs: at + ms, wake: () => { asleep.delete(sleeper); resolve(); } };
      asleep.add(sleeper);
      signal?.addEventListener('abort', sleeper.wake, { once: true });
    }),
    pass: (ms) => {
      at += ms;
      for (const { untilMs, wake } of asleep) if (untilMs <= at) wake();
    },
  };
};

/** What takes microseconds may still be kept waiting by a busy machine. */
const patient = { timeout: 20_000, interval: 5 };

const distances = (at: readonly number[]): number[] => at.slice(1).map((ms, i) => ms - at[i]!);

const start = async (checkpoints: CheckpointClient, options: { onStale?: () => void; onLedgerLost?: () => void; lookIntervalMs?: number } = {}) => {
  const outbox = new CheckpointOutbox();
  const clock = jumpingClock();
  const signalsAt: number[] = [];
  const reporter = new CheckpointReporter({
    source: 's', owner: 'me', outbox, clock, log, lookIntervalMs: options.lookIntervalMs ?? Infinity,
    checkpoints: {
      claim: (source, request) => checkpoints.claim(source, request),
      report: (source, report) => {
        signalsAt.push(clock.at);
        return checkpoints.report(source, report);
      },
      ledger: (source, query) => checkpoints.ledger(source, query),
    },
    onSettled: ({ stale }) => { if (stale.length > 0) options.onStale?.(); },
    onLedgerLost: () => options.onLedgerLost?.(),
    atStep: () => undefined,
  });
  const { claims: [claim] } = await checkpoints.claim('s', { owner: 'me', topicPartitions: [key] });
  outbox.claim(key, claim!.epoch, BigInt(claim!.nextOffset ?? 0));
  const running = reporter.start();
  return { outbox, reporter, clock, signalsAt, stop: async () => { await reporter.stop(); await running; } };
};

test('Signals lost, doubled, late, or with a lost answer: each range is accepted exactly once and in order', async () => {
  const faults = fc.array(fc.constantFrom<ReportFault | undefined>('lose', 'duplicate', 'loseAnswer', 'refuse', 'delay', undefined), { maxLength: 25 });
  await fc.assert(fc.asyncProperty(faults, fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 12 }), async (queue, lengths) => {
    const checkpoints = new FakeCheckpoints();
    checkpoints.onReport = () => queue.shift();
    const { outbox, reporter, signalsAt, stop } = await start(checkpoints);
    let next = 0n;
    for (const length of lengths) {
      const end = next + BigInt(length);
      outbox.addFile(key, next, end)(range(next, end));
      next = end;
      reporter.notify();
      await new Promise((resolve) => { setImmediate(resolve); });
    }
    await reporter.drained(AbortSignal.timeout(10_000));
    await stop();
    expect(checkpoints.next(key)).toBe(next);
    expect(checkpoints.accepted.map(({ checksum }) => checksum)).toEqual(lengths.map((_, i) => {
      const from = lengths.slice(0, i).reduce((sum, length) => sum + length, 0);
      return `${from}-${from + lengths[i]!}`;
    }));
    expect(Math.min(...distances(signalsAt))).toBeGreaterThanOrEqual(1_000);
  }), { numRuns: 60 });
});

test('the first Signal leaves at once, later ones at least a second apart, with all that waits', async () => {
  const checkpoints = new FakeCheckpoints();
  const { outbox, reporter, signalsAt, clock, stop } = await start(checkpoints);
  const from = clock.at;
  for (let i = 0n; i < 20n; i += 1n) {
    outbox.addFile(key, i, i + 1n)(range(i, i + 1n));
    reporter.notify();
    await new Promise((resolve) => { setImmediate(resolve); });
  }
  await reporter.drained(AbortSignal.timeout(10_000));
  await stop();
  expect(signalsAt[0]).toBe(from);
  expect(Math.min(...distances(signalsAt))).toBeGreaterThanOrEqual(1_000);
  expect(signalsAt.length).toBeLessThan(20);
});

test('files that become durable one after the other leave in one report; one that takes long is not waited for', async () => {
  const checkpoints = new FakeCheckpoints();
  const outbox = new CheckpointOutbox();
  const reports: string[][] = [];
  const clock = handClock();
  const reporter = new CheckpointReporter({
    source: 's', owner: 'me', outbox, clock, log, checkpoints: { claim: checkpoints.claim.bind(checkpoints), ledger: checkpoints.ledger.bind(checkpoints), report: (source, report) => {
      reports.push(report.ranges.map(({ topicPartition }) => topicPartition));
      return checkpoints.report(source, report);
    } }, onSettled: quiet, onLedgerLost: quiet, atStep: quiet,
  });
  const keys = ['t/0', 't/1', 't/2', 't/3'];
  const { claims } = await checkpoints.claim('s', { owner: 'me', topicPartitions: keys });
  for (const { topicPartition, epoch } of claims) outbox.claim(topicPartition, epoch, 0n);
  const running = reporter.start();
  const durable = keys.map((topicPartition) => {
    const become = outbox.addFile(topicPartition, 0n, 5n);
    return () => {
      become({ ...range(0n, 5n), topicPartition });
      reporter.notify();
    };
  });
  for (const become of durable.slice(0, 3)) {
    become();
    await new Promise((resolve) => { setImmediate(resolve); });
  }
  expect(reports).toEqual([]);
  await vi.waitFor(() => {
    clock.pass(50);
    expect(reports).toEqual([['t/0', 't/1', 't/2']]);
  }, patient);
  durable[3]!();
  await vi.waitFor(() => {
    clock.pass(50);
    expect(reports).toHaveLength(2);
  }, patient);
  await reporter.drained(AbortSignal.timeout(10_000));
  expect(reports).toHaveLength(2);
  await reporter.stop();
  await running;
});

test('while nobody answers for the ledger, one Signal waits, not one for every second', async () => {
  const checkpoints = new FakeCheckpoints();
  let away = true;
  let asked = 0;
  const { outbox, reporter, signalsAt, stop } = await start({
    claim: (source, request) => checkpoints.claim(source, request),
    report: (source, report) => checkpoints.report(source, report),
    ledger: (source, query) => {
      asked += 1;
      if (asked > 50) away = false;
      return away ? Promise.reject(new TidemarkError('TEMPORAL_UNAVAILABLE', 'no worker')) : checkpoints.ledger(source, query);
    },
  });
  outbox.addFile(key, 0n, 5n)(range(0n, 5n));
  reporter.notify();
  await vi.waitFor(() => expect(asked).toBeGreaterThan(10), patient);
  expect(signalsAt).toHaveLength(1);
  await reporter.drained(AbortSignal.timeout(10_000));
  expect(signalsAt).toHaveLength(1);
  await stop();
});

test('a ledger that is still being rebuilt is asked again, and what it says meanwhile is not believed', async () => {
  const checkpoints = new FakeCheckpoints();
  let rebuilding = 3;
  checkpoints.onLedger = (view) => ((rebuilding -= 1) >= 0 ? { ready: false, topicPartitions: { [key]: { owner: 'other', epoch: 10 ** 15, nextOffset: '0' } } } : view);
  let stale = 0;
  const { outbox, reporter, stop } = await start(checkpoints, { onStale: () => { stale += 1; } });
  outbox.addFile(key, 0n, 5n)(range(0n, 5n));
  reporter.notify();
  await reporter.drained(AbortSignal.timeout(10_000));
  await stop();
  expect(stale).toBe(0);
});

test('a workflow that is gone is told, once for each report', async () => {
  const checkpoints = new FakeCheckpoints();
  let lost = 0;
  const { outbox, reporter, stop } = await start({
    claim: (source, request) => checkpoints.claim(source, request),
    report: () => Promise.reject(new TidemarkError('WORKFLOW_NOT_FOUND', 'gone')),
    ledger: (source, query) => checkpoints.ledger(source, query),
  }, { onLedgerLost: () => {
    lost += 1;
    outbox.close(key);
  } });
  outbox.addFile(key, 0n, 5n)(range(0n, 5n));
  reporter.notify();
  await vi.waitFor(() => expect(lost).toBe(1), patient);
  await stop();
  expect(lost).toBe(1);
});

test('a claim that is lost while there is nothing to report is noticed all the same', async () => {
  const checkpoints = new FakeCheckpoints();
  let stale = 0;
  const { signalsAt, stop } = await start(checkpoints, { onStale: () => { stale += 1; }, lookIntervalMs: 10_000 });
  await checkpoints.claim('s', { owner: 'other', topicPartitions: [key] });
  await vi.waitFor(() => expect(stale).toBeGreaterThan(0), patient);
  await stop();
  expect(signalsAt).toEqual([]);
});

test('a crash at a step ends it with that error', async () => {
  const checkpoints = new FakeCheckpoints();
  const outbox = new CheckpointOutbox();
  const reporter = new CheckpointReporter({
    source: 's', owner: 'me', outbox, checkpoints, clock: jumpingClock(), log, onSettled: quiet, onLedgerLost: quiet,
    atStep: (step) => { if (step === 'after-report') throw new Error('killed'); },
  });
  const { claims: [claim] } = await checkpoints.claim('s', { owner: 'me', topicPartitions: [key] });
  outbox.claim(key, claim!.epoch, 0n);
  outbox.addFile(key, 0n, 5n)(range(0n, 5n));
  await expect(reporter.start()).rejects.toThrow('killed');
  expect(checkpoints.next(key)).toBe(5n);
});
