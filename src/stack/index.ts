import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { isTidemarkError, TidemarkError } from '../domain/errors.ts';
import { externalEndpoints, serverNames } from './endpoints.ts';
import type { ServerName, StackEndpoints } from './endpoints.ts';
import { kafkaServer } from './kafka-server.ts';
import { findFreePorts } from './ports.ts';
import type { ServerRecipe } from './recipe.ts';
import { isMissingXattr, s3Server } from './s3-server.ts';
import { schemaRegistryServer } from './schema-registry-server.ts';
import { ServerProcess } from './server-process.ts';
import { temporalServer } from './temporal-server.ts';
import type { InstallContext } from './toolchain.ts';

export { endpointEnvironment, endpointVariables, externalEndpoints, serverNames } from './endpoints.ts';
export type { ServerName, StackEndpoints } from './endpoints.ts';
export { cacheFolder, findOnPath, installOnce, runTool } from './install.ts';
export { searchAttributes } from './temporal-server.ts';
export { installTimeSkippingServer } from './time-skipping-server.ts';

const startAttemptsMax = 3;

const recipes: { [Name in ServerName]: ServerRecipe<Name> } = {
  kafka: kafkaServer,
  temporal: temporalServer,
  s3: s3Server,
  schemaRegistry: schemaRegistryServer,
};

/** `external` and `ready` end a server's start; `died` is a server that ended without having been asked to. */
export interface StackEvent {
  server: ServerName;
  step: 'external' | 'installing' | 'starting' | 'ready' | 'stopped' | 'died';
  /** One line for people. */
  message: string;
}

export interface RunningServer {
  name: ServerName;
  pid?: number | undefined;
  /** Named by the environment: `stop` and `restart` leave it alone. */
  external: boolean;
  logFile?: string;
  /** Ends the server with `signal` (default SIGTERM) and waits; killed if it has not ended within 10 s. */
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** Kills the server if it runs, starts it on the same port with the same data, and waits until it answers. */
  restart(): Promise<void>;
}

export interface Stack {
  /** A server that was not asked for has no endpoint: reading it throws BAD_CONFIG. */
  endpoints: StackEndpoints;
  servers: Record<ServerName, RunningServer>;
  dataDir: string;
  /** Stops what was started here, and removes a data folder that was made here unless it is to be kept. */
  stop(): Promise<void>;
}

export interface StackOptions {
  /** Where the servers keep their data and logs. Default: a fresh temporary folder, removed on stop. */
  dataDir?: string;
  /** Keep the temporary folder too. */
  keepData?: boolean;
  /** Default: all four. */
  servers?: readonly ServerName[];
  /** Default: process.env. */
  env?: NodeJS.ProcessEnv;
  onProgress?: (event: StackEvent) => void;
  /** Gives the start up: what runs by then is stopped. */
  signal?: AbortSignal;
}

/**
 * Starts the real servers on free ports of 127.0.0.1 and returns when all answer. A server that the environment names
 * (see `endpointVariables`) is used as it is. The servers end with this process, however it ends, and do not keep it alive. Throws
 * TOOLCHAIN_MISSING, BAD_CONFIG, or STACK_START_FAILED with the end of the log of the server that failed; nothing is left
 * running then.
 */
export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const { env = process.env, servers: names = serverNames, onProgress = () => {} } = options;
  const external = externalEndpoints(env);
  const temporary = options.dataDir === undefined;
  const dataDir = options.dataDir === undefined ? await mkdtemp(join(tmpdir(), 'tidemark-stack-')) : resolve(options.dataDir);
  await mkdir(dataDir, { recursive: true });
  const removesData = temporary && options.keepData !== true;
  if (removesData) removeWhenThisProcessEnds(dataDir);

  const failure = new AbortController();
  const signal = options.signal ? AbortSignal.any([options.signal, failure.signal]) : failure.signal;
  const running = new Map<ServerName, ServerProcess>();
  const endpoints: Partial<StackEndpoints> = {};
  const servers: Partial<Record<ServerName, RunningServer>> = {};

  const startOne = async <Name extends ServerName>(name: Name): Promise<void> => {
    const given: StackEndpoints[Name] | undefined = external[name];
    if (given) {
      endpoints[name] = given;
      servers[name] = { name, external: true, stop: async () => {}, restart: async () => {} };
      onProgress({ server: name, step: 'external', message: 'named by the environment' });
      return;
    }
    const started = await startServer(recipes[name], { env, dataDir, signal, onProgress });
    running.set(name, started.process);
    endpoints[name] = started.endpoint;
    servers[name] = {
      name,
      external: false,
      get pid() {
        return started.process.pid;
      },
      logFile: started.process.launch.logFile,
      stop: (stopSignal) => started.process.stop(stopSignal),
      restart: () => started.process.restart(),
    };
  };

  const stop = async (): Promise<void> => {
    // Data that is thrown away needs no orderly shutdown.
    const stopSignal = removesData ? 'SIGKILL' : 'SIGTERM';
    await Promise.all(
      [...running].map(async ([server, serverProcess]) => {
        await serverProcess.stop(stopSignal);
        onProgress({ server, step: 'stopped', message: 'stopped' });
      }),
    );
    running.clear();
    if (removesData) await rm(dataDir, { recursive: true, force: true, maxRetries: 5 });
  };

  const starts = [...new Set(names)].map((name) =>
    startOne(name).catch((error: unknown) => {
      failure.abort(error);
      throw error;
    }),
  );
  const outcomes = await Promise.allSettled(starts);
  if (outcomes.some(({ status }) => status === 'rejected')) {
    await stop();
    throw signal.reason;
  }
  return {
    endpoints: refuseMissing<StackEndpoints>(endpoints),
    servers: refuseMissing<Record<ServerName, RunningServer>>(servers),
    dataDir,
    stop,
  };
}

