import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import kafkajs from 'kafkajs';
import type { CheckpointReport } from '../../src/contracts/stream.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import type { ObjectHead } from '../../src/lake/object-store.ts';
import type { Step } from '../../src/streaming/steps.ts';
import { accepted, createLane, deleteRecords, expectExactlyOnce, keepProducing, produce, readAccepted, texts, waitMs, withAdmin } from '../support/streaming.ts';
import type { Lane } from '../support/streaming.ts';

// Each waits several times in a row for what takes seconds.
vi.setConfig({ testTimeout: 180_000 });

test('every record of every topic partition reaches Bronze exactly once, and the ledger has accepted it', async () => {
  const lane = await createLane({ partitions: 3 });
  await Promise.all([0, 1, 2].map((partition) => produce(lane, partition, texts(5_000, `p${partition}`))));
  const worker = lane.start();
  for (const partition of [0, 1, 2]) await accepted(lane, partition, 5_000n);
  await produce(lane, 1, texts(10, 'late'));
  await accepted(lane, 1, 5_010n);
  await worker.stop();
  for (const partition of [0, 1, 2]) await expectExactlyOnce(lane, partition);
  await expect(worker.done).resolves.toBeUndefined();
});

test('a stop closes and reports what is buffered', async () => {
  const lane = await createLane();
  await produce(lane, 0, texts(100));
  const worker = lane.start({ flush: { intervalMs: 600_000 } });
  await vi.waitFor(() => expect(worker.state().totals.records).toBe(100), { timeout: waitMs });
  expect(lane.checkpoints.next(`${lane.topic}/0`)).toBe(null);
  await worker.stop();
  expect(lane.checkpoints.next(`${lane.topic}/0`)).toBe(100n);
  await expectExactlyOnce(lane, 0);
});

test.each(['the ledger', 'the store'] as const)('a stop while %s does not answer ends by its deadline, and the next owner gets every record', async (away) => {
  const lane = await createLane();
  await produce(lane, 0, texts(500));
  const hanging: typeof lane.store = {
    ...lane.store,
    put: (key, body, options = {}) => (key.endsWith('.parquet')
      ? new Promise((_, reject) => { options.signal?.addEventListener('abort', () => reject(options.signal?.reason as Error)); })
      : lane.store.put(key, body, options)),
  };
  if (away === 'the ledger') lane.checkpoints.onReport = () => 'refuse';
  const worker = lane.start({ flush: { intervalMs: 600_000 }, ...(away === 'the store' ? { store: hanging } : {}) });
  await vi.waitFor(() => expect(worker.state().totals.records).toBe(500), { timeout: waitMs });
  const outcome = worker.stop({ deadlineMs: 500 }).then(() => 'stopped');
  expect(await Promise.race([outcome, sleep(60_000, 'still stopping', { ref: false })])).toBe('stopped');
  expect(lane.checkpoints.next(`${lane.topic}/0`)).toBe(null);
  lane.checkpoints.onReport = undefined;
  lane.start();
  await accepted(lane, 0, 500n);
  await expectExactlyOnce(lane, 0);
});

test.each(['None', 'GZIP', 'Snappy', 'LZ4', 'ZSTD'] as const)('records compressed with %s are read', async (name) => {
  const lane = await createLane();
  await produce(lane, 0, texts(3_000), kafkajs.CompressionTypes[name]);
  const worker = lane.start();
  await accepted(lane, 0, 3_000n);
  expect(worker.state().totals.records).toBe(3_000);
  await expectExactlyOnce(lane, 0);
});

test('tombstones, empty values, keys and headers come through as they are', async () => {
  const lane = await createLane();
  await produce(lane, 0, [
    { key: null, value: null },
    { key: 'k', value: '' },
    { key: '', value: 'v', headers: { trace: 'abc', twice: ['1', '2'] } },
  ]);
  lane.start();
  await accepted(lane, 0, 3n);
  const { rows } = await readAccepted(lane, 0);
  expect([...rows.values()]).toEqual([null, '', 'v']);
});

