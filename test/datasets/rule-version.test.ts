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
  'binance-trades/1': '867f0a76af31dafac4f9f2d72c329e9320d9aa62ffec2322b9d419c154818933',
  'kraken-trades/1': 'ddbd4fb8e2ee50240b949f4a80e579b3f2acc57bc6e36220a0147b1fbacff105',
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
