import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cacheFolder, ensureInstalled, installOnce, runTool, startStack } from '../../src/stack/index.ts';
import type { StackEvent } from '../../src/stack/index.ts';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidemark-install-'));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

const noWait = (): void => {};

/** A PATH with these commands only. */
async function pathWith(commands: Record<string, string>): Promise<string> {
  const bin = join(folder, 'bin');
  await mkdir(bin, { recursive: true });
  for (const [name, script] of Object.entries(commands)) {
    await writeFile(join(bin, name), `#!/bin/sh\n${script}\n`);
    await chmod(join(bin, name), 0o755);
  }
  return bin;
}

test('the cache folder is the one that was named, else the one of the desktop standard, else in the home folder', () => {
  expect(cacheFolder({ TIDEMARK_CACHE_DIR: '/a', XDG_CACHE_HOME: '/b', HOME: '/c' })).toBe('/a');
  expect(cacheFolder({ XDG_CACHE_HOME: '/b', HOME: '/c' })).toBe('/b/tidemark');
  expect(cacheFolder({ HOME: '/c' })).toBe('/c/.cache/tidemark');
});

test('of two installations at once one does the work, and both have the result', async () => {
  const target = join(folder, 'server-1.0');
  let builds = 0;
  let waits = 0;
  const { promise: bothAsked, resolve: release } = Promise.withResolvers<void>();
  const build = async (staging: string): Promise<void> => {
    builds += 1;
    await bothAsked;
    await writeFile(join(staging, 'binary'), 'whole');
  };
  const onWait = (): void => {
    waits += 1;
    release();
  };
  const results = await Promise.all([installOnce(target, build, onWait), installOnce(target, build, onWait)]);
  expect(results).toEqual([target, target]);
  expect({ builds, waits }).toEqual({ builds: 1, waits: 1 });
  expect(await readdir(folder)).toEqual(['server-1.0']);
});

test('a failed installation leaves nothing behind, and the next one starts anew', async () => {
  const target = join(folder, 'server-1.0');
  await expect(installOnce(target, () => Promise.reject(new Error('disk full')), noWait)).rejects.toThrow('disk full');
  expect(await readdir(folder)).toEqual([]);
  await installOnce(target, (staging) => writeFile(join(staging, 'binary'), 'whole'), noWait);
  expect(await readFile(join(target, 'binary'), 'utf8')).toBe('whole');
});

test('what a killed installation left is swept away, and its half is never taken for a whole', async () => {
  const target = join(folder, 'server-1.0');
  const longAgo = new Date(Date.now() - 3_600_000);
  for (const left of [`${target}.lock`, `${target}.staging-abc`]) {
    await mkdir(left);
    await writeFile(join(left, 'binary'), 'half');
    await utimes(left, longAgo, longAgo);
  }
  await installOnce(target, (staging) => writeFile(join(staging, 'binary'), 'whole'), noWait);
  expect(await readFile(join(target, 'binary'), 'utf8')).toBe('whole');
  expect(await readdir(folder)).toEqual(['server-1.0']);
});

test('an installation that waits for another can be given up', async () => {
  const target = join(folder, 'server-1.0');
  const controller = new AbortController();
  const started = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  const build = (): Promise<void> => {
    started.resolve();
    return held.promise;
  };
  const first = installOnce(target, build, noWait);
  await started.promise; // only then is it the first: either call may be the one that takes the lock
  const second = installOnce(target, () => Promise.resolve(), () => controller.abort(new Error('stopped by SIGINT')), controller.signal);
  await expect(second).rejects.toThrow('stopped by SIGINT');
  held.resolve();
  await first;
});

test.each([
  ['temporal', 'go', 'Temporal dev server', 'TEMPORAL_ADDRESS'],
  ['s3', 'go', 'Versity S3 Gateway', 'S3_ENDPOINT'],
  ['kafka', 'java', 'Apache Kafka', 'KAFKA_BROKERS'],
  ['schemaRegistry', 'java', 'Apicurio Registry', 'SCHEMA_REGISTRY_URL'],
] as const)('without its toolchain %s says that %s is missing, for which server, and the way without it', async (server, tool, label, variable) => {
  const env = { PATH: join(folder, 'nothing'), TIDEMARK_CACHE_DIR: join(folder, 'cache') };
  const failure = await ensureInstalled({ servers: [server], env }).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: 'TOOLCHAIN_MISSING' });
  const { message } = failure as Error;
  for (const part of [label, `needs ${tool}`, 'docker compose up', variable]) expect(message).toContain(part);
});

