import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { rawSchema } from '../../src/datasets/binance-trades.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';

const { schemaRegistry, s3 } = inject('stack');
const script = fileURLToPath(new URL('../../scripts/check-schemas.ts', import.meta.url));
let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'tidemark-schemas-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const check = (args: readonly string[]): Promise<{ code: number; stdout: string }> => new Promise((resolve) => {
  const env = { ...process.env, SCHEMA_REGISTRY_URL: schemaRegistry.url, AWS_ACCESS_KEY_ID: s3.accessKeyId, AWS_SECRET_ACCESS_KEY: s3.secretAccessKey };
  execFile(process.execPath, [script, ...args], { env }, (error, stdout) => resolve({ code: error ? Number(error.code) : 0, stdout }));
});

test('a schema that cannot read what the registry\'s latest version wrote fails with the field; one that can, passes', async () => {
  const registry = createRegistryClient({ url: schemaRegistry.url });
  const subject = `check-${randomUUID()}-value`;
  await registry.register(subject, rawSchema);
  const path = join(folder, 'trade.avsc');
  const ofFile = ['--file', path, '--subject', subject, '--json'];

  await writeFile(path, JSON.stringify({ ...rawSchema, fields: [...rawSchema.fields, { name: 'venue', type: 'string', default: '' }] }));
  const added = await check(ofFile);
  expect({ code: added.code, ...JSON.parse(added.stdout) as object }).toMatchObject({ code: 0, ok: true });

  await writeFile(path, JSON.stringify({ ...rawSchema, fields: [...rawSchema.fields, { name: 'venue', type: 'string' }] }));
  const broken = await check(ofFile);
  expect({ code: broken.code, ...JSON.parse(broken.stdout) as object }).toMatchObject({ code: 1, ok: false });
  expect((JSON.parse(broken.stdout) as { checked: { versions: { problems: string[] }[] }[] }).checked[0]!.versions[0]!.problems.join(' ')).toContain('venue');
  expect((await check(ofFile.slice(0, -1))).stdout).toMatch(new RegExp(`INCOMPATIBLE ${subject}, version 1: .*venue`));
  expect((await check(['--file', path])).code).toBe(2);
}, 120_000);
