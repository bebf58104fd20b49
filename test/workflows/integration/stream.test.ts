import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { ApplicationFailure } from '@temporalio/common';
import { divertBatchSignal, pauseSignal, reportSignal, resumeSignal, retryBatchSignal } from '../../../src/contracts/stream.ts';
import type { CheckpointReport } from '../../../src/contracts/stream.ts';
import { microBatchWorkflowId, microBatchWorkflowType } from '../../../src/contracts/micro-batch.ts';
import { Coverage, IntervalSet } from '../../../src/domain/offsets.ts';
import { FakeLake } from '../../support/fake-lake.ts';
import type { Environment } from '../environment.ts';
import { StreamUnderTest, connectEnvironment, range } from '../environment.ts';

let environment: Environment;
beforeAll(async () => {
  environment = await connectEnvironment(inject('stack').temporal.address);
}, 180_000);
afterAll(() => environment.temporal.teardown());

const run = <T>(lake: FakeLake, use: (stream: StreamUnderTest) => Promise<T>): Promise<T> => StreamUnderTest.run(environment, lake, use);
const key = 'trades/0';
const offsets = (start: number, end: number, topicPartition = key): Coverage => Coverage.of([[topicPartition, IntervalSet.of({ start: BigInt(start), end: BigInt(end) })]]);
/** Nothing here needs a clock that skips: activities that fail are tried again at once. */
const retryDelayMs = 5;
/** A gate that activities wait at. */
const gate = () => {
  let open!: () => void;
  const opened = new Promise<void>((resolve) => { open = resolve; });
  return { open, opened };
};

test('a claim is answered only when the ledger was rebuilt from the lake, with what the lake holds', async () => {
  const lake = new FakeLake();
  lake.bronze = offsets(0, 500);
  const { open, opened } = gate();
  lake.before = (step) => (step === 'loadLakeState' ? opened : undefined);
  await run(lake, async (stream) => {
    let claimed = false;
    const claim = stream.claim('worker-1', key).finally(() => { claimed = true; });
    await lake.until(() => lake.callsOf('loadLakeState') >= 1);
    const [view, state] = await Promise.all([stream.ledger(key), stream.state()]);
    expect([view.ready, state.phase, claimed]).toEqual([false, 'rebuilding', false]);
    open();
    expect(await claim).toEqual([{ topicPartition: key, epoch: expect.any(Number) as number, nextOffset: '500' }]);
    await lake.until(() => lake.gold.contains(offsets(0, 500)));
  });
});

test('accepted files are committed to Bronze, refined in a micro-batch, and settled in the totals', async () => {
  const lake = new FakeLake();
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key, 'trades/1');
    await stream.report('worker-1', claims, range(key, 0, 100), range(key, 100, 250), range('trades/1', 7, 57));
    const state = await stream.until(({ totals }) => totals.goldRows === 300);
    expect(lake.gold.equals(offsets(0, 250).union(offsets(7, 57, 'trades/1')))).toBe(true);
    expect(state).toMatchObject({
      phase: 'running', open: {}, openRecords: 0, runningTotal: 0, failedTotal: 0, pendingFilesTotal: 0, topicPartitionsTotal: 2,
      totals: { bronzeRows: 300, bronzeFiles: 3, refinedRows: 300, silverRows: 300, freshness: { 10: 300 } },
      topicPartitions: { [key]: { owner: 'worker-1', nextOffset: '250', halted: null }, 'trades/1': { nextOffset: '57' } },
    });
  });
});

test('a report of an owner that lost its claim changes nothing', async () => {
  const lake = new FakeLake();
  await run(lake, async (stream) => {
    const zombie = await stream.claim('worker-1', key);
    const current = await stream.claim('worker-2', key);
    await stream.report('worker-1', zombie, range(key, 0, 100));
    await stream.report('worker-2', zombie, range(key, 0, 200));
    expect((await stream.ledger(key)).topicPartitions[key]).toMatchObject({ owner: 'worker-2', nextOffset: null });
    await stream.report('worker-2', current, range(key, 0, 30));
    await stream.until(({ totals }) => totals.goldRows === 30);
    expect(lake.bronze.equals(offsets(0, 30))).toBe(true);
  });
});

