import { expect, test, vi } from 'vitest';
import kafkajs from 'kafkajs';
import { accepted, createLane, expectExactlyOnce, produce, readAccepted, texts } from '../support/streaming.ts';

test('every record of every topic partition reaches Bronze exactly once, and the ledger has accepted it', async () => {
  const lane = await createLane({ partitions: 3 });
  await Promise.all([0, 1, 2].map((partition) => produce(lane, partition, texts(5_000, `p${partition}`))));
  const worker = lane.start();
  for (const partition of [0, 1, 2]) await accepted(lane, partition, 5_000n);
  await produce(lane, 1, texts(10, 'late'));
  await accepted(lane, 1, 5_010n);
  await worker.stop();
  for (const partition of [0, 1, 2]) await expectExactlyOnce(lane, partition);
  await worker.done;
});

test('a stop closes and reports what is buffered', async () => {
  const lane = await createLane();
  await produce(lane, 0, texts(100));
  const worker = lane.start({ flush: { intervalMs: 600_000 } });
  await vi.waitFor(() => expect(worker.state().totals.records).toBe(100), { timeout: 20_000 });
  expect(lane.checkpoints.next(`${lane.topic}/0`)).toBe(null);
  await worker.stop();
  expect(lane.checkpoints.next(`${lane.topic}/0`)).toBe(100n);
  await expectExactlyOnce(lane, 0);
});

test.each(['None', 'GZIP', 'Snappy', 'LZ4', 'ZSTD'] as const)('records compressed with %s are read', async (name) => {
  const lane = await createLane();
  await produce(lane, 0, texts(3_000), kafkajs.CompressionTypes[name]);
  lane.start();
  await accepted(lane, 0, 3_000n);
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
