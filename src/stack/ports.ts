import { createServer } from 'node:net';
import { once } from 'node:events';
import type { AddressInfo, Server } from 'node:net';

/** Ports of 127.0.0.1 that nobody listened on a moment ago. All are held at once, so that no two are the same. */
export async function findFreePorts(count: number): Promise<number[]> {
  const held: Server[] = [];
  try {
    for (let i = 0; i < count; i += 1) {
      const server = createServer();
      held.push(server);
      server.listen({ port: 0, host: '127.0.0.1' });
      await once(server, 'listening');
    }
    return held.map((server) => (server.address() as AddressInfo).port);
  } finally {
    await Promise.all(held.map((server) => new Promise((resolve) => void server.close(resolve))));
  }
}