test('a table commit that fails is tried until it works, visible as a pending activity, while reports are still taken', async () => {
  const lake = new FakeLake();
  let broken = true;
  lake.before = (step) => {
    if (step === 'commitBronze' && broken) throw ApplicationFailure.create({ type: 'OBJECT_STORE_UNAVAILABLE', message: 'S3 is away', nextRetryDelay: retryDelayMs });
  };
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key);
    await stream.report('worker-1', claims, range(key, 0, 100));
    await lake.until(() => lake.callsOf('commitBronze') > 5);
    await stream.report('worker-1', claims, range(key, 100, 200));
    const { raw } = await stream.handle.describe();
    // No limit to attempts: 0 stands for none.
    expect(raw.pendingActivities?.map(({ activityType, lastFailure, maximumAttempts }) => [activityType?.name, lastFailure?.message, maximumAttempts])).toEqual([['commitBronze', 'S3 is away', 0]]);
    expect(await stream.state()).toMatchObject({ pendingFilesTotal: 2, topicPartitions: { [key]: { nextOffset: '200' } } });
    broken = false;
    await stream.until(({ totals }) => totals.goldRows === 200);
  });
});

test('a file that Bronze cannot take halts its own topic partition, which a new claim reads again; the others go on', async () => {
  const lake = new FakeLake();
  lake.unreadable.add(`${key}:100`);
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key, 'trades/1');
    await stream.report('worker-1', claims, range(key, 0, 100), range(key, 100, 200), range(key, 200, 300), range('trades/1', 0, 50));
    const state = await stream.until(({ totals }) => totals.goldRows === 150);
    expect(state).toMatchObject({
      haltedTotal: 1, pendingFilesTotal: 0, totals: { refusedFiles: 1 },
      refused: [{ topicPartition: key, startOffset: '100', endOffset: '200', cause: 'the file cannot be read' }],
      topicPartitions: { [key]: { owner: null, nextOffset: '100', halted: 'the Bronze file [100, 200) was refused: the file cannot be read' } },
    });
    // The owner of before is fenced off; whoever claims reads on from the refused file.
    await stream.report('worker-1', claims, range(key, 300, 400), range('trades/1', 50, 60));
    lake.unreadable.clear();
    const again = await stream.claim('worker-1', key);
    expect(again[0]).toMatchObject({ nextOffset: '100' });
    await stream.report('worker-1', again, range(key, 100, 350));
    expect(await stream.until(({ totals }) => totals.goldRows === 410)).toMatchObject({ haltedTotal: 0, topicPartitions: { [key]: { halted: null } } });
    expect(lake.bronze.equals(offsets(0, 350).union(offsets(0, 60, 'trades/1')))).toBe(true);
  });
});

test('a micro-batch that fails for good stays visible with its cause while the stream goes on; retryBatch refines it again, alone', async () => {
  const lake = new FakeLake();
  let poisoned = true;
  lake.before = (step, { intervals }) => {
    if (step === 'refineBatch' && poisoned && Coverage.fromJson(intervals ?? {}).overlaps(offsets(0, 100))) {
      throw ApplicationFailure.create({ type: 'FILE_UNREADABLE', message: 'column raw_bytes cannot be decoded', nonRetryable: true });
    }
  };
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key);
    await stream.report('worker-1', claims, range(key, 0, 100));
    const failing = await stream.until(({ failedTotal }) => failedTotal === 1);
    expect(failing.failed).toEqual([{ batch: 1, records: 100, intervals: { [key]: '0-100' }, cause: 'FILE_UNREADABLE: column raw_bytes cannot be decoded', failedAtMs: expect.any(Number) as number }]);
    await stream.report('worker-1', claims, range(key, 100, 300));
    expect(await stream.until(({ totals }) => totals.goldRows === 200)).toMatchObject({ failedTotal: 1, openRecords: 0 });

    await stream.handle.signal(retryBatchSignal, 77); // no such one
    await stream.handle.signal(retryBatchSignal, 1);
    expect((await stream.until(({ failed }) => failed[0]?.batch === 3)).failed[0]!.intervals).toEqual({ [key]: '0-100' });
    poisoned = false;
    await stream.handle.signal(retryBatchSignal, 3);
    await stream.report('worker-1', claims, range(key, 300, 310));
    expect(await stream.until(({ totals }) => totals.goldRows === 310)).toMatchObject({ failed: [], failedTotal: 0 });
    expect(lake.calls.filter(({ step }) => step === 'refineBatch').map(({ input }) => (input as { intervals: Record<string, string> }).intervals[key]))
      .toEqual(expect.arrayContaining(['0-100', '100-300', '300-310']));
  });
});

test('divertBatch puts a failed micro-batch into the DLQ whole, with the cause as its reason', async () => {
  const lake = new FakeLake();
  lake.before = (step, input) => {
    if (step === 'refineBatch' && !('divert' in input)) throw ApplicationFailure.create({ type: 'INVARIANT', message: 'rows lost', nonRetryable: true });
  };
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key);
    await stream.report('worker-1', claims, range(key, 0, 100));
    await stream.until(({ failedTotal }) => failedTotal === 1);
    await stream.handle.signal(divertBatchSignal, 1);
    await stream.until(({ totals }) => totals.dlqByType['unknown_error'] === 100);
    expect(lake.calls.filter(({ step }) => step === 'refineBatch').at(-1)!.input)
      .toMatchObject({ batch: 2, intervals: { [key]: '0-100' }, divert: 'micro-batch 1 was diverted by an operator: INVARIANT: rows lost' });
    expect(await stream.state()).toMatchObject({ failedTotal: 0, openRecords: 0 });
  });
});

