import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';

type Answer = { status: number; body: string } | 'hang up';
const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => { for (const cleanup of cleanups.splice(0)) await cleanup(); });

/** A server that gives these answers in turn, the last one for ever. */
const serverOf = async (...answers: Answer[]) => {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    request.resume();
    const answer = answers[Math.min(requests.length, answers.length - 1)]!;
    requests.push(`${request.method} ${request.url}${request.headers.authorization ? ` ${request.headers.authorization}` : ''}`);
    if (answer === 'hang up') {
      request.socket.destroy();
      return;
    }
    response.writeHead(answer.status, { 'content-type': 'application/json' }).end(answer.body);
  });
  await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  cleanups.push(() => new Promise((resolve) => { server.close(() => { resolve(); }); server.closeAllConnections(); }));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  // None of these answers is late: a request that a busy machine delays must not count as one that was lost.
  return { url, requests, client: createRegistryClient({ url: `${url}/`, backoffMs: 1, attemptsMax: 3, timeoutMs: 25_000 }) };
};
const failed = (status: number, errorCode: number, message = 'no'): Answer => ({ status, body: JSON.stringify({ error_code: errorCode, message }) });

describe('the registry client', () => {
  test('asks again after a hang-up and a 503', async () => {
    const { client, requests } = await serverOf('hang up', failed(503, 50_301), { status: 200, body: '{"schema":"\\"string\\""}' });
    expect(await client.schemaById(3)).toBe('"string"');
    expect(requests).toEqual(Array.from({ length: 3 }, () => 'GET /schemas/ids/3'));
  });

  test('a registry that stays away is REGISTRY_UNAVAILABLE, retryable', async () => {
    const { client, requests } = await serverOf(failed(500, 50_001));
    await expect(client.schemaById(3)).rejects.toMatchObject({ code: 'REGISTRY_UNAVAILABLE', retryable: true });
    expect(requests).toHaveLength(3);
  });

  test.each([
    ['an unknown id', failed(404, 40_403), 'SCHEMA_NOT_FOUND'],
    ['a refused schema', failed(409, 409), 'SCHEMA_INCOMPATIBLE'],
    ['an invalid schema', failed(422, 42_201), 'SCHEMA_INCOMPATIBLE'],
    ['a 404 of something that is no registry', { status: 404, body: '<html>' }, 'BAD_INPUT'],
    ['a 200 of something that is no registry', { status: 200, body: '<html>' }, 'BAD_INPUT'],
    ['an answer without a schema', { status: 200, body: '{}' }, 'BAD_INPUT'],
    ['a schema that is no Avro', { status: 200, body: '{"schema":"{}","schemaType":"JSON"}' }, 'SCHEMA_INCOMPATIBLE'],
  ] as [string, Answer, string][])('%s is not asked for again', async (_, answer, code) => {
    const { client, requests } = await serverOf(answer);
    await expect(client.schemaById(3)).rejects.toMatchObject({ code, retryable: false });
    expect(requests).toHaveLength(1);
  });

  test('a subject that another producer prepares at the same time is asked for again, once', async () => {
    const raced = failed(409, 0, 'A rule named COMPATIBILITY already exists.');
    const { client, requests } = await serverOf(raced, { status: 200, body: '{"compatibility":"BACKWARD"}' }, raced, { status: 200, body: '{"id":7}' }, raced);
    await client.setCompatibility('trades-value', 'BACKWARD');
    expect(await client.register('trades-value', { type: 'string' })).toBe(7);
    expect(requests).toHaveLength(4);
    await expect(client.register('trades-value', { type: 'long' })).rejects.toMatchObject({ code: 'SCHEMA_INCOMPATIBLE' });
    expect(requests).toHaveLength(6);
  });

  test('a user and a password in the URL are sent as a header, and are in no message', async () => {
    const { url, requests } = await serverOf({ status: 200, body: '<html>' });
    const client = createRegistryClient({ url: url.replace('//', '//user:s%40cret@'), attemptsMax: 1, timeoutMs: 25_000 });
    const error = await client.schemaById(3).catch((caught: unknown) => caught) as Error;
    expect(`${error.message} ${String(error.cause)}`).not.toContain('cret');
    expect(requests).toEqual([`GET /schemas/ids/3 Basic ${Buffer.from('user:s@cret').toString('base64')}`]);
  });
});
