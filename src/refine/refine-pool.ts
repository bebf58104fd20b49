import { Worker } from 'node:worker_threads';
import { TidemarkError } from '../domain/errors.ts';
import type { RefineInput, RefineResult } from './refine.ts';
import type { RefineTasks, TaskName, TaskProgress, ThreadConfig } from './refine-tasks.ts';
import type { FromThread, ToThread } from './thread-messages.ts';
import { unpackError } from './thread-messages.ts';

/** The part of the process's config that a pool reads. */
export interface RefinePoolConfig extends ThreadConfig {
  readonly microBatch: { readonly threads: number };
}

export interface RefinePoolOptions {
  /** Heap of one thread, MiB; a thread that grows past it ends, and its task is retried. Typed arrays are not counted. */
  threadHeapMiB?: number;
  /** A thread that was idle for so long ends, and gives its memory back; default: never. */
  idleMsMax?: number;
  /** Told when a thread is lost. */
  log?: PoolLog;
  /** Body of the threads; tests give their own. */
  threadUrl?: URL;
}
export interface PoolLog {
  warn(fields: Record<string, unknown>, message: string): void;
}

export interface RunOptions {
  signal?: AbortSignal;
  onProgress?: (progress: TaskProgress) => void;
}

interface Task extends RunOptions {
  id: number;
  name: TaskName;
  input: unknown;
  resolve(result: unknown): void;
  reject(error: unknown): void;
}

interface Thread {
  worker: Worker;
  /** The task it works on: also one that its caller gave up, until the thread has let go of it. */
  task: Task | undefined;
  retirement: NodeJS.Timeout | undefined;
}

const threadHeapMiBDefault = 512;
/** Measured: 48 MiB cost 80 MB more memory for each Temporal Worker and saved no CPU. */
const youngGenerationMiB = 16;

/**
 * Threads that refine (and merge), so that the event loop of the process stays free for heartbeats. A thread runs one
 * task at a time; further tasks wait in order. A thread that dies rejects its task with REFINE_THREAD_LOST (retryable) and
 * is replaced when the next task needs one.
 */
export class RefinePool {
  private readonly config: ThreadConfig;
  private readonly threadsMax: number;
  private readonly options: RefinePoolOptions;
  private readonly threads = new Set<Thread>();
  private readonly waiting: Task[] = [];
  private taskCount = 0;
  private closed = false;

  constructor({ s3, schemaRegistry, pipelineUrl, microBatch, niceness }: RefinePoolConfig, log?: PoolLog, options: RefinePoolOptions = {}) {
    this.config = { s3: { ...s3 }, schemaRegistry: { ...schemaRegistry }, pipelineUrl, ...(niceness === undefined ? {} : { niceness }) };
    this.threadsMax = microBatch.threads;
    this.options = { ...(log ? { log } : {}), ...options };
  }

  refine(input: RefineInput, options: RunOptions = {}): Promise<RefineResult> {
    return this.run('refine', input, options);
  }

  /** Starts all threads and lets them load their modules, so that the first micro-batch does not wait for it. */
  async open(): Promise<void> {
    await Promise.all(Array.from({ length: this.threadsMax }, () => this.run('open', null)));
  }

  /** Rejects with the signal's reason at once when it aborts; the thread stops at its next look at it. */
  run<Name extends TaskName>(name: Name, input: RefineTasks[Name]['input'], { signal, onProgress }: RunOptions = {}): Promise<RefineTasks[Name]['result']> {
    return new Promise((resolve, reject) => {
      if (this.closed) throw new TidemarkError('REFINE_THREAD_LOST', `${name}: the pool is closed`);
      signal?.throwIfAborted();
      this.taskCount += 1;
      const task: Task = {
        id: this.taskCount, name, input,
        ...(signal ? { signal } : {}),
        ...(onProgress ? { onProgress } : {}),
        resolve: (result) => {
          signal?.removeEventListener('abort', onAbort);
          resolve(result as RefineTasks[Name]['result']);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', onAbort);
          reject(error as Error);
        },
      };
      const onAbort = (): void => {
        const at = this.waiting.indexOf(task);
        if (at >= 0) this.waiting.splice(at, 1);
        for (const thread of this.threads) {
          if (thread.task === task) this.send(thread, { kind: 'abort', task: task.id, reason: 'the task was aborted' });
        }
        reject(signal!.reason as Error);
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.waiting.push(task);
      this.dispatch();
    });
  }

  /** Ends the threads; tasks that run or wait are rejected with REFINE_THREAD_LOST. */
  async close(): Promise<void> {
    this.closed = true;
    for (const task of this.waiting.splice(0)) task.reject(new TidemarkError('REFINE_THREAD_LOST', `${task.name}: the pool was closed`));
    await Promise.all([...this.threads].map(({ worker }) => worker.terminate()));
  }

  private dispatch(): void {
    while (this.waiting.length > 0) {
      const idle = [...this.threads].find(({ task }) => !task) ?? (this.threads.size < this.threadsMax ? this.start() : undefined);
      if (!idle) return;
      const task = this.waiting.shift()!;
      idle.task = task;
      clearTimeout(idle.retirement);
      idle.worker.ref();
      this.send(idle, { kind: 'run', task: task.id, name: task.name, input: task.input });
    }
  }

  private send(thread: Thread, message: ToThread): void {
    thread.worker.postMessage(message, []);
  }

  private start(): Thread {
    const worker = new Worker(this.options.threadUrl ?? new URL('refine-thread.ts', import.meta.url), {
      workerData: this.config,
      resourceLimits: { maxOldGenerationSizeMb: this.options.threadHeapMiB ?? threadHeapMiBDefault, maxYoungGenerationSizeMb: youngGenerationMiB },
    });
    const thread: Thread = { worker, task: undefined, retirement: undefined };
    this.threads.add(thread);
    let cause: Error | undefined;
    worker.on('message', (message: FromThread) => { this.receive(thread, message); });
    worker.on('error', (error) => { cause = error; });
    worker.on('exit', (exitCode) => {
      // One that has retired is no longer among them.
      if (!this.threads.delete(thread)) return;
      const { task } = thread;
      if (!this.closed) this.options.log?.warn({ exitCode, err: cause, task: task?.name }, 'a refine thread was lost');
      task?.reject(new TidemarkError('REFINE_THREAD_LOST', `${task.name}: its thread ended with exit code ${exitCode}${cause ? `: ${cause.message}` : ''}`, { cause }));
      if (!this.closed) this.dispatch();
    });
    // An idle thread keeps no process alive.
    worker.unref();
    return thread;
  }

  private receive(thread: Thread, message: FromThread): void {
    const { task } = thread;
    if (!task || task.id !== message.task) return;
    if (message.kind === 'progress') {
      task.onProgress?.(message.progress);
      return;
    }
    thread.task = undefined;
    thread.worker.unref();
    if (message.kind === 'done') task.resolve(message.result);
    else task.reject(unpackError(message.error));
    this.dispatch();
    const { idleMsMax } = this.options;
    if (thread.task || idleMsMax === undefined) return;
    clearTimeout(thread.retirement);
    thread.retirement = setTimeout(() => {
      this.threads.delete(thread);
      void thread.worker.terminate();
    }, idleMsMax).unref();
  }
}
