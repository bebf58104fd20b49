import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo, Server } from 'node:net';

// Below the ports that Linux (from 32768) and macOS (from 49152) give to outgoing connections: one of those can be taken by
// any client on the machine between the search and the server's start, or while a server is being restarted.
const portMin = 12_000;
const portMax = 32_000;
const attemptsMax = 200;

/** Ports of 127.0.0.1 that nobody listened on a moment ago. All are held at once, so that no two are the same. */
export async function findFreePorts(count: number): Promise<number[]> {
  const held: Server[] = [];
  try {
    for (let attempt = 0; held.length < count; attempt += 1) {
      // After so many ports in use, any port that the kernel knows to be free.
      const port = attempt < attemptsMax ? portMin + Math.floor(Math.random() * (portMax - portMin)) : 0;
      const server = createServer();
      server.listen({ port, host: '127.0.0.1' });
      try {
        await once(server, 'listening');
        held.push(server);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || port === 0) throw error;
      }
    }
    return held.map((server) => (server.address() as AddressInfo).port);
  } finally {
    await Promise.all(held.map((server) => new Promise((resolve) => void server.close(resolve))));
  }
}