/** Installs what `startStack` would, without starting it. External servers need nothing. Safe when two do it at once. */
export async function ensureInstalled(options: Pick<StackOptions, 'servers' | 'env' | 'onProgress' | 'signal'> = {}): Promise<void> {
  const { env = process.env, servers: names = serverNames, onProgress = () => {}, signal } = options;
  const external = externalEndpoints(env);
  const failure = new AbortController();
  const either = signal ? AbortSignal.any([signal, failure.signal]) : failure.signal;
  const installs = names
    .filter((name) => !external[name])
    .map((name) =>
      recipes[name].install(installContext(name, { env, onProgress, signal: either })).catch((error: unknown) => {
        failure.abort(error);
        throw error;
      }),
    );
  const outcomes = await Promise.allSettled(installs);
  if (outcomes.some(({ status }) => status === 'rejected')) throw either.reason;
}

interface StartContext {
  env: NodeJS.ProcessEnv;
  dataDir: string;
  signal: AbortSignal;
  onProgress: (event: StackEvent) => void;
}

function installContext(server: ServerName, { env, onProgress, signal }: Omit<StartContext, 'dataDir'>): InstallContext {
  return { env, signal, report: (message) => onProgress({ server, step: 'installing', message: `${recipes[server].label}: ${message}` }) };
}

async function startServer<Name extends ServerName>(recipe: ServerRecipe<Name>, context: StartContext): Promise<{ process: ServerProcess; endpoint: StackEndpoints[Name] }> {
  const { env, dataDir, signal, onProgress } = context;
  const installation = await recipe.install(installContext(recipe.name, context));
  const since = Date.now();
  onProgress({ server: recipe.name, step: 'starting', message: recipe.label });
  let previousFailure: string | undefined;
  for (let attempt = 1; ; attempt += 1) {
    const ports = await findFreePorts(recipe.portCount);
    const { launch, endpoint } = await recipe.plan(installation, { env, dataDir, ports, previousFailure });
    const serverProcess = new ServerProcess(launch, (reason) => onProgress({ server: recipe.name, step: 'died', message: reason }));
    try {
      await serverProcess.start(signal);
      onProgress({ server: recipe.name, step: 'ready', message: `${recipe.label}, ready after ${((Date.now() - since) / 1000).toFixed(1)} s` });
      return { process: serverProcess, endpoint };
    } catch (error) {
      if (attempt === startAttemptsMax || !isTidemarkError(error) || !anotherPlanMayWork(error.message)) throw error;
      previousFailure = error.message;
    }
  }
}

/** A free port can be taken by somebody else between the search and the start. */
const anotherPlanMayWork = (failure: string): boolean => /address already in use|BindException|EADDRINUSE/i.test(failure) || isMissingXattr(failure);

/**
 * The same pipe as the servers' guard, for the folder: it goes even when this process is killed. The servers die first,
 * but a dying one may still write, hence the repetition.
 */
function removeWhenThisProcessEnds(folder: string): void {
  const script = 'trap "" HUP INT TERM; read -r _; for i in 1 2 3 4 5; do rm -rf "$1" 2>/dev/null && sleep 1 && [ ! -e "$1" ] && exit; sleep 1; done';
  const child = spawn('/bin/sh', ['-c', script, 'sh', folder], { detached: true, stdio: ['pipe', 'ignore', 'ignore'] });
  child.on('error', () => {}); // without a shell no server starts either, and that is reported
  // Neither the child nor the pipe keeps this process alive.
  child.unref();
  (child.stdin as Socket | null)?.unref();
}

/** What was not asked for is not silently undefined. Enumeration and JSON show only what is there. */
function refuseMissing<Entries extends Record<ServerName, unknown>>(present: Partial<Entries>): Entries {
  for (const name of serverNames) {
    if (present[name] !== undefined) continue;
    Object.defineProperty(present, name, {
      enumerable: false,
      get: () => {
        throw new TidemarkError('BAD_CONFIG', `this stack was started without ${name}`);
      },
    });
  }
  return present as Entries;
}
