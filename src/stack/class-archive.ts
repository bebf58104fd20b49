import { createHash } from 'node:crypto';
import { realpath, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { installOnce } from './install.ts';
import { findFreePorts } from './ports.ts';
import type { LaunchContext } from './recipe.ts';
import { ServerProcess } from './server-process.ts';
import type { Launch } from './server-process.ts';
import type { InstallContext } from './toolchain.ts';

const archiveTimeoutMs = 60_000;
const portsMax = 2;

/**
 * Path of the archive of the classes that a server on the JVM loads, recorded by running it once if there is none for this
 * Java: it halves the CPU time of every later start. Undefined if the recording fails; the server starts without it too.
 */
export async function recordClasses(context: InstallContext, java: string, installation: string, plan: (context: LaunchContext) => Promise<{ launch: Launch }>): Promise<string | undefined> {
  const { env, report, signal } = context;
  try {
    // Beside the server, not in it: an archive is good for one Java only, and for jars that have not moved since.
    const folder = await installOnce(
      `${installation}-classes-${await javaFingerprint(java)}`,
      async (staging) => {
        report('recording the classes it loads, to start faster from now on');
        const dataDir = join(staging, 'data');
        const { launch } = await plan({ env, dataDir, ports: await findFreePorts(portsMax) });
        const server = new ServerProcess({ ...launch, args: [`-XX:ArchiveClassesAtExit=${join(staging, 'classes.jsa')}`, ...launch.args] }, () => {});
        await server.start(signal);
        await server.stop('SIGTERM', archiveTimeoutMs);
        await stat(join(staging, 'classes.jsa'));
        await rm(dataDir, { recursive: true, force: true });
      },
      () => report('another process records the classes it loads: waiting for it'),
      signal,
    );
    return join(folder, 'classes.jsa');
  } catch {
    signal?.throwIfAborted();
    return undefined;
  }
}

export const archiveFlags = (archive: string | undefined): string[] => (archive === undefined ? [] : [`-XX:SharedArchiveFile=${archive}`]);

async function javaFingerprint(java: string): Promise<string> {
  const path = await realpath(java);
  const { size, mtimeMs } = await stat(path);
  return createHash('sha256').update(`${path} ${size} ${mtimeMs}`).digest('hex').slice(0, 10);
}
