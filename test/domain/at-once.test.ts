import { setImmediate as turn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { eachAtOnce } from '../../src/domain/at-once.ts';

test('every item is worked on once, in order, and never more than so many at once', async () => {
  const begun: number[] = [];
  let running = 0;
  let most = 0;
  await eachAtOnce([5, 4, 3, 2, 1, 0], 2, async (turns, index) => {
    begun.push(index);
    running += 1;
    most = Math.max(most, running);
    for (let i = 0; i < turns; i += 1) await turn();
    running -= 1;
  });
  expect({ begun, most, running }).toEqual({ begun: [0, 1, 2, 3, 4, 5], most: 2, running: 0 });
});

test('a failure begins nothing more, and is thrown when all that runs has ended', async () => {
  const ended: number[] = [];
  const work = eachAtOnce([0, 1, 2, 3], 2, async (item) => {
    if (item === 0) throw new Error('first');
    for (let i = 0; i < 5; i += 1) await turn();
    ended.push(item);
  });
  await expect(work).rejects.toThrow('first');
  expect(ended).toEqual([1]);
});
