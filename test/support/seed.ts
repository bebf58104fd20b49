import fc from 'fast-check';

/**
 * The seed of every random choice in the tests. The gate takes the same one each time, so that a change is judged by what it changed;
 * `TEST_SEED=random` looks for new cases, `TEST_SEED=<number>` repeats one. Failure messages name it.
 */
export const seed = seedFrom(process.env['TEST_SEED']);

// A setup file of every test file (vitest.config.ts): properties that name no seed of their own have it, too.
fc.configureGlobal({ seed: seed });

function seedFrom(text: string | undefined): number {
  if (text === undefined || text === '') return 20_260_401;
  if (text === 'random') return Math.floor(Math.random() * 0x7fff_ffff);
  const seed = Number(text);
  if (!Number.isSafeInteger(seed)) throw new Error(`TEST_SEED is a whole number or "random", found ${JSON.stringify(text)}`);
  return seed;
}
