import http from 'node:http';
import type { AddressInfo } from 'node:net';
import { once } from 'node:events';
import { buffer } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { startHttpFaultProxy, startTcpFaultProxy } from './fault-proxy.ts';
import type { HttpFault, HttpFaultProxy } from './fault-proxy.ts';

/** What the server behind the proxies has seen of each request: the bytes of its body, or that it broke off. */
const seen: (number | 'broken')[] = [];
const server = http.createServer((request, response) => {
  void (async () => {
    try {
      const { length } = await buffer(request);
      seen.push(length);
      response.end(`stored ${length}`);
    } catch {
      seen.push('broken');
    }
  })();
});
let target: string;
let proxy: HttpFaultProxy;
beforeAll(async () => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  target = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  proxy = await startHttpFaultProxy(target);
});
afterEach(() => {
  proxy.onRequest = undefined;
  seen.length = 0;
});
afterAll(async () => {
  await proxy.close();
  server.close();
});

const untilSeen = async (requests: number): Promise<void> => {
  while (seen.length < requests) await new Promise((resolve) => { setImmediate(resolve); });
};

const put = (url = proxy.url): Promise<{ status: number; text: string }> =>
  fetch(`${url}/bucket/key`, { method: 'PUT', body: Buffer.alloc(1_000) }).then(async (response) => ({ status: response.status, text: await response.text() }));

describe('the HTTP proxy', () => {
  test('lets pass what no fault is meant for', async () => {
    expect(await put()).toEqual({ status: 200, text: 'stored 1000' });
  });

  test.each<[HttpFault, { status: number } | null, (number | 'broken')[]]>([
    ['lostAnswer', { status: 500 }, [1_000]],
    ['cutAnswer', null, [1_000]],
    ['halfAnswer', null, [1_000]],
    ['cutRequest', null, ['broken']],
    ['refused', null, []],
    ['full', { status: 507 }, []],
    [20, { status: 200 }, [1_000]],
  ])('%s: the client sees it, and the server has what it should', async (fault, answer, atServer) => {
    proxy.onRequest = () => fault;
    if (answer) expect(await put()).toMatchObject(answer);
    else await expect(put()).rejects.toThrow(/fetch failed|terminated/);
    await untilSeen(atServer.length);
    expect(seen).toEqual(atServer);
  });

  test('a held request reaches the server when it is let go, its client dead or not', async () => {
    const gate = Promise.withResolvers<void>();
    proxy.onRequest = () => ({ until: gate.promise });
    const client = new AbortController();
    const request = fetch(proxy.url, { method: 'PUT', body: Buffer.alloc(10), signal: client.signal });
    while (proxy.struck['held'] === undefined) await new Promise((resolve) => { setImmediate(resolve); });
    client.abort();
    await expect(request).rejects.toThrow(/abort/i);
    gate.resolve();
    await untilSeen(1);
    expect(seen).toEqual([10]);
  });

  test('away it refuses, and back it answers on the same port', async () => {
    proxy.leave();
    await expect(put()).rejects.toThrow(/fetch failed|terminated/);
    proxy.back();
    expect(await put()).toMatchObject({ status: 200 });
  });
});

test('the TCP proxy takes a request and loses its answer', async () => {
  const tcp = await startTcpFaultProxy(new URL(target).host);
  try {
    expect(await put(`http://${tcp.address}`)).toMatchObject({ status: 200 });
    const losing = tcp.loseAnswers(untilSeen(2));
    await expect(put(`http://${tcp.address}`)).rejects.toThrow(/fetch failed|terminated/);
    await losing;
    expect(seen).toEqual([1_000, 1_000]);
    expect(await put(`http://${tcp.address}`)).toMatchObject({ status: 200 });
  } finally {
    await tcp.close();
  }
});