test('paused, a stream goes on into Bronze and starts no micro-batch; resume starts what is open', async () => {
  const lake = new FakeLake();
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key);
    await stream.handle.signal(pauseSignal);
    await stream.report('worker-1', claims, range(key, 0, 100));
    expect(await stream.until(({ openRecords }) => openRecords === 100)).toMatchObject({ phase: 'paused', runningTotal: 0 });
    expect(lake.callsOf('refineBatch')).toBe(0);
    await stream.handle.signal(resumeSignal);
    expect(await stream.until(({ totals }) => totals.goldRows === 100)).toMatchObject({ phase: 'running' });
  });
});

test('continue-as-new under load loses no signal, no pause and no running micro-batch', async () => {
  const lake = new FakeLake({ batchRecordsMax: 50, runningMax: 3, historyEventsMax: 150 });
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key, 'trades/1');
    const reported = { [key]: 0, 'trades/1': 0 };
    // Signals all the time, several before the ledger is read back: as a streaming worker never would.
    for (let round = 0; round < 50; round += 1) {
      const topicPartition = round % 3 === 0 ? 'trades/1' : key;
      const start = reported[topicPartition]!;
      await stream.report('worker-1', claims, range(topicPartition, start, start + 10), range(topicPartition, start + 10, start + 20));
      reported[topicPartition] = start + 20;
      if (round === 30) await stream.handle.signal(pauseSignal);
    }
    expect((await stream.until(({ pendingFilesTotal }) => pendingFilesTotal === 0, 200_000)).phase).toBe('paused');
    await stream.handle.signal(resumeSignal);
    const wanted = offsets(0, reported[key]!).union(offsets(0, reported['trades/1']!, 'trades/1'));
    const state = await stream.until(({ totals, runningTotal }) => totals.goldRows === 1_000 && runningTotal === 0, 200_000);
    expect(lake.gold.equals(wanted)).toBe(true);
    expect(state).toMatchObject({ openRecords: 0, failedTotal: 0, totals: { bronzeRows: 1_000, bronzeFiles: 100, refinedRows: 1_000 } });
    expect((await stream.histories()).length).toBeGreaterThanOrEqual(2);
    // Each micro-batch was seen to its end once, whichever run had started it.
    expect(state.totals.batches).toBe(new Set(lake.calls.filter(({ step }) => step === 'refineBatch').map(({ input }) => (input as { batch: number }).batch)).size);
  });
}, 300_000);

test('micro-batches that run while the stream continues as new are attached to, not started twice', async () => {
  const lake = new FakeLake({ batchRecordsMax: 100, runningMax: 2, historyEventsMax: 40 });
  const { open, opened } = gate();
  lake.before = (step) => (step === 'mergeGold' ? opened : undefined);
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key);
    await stream.report('worker-1', claims, range(key, 0, 200));
    await stream.until(({ runningTotal }) => runningTotal >= 1);
    for (let i = 0; i < 15; i += 1) await stream.report('worker-1', claims, range(key, 200 + i, 201 + i));
    await lake.until(() => lake.callsOf('awaitMicroBatch') >= 2);
    open();
    await stream.until(({ totals, runningTotal }) => totals.goldRows === 215 && runningTotal === 0, 60_000);
    const numbers = lake.calls.filter(({ step }) => step === 'refineBatch').map(({ input }) => (input as { batch: number }).batch);
    expect(new Set(numbers).size).toBe(numbers.length);
    expect((await stream.histories()).length).toBeGreaterThanOrEqual(2);
  });
}, 90_000);

test('a micro-batch that a lost history started under the next number, over other offsets, is waited for, and what it did not refine is refined after it', async () => {
  const lake = new FakeLake();
  const { open, opened } = gate();
  lake.before = (step) => (step === 'refineBatch' ? opened : undefined);
  await run(lake, async (stream) => {
    const { client } = environment.temporal;
    const intervals = offsets(0, 100).toJson();
    const forestalling = await client.workflow.start(microBatchWorkflowType, {
      workflowId: microBatchWorkflowId(stream.source, 1), taskQueue: stream.source, args: [{ source: stream.source, batch: 1, intervals }],
    });
    const claims = await stream.claim('worker-1', key);
    await stream.report('worker-1', claims, range(key, 0, 100), range(key, 100, 250));
    await lake.until(() => lake.callsOf('awaitMicroBatch') > 0);
    open();
    await forestalling.result();
    const state = await stream.until(({ openRecords, runningTotal, totals }) => openRecords === 0 && runningTotal === 0 && totals.batches > 1);
    expect(lake.gold.toJson()).toEqual(offsets(0, 250).toJson());
    expect(state).toMatchObject({ failedTotal: 0, totals: { bronzeRows: 250, refinedRows: 250, goldRows: 250 } });
  });
});