const nextOf = (lane: Lane, partition = 0): bigint | null => lane.checkpoints.next(`${lane.topic}/${partition}`);

test('streaming workers that come and go share the topic partitions, and no record is lost or doubled', async () => {
  const lane = await createLane({ partitions: 4 });
  const feed = keepProducing(lane, 4);
  const first = lane.start();
  await accepted(lane, 0, 1n);
  const second = lane.start();
  await vi.waitFor(() => expect(Object.keys(second.state().sources[lane.source]!)).toHaveLength(2), { timeout: waitMs });
  await vi.waitFor(() => expect(Object.values(second.state().sources[lane.source]!).every(({ phase }) => phase === 'reading')).toBe(true), { timeout: waitMs });
  const claimsBefore = lane.events.filter(({ type }) => type === 'claimed').length;
  await first.stop();
  await vi.waitFor(() => expect(Object.keys(second.state().sources[lane.source]!)).toHaveLength(4), { timeout: waitMs });
  const sent = await feed.stop();
  for (const [partition, count] of sent.entries()) await accepted(lane, partition, BigInt(count));
  await second.stop();
  expect(lane.events.filter(({ type }) => type === 'claimed').length - claimsBefore, 'kept topic partitions keep their claims').toBe(2);
  for (const partition of sent.keys()) await expectExactlyOnce(lane, partition);
});

const steps: Step[] = ['before-claim', 'after-claim', 'before-upload', 'after-upload', 'before-report', 'after-report', 'before-offset-commit', 'after-offset-commit'];
test.each(steps)('a crash %s loses no record and doubles none', async (crashAt) => {
  const lane = await createLane({ partitions: 2 });
  const feed = keepProducing(lane, 2);
  // The second time, so that something has been accepted before; a claim comes only once here.
  let left = crashAt.endsWith('claim') ? 1 : 2;
  const crashing = lane.start({
    flush: { intervalMs: 50, rowsMax: 700 },
    offsetCommitIntervalMs: 0,
    atStep: (step) => {
      if (step === crashAt && (left -= 1) === 0) throw new Error(`killed ${step}`);
    },
  });
  await expect(crashing.done).rejects.toThrow(`killed ${crashAt}`);
  lane.start();
  const sent = await feed.stop();
  for (const [partition, count] of sent.entries()) await accepted(lane, partition, BigInt(count));
  for (const partition of [0, 1]) await expectExactlyOnce(lane, partition);
});

test('files that a crashed owner stored and never reported are found and reported by the next, not written again', async () => {
  const lane = await createLane();
  await produce(lane, 0, texts(1_000));
  lane.checkpoints.onReport = () => 'refuse';
  const first = lane.start({ flush: { intervalMs: 50, rowsMax: 400 } });
  await vi.waitFor(() => expect(first.state().totals.rows).toBe(1_000), { timeout: waitMs });
  await first.kill();
  const { files } = first.state().totals;
  lane.checkpoints.onReport = undefined;
  const second = lane.start();
  await accepted(lane, 0, 1_000n);
  expect(second.state().totals).toMatchObject({ recoveredFiles: files, files: 0, records: 0 });
  await expectExactlyOnce(lane, 0);
});

test('a report that a zombie sends late changes nothing', async () => {
  const lane = await createLane();
  await produce(lane, 0, texts(500));
  let late: CheckpointReport | undefined;
  lane.checkpoints.onReport = (report) => {
    late ??= report;
    return 'refuse';
  };
  const zombie = lane.start({ sources: [{ source: lane.source, topics: [lane.topic], bronze: lane.bronze, groupId: 'zombies' }] });
  await vi.waitFor(() => expect(late).toBeDefined(), { timeout: waitMs });
  lane.checkpoints.onReport = undefined;
  const current = lane.start();
  await accepted(lane, 0, 500n);
  const before = lane.checkpoints.ledgerState.snapshot();
  lane.checkpoints.accept(late!);
  expect(lane.checkpoints.ledgerState.snapshot()).toEqual(before);
  await zombie.kill();
  await produce(lane, 0, texts(10, 'more'));
  await accepted(lane, 0, 510n);
  await current.stop();
  await expectExactlyOnce(lane, 0);
});

