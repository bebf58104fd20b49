import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, beforeAll, describe, expect, inject, onTestFinished, test } from 'vitest';
import { createS3ObjectStore, probeConditionalWrites, type S3Options } from '../../../src/lake/s3-object-store.ts';

const { s3: { endpoint, region, accessKeyId, secretAccessKey } } = inject('stack');
const s3: S3Options = { endpoint, region, credentials: { accessKeyId, secretAccessKey }, bucket: `objects-${randomUUID()}` };
const store = createS3ObjectStore(s3);
beforeAll(() => store.ensureBucket());
afterAll(() => store.close());
const keysOf = async (prefix: string, options: { startAfter?: string } = {}): Promise<string[]> => {
  const keys: string[] = [];
  for await (const { key } of store.list(prefix, options)) keys.push(key);
  return keys;
};

describe('the object store', () => {
  test('gives back bytes, ranges, metadata and listings as they were put', async () => {
    await store.ensureBucket();
    const key = 'a/b c+d=é/0.parquet';
    const { etag } = await store.put(key, Buffer.from([1, 2, 3, 4]), { metadata: { checksum: 'abc' }, contentType: 'application/octet-stream' });
    expect(await store.head(key)).toMatchObject({ key, size: 4, etag, metadata: { checksum: 'abc' } });
    const got = await store.get(key);
    expect([...got.body]).toEqual([1, 2, 3, 4]);
    expect(got).toMatchObject({ etag, metadata: { checksum: 'abc' } });
    expect([...await store.getRange(key, 1, 3)]).toEqual([2, 3]);
    expect([...await store.getRange(key, 2, 2)]).toEqual([]);
    expect(store.keyOf(store.location(key))).toBe(key);
    expect(() => store.keyOf('s3://other/x')).toThrow(expect.objectContaining({ code: 'BAD_INPUT' }));
  });

  test('lists more than one page in order, from where it is told, and deletes more than one request holds', async () => {
    const keys = Array.from({ length: 1_203 }, (_, n) => `list/${String(n).padStart(5, '0')}`);
    await Promise.all(keys.map((key) => store.put(key, '')));
    const listed = await keysOf('list/');
    expect(listed).toEqual(keys);
    expect(await keysOf('list/', { startAfter: 'list/01199' })).toEqual(keys.slice(1_200));
    await store.delete([...keys, 'list/never-there']);
    expect(await keysOf('list/')).toEqual([]);
    await store.delete([]);
  });

  test('tells a missing object, a refused condition and a missing bucket apart', async () => {
    await expect(store.get('missing')).rejects.toMatchObject({ code: 'OBJECT_NOT_FOUND' });
    await expect(store.head('missing')).rejects.toMatchObject({ code: 'OBJECT_NOT_FOUND' });
    await expect(store.getRange('missing', 0, 1)).rejects.toMatchObject({ code: 'OBJECT_NOT_FOUND' });
    const { etag } = await store.put('once', '1', { condition: 'absent' });
    await expect(store.put('once', '2', { condition: 'absent' })).rejects.toMatchObject({ code: 'PRECONDITION_FAILED' });
    await store.put('once', '3', { condition: { etag } });
    await expect(store.put('once', '4', { condition: { etag } })).rejects.toMatchObject({ code: 'PRECONDITION_FAILED' });
    const elsewhere = createS3ObjectStore({ ...s3, bucket: `none-${randomUUID()}` });
    await expect(elsewhere.get('x')).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    elsewhere.close();
  });

  test('takes an object piece by piece: nobody sees it before its end, and one that is given up is never there', async () => {
    const piece = (n: number): Buffer => Buffer.alloc(3 << 20, n);
    const whole = store.upload('pieces/large');
    const givenUp = store.upload('pieces/given-up');
    for (let n = 0; n < 7; n += 1) {
      await whole.append(piece(n));
      await givenUp.append(piece(n));
    }
    expect(await keysOf('pieces/')).toEqual([]);
    await whole.finish();
    await givenUp.abort();
    const small = store.upload('pieces/small');
    await small.append(Buffer.from('a'));
    await small.append(Buffer.from('bc'));
    await small.finish();
    expect(await keysOf('pieces/')).toEqual(['pieces/large', 'pieces/small']);
    expect(Buffer.compare((await store.get('pieces/large')).body, Buffer.concat(Array.from({ length: 7 }, (_, n) => piece(n))))).toBe(0);
    expect(Buffer.from((await store.get('pieces/small')).body).toString()).toBe('abc');
  });

  test('passes the probe for conditional writes and leaves nothing of it', async () => {
    await probeConditionalWrites(store);
    expect(await keysOf('warehouse/')).toEqual([]);
  });

  test('names no credential when they are refused', async () => {
    const stranger = createS3ObjectStore({ ...s3, credentials: { accessKeyId: 'stranger-key', secretAccessKey: 'stranger-secret' } });
    const error = await stranger.get('x').catch((caught: unknown) => caught as Error);
    expect(error).toMatchObject({ code: 'BAD_CONFIG' });
    expect(String(error)).not.toMatch(/stranger/);
    stranger.close();
  });
});