test('a commit and a claim that the lake keeps waiting do not keep the stream from continuing as new', async () => {
  const lake = new FakeLake({ batchRecordsMax: 100, runningMax: 2, historyEventsMax: 60 });
  let stalled = false;
  const { open, opened } = gate();
  lake.before = (step) => (stalled && (step === 'commitBronze' || step === 'loadLakeState') ? opened : undefined);
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key);
    const firstRun = (await stream.handle.describe()).runId;
    stalled = true;
    const claim = stream.claim('worker-2', 'trades/1').then(() => 'answered', () => 'refused');
    for (let i = 0; i < 50; i += 1) await stream.report('worker-1', claims, range(key, i, i + 1));
    while ((await stream.handle.describe()).runId === firstRun) await new Promise((wake) => setTimeout(wake, 100));
    stalled = false;
    open();
    await stream.until(({ totals }) => totals.goldRows === 50);
    // Temporal tells the client that the run it asked is gone, or carries the claim over to the next one.
    expect(['answered', 'refused']).toContain(await claim);
    expect(await stream.claim('worker-2', 'trades/1')).toHaveLength(1);
  });
}, 90_000);

test('micro-batches that take longer than the trigger interval allows get fewer records, and the state says why', async () => {
  const adaptive = { batchRecordsMin: 10, batchTriggerMs: 1_000 };
  const lake = new FakeLake({ batchRecordsMax: 1_000, runningMax: 1, adaptive });
  const msPerRecord = 3;
  const sizes: number[] = [];
  lake.before = (step, { intervals }) => {
    if (step !== 'refineBatch') return undefined;
    sizes.push(Number(Coverage.fromJson(intervals ?? {}).size));
    return new Promise((done) => setTimeout(done, sizes.at(-1)! * msPerRecord));
  };
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key);
    expect((await stream.state()).batchLimit).toEqual({ recordsMax: 1_000, reason: 'nothing measured yet: the upper bound', triggerMs: 1_000 });
    await stream.handle.signal(pauseSignal);
    await stream.report('worker-1', claims, range(key, 0, 1_300));
    await stream.until(({ openRecords }) => openRecords === 1_300);
    await stream.handle.signal(resumeSignal);
    const { batchLimit } = await stream.until(({ totals }) => totals.goldRows === 1_300, 60_000);
    expect(sizes[0]).toBe(1_000);
    // 650 ms are aimed at, to the nearest record; a micro-batch has its own cost besides.
    const aimed = Math.round(650 / msPerRecord);
    expect(sizes.slice(1).filter((size) => size > aimed)).toEqual([]);
    expect(batchLimit!.recordsMax).toBeLessThanOrEqual(aimed);
    expect(batchLimit!.reason).toMatch(/^\d+ records took [\d.]+ s, aim 0\.65 s/);
  });
}, 90_000);

test('what a streaming worker halts on, and what it says of itself, is in the state until the topic partition is claimed again', async () => {
  const lake = new FakeLake();
  await run(lake, async (stream) => {
    const claims = await stream.claim('worker-1', key, 'trades/1');
    const epochs = Object.fromEntries(claims.map(({ topicPartition, epoch }) => [topicPartition, epoch]));
    const cause = 'LOG_TRUNCATED: trades/0: expected a log that reaches offset 100, found its end at 7';
    const health = { atMs: 5, budgetShare: 0.9, flushIntervalMs: 2_000, flushReason: 'at most 4 files/s', losses: [{ topicPartition: 'trades/1', lossAtMs: 60_000 }] };
    await stream.handle.signal(reportSignal, { owner: 'worker-1', epochs, ranges: [range(key, 0, 100)], gaps: [], halts: [{ topicPartition: key, offset: '100', cause }], health } satisfies CheckpointReport);
    const state = await stream.until(({ totals }) => totals.goldRows === 100);
    expect(state).toMatchObject({ haltedTotal: 1, topicPartitions: { [key]: { nextOffset: '100', halted: cause }, 'trades/1': { halted: null } }, workers: { 'worker-1': health } });
    await stream.claim('worker-2', key, 'trades/1');
    expect(await stream.state()).toMatchObject({ haltedTotal: 0, workers: {} });
  });
});