test('two workers that both believe to own a topic partition fence each other, and Bronze stays exact', async () => {
  const lane = await createLane();
  const feed = keepProducing(lane, 1);
  const one = lane.start({ sources: [{ source: lane.source, topics: [lane.topic], bronze: lane.bronze, groupId: `${lane.topic}-one` }] });
  await accepted(lane, 0, 1n);
  const two = lane.start({ sources: [{ source: lane.source, topics: [lane.topic], bronze: lane.bronze, groupId: `${lane.topic}-two` }] });
  await vi.waitFor(() => expect(one.state().totals.claimsLost + two.state().totals.claimsLost).toBeGreaterThanOrEqual(3), { timeout: waitMs });
  await one.kill();
  const [sent] = await feed.stop();
  await accepted(lane, 0, BigInt(sent!));
  await two.stop();
  await expectExactlyOnce(lane, 0);
});

test('a position of the group that somebody else moved is of no consequence', async () => {
  const lane = await createLane();
  await produce(lane, 0, texts(300));
  const first = lane.start({ offsetCommitIntervalMs: 0 });
  await accepted(lane, 0, 300n);
  await first.stop();
  const groupId = `tidemark-${lane.source}`;
  await withAdmin(lane, async (admin) => {
    const [committed] = await admin.fetchOffsets({ groupId, topics: [lane.topic] });
    expect(committed?.partitions, 'for lag tools').toEqual([expect.objectContaining({ partition: 0, offset: '300' })]);
    await admin.setOffsets({ groupId, topic: lane.topic, partitions: [{ partition: 0, offset: '350' }] });
  });
  await produce(lane, 0, texts(100, 'later'));
  const second = lane.start();
  await accepted(lane, 0, 400n);
  await second.stop();
  await withAdmin(lane, (admin) => admin.setOffsets({ groupId, topic: lane.topic, partitions: [{ partition: 0, offset: '5' }] }));
  await produce(lane, 0, texts(50, 'last'));
  lane.start();
  await accepted(lane, 0, 450n);
  await expectExactlyOnce(lane, 0);
});

test('records that the broker deleted before they were read become a gap with its exact offsets, and reading goes on behind it', async () => {
  const lane = await createLane({ partitions: 2 });
  await produce(lane, 0, texts(200));
  const first = lane.start();
  await accepted(lane, 0, 200n);
  await first.stop();
  await produce(lane, 0, texts(300, 'lost'));
  await produce(lane, 0, texts(100, 'kept'));
  await deleteRecords(lane, 0, 500n);
  const second = lane.start();
  await accepted(lane, 0, 600n);
  expect(lane.checkpoints.ledgerState.snapshot().gaps).toEqual([expect.objectContaining({ topicPartition: `${lane.topic}/0`, startOffset: '200', endOffset: '500' })]);
  expect(second.state().totals.gaps).toBe(1);
  await expectExactlyOnce(lane, 0, [{ start: 200n, end: 500n }]);
});

test('with the policy to halt, a gap stops its topic partition alone', async () => {
  const lane = await createLane({ partitions: 2 });
  await Promise.all([0, 1].map((partition) => produce(lane, partition, texts(100))));
  const first = lane.start();
  for (const partition of [0, 1]) await accepted(lane, partition, 100n);
  await first.stop();
  await Promise.all([0, 1].map((partition) => produce(lane, partition, texts(100, 'more'))));
  await deleteRecords(lane, 0, 150n);
  lane.start({ gapPolicy: 'halt' });
  await accepted(lane, 1, 200n);
  await vi.waitFor(() => expect(lane.events).toContainEqual(expect.objectContaining({ type: 'halted', topicPartition: `${lane.topic}/0`, code: 'RECORDS_EXPIRED' })), { timeout: waitMs });
  expect(nextOf(lane)).toBe(100n);
  await vi.waitFor(() => expect(lane.checkpoints.ledgerState.snapshot().partitions[`${lane.topic}/0`]!.halted).toMatch(/^RECORDS_EXPIRED: /), { timeout: waitMs });
  expect(lane.checkpoints.ledgerState.haltedCount).toBe(1);
});

