import { setTimeout as delay } from 'node:timers/promises';

export interface SlowCollectorOptions {
  look(): Promise<void>;
  everyMs: number;
  signal: AbortSignal;
  /** A look that failed is repeated at its next time. */
  onFailure(error: unknown): void;
}

/** Figures that cost requests, read now and then and not at each scrape. One look at a time; ends with the signal. */
export const repeatLook = async ({ look, everyMs, signal, onFailure }: SlowCollectorOptions): Promise<void> => {
  while (!signal.aborted) {
    await look().catch((error: unknown) => {
      if (!signal.aborted) onFailure(error);
    });
    await delay(everyMs, undefined, { signal, ref: false }).catch(() => undefined);
  }
};
