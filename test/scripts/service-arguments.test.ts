import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { platform, tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { serviceEnvironment, serviceNodeArguments } from '../../scripts/wire/service-settings.ts';

const text = (file: string): string => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');

test('a service runs with the same arguments of Node however it is started', () => {
  const { scripts } = JSON.parse(text('package.json')) as { scripts: Record<string, string> };
  for (const name of ['temporal-worker', 'streaming-worker']) {
    expect(scripts[name]).toBe(['node', ...serviceNodeArguments, `scripts/run-${name}.ts`].join(' '));
    expect(text('docker-compose.yml')).toContain(`command: [${[...serviceNodeArguments, `scripts/run-${name}.ts`].join(', ')}]`);
    expect(text(`scripts/run-${name}.ts`)).toContain("import './wire/as-service.ts';");
  }
  expect(text('Dockerfile')).toContain(`CMD ${JSON.stringify([...serviceNodeArguments, 'scripts/run-temporal-worker.ts']).replaceAll(',', ', ')}`);
  expect(text('Dockerfile')).toContain(`ENV ${Object.entries(serviceEnvironment).map(([name, value]) => `${name}=${value}`).join(' ')}\n`);
});

test.runIf(platform() === 'linux')('a service that was started by hand has the settings of malloc too, and keeps its process id, arguments and pipes', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tidemark-service-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const script = join(folder, 'service.mjs');
  writeFileSync(script, `process.stdout.write('a life of ' + process.pid + '\\n'); await import(${JSON.stringify(new URL('../../scripts/wire/as-service.ts', import.meta.url).href)});
    process.stdout.write(JSON.stringify({ pid: process.pid, args: process.argv.slice(2), flags: process.execArgv, env: process.env }));`);
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !(name in serviceEnvironment)));
  const { stdout, pid } = spawnSync(process.execPath, ['--max-semi-space-size=4', script, '--json', 'two words'], { env, encoding: 'utf8' });
  const [first, second, last] = stdout.split('\n');
  expect([first, second]).toEqual([`a life of ${pid}`, `a life of ${pid}`]);
  expect(JSON.parse(last!)).toMatchObject({ pid, args: ['--json', 'two words'], flags: ['--max-semi-space-size=4'], env: serviceEnvironment });
});
