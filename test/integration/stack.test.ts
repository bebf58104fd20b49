import { spawn } from 'node:child_process';
import type { ChildProcessByStdio } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { CreateBucketCommand, DeleteObjectCommand, GetObjectCommand, HeadObjectCommand, PutObjectCommand, S3Client } from '@aws-sdk/client-s3';
import type { PutObjectCommandInput } from '@aws-sdk/client-s3';
import { Connection } from '@temporalio/client';
import { beforeAll, describe, expect, inject, test } from 'vitest';
import type { TestContext } from 'vitest';
import { endpointEnvironment, searchAttributes, startStack } from '../../src/stack/index.ts';
import type { StackEndpoints } from '../../src/stack/index.ts';
import { findFreePorts } from '../../src/stack/ports.ts';

const stack = inject('stack');

const s3Client = ({ endpoint, region, accessKeyId, secretAccessKey }: StackEndpoints['s3']): S3Client =>
  new S3Client({ endpoint, region, credentials: { accessKeyId, secretAccessKey }, forcePathStyle: true, maxAttempts: 1 });

const canConnect = (address: string): Promise<boolean> => {
  const { hostname, port } = new URL(address.includes('://') ? address : `tcp://${address}`);
  return new Promise((resolve) => {
    const socket = createConnection({ host: hostname, port: Number(port) });
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
};

const addresses = (endpoints: StackEndpoints): string[] => [...endpoints.kafka.brokers, endpoints.temporal.address, endpoints.temporal.uiUrl, endpoints.s3.endpoint, endpoints.schemaRegistry.url];

test('every server of the stack answers at its endpoint', async () => {
  for (const address of addresses(stack)) expect(await canConnect(address)).toBe(true);
  expect((await fetch(`${stack.schemaRegistry.url}/subjects`)).status).toBe(200);
  expect((await fetch(stack.temporal.uiUrl)).status).toBe(200);
  expect((await fetch(stack.s3.endpoint)).status).toBe(403);
});

test('Temporal knows the search attributes, and remembers closed workflows for a week', async () => {
  const connection = await Connection.connect({ address: stack.temporal.address });
  try {
    const { config } = await connection.workflowService.describeNamespace({ namespace: 'default' });
    expect(Number(config?.workflowExecutionRetentionTtl?.seconds)).toBe(7 * 24 * 3600);
    const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace: 'default' });
    expect(Object.keys(customAttributes)).toEqual(expect.arrayContaining(Object.keys(searchAttributes)));
  } finally {
    await connection.close();
  }
});

describe('the S3 server keeps what the object-store catalog builds on', () => {
  const client = s3Client(stack.s3);
  const bucket = `probe-${randomUUID()}`;
  const put = async (key: string, body: string, condition: Pick<PutObjectCommandInput, 'IfMatch' | 'IfNoneMatch' | 'Metadata'> = {}): Promise<{ status: number; etag?: string | undefined }> => {
    try {
      const { ETag, $metadata } = await client.send(new PutObjectCommand({ Bucket: bucket, Key: key, Body: body, ...condition }));
      return { status: $metadata.httpStatusCode!, etag: ETag };
    } catch (error) {
      return { status: (error as { $metadata: { httpStatusCode: number } }).$metadata.httpStatusCode };
    }
  };
  const read = async (key: string): Promise<string> => (await client.send(new GetObjectCommand({ Bucket: bucket, Key: key }))).Body!.transformToString();

  beforeAll(async () => {
    await client.send(new CreateBucketCommand({ Bucket: bucket }));
  });

  test('If-None-Match: the first writer wins, and what it wrote stays', async () => {
    expect(await put('once', 'first', { IfNoneMatch: '*' })).toMatchObject({ status: 200 });
    expect(await put('once', 'second', { IfNoneMatch: '*' })).toEqual({ status: 412 });
    expect(await read('once')).toBe('first');
  });

  test('If-Match: only the writer that saw the current version replaces it', async () => {
    const { etag } = await put('hint', '1');
    expect(await put('hint', '2', { IfMatch: etag })).toMatchObject({ status: 200 });
    expect(await put('hint', '3', { IfMatch: etag })).toEqual({ status: 412 });
    expect(await read('hint')).toBe('2');
    await client.send(new DeleteObjectCommand({ Bucket: bucket, Key: 'hint' }));
    expect((await put('hint', '4', { IfMatch: etag })).status).toBeGreaterThanOrEqual(404);
  });

  test('of eight writers at once exactly one creates the object, and one replaces it', async () => {
    for (let round = 0; round < 15; round += 1) {
      const created = await Promise.all(Array.from({ length: 8 }, (_, writer) => put(`race/${round}`, `new ${writer}`, { IfNoneMatch: '*' })));
      const winners = created.flatMap(({ status }, writer) => (status === 200 ? [writer] : []));
      expect(winners).toHaveLength(1);
      expect(await read(`race/${round}`)).toBe(`new ${winners[0]}`);
      const etag = created[winners[0]!]!.etag;
      const replaced = await Promise.all(Array.from({ length: 8 }, (_, writer) => put(`race/${round}`, `next ${writer}`, { IfMatch: etag })));
      expect(replaced.filter(({ status }) => status === 200)).toHaveLength(1);
    }
  });

  test('user metadata comes back as it was given', async () => {
    await put('described', 'body', { Metadata: { checksum: 'sha256-abc', rows: '42' } });
    const { Metadata } = await client.send(new HeadObjectCommand({ Bucket: bucket, Key: 'described' }));
    expect(Metadata).toEqual({ checksum: 'sha256-abc', rows: '42' });
  });
});

