import '../src/config/require-node.ts';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { isTidemarkError } from '../src/domain/errors.ts';
import { ensureInstalled, installTimeSkippingServer } from '../src/stack/index.ts';
import { countLine } from '../test/support/count-reporter.ts';
import type { Counts } from '../test/support/count-reporter.ts';
import { ensurePythonReaders } from '../test/support/readers/index.ts';

// What people type after "npm test --" goes to vitest as it is: a file, "--project unit", "-t <name>".
const vitestArguments = process.argv.slice(2);
const require = createRequire(import.meta.url);

// Ctrl-C reaches the children too: they end in their own order, and the counts are still printed.
process.on('SIGINT', () => {});

const total: Counts = { passed: 0, failed: 0, skipped: 0 };
const add = (counts: Counts): void => {
  total.passed += counts.passed;
  total.failed += counts.failed;
  total.skipped += counts.skipped;
};
const addCheck = (passed: boolean): void => add({ passed: passed ? 1 : 0, failed: passed ? 0 : 1, skipped: 0 });

addCheck((await run('lint', 'oxlint', ['--max-warnings', '0', '.'])) === 0);
addCheck((await run('typecheck', 'typescript', ['-p', '.'], 'tsc')) === 0);
// Without the servers there is still much to test; that they are missing is a failure of its own.
if (await install()) add(await runVitest(vitestArguments));
else add(await runVitest([...vitestArguments, '--project', 'unit']));
process.stdout.write(`${countLine(total)}\n`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;

/** Everything that tests start or call is installed before the first of them runs, so that none of them waits for it. */
async function install(): Promise<boolean> {
  const report = (message: string): void => void process.stderr.write(`[install] ${message}\n`);
  try {
    await Promise.all([
      ensureInstalled({ onProgress: ({ message }) => report(message) }),
      installTimeSkippingServer(process.env, report),
      ensurePythonReaders(process.env, report),
    ]);
    return true;
  } catch (error) {
    report(isTidemarkError(error) ? error.message : String(error));
    report('the tests that need the real servers are left out, and count as one failure');
    addCheck(false);
    return false;
  }
}

async function runVitest(args: readonly string[]): Promise<Counts> {
  const folder = await mkdtemp(join(tmpdir(), 'tidemark-counts-'));
  try {
    const countsFile = join(folder, 'counts.json');
    const code = await run('tests', 'vitest', ['run', ...args], 'vitest', { TIDEMARK_TEST_COUNTS_FILE: countsFile });
    const counts = await readFile(countsFile, 'utf8').then((text) => JSON.parse(text) as Counts, () => ({ passed: 0, failed: 0, skipped: 0 }));
    // A run that ended badly with no failed test (no file matched, a crash) must not look like success.
    return code === 0 || counts.failed > 0 ? counts : { ...counts, failed: 1 };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Runs a tool of this project's dependencies under this Node; returns its exit code. */
async function run(title: string, packageName: string, args: readonly string[], bin = packageName, env: Record<string, string> = {}): Promise<number> {
  process.stderr.write(`\n── ${title}\n`);
  const manifest = packageManifest(packageName);
  const { bin: bins } = JSON.parse(await readFile(manifest, 'utf8')) as { bin: string | Record<string, string> };
  const script = typeof bins === 'string' ? bins : bins[bin];
  if (script === undefined) throw new Error(`${packageName} has no command ${bin}`);
  const child = spawn(process.execPath, [join(dirname(manifest), script), ...args], { stdio: 'inherit', env: { ...process.env, ...env } });
  const [code] = (await once(child, 'close')) as [number | null];
  return code ?? 1;
}

/** Not every package exports its package.json. */
function packageManifest(packageName: string): string {
  for (const folder of require.resolve.paths(packageName) ?? []) {
    const manifest = join(folder, packageName, 'package.json');
    if (existsSync(manifest)) return manifest;
  }
  throw new Error(`${packageName} is not installed: run npm install`);
}
