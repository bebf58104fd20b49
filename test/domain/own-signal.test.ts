import { getEventListeners } from 'node:events';
import { expect, test } from 'vitest';
import { withOwnSignal } from '../../src/domain/own-signal.ts';

/** As the Temporal Client does it: a listener for each call, never taken away. */
const call = async (signal: AbortSignal): Promise<string> => {
  signal.addEventListener('abort', () => {});
  return 'answered';
};

test('what works under a signal for the life of a process leaves nothing on it, whether it ends well or not', async () => {
  const { signal } = new AbortController();
  for (let round = 0; round < 3; round += 1) {
    expect(await withOwnSignal(signal, call)).toBe('answered');
    await expect(withOwnSignal(signal, async (own) => { await call(own); throw new Error('no answer'); })).rejects.toThrow('no answer');
  }
  expect(getEventListeners(signal, 'abort')).toEqual([]);
});

test('it aborts with that signal, for the same reason, and does not begin after it', async () => {
  const controller = new AbortController();
  const begun = Promise.withResolvers<void>();
  const ended = withOwnSignal(controller.signal, (own) => new Promise((_, reject) => {
    own.addEventListener('abort', () => { reject(own.reason as Error); });
    begun.resolve();
  }));
  await begun.promise;
  controller.abort(new Error('stopped by SIGINT'));
  await expect(ended).rejects.toThrow('stopped by SIGINT');
  await expect(withOwnSignal(controller.signal, call)).rejects.toThrow('stopped by SIGINT');
});
