import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ChildProcess } from 'node:child_process';
import { TidemarkError } from '../domain/errors.ts';
import type { ServerName } from './endpoints.ts';

const readyTimeoutMs = 120_000; // a cold JVM on a machine that also compiles has needed 20 s
const readyPollMs = 40;
const stopGraceMs = 10_000;
const logTailBytesMax = 8 * 1024;

/** How one server is run: everything needed to start it, and to start it again on the same ports with the same data. */
export interface Launch {
  name: ServerName;
  command: string;
  args: readonly string[];
  /** The whole environment of the server: nothing is inherited. */
  env: NodeJS.ProcessEnv;
  logFile: string;
  /** Asked again and again until true; `log` is what this run has written. May do the last step of the start. */
  isReady(log: () => Promise<string>): Promise<boolean>;
}

/**
 * Runs the server as the leader of its own session, beside a guard that reads from a pipe held by this process. However
 * this process ends, kill -9 included, the kernel closes the pipe, and the guard kills the session. `exec` makes the
 * shell's pid the server's own.
 */
const guardedExec = `exec 4<&0 </dev/null
(trap '' HUP INT TERM; read -r _ <&4; kill -KILL 0) &
exec "$@" 4<&-`;

/** One server that runs as a child of this process, and dies with it. */
export class ServerProcess {
  readonly launch: Launch;
  #child: ChildProcess | undefined;
  #logStart = 0;
  readonly #onDeath: (reason: string) => void;

  /** `onDeath` is told when the server ends without having been asked to, once it was ready. */
  constructor(launch: Launch, onDeath: (reason: string) => void) {
    this.launch = launch;
    this.#onDeath = onDeath;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Returns once the server answers. Throws STACK_START_FAILED with the end of its log if it dies or stays silent. */
  async start(signal?: AbortSignal): Promise<void> {
    const { name, command, args, env, logFile } = this.launch;
    signal?.throwIfAborted();
    await mkdir(dirname(logFile), { recursive: true });
    const log = await open(logFile, 'a');
    this.#logStart = (await log.stat()).size;
    const child = spawn('/bin/sh', ['-c', guardedExec, name, command, ...args], { env, detached: true, stdio: ['pipe', log.fd, log.fd] });
    // Listened to before anything else is awaited: a server that dies at once would be missed.
    let ending: string | undefined;
    const ended = new Promise<false>((resolve) => {
      child.once('error', (error) => {
        ending = `could not be run: ${error.message}`;
        resolve(false);
      });
      child.once('exit', (code, killedBy) => {
        ending = killedBy ? `was ended by ${killedBy}` : `ended with exit code ${code}`;
        resolve(false);
      });
    });
    child.stdin?.on('error', () => {}); // nothing is ever written, and the server's death is told by its exit
    this.#child = child;
    await log.close();

    try {
      const deadline = Date.now() + readyTimeoutMs;
      // A port that was taken by somebody else may accept and stay silent: the server's end is not waited behind that.
      while (!(await Promise.race([this.launch.isReady(() => this.#readLog()), ended])) || ending !== undefined) {
        signal?.throwIfAborted();
        if (ending === undefined && Date.now() > deadline) ending = `did not answer within ${readyTimeoutMs / 1000} s`;
        if (ending !== undefined) throw new TidemarkError('STACK_START_FAILED', `${name} ${ending}; its log ends:\n${lastLines(await this.#readLog(), 15)}`);
        await delay(readyPollMs);
      }
    } catch (error) {
      await this.stop('SIGKILL');
      throw error;
    }
    // A program that forgets to stop its servers ends all the same, and they with it.
    child.unref();
    (child.stdin as Socket | null)?.unref();
    child.once('exit', () => {
      if (this.#child !== child) return;
      this.#child = undefined;
      this.#onDeath(ending ?? 'ended');
    });
  }

  /** Ends the server with `signal` and waits for it; one that has not ended within the grace time is killed. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', graceMs = stopGraceMs): Promise<void> {
    const child = this.#child;
    if (!child) return;
    this.#child = undefined;
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.ref();
    const ended = once(child, 'exit');
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), graceMs);
    await ended;
    clearTimeout(timer);
  }

  /** Kills the server, if it runs, and starts it on the same ports with the same data. */
  async restart(): Promise<void> {
    await this.stop('SIGKILL');
    await this.start();
  }

  async #readLog(): Promise<string> {
    const log = await open(this.launch.logFile, 'r');
    try {
      const { size } = await log.stat();
      const start = Math.max(this.#logStart, size - logTailBytesMax);
      const { buffer, bytesRead } = await log.read({ buffer: Buffer.alloc(Math.max(0, size - start)), position: start });
      return buffer.toString('utf8', 0, bytesRead);
    } finally {
      await log.close();
    }
  }
}

const lastLines = (text: string, count: number): string => text.trimEnd().split('\n').slice(-count).join('\n');
