import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdir, mkdtemp, readdir, rename, rm, stat, utimes } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, delimiter, dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { TidemarkError } from '../domain/errors.ts';

const lockTouchMs = 2_000;
const lockStaleMs = 20_000; // ten missed touches: the installing process is gone
const lockPollMs = 250;

/** `$TIDEMARK_CACHE_DIR`, else `$XDG_CACHE_HOME/tidemark`, else `~/.cache/tidemark`. */
export function cacheFolder(env: NodeJS.ProcessEnv): string {
  return env['TIDEMARK_CACHE_DIR'] || join(env['XDG_CACHE_HOME'] || join(env['HOME'] || homedir(), '.cache'), 'tidemark');
}

/** The first executable of that name on the PATH. */
export async function findOnPath(command: string, env: NodeJS.ProcessEnv): Promise<string | undefined> {
  for (const folder of (env['PATH'] ?? '').split(delimiter)) {
    if (folder && (await isExecutable(join(folder, command)))) return join(folder, command);
  }
  return undefined;
}

/**
 * The folder, made by `build` unless it is there. The build works in a staging folder that is renamed when it is
 * complete, so a folder of this name is always whole: a build that is killed half-way leaves nothing that counts, and of
 * two at once the second waits and takes the first one's result.
 */
export async function installOnce(folder: string, build: (staging: string) => Promise<void>, onWait: () => void, signal?: AbortSignal): Promise<string> {
  if (await exists(folder)) return folder;
  await mkdir(dirname(folder), { recursive: true });
  const touched = new Set<string>();
  const release = await acquireLock(`${folder}.lock`, touched, onWait, signal);
  try {
    if (await exists(folder)) return folder;
    await removeAbandoned(folder);
    const staging = await mkdtemp(`${folder}.staging-`);
    touched.add(staging);
    try {
      await build(staging);
      await rename(staging, folder).catch(async (error: NodeJS.ErrnoException) => {
        // A stolen lock lets two builds run; the first to finish is as good as ours.
        if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error;
      });
      return folder;
    } finally {
      touched.delete(staging);
      await rm(staging, { recursive: true, force: true });
    }
  } finally {
    await release();
  }
}

/** Runs a tool of the installation; every line it prints goes to `onLine`. Throws STACK_START_FAILED with its last lines. */
export async function runTool(
  command: string,
  args: readonly string[],
  options: { env: NodeJS.ProcessEnv; cwd?: string; onLine?: (line: string) => void; signal?: AbortSignal | undefined },
): Promise<void> {
  const child = spawn(command, args, { env: options.env, cwd: options.cwd, stdio: ['ignore', 'pipe', 'pipe'], ...(options.signal ? { signal: options.signal } : {}) });
  const tail: string[] = [];
  const follow = async (stream: NodeJS.ReadableStream): Promise<void> => {
    for await (const line of createInterface({ input: stream, crlfDelay: Infinity })) {
      tail.push(line);
      if (tail.length > 15) tail.shift();
      options.onLine?.(line);
    }
  };
  const ended = new Promise<string | undefined>((resolve) => {
    child.once('error', (error) => resolve(`could not be run: ${error.message}`));
    child.once('close', (code, killedBy) => resolve(code === 0 ? undefined : killedBy ? `was ended by ${killedBy}` : `ended with exit code ${code}`));
  });
  const [failure] = await Promise.all([ended, follow(child.stdout), follow(child.stderr)]);
  options.signal?.throwIfAborted();
  if (failure !== undefined) {
    throw new TidemarkError('STACK_START_FAILED', `${basename(command)} ${args.slice(0, 4).join(' ')} ${failure}:\n${tail.join('\n')}`);
  }
}

async function acquireLock(lock: string, touched: Set<string>, onWait: () => void, signal?: AbortSignal): Promise<() => Promise<void>> {
  for (let waited = false; ; waited = true) {
    signal?.throwIfAborted();
    if (await makeFolder(lock)) break;
    if (!waited) onWait();
    const age = await ageMs(lock);
    if (age !== undefined && age > lockStaleMs) {
      // The rename is atomic: of several that find the lock stale, one takes it away.
      const aside = `${lock}.stale-${process.pid}-${Date.now()}`;
      await rename(lock, aside).then(() => rm(aside, { recursive: true, force: true }), () => {});
      continue;
    }
    await delay(lockPollMs);
  }
  touched.add(lock);
  const timer = setInterval(() => {
    const now = new Date();
    for (const path of touched) utimes(path, now, now).catch(() => {});
  }, lockTouchMs);
  return async () => {
    clearInterval(timer);
    await rm(lock, { recursive: true, force: true });
  };
}

/** Staging folders of builds that were killed. A live one is touched every 2 s. */
async function removeAbandoned(folder: string): Promise<void> {
  const prefix = `${basename(folder)}.staging-`;
  for (const name of await readdir(dirname(folder))) {
    const path = join(dirname(folder), name);
    if (name.startsWith(prefix) && ((await ageMs(path)) ?? 0) > lockStaleMs) await rm(path, { recursive: true, force: true });
  }
}

async function makeFolder(path: string): Promise<boolean> {
  try {
    await mkdir(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

async function ageMs(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found && Date.now() - found.mtimeMs;
}

const isExecutable = (path: string): Promise<boolean> =>
  access(path, constants.X_OK).then(async () => (await stat(path)).isFile(), () => false);

const exists = (path: string): Promise<boolean> => access(path).then(() => true, () => false);
