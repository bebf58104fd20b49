import { once } from 'node:events';
import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads';
import { TidemarkError } from '../domain/errors.ts';
import type { ExchangeSimulator, FeedTruth, SimulatorOptions } from './exchange-simulator.ts';
import { startExchangeSimulator } from './exchange-simulator.ts';

interface ThreadData {
  exchangeSimulator: SimulatorOptions;
}
type ThreadAnswer = { urls: ExchangeSimulator['urls'] } | { truth: FeedTruth[] } | { failure: string };

const isThreadData = (data: unknown): data is ThreadData => typeof data === 'object' && data !== null && 'exchangeSimulator' in data;

/** {@link startExchangeSimulator} in a thread of its own, so that making frames does not slow the process that reads them. */
export const startExchangeSimulatorThread = async (options: SimulatorOptions): Promise<ExchangeSimulator> => {
  const thread = new Worker(new URL(import.meta.url), {
    workerData: { exchangeSimulator: options } satisfies ThreadData,
    // Its frames live for a moment: a small young generation is as fast, and takes 100 MB less.
    resourceLimits: { maxYoungGenerationSizeMb: 16 },
  });
  const answer = async (): Promise<ThreadAnswer> => {
    const [message] = await once(thread, 'message') as [ThreadAnswer];
    if ('failure' in message) throw new TidemarkError('EXCHANGE_UNAVAILABLE', `the exchange simulator failed: ${message.failure}`);
    return message;
  };
  const started = await answer();
  if (!('urls' in started)) throw new TidemarkError('EXCHANGE_UNAVAILABLE', 'the exchange simulator did not start');
  let asking: Promise<unknown> = Promise.resolve();
  return {
    urls: started.urls,
    truth: () => {
      // One question at a time: answers carry no number.
      const asked = asking.catch(() => undefined).then(async () => {
        const answered = answer();
        thread.postMessage('truth', []);
        const message = await answered;
        return 'truth' in message ? message.truth : [];
      });
      asking = asked;
      return asked;
    },
    stop: async () => {
      await thread.terminate();
    },
  };
};

if (!isMainThread && parentPort && isThreadData(workerData)) {
  const port = parentPort;
  const tell = (answer: ThreadAnswer): void => port.postMessage(answer, []);
  const fail = (error: unknown): void => tell({ failure: error instanceof Error ? error.message : String(error) });
  try {
    const simulator = await startExchangeSimulator(workerData.exchangeSimulator);
    port.on('message', () => { simulator.truth().then((truth) => tell({ truth }), fail); });
    tell({ urls: simulator.urls });
  } catch (error) {
    fail(error);
  }
}
