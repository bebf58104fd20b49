import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { serviceNodeArguments } from '../../scripts/wire/child-process.ts';

const text = (file: string): string => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');

test('a service runs with the same arguments of Node however it is started', () => {
  const { scripts } = JSON.parse(text('package.json')) as { scripts: Record<string, string> };
  for (const name of ['temporal-worker', 'streaming-worker']) {
    expect(scripts[name]).toBe(['node', ...serviceNodeArguments, `scripts/run-${name}.ts`].join(' '));
    expect(text('docker-compose.yml')).toContain(`command: [${[...serviceNodeArguments, `scripts/run-${name}.ts`].join(', ')}]`);
  }
  expect(text('Dockerfile')).toContain(`CMD ${JSON.stringify([...serviceNodeArguments, 'scripts/run-temporal-worker.ts']).replaceAll(',', ', ')}`);
});
