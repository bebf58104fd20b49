import { existsSync, readFileSync } from 'node:fs';
import { Ajv } from 'ajv';
import { parse } from 'yaml';
import { describe, expect, test } from 'vitest';
import { composeSchema } from '../support/compose-schema.ts';
import { searchAttributes } from '../../src/stack/index.ts';

interface Service {
  image: string;
  build?: object;
  command?: string[];
  restart?: string;
  ports?: string[];
  volumes?: string[];
  environment?: Record<string, string>;
  depends_on?: Record<string, { condition: string }>;
  healthcheck?: object;
  deploy?: { resources?: { limits?: Amounts; reservations?: Amounts } };
}
interface Amounts { cpus: string; memory: string }
interface ComposeFile { services: Record<string, Service>; volumes: Record<string, null> }

const text = readFileSync(new URL('../../docker-compose.yml', import.meta.url), 'utf8');
const load = (source: string): ComposeFile => parse(source, { merge: true }) as ComposeFile;
const compose = load(text);
const services = Object.entries(compose.services);
const isValid = new Ajv({ allErrors: true, strictTuples: false, allowUnionTypes: true, strictTypes: false }).compile(composeSchema);

const bytes = (size: string): number => {
  const [, amount, unit] = /^(\d+)([MG])$/.exec(size) ?? [];
  return Number(amount) * (unit === 'G' ? 1024 : 1) * 1024 * 1024;
};

test('the compose file keeps to the Compose Specification', () => {
  isValid(compose);
  expect(isValid.errors ?? []).toEqual([]);
});

test.each([
  ['a misspelt key', (file: ComposeFile) => Object.assign(file.services['kafka']!, { healtcheck: {} })],
  ['a restart policy that does not exist', (file: ComposeFile) => Object.assign(file.services['kafka']!, { restart: 'allways' })],
  ['a memory limit without a unit', (file: ComposeFile) => Object.assign(file.services['kafka']!.deploy!.resources!.limits!, { memory: '512' })],
])('the check refuses %s', (_, spoil) => {
  const file = load(text);
  spoil(file);
  expect(isValid(file)).toBe(false);
});

describe.each(services)('service %s', (_, service) => {
  test('is pinned, restarts, is watched, and has bounds for CPU and memory', () => {
    expect(service.image).toMatch(/:v?\d+\.\d+/);
    expect(service.restart).toBe('unless-stopped');
    expect(service.healthcheck).toBeDefined();
    const { limits, reservations } = service.deploy!.resources!;
    expect(bytes(reservations!.memory)).toBeLessThanOrEqual(bytes(limits!.memory));
    expect(Number(reservations!.cpus)).toBeLessThanOrEqual(Number(limits!.cpus));
  });

  test('publishes on the loopback interface only, and names services and volumes that exist', () => {
    for (const port of service.ports ?? []) expect(port).toMatch(/^127\.0\.0\.1:/);
    for (const volume of service.volumes ?? []) {
      const [from = '', , mode] = volume.split(':');
      // A folder of the repository is there, and only read.
      if (from.startsWith('./')) expect([existsSync(new URL(`../../${from}`, import.meta.url)), mode]).toEqual([true, 'ro']);
      else expect(Object.keys(compose.volumes)).toContain(from);
    }
    for (const name of Object.keys(service.depends_on ?? {})) expect(Object.keys(compose.services)).toContain(name);
  });
});

test('the file holds the four servers, the three processes of the pipeline, and what watches them', () => {
  expect(Object.keys(compose.services).toSorted()).toEqual([
    'alertmanager', 'capture', 'grafana', 'kafka', 'prometheus', 's3', 'schema-registry', 'streaming-worker', 'temporal', 'temporal-worker',
  ]);
});

test('the processes of the pipeline run scripts that exist, and wait for the servers to be healthy', () => {
  const processes = services.filter(([, { build }]) => build !== undefined);
  const scripts = processes.map(([, { command }]) => command!.find((part) => !part.startsWith('--'))!);
  expect(scripts.filter((script) => !existsSync(new URL(`../../${script}`, import.meta.url)))).toEqual([]);
  for (const [, service] of processes) {
    for (const server of ['kafka', 'temporal', 's3', 'schema-registry']) expect(service.depends_on?.[server]?.condition).toBe('service_healthy');
  }
});

test('the image runs as an unprivileged user, on the pinned Node version', () => {
  const dockerfile = readFileSync(new URL('../../Dockerfile', import.meta.url), 'utf8');
  const { dependencies } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { dependencies: { node: string } };
  const stages = dockerfile.split(/^FROM /m).slice(1);
  for (const stage of stages) expect(stage.startsWith(`node:${dependencies.node}-`)).toBe(true);
  expect(stages.at(-1)).toMatch(/^USER node$/m);
});

test('Temporal has the same search attributes with and without containers', () => {
  const flags = Object.entries(searchAttributes).map(([name, type]) => `--search-attribute=${name}=${type}`);
  expect(compose.services['temporal']!.command).toEqual(expect.arrayContaining(flags));
});
