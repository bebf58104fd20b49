import { parentPort, threadId } from 'node:worker_threads';
import { TidemarkError } from '../../src/domain/errors.ts';
import type { FromThread, ToThread } from '../../src/refine/thread-messages.ts';
import { packError } from '../../src/refine/thread-messages.ts';

// The body of a thread for the tests of the pool: the batch id of a task says what the thread does with it.

const port = parentPort!;
const answer = (message: FromThread): void => { port.postMessage(message, []); };
let current = 0;

port.on('message', (message: ToThread) => {
  if (message.kind === 'abort') {
    if (message.task === current) answer({ kind: 'failed', task: current, error: packError(new Error('let go')) });
    return;
  }
  const { task, input } = message;
  current = task;
  const { batchId } = input as { batchId: string };
  switch (batchId) {
    case 'exit': process.exit(3); break;
    case 'throw': setImmediate(() => { throw new Error('unforeseen'); }); break;
    case 'fill memory': {
      const kept: unknown[] = [];
      for (;;) kept.push(Array.from({ length: 10_000 }, (_, i) => ({ i })));
    }
    case 'refuse': {
      answer({ kind: 'failed', task, error: packError(new TidemarkError('REGISTRY_UNAVAILABLE', 'no answer', { cause: new Error('ECONNREFUSED') })) });
      break;
    }
    case 'wait': {
      answer({ kind: 'progress', task, progress: { rows: 1 } });
      break;
    }
    default: {
      answer({ kind: 'progress', task, progress: { rows: 7 } });
      answer({ kind: 'done', task, result: { batchId, threadId } });
    }
  }
});