test('the health check of the containers fails for as long as a server cannot be reached, and says which', async () => {
  const check = async (env: Record<string, string>): Promise<{ code: number | null; stderr: string }> => {
    const script = spawn(process.execPath, ['scripts/check-health.ts'], { env: { ...process.env, ...endpointEnvironment(stack), ...env }, stdio: ['ignore', 'ignore', 'pipe'] });
    const [stderr, [code]] = await Promise.all([text(script.stderr), once(script, 'close') as Promise<[number | null]>]);
    return { code, stderr };
  };
  expect(await check({})).toEqual({ code: 0, stderr: '' });
  const [unused] = await findFreePorts(1);
  expect(await check({ KAFKA_BROKERS: `127.0.0.1:${unused}` })).toEqual({ code: 1, stderr: expect.stringContaining(`Kafka at 127.0.0.1:${unused}: connect ECONNREFUSED`) });
});

test('a server that is killed and started again answers at the same endpoint with the same data', { timeout: 180_000 }, async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'tidemark-restart-'));
  const own = await startStack({ dataDir, servers: ['s3', 'schemaRegistry'], env: { ...process.env, S3_ENDPOINT: '', SCHEMA_REGISTRY_URL: '' } });
  try {
    const { s3, schemaRegistry } = own.endpoints;
    const client = s3Client(s3);
    await client.send(new CreateBucketCommand({ Bucket: 'kept' }));
    await client.send(new PutObjectCommand({ Bucket: 'kept', Key: 'a/b', Body: 'durable', Metadata: { rows: '1' } }));
    const versions = `${schemaRegistry.url}/subjects/trades-value/versions`;
    const registered = await fetch(versions, { method: 'POST', headers: { 'content-type': 'application/vnd.schemaregistry.v1+json' }, body: JSON.stringify({ schema: '"string"' }) });
    const { id } = (await registered.json()) as { id: number };
    // Killed at once: what was answered for must be on disk by then.
    const pids = [own.servers.s3.pid, own.servers.schemaRegistry.pid];
    await Promise.all([own.servers.s3.restart(), own.servers.schemaRegistry.restart()]);
    expect([own.servers.s3.pid, own.servers.schemaRegistry.pid]).not.toEqual(pids);

    const kept = await client.send(new GetObjectCommand({ Bucket: 'kept', Key: 'a/b' }));
    expect({ body: await kept.Body!.transformToString(), metadata: kept.Metadata }).toEqual({ body: 'durable', metadata: { rows: '1' } });
    expect(await (await fetch(`${versions}/latest`)).json()).toMatchObject({ id, subject: 'trades-value', schema: '"string"' });
    await own.servers.s3.stop();
    expect(await canConnect(s3.endpoint)).toBe(false);
    await own.servers.s3.restart();
    expect(await canConnect(s3.endpoint)).toBe(true);
    client.destroy();
  } finally {
    await own.stop();
    await rm(dataDir, { recursive: true, force: true });
  }
});

test('when the process that started the servers is killed, they die with it, and its temporary folder goes', { timeout: 240_000 }, async (t) => {
  const env = { ...process.env, KAFKA_BROKERS: '', TEMPORAL_ADDRESS: '', S3_ENDPOINT: '', SCHEMA_REGISTRY_URL: '' };
  const parent = startScript(t, env);
  const ended = once(parent, 'close');
  const [line] = (await once(createInterface({ input: parent.stdout }), 'line')) as [string];
  const { dataDir, pids, ...endpoints } = JSON.parse(line) as StackEndpoints & { dataDir: string; pids: number[] };
  expect(pids).toHaveLength(4);
  for (const address of addresses(endpoints)) expect(await canConnect(address)).toBe(true);
  parent.kill('SIGKILL');
  await ended;
  await expect.poll(() => pids.filter(isAlive), { timeout: 60_000 }).toEqual([]);
  for (const address of addresses(endpoints)) expect(await canConnect(address)).toBe(false);
  await expect.poll(() => existsSync(dataDir), { timeout: 60_000 }).toBe(false);
});

test('Ctrl-C on "npm run stack" ends every server and exits 0', { timeout: 240_000 }, async (t) => {
  const env = { ...process.env, KAFKA_BROKERS: 'broker.example:9092', TEMPORAL_ADDRESS: '', S3_ENDPOINT: '', SCHEMA_REGISTRY_URL: 'http://registry.example' };
  const parent = startScript(t, env);
  const ended = once(parent, 'close');
  const [line] = (await once(createInterface({ input: parent.stdout }), 'line')) as [string];
  const { dataDir, pids, kafka, temporal } = JSON.parse(line) as StackEndpoints & { dataDir: string; pids: number[] };
  expect(kafka.brokers).toEqual(['broker.example:9092']);
  expect(await canConnect(temporal.address)).toBe(true);
  parent.kill('SIGINT');
  expect(await ended).toEqual([0, null]);
  expect({ alive: pids.filter(isAlive), data: existsSync(dataDir) }).toEqual({ alive: [], data: false });
});

/** "npm run stack -- --json", killed when the test ends, whatever its outcome. */
function startScript(t: TestContext, env: NodeJS.ProcessEnv): ChildProcessByStdio<null, Readable, null> {
  const script = spawn(process.execPath, ['scripts/stack.ts', '--json'], { env, stdio: ['ignore', 'pipe', 'inherit'] });
  t.onTestFinished(() => void script.kill('SIGKILL'));
  return script;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
