import { expect, test, vi } from 'vitest';
import { startStack } from '../../src/stack/index.ts';
import { accepted, createLane, expectExactlyOnce, produce, texts } from '../support/streaming.ts';

test('Kafka killed and started again: reading goes on where it was, nothing lost or doubled', async () => {
  const stack = await startStack({ servers: ['kafka'] });
  try {
    const lane = await createLane({ partitions: 2, brokers: stack.endpoints.kafka.brokers });
    await Promise.all([0, 1].map((partition) => produce(lane, partition, texts(1_000, `before ${partition}`))));
    const worker = lane.start();
    for (const partition of [0, 1]) await accepted(lane, partition, 1_000n);
    await stack.servers.kafka.restart();
    await vi.waitFor(() => produce(lane, 0, texts(500, 'after')), { timeout: 60_000, interval: 500 });
    await accepted(lane, 0, 1_500n, 90_000);
    expect(worker.state().totals.gaps).toBe(0);
    await worker.stop();
    for (const partition of [0, 1]) await expectExactlyOnce(lane, partition);
  } finally {
    await stack.stop();
  }
}, 300_000);