test('a Java that is too old for the server is refused with its version', async () => {
  const env = { PATH: await pathWith({ java: `echo 'openjdk version "11.0.22"' >&2` }), TIDEMARK_CACHE_DIR: join(folder, 'cache') };
  await expect(ensureInstalled({ servers: ['kafka'], env })).rejects.toMatchObject({ code: 'TOOLCHAIN_MISSING', message: expect.stringMatching(/needs java 17 or newer.* is version 11/) });
});

test('a server on the PATH is taken before the cache, and nothing is installed', async () => {
  const env = { PATH: await pathWith({ temporal: 'exit 0', versitygw: 'exit 0' }), TIDEMARK_CACHE_DIR: join(folder, 'cache') };
  await ensureInstalled({ servers: ['temporal', 's3'], env });
  expect(existsSync(join(folder, 'cache'))).toBe(false);
});

test('an installation tells what it does, and a tool that fails is reported with its last lines', async () => {
  const env = { PATH: `${await pathWith({ go: 'echo "no space left on device" >&2; exit 3' })}:/usr/bin:/bin`, TIDEMARK_CACHE_DIR: join(folder, 'cache') };
  const events: StackEvent[] = [];
  const failure = ensureInstalled({ servers: ['s3'], env, onProgress: (event) => events.push(event) });
  await expect(failure).rejects.toMatchObject({ code: 'STACK_START_FAILED', message: expect.stringMatching(/go install .*exit code 3[^]*no space left on device/) });
  expect(events).toEqual([{ server: 's3', step: 'installing', message: expect.stringContaining('Versity S3 Gateway') }]);
});

test('a server that the environment names is neither installed nor started', async () => {
  const env = { PATH: '', KAFKA_BROKERS: 'broker:9092', TIDEMARK_CACHE_DIR: join(folder, 'cache') };
  const stack = await startStack({ servers: ['kafka'], env, dataDir: join(folder, 'data') });
  expect(stack.endpoints.kafka).toEqual({ brokers: ['broker:9092'] });
  expect(stack.servers.kafka.external).toBe(true);
  expect(() => stack.endpoints.s3).toThrow('this stack was started without s3');
  await stack.servers.kafka.restart();
  await stack.stop();
});

test('a server that dies while it starts is reported with the end of its log, and nothing is left running', async () => {
  const env = {
    PATH: `${await pathWith({ versitygw: 'echo "cannot open the folder"; exit 4', temporal: 'exec sleep 300' })}:/usr/bin:/bin`,
  };
  const failure = await startStack({ servers: ['s3', 'temporal'], env, dataDir: join(folder, 'data') }).catch((error: unknown) => error);
  expect(failure).toMatchObject({ code: 'STACK_START_FAILED', message: expect.stringMatching(/^s3 ended with exit code 4[^]*cannot open the folder/) });
  // The guard of a server ends by itself, once the kernel has told it that the pipe is closed.
  const stillRunning = (): Promise<string> => runTool('pgrep', ['-f', join(folder, 'data')], { env: process.env }).then(() => 'something runs', (error: unknown) => String(error));
  await expect.poll(stillRunning, { timeout: 20_000 }).toContain('exit code 1');
});

test('a store on a file system without extended attributes keeps its metadata beside the objects', async () => {
  const script = 'case "$*" in *--sidecar*) echo with sidecar; exit 5;; esac; echo "xattrs are not supported on this filesystem"; exit 1';
  const env = { PATH: `${await pathWith({ versitygw: script })}:/usr/bin:/bin` };
  await expect(startStack({ servers: ['s3'], env, dataDir: join(folder, 'data') })).rejects.toThrow(/exit code 5[^]*with sidecar/);
});
