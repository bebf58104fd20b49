import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export interface ScriptOutcome {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a script of the project to its end, as an operator does. */
export const runScript = (script: string, args: readonly string[], env: Readonly<Record<string, string>>): Promise<ScriptOutcome> =>
  promisify(execFile)(process.execPath, [fileURLToPath(new URL(`../../scripts/${script}`, import.meta.url)), ...args], { env: { ...process.env, ...env }, maxBuffer: 64 * 1024 * 1024 })
    .then(({ stdout, stderr }) => ({ code: 0, stdout, stderr }), ({ code, stdout, stderr }: ScriptOutcome) => ({ code, stdout, stderr }));
