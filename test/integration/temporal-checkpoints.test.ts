import { randomUUID } from 'node:crypto';
import { createServer, connect } from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { Client, Connection } from '@temporalio/client';
import { expect, inject, onTestFinished, test } from 'vitest';
import { createTemporalCheckpointClient } from '../../src/streaming/temporal-checkpoint-client.ts';

/** A way to Temporal that can be cut. */
const startProxy = async (target: string) => {
  const [host, port] = target.split(':');
  const sockets = new Set<Socket>();
  let isCut = false;
  const server = createServer((near) => {
    if (isCut) {
      near.destroy();
      return;
    }
    const far = connect(Number(port), host);
    for (const socket of [near, far]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    near.pipe(far);
    far.pipe(near);
  });
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const close = (): void => {
    for (const socket of sockets) socket.destroy();
  };
  onTestFinished(() => {
    close();
    server.close();
  });
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    cut: (cut: boolean) => {
      isCut = cut;
      if (cut) close();
    },
  };
};

test('Temporal away is TEMPORAL_UNAVAILABLE, also from the start, and the same client works when it is back', async () => {
  const proxy = await startProxy(inject('stack').temporal.address);
  proxy.cut(true);
  const connection = Connection.lazy({ address: proxy.address });
  onTestFinished(() => connection.close());
  const checkpoints = createTemporalCheckpointClient({ client: new Client({ connection }), taskQueue: 'nobody', deadlineMs: 1_000, claimDeadlineMs: 1_000 });
  const source = `none-${randomUUID()}`;
  const report = () => checkpoints.report(source, { owner: 'me', epochs: {}, ranges: [], gaps: [] });
  await expect(report()).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE', message: expect.stringContaining(`report of stream/${source} failed`) as string });
  await expect(checkpoints.claim(source, { owner: 'me', topicPartitions: ['t/0'] })).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
  for (let round = 0; round < 2; round += 1) {
    proxy.cut(false);
    // A server that is only slow is away for as long as that: the deadline is a short one.
    for (const ask of [report, () => checkpoints.ledger(source, {})]) {
      await expect.poll(() => ask().catch((error: unknown) => (error as { code?: string }).code), { timeout: 60_000 }).toBe('WORKFLOW_NOT_FOUND');
    }
    proxy.cut(true);
    await expect(report()).rejects.toMatchObject({ code: 'TEMPORAL_UNAVAILABLE' });
  }
}, 180_000);
