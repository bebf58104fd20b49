import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rename, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode } from '@temporalio/worker';
import { cacheFolder } from '../../src/stack/index.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
export const workflowsPath = join(root, 'workflows/index.ts');

/** Everything that a Workflow may import of this project: the lint rules hold it. */
const bundled = ['workflows', 'src/domain', 'src/contracts'];

/** Interceptors that a bundle has where traces are on. */
export const tracingModule = join(root, 'workflows/tracing.ts');

const sourcesHash = async (traced: boolean): Promise<string> => {
  const hash = createHash('sha256');
  const { version } = createRequire(import.meta.url)('@temporalio/workflow/package.json') as { version: string };
  hash.update(`${version}${traced ? ' traced' : ''}`);
  for (const folder of bundled) {
    for (const file of (await readdir(join(root, folder))).filter((name) => name.endsWith('.ts')).sort()) {
      hash.update(`\0${folder}/${file}\0`).update(await readFile(join(root, folder, file)));
    }
  }
  return hash.digest('hex').slice(0, 32);
};

/**
 * The workflow bundle. Bundling takes seconds of CPU at each start of a Temporal Worker, so the result is kept in the
 * cache folder under the hash of its sources; whatever cannot be cached is bundled again.
 *
 * @param traced with OpenTelemetry's interceptors, which make it larger
 */
export const loadWorkflowBundle = async ({ traced = false, env = process.env }: { traced?: boolean; env?: NodeJS.ProcessEnv } = {}): Promise<{ code: string }> => {
  const folder = join(cacheFolder(env), 'workflow-bundles');
  const file = join(folder, `${await sourcesHash(traced)}.js`);
  try {
    return { code: await readFile(file, 'utf8') };
  } catch {
    const { code } = await bundleWorkflowCode({ workflowsPath, logger: quietLogger, ...(traced ? { workflowInterceptorModules: [tracingModule] } : {}) });
    try {
      await mkdir(folder, { recursive: true });
      const temporary = `${file}.${process.pid}.tmp`;
      await writeFile(temporary, code);
      await rename(temporary, file);
    } catch {
      // Without a writable cache the next start bundles again.
    }
    return { code };
  }
};

const ignore = (): void => {};
const quietLogger = { log: ignore, trace: ignore, debug: ignore, info: ignore, warn: ignore, error: (message: string): void => void process.stderr.write(`${message}\n`) };
