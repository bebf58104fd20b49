import { request } from 'node:http';
import { afterEach, expect, test } from 'vitest';
import { sendText, startHttpServer } from '../../src/telemetry/http-server.ts';
import type { HttpServer } from '../../src/telemetry/http-server.ts';

let server: HttpServer | undefined;
const errors: unknown[] = [];
const start = async (): Promise<HttpServer> => {
  server = await startHttpServer({ host: '127.0.0.1', port: 0, onError: (error) => void errors.push(error) });
  return server;
};
afterEach(async () => {
  await server?.close();
  errors.length = 0;
});

test('an exact path wins over a prefix, the longest prefix over a shorter one, and an unknown path is a 404', async () => {
  const { url, route } = await start();
  for (const path of ['/', '/page/*', '/page/deep/*', '/page/one']) route('GET', path, ({ response }) => sendText(response, 200, path));
  const found = await Promise.all(['/', '/page/two', '/page/deep/two', '/page/one', '/none'].map(async (path) => {
    const answer = await fetch(`${url}${path}`);
    return answer.ok ? answer.text() : answer.status;
  }));
  expect(found).toEqual(['/', '/page/*', '/page/deep/*', '/page/one', 404]);
});

test('HEAD is answered by a GET route, and another method is a 405 that names the allowed ones', async () => {
  const { url, route } = await start();
  route('GET', '/one', ({ response }) => sendText(response, 200, 'text'));
  expect((await fetch(`${url}/one`, { method: 'HEAD' })).status).toBe(200);
  const refused = await fetch(`${url}/one`, { method: 'POST' });
  expect([refused.status, refused.headers.get('allow')]).toEqual([405, 'GET']);
});

test('a route that throws becomes a 500 without its message, and the process hears of it', async () => {
  const { url, route } = await start();
  route('GET', '/broken', () => { throw new Error('a secret'); });
  const answer = await fetch(`${url}/broken`);
  expect(answer.status).toBe(500);
  expect(await answer.text()).not.toContain('secret');
  expect(errors).toHaveLength(1);
});

test('a request that reaches localhost under another host name is refused', async () => {
  const { url, route } = await start();
  route('GET', '/', ({ response }) => sendText(response, 200, 'text'));
  const status = await new Promise<number | undefined>((resolve, reject) => {
    request(url, { headers: { host: 'evil.example' } }, (response) => {
      response.resume();
      resolve(response.statusCode);
    }).on('error', reject).end();
  });
  expect(status).toBe(421);
});

test('closing ends an open stream and aborts its signal', async () => {
  const { url, route } = await start();
  let aborted: Promise<void> | undefined;
  route('GET', '/events', ({ response, signal }) => {
    aborted = new Promise((resolve) => { signal.addEventListener('abort', () => resolve()); });
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('data: 1\n\n');
  });
  const reader = (await fetch(`${url}/events`)).body!.getReader();
  await reader.read();
  await server!.close();
  server = undefined;
  await aborted;
  // Ended either way: the server cut the stream, cleanly or not.
  expect(await reader.read().then(({ done }) => done, () => true)).toBe(true);
});

test('a port that is taken is a configuration problem that names the variable', async () => {
  const { url } = await start();
  await expect(startHttpServer({ host: '127.0.0.1', port: Number(new URL(url).port), onError: () => undefined })).rejects.toThrow(/METRICS_PORT/);
});
