import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { createObjectStoreCatalog } from '../../../src/lake/object-store-catalog.ts';
import { createS3ObjectStore, type S3Options } from '../../../src/lake/s3-object-store.ts';
import { offsets, tradesFile } from '../../lake/iceberg/fixtures.ts';
import type { WriterInput } from './writer-process.ts';

const { s3: { endpoint, region, accessKeyId, secretAccessKey } } = inject('stack');
const s3: S3Options = { endpoint, region, credentials: { accessKeyId, secretAccessKey }, bucket: `lake-${randomUUID()}` };
const store = createS3ObjectStore(s3);
beforeAll(() => store.ensureBucket());
afterAll(() => store.close());

const startWriter = (input: WriterInput) => {
  const child = spawn(process.execPath, [fileURLToPath(new URL('./writer-process.ts', import.meta.url))], { stdio: ['pipe', 'pipe', 'pipe'], env: { PATH: process.env['PATH'] ?? '' } });
  child.stdin.end(JSON.stringify(input));
  const stderr = text(child.stderr);
  const stdout = text(child.stdout);
  const ended = once(child, 'close').then(async ([code]) => ({ code: code as number | null, stdout: await stdout, stderr: await stderr }));
  return { child, ended };
};

test('two processes that commit to one table at the same time lose nothing and repeat nothing', async () => {
  const writers = [startWriter({ s3, from: 0, to: 40 }), startWriter({ s3, from: 40, to: 80 })];
  for (const { ended } of writers) expect(await ended).toMatchObject({ code: 0, stderr: '' });
  const table = await createObjectStoreCatalog({ store, namespace: 'market_data' }).load('trades');
  expect(table.version).toBe(81);
  expect(table.coverage.toJson()).toEqual({ 'raw.trades/0': '0-800' });
  const files = (await table.scan()).map(({ filePath }) => filePath);
  expect(new Set(files).size).toBe(80);
  expect(files).toHaveLength(80);
});

test('a process killed at any moment of its commits leaves a table that the next one continues', async () => {
  const catalog = createObjectStoreCatalog({ store, namespace: 'market_data' });
  for (let round = 0; round < 5; round += 1) {
    const before = (await catalog.load('trades')).version;
    const from = 100 + round * 1_000;
    const { child, ended } = startWriter({ s3, from, to: from + 1_000 });
    // Killed once it has begun to commit, at a moment that differs in each round.
    while ((await catalog.load('trades')).version < before + 2 + round && child.exitCode === null) await new Promise((resolve) => { setImmediate(resolve); });
    child.kill('SIGKILL');
    expect((await ended).code).toBeNull();
    const append = async () => {
      const survived = await catalog.load('trades');
      const next = survived.coverage.of('raw.trades/0').intervals.at(-1)!.end / 10n;
      const coverage = offsets(Number(next) * 10, Number(next) * 10 + 10);
      return catalog.commit('trades', { commitId: `append-${next}`, add: [tradesFile(`file-${next}`, { exchange: 'BINANCE', hour: 1 })], coverageAbsent: coverage, cover: coverage });
    };
    let { status, version } = await append();
    // The last request of the killed one may have been with the store still: that commit is its own, and the next one follows it.
    if (status === 'alreadyCommitted') ({ status, version } = await append());
    expect(status).toBe('committed');
    // What is covered is what is there.
    expect(BigInt((await version.scan()).length) * 10n).toBe(version.coverage.size);
  }
});
