import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { TidemarkError } from '../domain/errors.ts';
import { cacheFolder, findOnPath, runTool } from './install.ts';

const javaVersionMin = 17; // Kafka 4 brokers start on no older one

export type Tool = 'go' | 'java' | 'mvn';

/** What an installation step is given: where to install, with which environment, and whom to tell. */
export interface InstallContext {
  env: NodeJS.ProcessEnv;
  signal?: AbortSignal | undefined;
  /** One short line for people: what is happening now. */
  report(message: string): void;
}

/** A folder of the cache whose name carries the version, so that another version never meets it. */
export const serverFolder = (context: InstallContext, nameAndVersion: string): string => join(cacheFolder(context.env), 'servers', nameAndVersion);

/** Path of the tool. Throws TOOLCHAIN_MISSING, which names the tool, the server that needs it, and the way without it. */
export async function requireTool(tool: Tool, neededFor: string, instead: string, env: NodeJS.ProcessEnv): Promise<string> {
  const fromHome = tool === 'java' && env['JAVA_HOME'] ? await findOnPath('java', { PATH: join(env['JAVA_HOME'], 'bin') }) : undefined;
  const found = fromHome ?? (await findOnPath(tool, env));
  if (found) return found;
  const what = tool === 'java' ? `java (version ${javaVersionMin} or newer)` : tool;
  throw new TidemarkError(
    'TOOLCHAIN_MISSING',
    `${neededFor} needs ${what} on the PATH, and there is none. Install it, or run the servers in containers with "docker compose up" and set ${instead} to where that server answers.`,
  );
}

/** Throws TOOLCHAIN_MISSING for a Java that is too old, with the version that was found. */
export async function requireJava(neededFor: string, instead: string, env: NodeJS.ProcessEnv): Promise<string> {
  const java = await requireTool('java', neededFor, instead, env);
  const { stderr } = await promisify(execFile)(java, ['-version'], { env }).catch((cause: unknown) => {
    throw new TidemarkError('TOOLCHAIN_MISSING', `${neededFor} needs java, and "${java} -version" fails`, { cause });
  });
  const version = Number(/version "(?:1\.)?(\d+)/.exec(stderr)?.[1]);
  if (!(version >= javaVersionMin)) {
    throw new TidemarkError('TOOLCHAIN_MISSING', `${neededFor} needs java ${javaVersionMin} or newer, and ${java} is version ${version}. Or run the servers in containers with "docker compose up" and set ${instead}.`);
  }
  return java;
}

/** Builds a Go command into `folder`. Minutes the first time; says so while it goes on. */
export async function goInstall(context: InstallContext, go: string, packageAtVersion: string, folder: string): Promise<void> {
  await inTurn('go', context, async () => {
    let modules = 0;
    const since = Date.now();
    const told = everySeconds(5, () => context.report(`building ${packageAtVersion}: ${modules} modules downloaded, ${Math.round((Date.now() - since) / 1000)} s so far (it takes 1 to 3 minutes, once)`));
    try {
      await runTool(go, ['install', packageAtVersion], {
        env: { ...context.env, GOBIN: folder },
        onLine: (line) => {
          if (line.startsWith('go: downloading')) modules += 1;
        },
        signal: context.signal,
      });
    } finally {
      clearInterval(told);
    }
  });
}

/** Runs one goal of the pinned Maven dependency plugin. */
export async function mavenDependency(context: InstallContext, mvn: string, goal: 'copy-dependencies' | 'unpack', args: readonly string[]): Promise<void> {
  await inTurn('mvn', context, async () => {
    let files = 0;
    const since = Date.now();
    const told = everySeconds(5, () => context.report(`${files} files downloaded by Maven, ${Math.round((Date.now() - since) / 1000)} s so far`));
    try {
      await runTool(mvn, ['-B', `org.apache.maven.plugins:maven-dependency-plugin:3.8.1:${goal}`, ...args], {
        env: context.env,
        onLine: (line) => {
          if (/Downloaded from/.test(line)) files += 1;
        },
        signal: context.signal,
      });
    } finally {
      clearInterval(told);
    }
  });
}

/** A project file that names `artifacts` (`group:artifact:version`) and nothing else, for copying their runtime closure. */
export function mavenProject(artifacts: readonly string[]): string {
  const dependencies = artifacts.map((artifact) => {
    const [groupId, artifactId, version] = artifact.split(':');
    return `    <dependency><groupId>${groupId}</groupId><artifactId>${artifactId}</artifactId><version>${version}</version></dependency>`;
  });
  return `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidemark</groupId><artifactId>server</artifactId><version>1</version>
  <dependencies>
${dependencies.join('\n')}
  </dependencies>
</project>
`;
}

const turns = new Map<Tool, Promise<void>>();

/** One build of each toolchain at a time: go already uses every core, and Maven's repository is not safe for two. */
async function inTurn(tool: Tool, context: InstallContext, work: () => Promise<void>): Promise<void> {
  const before = turns.get(tool);
  if (before) context.report(`waiting for ${tool}`);
  const mine = (before ?? Promise.resolve()).then(work);
  const settled = mine.catch(() => {}); // whoever comes next does not inherit a failure
  turns.set(tool, settled);
  try {
    await mine;
  } finally {
    if (turns.get(tool) === settled) turns.delete(tool);
  }
}

const everySeconds = (seconds: number, tell: () => void): NodeJS.Timeout => setInterval(tell, seconds * 1000);