describe('a store that fails', () => {
  type Answer = (request: IncomingMessage, response: ServerResponse, n: number) => void;
  const failing = async (answer: Answer, options: Partial<S3Options> = {}) => {
    const requests: string[] = [];
    const server = createServer((request, response) => {
      requests.push(`${request.method} ${request.url?.split('?')[0]}`);
      request.resume().on('end', () => answer(request, response, requests.length));
    });
    await new Promise<void>((resolve) => { server.listen(0, '127.0.0.1', resolve); });
    const broken = createS3ObjectStore({
      region: 'us-east-1', bucket: 'b', endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, credentials: { accessKeyId: 'a', secretAccessKey: 'b' }, ...options,
    });
    onTestFinished(() => {
      broken.close();
      server.closeAllConnections();
      server.close();
    });
    return { broken, requests };
  };
  const status = (response: ServerResponse, code: number, name: string) =>
    response.writeHead(code, { 'content-type': 'application/xml' }).end(`<Error><Code>${name}</Code><Message>x</Message></Error>`);

  test('for a moment is asked again for reads and plain puts, and never for a conditional put', async () => {
    const { broken, requests } = await failing((request, response, n) => {
      if (n === 1 || request.headers['if-none-match']) status(response, 503, 'SlowDown');
      else response.writeHead(200, { etag: '"e"' }).end('body');
    });
    expect(Buffer.from((await broken.get('x')).body).toString()).toBe('body');
    expect(requests).toEqual(['GET /b/x', 'GET /b/x']);
    await broken.put('y', '1');
    await expect(broken.put('z', '1', { condition: 'absent' })).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE' });
    expect(requests.filter((request) => request === 'PUT /b/z')).toHaveLength(1);
  });

  test.each([[409, 'ConditionalRequestConflict'], [500, 'InternalError']])('with %i %s leaves the outcome of a conditional put open', async (code, name) => {
    const { broken } = await failing((_, response) => status(response, code, name));
    await expect(broken.put('z', '1', { condition: 'absent' })).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE', retryable: true });
  });

  test.each([['there', 9 << 20, 'is a success'], ['not there', 5, 'is none']])('at the end of an upload is asked what is there: the whole object, %s, %i bytes, %s', async (_, size) => {
    const { broken, requests } = await failing((request, response) => {
      if (request.method === 'HEAD') response.writeHead(200, { 'content-length': size, 'etag': '"e"' }).end();
      else if (request.method === 'PUT') response.writeHead(200, { etag: '"part"' }).end();
      else if (request.url?.includes('uploads')) response.writeHead(200, { 'content-type': 'application/xml' }).end('<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>');
      else status(response, requests.filter((one) => one.startsWith('POST')).length === 2 ? 500 : 404, 'NoSuchUpload');
    });
    const upload = broken.upload('x');
    await upload.append(Buffer.alloc(9 << 20));
    if (size === 9 << 20) await upload.finish();
    else await expect(upload.finish()).rejects.toThrow('complete upload of x');
    expect(requests.map((request) => request.split(' ')[0])).toEqual(['POST', 'PUT', 'POST', 'POST', 'HEAD']);
  });

  test('by not answering, or by breaking off, is unavailable within its time', async () => {
    const silent = await failing(() => {}, { requestTimeoutMs: 100, attemptsMax: 1 });
    await expect(silent.broken.get('x')).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE', message: expect.stringContaining('no answer within 100 ms') as string });
    const cut = await failing((_, response) => {
      response.writeHead(200, { 'content-length': 1_000 }).write('half');
      setImmediate(() => response.destroy());
    }, { attemptsMax: 1 });
    await expect(cut.broken.get('x')).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE' });
    const gone = createS3ObjectStore({ ...s3, endpoint: 'http://127.0.0.1:1', attemptsMax: 1 });
    await expect(gone.get('x')).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE' });
    gone.close();
  });

  test('is left at once by a caller who gives up, with the reason that the caller gave', async () => {
    const { broken } = await failing(() => {});
    const controller = new AbortController();
    const getting = broken.get('x', { signal: controller.signal });
    controller.abort(new Error('shutting down'));
    await expect(getting).rejects.toThrow('shutting down');
  });

  test('to hold a condition is refused, whether it ignores it or does not know it', async () => {
    const ignoring = await failing((_, response) => response.writeHead(200, { etag: '"e"' }).end());
    await expect(probeConditionalWrites(ignoring.broken)).rejects.toMatchObject({ code: 'STORE_WITHOUT_CONDITIONAL_WRITES' });
    const refusing = await failing((request, response) => {
      if (request.headers['if-none-match']) status(response, 501, 'NotImplemented');
      else response.writeHead(200).end();
    });
    await expect(probeConditionalWrites(refusing.broken)).rejects.toMatchObject({ code: 'STORE_WITHOUT_CONDITIONAL_WRITES' });
  });
});
