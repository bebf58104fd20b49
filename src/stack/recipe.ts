import type { ServerName, StackEndpoints } from './endpoints.ts';
import type { Launch } from './server-process.ts';
import type { InstallContext } from './toolchain.ts';

/** What a launch is planned from. `ports` are free; `dataDir` is the stack's folder, in which a server keeps its own. */
export interface LaunchContext {
  env: NodeJS.ProcessEnv;
  dataDir: string;
  ports: readonly number[];
  /** What the previous attempt of this start failed with, for a server that has another way to run. */
  previousFailure?: string | undefined;
}

/** An installed server: its executable or folder, and for one on the JVM its class archive, which need not exist. */
export interface Installation { path: string; classArchive?: string | undefined }

/** How one of the servers is had and run. */
export interface ServerRecipe<Name extends ServerName> {
  name: Name;
  /** Name and version, for people. */
  label: string;
  portCount: number;
  /** Finds the server on the PATH or in the cache, else installs it into the cache. */
  install(context: InstallContext): Promise<Installation>;
  plan(installation: Installation, context: LaunchContext): Promise<{ launch: Launch; endpoint: StackEndpoints[Name] }>;
}

/** Servers get this and what they ask for: no keys and no settings of the shell that started the stack. */
export const bareEnvironment = (env: NodeJS.ProcessEnv, home: string): NodeJS.ProcessEnv => ({ PATH: env['PATH'] ?? '', HOME: home, LANG: 'C.UTF-8', TZ: 'UTC' });

/** The status of an HTTP answer, or undefined if there is none within two seconds. */
export async function httpStatus(url: string): Promise<number | undefined> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(2_000) });
    await answer.body?.cancel();
    return answer.status;
  } catch {
    return undefined;
  }
}
