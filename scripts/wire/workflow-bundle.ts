import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, readdir, rename, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cacheFolder } from '../../src/stack/index.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
export const workflowsPath = join(root, 'workflows/index.ts');

/** Everything that a Workflow may import of this project: the lint rules hold it. */
const bundled = ['workflows', 'src/domain', 'src/contracts'];

/** Interceptors that a bundle has where traces are on. */
export const tracingModule = join(root, 'workflows/tracing.ts');

const bundler = fileURLToPath(new URL('bundle-workflows.ts', import.meta.url));
const bundleCharactersMax = 64 << 20;

/** Of what {@link slim} leaves. */
const formatVersion = 2;
const mapStart = 'sourceMappingURL=data:application/json;charset=utf-8;base64,';

/**
 * The bundle as a Temporal Worker needs it, half as long: its source map without the sources themselves, which only a debugger shows,
 * and in ASCII. One character beyond Latin-1, in any comment, makes V8 keep two bytes for each; and the main thread and the one of the
 * Workflows both keep the text. Measured, 20 MB of each Temporal Worker.
 */
export const slim = (code: string): string => {
  const at = code.lastIndexOf(mapStart);
  const script = at < 0 ? code : code.slice(0, at);
  const ascii = script.replace(/[^\0-\x7f]/g, (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`);
  if (at < 0) return ascii;
  const { sourcesContent: _, ...map } = JSON.parse(Buffer.from(code.slice(at + mapStart.length), 'base64').toString()) as Record<string, unknown>;
  return `${ascii}${mapStart}${Buffer.from(JSON.stringify(map)).toString('base64')}`;
};

const sourcesHash = async (traced: boolean): Promise<string> => {
  const hash = createHash('sha256');
  const { version } = createRequire(import.meta.url)('@temporalio/workflow/package.json') as { version: string };
  hash.update(`${version}${traced ? ' traced' : ''} ${formatVersion}`);
  for (const folder of bundled) {
    for (const file of (await readdir(join(root, folder))).filter((name) => name.endsWith('.ts')).sort()) {
      hash.update(`\0${folder}/${file}\0`).update(await readFile(join(root, folder, file)));
    }
  }
  return hash.digest('hex').slice(0, 32);
};

/**
 * The workflow bundle. Bundling takes seconds of CPU at each start of a Temporal Worker, so the result is kept in the
 * cache folder under the hash of its sources; whatever cannot be cached is bundled again, by a process of its own.
 *
 * @param traced with OpenTelemetry's interceptors, which make it larger
 */
export const loadWorkflowBundle = async ({ traced = false, env = process.env }: { traced?: boolean; env?: NodeJS.ProcessEnv } = {}): Promise<{ code: string }> => {
  const folder = join(cacheFolder(env), 'workflow-bundles');
  const file = join(folder, `${await sourcesHash(traced)}.js`);
  try {
    return { code: await readFile(file, 'utf8') };
  } catch {
    const { stdout } = await promisify(execFile)(process.execPath, [bundler, ...(traced ? ['--traced'] : [])], { maxBuffer: bundleCharactersMax });
    const code = slim(stdout);
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
