import { platform, setPriority } from 'node:os';
import { getHeapStatistics } from 'node:v8';
import { parentPort, workerData } from 'node:worker_threads';
import { collectGarbage } from '../config/collect-garbage.ts';
import type { FromThread, ToThread } from './thread-messages.ts';
import { packError } from './thread-messages.ts';
import type { TaskOptions, TaskRunners, ThreadConfig } from './refine-tasks.ts';
import { createTaskRunners, openTaskContext } from './refine-tasks.ts';

// The body of one thread of a RefinePool: runs one task at a time, off the event loop of the Temporal Worker.

const port = parentPort!;
const config = workerData as ThreadConfig;
const answer = (message: FromThread): void => { port.postMessage(message); };

// On Linux pid 0 is the calling thread, elsewhere the whole process.
if (config.niceness !== undefined && platform() === 'linux') setPriority(0, config.niceness);

// A task of a hundred thousand rows leaves tens of megabytes that nobody needs, most of it outside of V8's heap, where V8 hardly
// sees it. Collected between tasks, and within one that says so, it does not add up. Small tasks leave little, and a full collection takes
// some 20 ms of several cores: it waits until they have left much together.
const garbageBytesMax = 24 << 20;
const heldBytes = (): number => {
  const { used_heap_size: heap, external_memory: external } = getHeapStatistics();
  return heap + external;
};
let heldAfterCollection = 0;
const collectWhenMuch = (): void => {
  if (heldBytes() - heldAfterCollection < garbageBytesMax) return;
  collectGarbage();
  heldAfterCollection = heldBytes();
};

/** Opened with the first task; a failure to open fails that task and is tried again with the next. */
let opened: Promise<TaskRunners> | undefined;
const open = (): Promise<TaskRunners> => {
  opened ??= openTaskContext(config).then(createTaskRunners).catch((error: unknown) => {
    opened = undefined;
    throw error;
  });
  return opened;
};

let running: { task: number; abort: AbortController } | undefined;

port.on('message', (message: ToThread) => {
  if (message.kind === 'abort') {
    if (running?.task === message.task) running.abort.abort(new Error(message.reason));
    return;
  }
  const { task, name, input } = message;
  const abort = new AbortController();
  running = { task, abort };
  const options: TaskOptions = { signal: abort.signal, onProgress: (progress) => { answer({ kind: 'progress', task, progress }); }, onReleased: collectWhenMuch };
  void (async () => {
    try {
      const runners = await open();
      const run = runners[name] as (input: unknown, options: TaskOptions) => Promise<unknown>;
      answer({ kind: 'done', task, result: await run(input, options) });
    } catch (error) {
      answer({ kind: 'failed', task, error: packError(error) });
    } finally {
      running = undefined;
      collectWhenMuch();
    }
  })();
});
