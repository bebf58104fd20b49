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
  'binance-trades/1': 'fde0454ba11bd0fca2860d2a9be29125443fc94de2aa6c585f44e30a08238b94',
  'kraken-trades/1': 'b7859894801b1c15da11c783549ed82d1cd9d163413838f7b5f717c969491d16',
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
