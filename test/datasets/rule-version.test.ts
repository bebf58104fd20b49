import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import marketData from '../../src/datasets/market-data.ts';

/**
 * SHA-256 of each dataset's file and of what it imports from its folder, by rule version. A change of mapping or rules
 * needs a new version, so that its rows can be told from those before; a change that alters no row (a comment, a type)
 * takes the new hash under the old version.
 */
const hashes: Record<string, string> = {
  'binance-trades/1': '0015e14e64caed07c6c3ba31147f39205035a6a8ee84f7b631f814dcf2bbb70d',
  'kraken-trades/1': 'ad93784603d0095381db532e65425eb7c16bc58485211032bc0e6cbe01516ba1',
};

const folder = join(dirname(fileURLToPath(import.meta.url)), '../../src/datasets');
/** dataset.ts declares shapes for the engine: it holds no mapping and no rule. */
const shapes = join(folder, 'dataset.ts');

const sourcesOf = (path: string, seen = new Set<string>()): Set<string> => {
  if (seen.has(path) || path === shapes) return seen;
  seen.add(path);
  for (const [, specifier] of readFileSync(path, 'utf8').matchAll(/^import (?!type)[^;]* from '(\.\/[^']+)';$/gm)) sourcesOf(resolve(dirname(path), specifier!), seen);
  return seen;
};

describe('rule versions', () => {
  test.each(marketData.datasets.map(({ source, ruleVersion }) => [source, ruleVersion]))('%s: rules do not change under one version (%s)', (source, ruleVersion) => {
    const hash = createHash('sha256');
    for (const path of [...sourcesOf(join(folder, `${source}.ts`))].sort()) hash.update(readFileSync(path));
    expect(hash.digest('hex'), `${source}: give it a new ruleVersion and add its hash here`).toBe(hashes[ruleVersion]);
  });

  test('each dataset has its own', () => {
    expect(new Set(marketData.datasets.map(({ ruleVersion }) => ruleVersion)).size).toBe(marketData.datasets.length);
  });
});
