import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

test.each(['ARCHITECTURE.md', 'README.md'])('every path that %s names exists', (document) => {
  const text = readFileSync(`${root}${document}`, 'utf8');
  const named = [...text.matchAll(/`((?:src|activities|workflows|scripts|test|bench|docs)\/[\w./-]*)`/g), ...text.matchAll(/^((?:src|activities|workflows|scripts|bench)\/[\w./-]*) {2,}/gm)]
    .map((match) => match[1]!);
  expect(named.length).toBeGreaterThan(0);
  expect(named.filter((path) => !existsSync(`${root}${path}`))).toEqual([]);
});

test('every command that README.md names is a script of the package', () => {
  const text = readFileSync(`${root}README.md`, 'utf8');
  const { scripts } = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { scripts: Record<string, string> };
  const named = [...text.matchAll(/npm (?:run )?([\w:-]+)/g)].map((match) => match[1]!).filter((name) => !['ci', 'install'].includes(name) && text.includes(`npm run ${name}`));
  expect([...new Set(named)].filter((name) => !(name in scripts))).toEqual([]);
});
