import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { TidemarkError } from '../../src/domain/errors.ts';
import { cacheFolder } from '../../src/stack/index.ts';
import { stopsWithStdin } from '../cli.ts';
import { serviceEnvironment, serviceNodeArguments } from './service-settings.ts';

export interface ChildOptions {
  name: string;
  /** Relative to scripts/. */
  script: string;
  args?: readonly string[];
  /** A function is asked before each life of the process. */
  env: NodeJS.ProcessEnv | (() => NodeJS.ProcessEnv);
  /** Takes stderr of every life of the process. */
  logFile: string;
  /** Starts it again when it ends without having been asked to: a killed worker must not end the run. */
  restarts: boolean;
  onRestart?: (name: string, how: string) => void;
}

/** Processes start again and again, in a fault run a hundred times: what Node compiled the first time is kept. */
const compiledFolder = process.env['NODE_COMPILE_CACHE'] ?? join(cacheFolder(process.env), 'compiled');

const sampleEveryMs = 500;
const restartDelayMs = 200;
const stopDeadlineMs = 20_000;

/** Resident set of a live process in bytes, now and at its peak: VmRSS and VmHWM where there is /proc; null elsewhere. */
const residentBytes = async (pid: number): Promise<{ now: number; peak: number } | null> => {
  try {
    const status = await readFile(`/proc/${pid}/status`, 'utf8');
    const bytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? NaN) * 1024;
    const [now, peak] = [bytes('VmRSS'), bytes('VmHWM')];
    return Number.isNaN(now + peak) ? null : { now, peak };
  } catch {
    return null;
  }
};

/** CPU seconds, user and system, that a live process has used; null without /proc. */
export const cpuSeconds = async (pid: number): Promise<number | null> => {
  try {
    // The second field is the command in parentheses and may hold spaces.
    const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ').at(-1)!.split(' ');
    const ticksPerSecond = 100;
    return (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
  } catch {
    return null;
  }
};

/** One of the project's own processes, started from a script, its stdout read as JSON lines. */
export class ScriptProcess {
  readonly name: string;
  private readonly options: ChildOptions;
  private child: ChildProcess | null = null;
  private stopping = false;
  private readonly events: Record<string, unknown>[] = [];
  private waiters: (() => void)[] = [];
  private readonly timer: NodeJS.Timeout;
  private ended: Promise<number> = Promise.resolve(0);
  private cpuOfEarlierLives = 0;
  private cpuNow = 0;
  peakRssBytes = 0;
  restarts = 0;
  /** Resident set by time, as it was sampled: ms since the start, bytes. */
  readonly rssSamples: [elapsedMs: number, bytes: number][] = [];
  private readonly startedMs = performance.now();

  constructor(options: ChildOptions) {
    this.options = options;
    this.name = options.name;
    this.start();
    this.timer = setInterval(() => void this.sample(), sampleEveryMs);
    this.timer.unref();
  }

  get pid(): number | undefined {
    return this.child?.pid;
  }

  get cpuSeconds(): number {
    return this.cpuOfEarlierLives + this.cpuNow;
  }

  /** Resolves with the exit code of the last life; a restarted process has not ended. */
  get exit(): Promise<number> {
    return this.ended;
  }

  async sample(): Promise<void> {
    const { pid } = this;
    if (pid === undefined) return;
    const [resident, cpu] = await Promise.all([residentBytes(pid), cpuSeconds(pid)]);
    if (resident !== null) {
      this.peakRssBytes = Math.max(this.peakRssBytes, resident.peak);
      this.rssSamples.push([performance.now() - this.startedMs, resident.now]);
    }
    if (cpu !== null) this.cpuNow = cpu;
  }

  private start(): void {
    const { script, args = [], env, logFile, restarts } = this.options;
    const path = fileURLToPath(new URL(`../${script}`, import.meta.url));
    // The pipe closes when this process ends, however it ends, and the script stops then.
    const child = spawn(process.execPath, [...serviceNodeArguments, path, ...args], { env: { ...serviceEnvironment, NODE_COMPILE_CACHE: compiledFolder, ...(typeof env === 'function' ? env() : env), [stopsWithStdin]: '1' }, stdio: ['pipe', 'pipe', 'pipe'] });
    child.stdin!.on('error', () => {});
    this.child = child;
    const log = createWriteStream(logFile, { flags: 'a' });
    child.stderr!.pipe(log);
    createInterface({ input: child.stdout! }).on('line', (line) => {
      try {
        const event: unknown = JSON.parse(line);
        if (event !== null && typeof event === 'object') this.events.push(event as Record<string, unknown>);
      } catch {
        log.write(`${line}\n`);
      }
      this.wake();
    });
    this.ended = new Promise((resolve) => {
      child.once('close', (code, signal) => {
        this.child = null;
        this.cpuOfEarlierLives += this.cpuNow;
        this.cpuNow = 0;
        this.wake();
        resolve(code ?? 128);
        if (restarts && !this.stopping) {
          this.restarts += 1;
          this.options.onRestart?.(this.name, signal === null ? `exit code ${code}` : signal);
          setTimeout(() => {
            if (!this.stopping) this.start();
          }, restartDelayMs);
        }
      });
    });
  }

  private wake(): void {
    const waiting = this.waiters;
    this.waiters = [];
    for (const resolve of waiting) resolve();
  }

  /** The last JSON object printed that fits. */
  lastEvent(fits: (event: Record<string, unknown>) => boolean = () => true): Record<string, unknown> | undefined {
    return this.events.findLast(fits);
  }

  /** Waits for a JSON line; rejects if a process that is not restarted ends without it. */
  async event(fits: (event: Record<string, unknown>) => boolean, signal?: AbortSignal): Promise<Record<string, unknown>> {
    for (;;) {
      signal?.throwIfAborted();
      const found = this.lastEvent(fits);
      if (found) return found;
      if (this.child === null && !this.options.restarts) {
        throw new TidemarkError('STACK_START_FAILED', `${this.name}: expected it to report, found it ended; its log: ${this.options.logFile}`);
      }
      await new Promise<void>((resolve) => {
        this.waiters.push(resolve);
        signal?.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }

  /** SIGTERM, and SIGKILL for what has not ended by the deadline. */
  async stop(): Promise<void> {
    this.stopping = true;
    await this.sample();
    clearInterval(this.timer);
    const { child } = this;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGTERM');
    const hard = setTimeout(() => child.kill('SIGKILL'), stopDeadlineMs);
    try {
      await once(child, 'close');
    } finally {
      clearTimeout(hard);
    }
  }
}
