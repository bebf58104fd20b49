import { setTimeout as delay } from 'node:timers/promises';

/** Wall clock and waiting, injectable so that tests decide what time it is. */
export interface Clock {
  nowMs(): number;
  /** Resolves after `ms`, or at once when the signal aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export const systemClock: Clock = {
  nowMs: Date.now,
  sleep: async (ms, signal) => {
    // A timer holds 31 bits of milliseconds.
    await delay(Math.min(ms, 2 ** 31 - 1), undefined, signal ? { signal } : {}).catch(() => undefined);
  },
};

/** Exponential with jitter: between half of the step and all of it. */
export const backoffMs = (attempt: number, firstMs: number, maxMs: number): number =>
  Math.min(maxMs, firstMs * 2 ** Math.min(attempt, 30)) * (0.5 + Math.random() / 2);
