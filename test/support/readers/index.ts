import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { TidemarkError } from '../../../src/domain/errors.ts';
import { cacheFolder, findOnPath, installOnce, runTool } from '../../../src/stack/index.ts';
import type { StackEndpoints } from '../../../src/stack/index.ts';

const requirements = fileURLToPath(new URL('./requirements.txt', import.meta.url));
const readers = fileURLToPath(new URL('./readers.py', import.meta.url));

type S3Endpoint = StackEndpoints['s3'];

/** As the foreign engine sees it: decimals, timestamps, bytes (hex) and integers past 2^53 are text. */
export type ForeignRow = Record<string, unknown>;

/**
 * The Python of an environment with PyIceberg and DuckDB, installed into the cache from PyPI if it is not there (about
 * 30 s, 450 MB). Throws TOOLCHAIN_MISSING without python3.
 */
export async function ensurePythonReaders(env: NodeJS.ProcessEnv = process.env, report: (message: string) => void = () => {}): Promise<string> {
  const python = await findOnPath('python3', env);
  if (!python) {
    throw new TidemarkError('TOOLCHAIN_MISSING', 'the tests that read the lake with foreign engines need python3 (3.10 or newer) on the PATH, and there is none');
  }
  // The name is the list's fingerprint: a changed list is another environment.
  const fingerprint = createHash('sha256').update(await readFile(requirements)).digest('hex').slice(0, 12);
  const folder = await installOnce(
    join(cacheFolder(env), `python-readers-${fingerprint}`),
    async (staging) => {
      report('PyIceberg and DuckDB: making a Python environment');
      await runTool(python, ['-m', 'venv', staging], { env });
      let packages = 0;
      await runTool(join(staging, 'bin', 'python'), ['-m', 'pip', 'install', '--disable-pip-version-check', '--progress-bar', 'off', '-r', requirements], {
        env,
        onLine: (line) => {
          if (!line.startsWith('Collecting')) return;
          packages += 1;
          if (packages % 10 === 1) report(`PyIceberg and DuckDB: installing, ${packages} packages so far`);
        },
      });
      report(`PyIceberg and DuckDB: installed, ${packages} packages`);
    },
    () => report('PyIceberg and DuckDB: another installation is under way: waiting for it'),
  );
  return join(folder, 'bin', 'python');
}

/** Runs a Python script with the readers' environment: `input` as JSON on its stdin, its stdout as JSON. */
export async function runPython(script: string, input: unknown): Promise<unknown> {
  const python = await ensurePythonReaders();
  const child = spawn(python, [script], { stdio: ['pipe', 'pipe', 'pipe'], env: { PATH: process.env['PATH'] ?? '', HOME: process.env['HOME'] ?? '', TZ: 'UTC' } });
  child.stdin.on('error', () => {}); // a script that dies before reading says why on stderr
  child.stdin.end(JSON.stringify(input));
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  if (code !== 0) throw new Error(`${script} ended with exit code ${code}:\n${stderr.trim().split('\n').slice(-12).join('\n')}`);
  return JSON.parse(stdout);
}

export interface PyIcebergRead {
  rows: ForeignRow[];
  /** The data files that its planner kept: fewer than all when the filter's bounds prune. */
  dataFiles: string[];
  snapshotId: string | null;
  /** Column name to Iceberg type, as PyIceberg prints it. */
  columns: Record<string, string>;
  properties: Record<string, string>;
}

/** Reads a table with PyIceberg from its metadata file alone. `filter` is a PyIceberg row filter. */
export async function readWithPyIceberg(
  s3: S3Endpoint,
  metadata: string,
  options: { columns?: readonly string[]; filter?: string; limit?: number; snapshotId?: string } = {},
): Promise<PyIcebergRead> {
  const { snapshotId, ...rest } = options;
  const answer = (await runPython(readers, { do: 'pyiceberg.read', s3, metadata, ...rest, snapshot_id: snapshotId })) as Record<string, unknown>;
  return {
    rows: answer['rows'] as ForeignRow[],
    dataFiles: answer['data_files'] as string[],
    snapshotId: answer['snapshot_id'] as string | null,
    columns: answer['columns'] as Record<string, string>,
    properties: answer['properties'] as Record<string, string>,
  };
}

/** Runs `sql` in DuckDB, in which each entry of `tables` is a view over the table of that metadata file. */
export async function queryWithDuckDb(s3: S3Endpoint, tables: Record<string, string>, sql: string): Promise<ForeignRow[]> {
  const answer = (await runPython(readers, { do: 'duckdb.query', s3, tables, sql })) as { rows: ForeignRow[] };
  return answer.rows;
}

export type ForeignColumnType = 'long' | 'string' | 'binary' | 'timestamptz' | 'decimal(18,8)';

/** Writes a table with PyIceberg, one snapshot for each batch; returns the location of its metadata file. */
export async function writeWithPyIceberg(
  s3: S3Endpoint,
  table: { warehouse: string; namespace: string; name: string; schema: readonly (readonly [name: string, type: ForeignColumnType])[]; partitionBy?: readonly string[]; batches: readonly (readonly ForeignRow[])[] },
): Promise<string> {
  const { warehouse, namespace, name, schema, partitionBy, batches } = table;
  const answer = (await runPython(readers, { do: 'pyiceberg.write', s3, warehouse, namespace, table: name, schema, partition_by: partitionBy, batches })) as { metadata: string };
  return answer.metadata;
}