test('a log that ends before the ledger halts its topic partition with LOG_TRUNCATED; the others go on', async () => {
  const lane = await createLane({ partitions: 2 });
  await produce(lane, 1, texts(50));
  // The ledger knows more than the log has: the topic was deleted and made again.
  const { claims: [claim] } = await lane.checkpoints.claim(lane.source, { owner: 'before', topicPartitions: [`${lane.topic}/0`] });
  lane.checkpoints.accept({ owner: 'before', epochs: { [`${lane.topic}/0`]: claim!.epoch }, ranges: [{ topicPartition: `${lane.topic}/0`, fileEpoch: 1, startOffset: '0', endOffset: '1000', rowCount: 1, byteCount: 1, checksum: '' }], gaps: [] });
  const worker = lane.start();
  await accepted(lane, 1, 50n);
  await vi.waitFor(() => expect(worker.state().sources[lane.source]?.[`${lane.topic}/0`]?.phase).toBe('halted'), { timeout: waitMs });
  expect(lane.events).toContainEqual(expect.objectContaining({ type: 'halted', code: 'LOG_TRUNCATED', cause: `${lane.topic}/0: expected a log that reaches offset 1000, found its end at 0` }));
  expect(nextOf(lane)).toBe(1000n);
  await vi.waitFor(() => expect(lane.checkpoints.ledgerState.snapshot().partitions[`${lane.topic}/0`]!.halted).toMatch(/^LOG_TRUNCATED: /), { timeout: waitMs });
});

test.each(['while it is read', 'between two readers'])('a topic that is deleted and made again %s halts with TOPIC_RECREATED, longer or not, and none of its records is taken for those of the old one', async (when) => {
  const lane = await createLane();
  await produce(lane, 0, texts(100, 'old'));
  const first = lane.start();
  await accepted(lane, 0, 100n);
  if (when === 'between two readers') await first.stop();
  await withAdmin(lane, async (admin) => {
    await admin.deleteTopics({ topics: [lane.topic] });
    await vi.waitFor(() => admin.createTopics({ waitForLeaders: true, topics: [{ topic: lane.topic, numPartitions: 1, replicationFactor: 1 }] }), { timeout: waitMs, interval: 50 });
  });
  await produce(lane, 0, texts(500, 'new'));
  const worker = when === 'between two readers' ? lane.start() : first;
  await vi.waitFor(() => expect(lane.checkpoints.ledgerState.snapshot().partitions[`${lane.topic}/0`]!.halted).toMatch(/^TOPIC_RECREATED: /), { timeout: waitMs });
  expect(nextOf(lane)).toBe(100n);
  await worker.stop();
  const { rows } = await readAccepted(lane, 0);
  expect([...rows.values()].every((value) => value?.startsWith('old'))).toBe(true);
  expect(rows.size).toBe(100);
});

