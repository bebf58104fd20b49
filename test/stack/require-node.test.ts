import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';

test('a script that is started on an older Node says so and exits 2', () => {
  const older = `data:text/javascript,${encodeURIComponent("Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '22.18.0' } });")}`;
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', older, 'scripts/stack.ts', '--help'], { encoding: 'utf8' });
  expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
  expect(stderr).toMatch(/needs Node 24 or newer, and this is Node 22\.18\.0/);
});
