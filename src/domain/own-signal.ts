/**
 * Runs the work under a signal of its own, which aborts with `signal`. What the work hangs on it ends with the work: the Temporal Client
 * leaves a listener on the signal for each of its calls, and with the call its buffers, for as long as the signal lives.
 */
export const withOwnSignal = async <T>(signal: AbortSignal, work: (own: AbortSignal) => Promise<T>): Promise<T> => {
  signal.throwIfAborted();
  const own = new AbortController();
  const onAbort = (): void => { own.abort(signal.reason); };
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await work(own.signal);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
};