test('a reader that cannot go on is warned of the loss before retention takes its records, and the ledger is told when', async () => {
  const retentionMs = 30 * 60_000;
  const lane = await createLane({ configs: { 'retention.ms': String(retentionMs) } });
  await produce(lane, 0, texts(10));
  const warn = vi.fn<(fields: object, message: string) => void>();
  const worker = lane.start({ forecastIntervalMs: 100, log: { ...lane.log, warn } });
  await accepted(lane, 0, 10n);
  const lossOf = (): number | null => worker.state().sources[lane.source]![`${lane.topic}/0`]!.lossInMs;
  const reportedLosses = () => lane.checkpoints.reports.at(-1)?.health?.losses ?? [];
  await produce(lane, 0, texts(10, 'read'));
  await accepted(lane, 0, 20n);
  await vi.waitFor(() => expect(lossOf()).toBe(null), { timeout: waitMs });
  warn.mockClear();
  lane.checkpoints.onReport = () => 'refuse';
  const put = vi.spyOn(lane.store, 'put').mockRejectedValue(new TidemarkError('OBJECT_STORE_UNAVAILABLE', 'no room (injected fault)'));
  const from = Date.now();
  await produce(lane, 0, texts(10, 'waiting'));
  // Until it has stood still for a while, it counts as slow.
  await vi.waitFor(() => expect(lossOf() ?? Infinity).toBeLessThan(retentionMs * 2), { timeout: waitMs });
  expect(lossOf()).toBeGreaterThan(retentionMs - 60_000);
  lane.checkpoints.onReport = undefined;
  await vi.waitFor(() => {
    expect(reportedLosses()).toEqual([{ topicPartition: `${lane.topic}/0`, lossAtMs: expect.any(Number) as number }]);
    // A report that was on its way may be of the moment before.
    expect(reportedLosses()[0]!.lossAtMs - from).toBeLessThan(retentionMs * 2);
  }, { timeout: waitMs });
  expect(reportedLosses()[0]!.lossAtMs - from).toBeGreaterThan(retentionMs - 60_000);
  expect(warn.mock.calls.filter(([, message]) => message.startsWith('retention is about to overtake the reader')), 'a warning ahead of the loss, once').toHaveLength(1);
  put.mockRestore();
  await accepted(lane, 0, 30n);
  await vi.waitFor(() => expect([lossOf(), reportedLosses()]).toEqual([null, []]), { timeout: waitMs });
});

test('aborted transactions and transaction markers are sparse offsets: no rows, no hole, no gap', async () => {
  const lane = await createLane();
  const producer = lane.kafka.producer({ transactionalId: `tx-${lane.topic}`, idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  const transact = async (prefix: string, count: number, end: 'commit' | 'abort'): Promise<void> => {
    const transaction = await producer.transaction();
    await transaction.send({ topic: lane.topic, acks: -1, messages: texts(count, prefix).map(({ value }) => ({ partition: 0, value })) });
    await transaction[end]();
  };
  await transact('aborted first', 20, 'abort');
  await transact('kept', 30, 'commit');
  await transact('aborted', 40, 'abort');
  const worker = lane.start();
  await accepted(lane, 0, 50n);
  await transact('aborted while reading', 10, 'abort');
  await transact('kept while reading', 5, 'commit');
  await producer.disconnect();
  await vi.waitFor(() => expect(worker.state().totals.rows).toBe(35), { timeout: waitMs });
  await worker.stop();
  const { rows, ranges } = await readAccepted(lane, 0);
  expect(ranges[0]!.start).toBe(0n);
  expect(rows.size).toBe(35);
  expect([...rows.values()].every((value) => value?.startsWith('kept'))).toBe(true);
  expect(lane.events.filter(({ type }) => type === 'gap')).toEqual([]);
  await expectExactlyOnce(lane, 0);
});

test('records larger than the whole budget pass, one at a time', async () => {
  const lane = await createLane({ partitions: 2, configs: { 'max.message.bytes': '8000000' } });
  const MiB = 1024 * 1024;
  for (let i = 0; i < 3; i += 1) {
    await produce(lane, 0, [{ value: Buffer.alloc(3 * MiB, 97 + i) }]);
    await produce(lane, 0, texts(50, `small ${i}`));
    await produce(lane, 1, texts(500, `other ${i}`));
  }
  const worker = lane.start({ budgetBytes: MiB, flush: { intervalMs: 200, bytesMax: MiB / 2 } });
  await accepted(lane, 0, 153n);
  await accepted(lane, 1, 1_500n);
  expect(worker.state().budget.peakBytes).toBeLessThan(4.5 * MiB);
  await worker.stop();
  expect(worker.state().budget.usedBytes).toBe(0);
  for (const partition of [0, 1]) await expectExactlyOnce(lane, partition);
});

test('S3 away: consumption pauses at the budget and never passes it; when S3 is back all goes on', async () => {
  const lane = await createLane({ partitions: 2 });
  const budgetBytes = 2 * 1024 * 1024;
  await Promise.all([0, 1].map((partition) => produce(lane, partition, Array.from({ length: 10_000 }, () => ({ value: randomBytes(300).toString('base64') })))));
  const { promise: back, resolve: comeBack } = Promise.withResolvers<void>();
  const store = {
    ...lane.store,
    put: async (...args: Parameters<typeof lane.store.put>) => {
      if (args[0].endsWith('.parquet')) await back;
      return lane.store.put(...args);
    },
  };
  const warn = vi.fn<(fields: object, message: string) => void>();
  const worker = lane.start({ store, budgetBytes, log: { ...lane.log, warn } });
  await vi.waitFor(() => { expect(worker.state().budget).toMatchObject({ full: true }); }, { timeout: waitMs });
  // What was buffered becomes smaller as files, which makes room for a while; then nothing is read any more.
  for (let before = -1; worker.state().totals.records !== before || !worker.state().budget.full;) {
    before = worker.state().totals.records;
    await new Promise((resolve) => { setTimeout(resolve, 700); }); // longer than fetches and flushes take
  }
  expect(worker.state().totals.records).toBeLessThan(20_000);
  expect(worker.state().budget.full).toBe(true);
  expect(worker.state().budget.peakBytes).toBeLessThanOrEqual(budgetBytes);
  // Loud, once, and in the ledger's view of the worker.
  expect(warn.mock.calls.filter(([, message]) => message.startsWith('the byte budget is nearly used up'))).toHaveLength(1);
  await vi.waitFor(() => expect(lane.checkpoints.reports.at(-1)?.health?.budgetShare, 'paused above the low-water mark').toBeGreaterThan(0.7), { timeout: waitMs });
  comeBack();
  for (const partition of [0, 1]) await accepted(lane, partition, 10_000n);
  expect(worker.state().budget.peakBytes).toBeLessThanOrEqual(budgetBytes);
  await worker.stop();
  for (const partition of [0, 1]) await expectExactlyOnce(lane, partition);
}, 300_000);

test('Temporal away: a holder of claims goes on writing Bronze files, and reports them all when Temporal is back', async () => {
  const lane = await createLane();
  await produce(lane, 0, texts(100));
  const worker = lane.start();
  await accepted(lane, 0, 100n);
  lane.checkpoints.onReport = () => 'refuse';
  await produce(lane, 0, texts(1_000, 'meanwhile'));
  await vi.waitFor(() => expect(worker.state().totals.rows).toBe(1_100), { timeout: waitMs });
  expect(nextOf(lane)).toBe(100n);
  lane.checkpoints.onReport = undefined;
  await accepted(lane, 0, 1_100n);
  await worker.stop();
  await expectExactlyOnce(lane, 0);
});

test('Temporal lost its database before a file of the current claim was committed: the worker claims again', async () => {
  const lane = await createLane();
  const worker = lane.start();
  await vi.waitFor(() => expect(worker.state().sources[lane.source]?.[`${lane.topic}/0`]?.phase).toBe('reading'), { timeout: waitMs });
  lane.checkpoints.loseState();
  await produce(lane, 0, texts(100));
  await accepted(lane, 0, 100n);
  expect(worker.state().totals.claimsLost).toBe(1);
  await expectExactlyOnce(lane, 0);
});

test('a new claim waits for Temporal, and reading starts when it answers', async () => {
  const lane = await createLane();
  await produce(lane, 0, texts(100));
  let refusals = 3;
  lane.checkpoints.onClaim = () => {
    if ((refusals -= 1) >= 0) throw new TidemarkError('TEMPORAL_UNAVAILABLE', 'away');
  };
  const worker = lane.start();
  await accepted(lane, 0, 100n);
  expect(worker.state().totals.records).toBe(100);
  await expectExactlyOnce(lane, 0);
});

test('Temporal lost its database: the ledger is built again from the lake, and files that only the worker knew of are found on S3', async () => {
  const lane = await createLane();
  const feed = keepProducing(lane, 1);
  const worker = lane.start({ flush: { intervalMs: 50 } });
  await accepted(lane, 0, 1n);
  for (let round = 1; round <= 2; round += 1) {
    lane.checkpoints.loseState();
    const known = nextOf(lane)!;
    await accepted(lane, 0, known + 1n);
    expect(worker.state().totals.claimsLost).toBe(round);
  }
  const [sent] = await feed.stop();
  await accepted(lane, 0, BigInt(sent!));
  await worker.stop();
  await expectExactlyOnce(lane, 0);
});

test('many topic partitions with large record batches are all read: none waits for the backlog of the others', async () => {
  const lane = await createLane({ partitions: 12, configs: { 'max.message.bytes': '1000000' } });
  const large = (): { value: string } => ({ value: randomBytes(500_000).toString('base64') });
  const partitions = Array.from({ length: 12 }, (_, partition) => partition);
  for (let batch = 0; batch < 3; batch += 1) await Promise.all(partitions.map((partition) => produce(lane, partition, [large()])));
  const reached: string[] = [];
  // No reader begins before the last one can: what is asked is the order among those that read.
  const { promise: allFound, resolve: lastFound } = Promise.withResolvers<void>();
  let found = 0;
  const store: typeof lane.store = {
    ...lane.store,
    async *list(...args) {
      const objects: ObjectHead[] = [];
      for await (const object of lane.store.list(...args)) objects.push(object);
      if ((found += 1) === partitions.length) lastFound();
      await allFound;
      yield* objects;
    },
  };
  lane.start({
    store,
    kafka: { brokers: lane.brokers, fetch: { bytesMax: 100_000 } },
    partitionBytesMax: 50_000,
    onEvent: (event) => { if (event.type === 'recordsTaken') reached.push(event.topicPartition); },
  });
  for (const partition of partitions) await accepted(lane, partition, 3n);
  // One or two may still hear later than the rest where their log starts.
  expect(new Set(reached.slice(0, 12)).size, 'each has its turn before any has its second').toBeGreaterThanOrEqual(9);
  for (const partition of partitions.slice(0, 2)) await expectExactlyOnce(lane, partition);
});

test('a file that the Bronze table refuses again and again is read from Kafka once more, instead of being reported for ever', async () => {
  const lane = await createLane();
  const key = `${lane.topic}/0`;
  await produce(lane, 0, texts(100));
  const refused: number[] = [];
  const worker = lane.start({ lookIntervalMs: 100 });
  // What the stream workflow does when the table commit refuses a file: always the first one that was written.
  const refuse = setInterval(() => {
    const [file] = lane.checkpoints.ledgerState.pendingFiles();
    if (!file || (refused.length > 0 && file.fileEpoch !== refused[0])) return;
    refused.push(file.fileEpoch);
    lane.checkpoints.accepted.length = 0;
    lane.checkpoints.ledgerState.fileRefused(key, file.startOffset, 'a test refuses it', Date.now());
  }, 20);
  try {
    await vi.waitFor(() => expect(refused).toHaveLength(2), { timeout: waitMs });
    await vi.waitFor(() => expect(lane.checkpoints.accepted.at(-1)?.fileEpoch).toBeGreaterThan(refused[0]!), { timeout: waitMs });
  } finally {
    clearInterval(refuse);
  }
  await accepted(lane, 0, 100n);
  await worker.stop();
  await expectExactlyOnce(lane, 0);
});
