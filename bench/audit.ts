/**
 * Rows a second of the audit, and its peak memory, over a lake on a real S3 server:
 * `node bench/audit.ts [--json] [--rows N] [--hours N] [--memory MB] [--keys-only]`. The lake has Bronze, Silver and Gold of one source,
 * 1 % of the rows are duplicates. What is measured is scripts/audit.ts, in a process of its own.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { AuditReport } from '../src/contracts/audit.ts';
import { startStack } from '../src/stack/index.ts';
import { batchRows, generateLake } from './audit-lake.ts';

const { values: args } = parseArgs({
  options: {
    json: { type: 'boolean', default: false }, rows: { type: 'string', default: '5000000' }, hours: { type: 'string', default: '24' },
    memory: { type: 'string', default: '128' }, 'keys-only': { type: 'boolean', default: false },
  },
});
const bucket = 'bench-audit';
const rowCount = Number(args.rows);
const hours = Number(args.hours);

const stack = await startStack({ servers: ['s3'] });
try {
  const { endpoint, region, accessKeyId, secretAccessKey } = stack.endpoints.s3;
  const generating = performance.now();
  await generateLake(stack.endpoints.s3, { bucket, rowCount, hours });
  const generatedSeconds = (performance.now() - generating) / 1000;
  process.stderr.write(`${rowCount} rows generated in ${generatedSeconds.toFixed(0)} s\n`);

  const child = spawn(process.execPath, [
    fileURLToPath(new URL('../scripts/audit.ts', import.meta.url)), '--json', '--no-kafka', '--no-record', '--memory', args.memory, ...(args['keys-only'] ? ['--keys-only'] : []),
  ], {
    env: {
      ...process.env, S3_ENDPOINT: endpoint, S3_REGION: region, AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey, TIDEMARK_BUCKET: bucket,
      TIDEMARK_PIPELINE: fileURLToPath(new URL('audit-pipeline.ts', import.meta.url)), TIDEMARK_TOPIC_PREFIX: '',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => { text += chunk; });
  const [code] = await once(child, 'close') as [number];
  if (text === '') throw new Error(`the audit ended with exit code ${code} and said nothing`);
  const { maxRssBytes, cpuSeconds, ...report } = JSON.parse(text) as AuditReport & { maxRssBytes: number; cpuSeconds: number };
  const [gold] = report.gold;
  const result = {
    rows: rowCount, hours, memoryBudgetMB: Number(args.memory), keysOnly: args['keys-only'], ok: report.ok, findings: report.findingsTotal, bronzeRows: report.sources[0]!.bronzeRows, goldRows: gold!.rows,
    duplicates: gold!.duplicates, passes: gold!.passes, seconds: report.durationMs / 1000, rowsPerSecond: Math.round(rowCount / (report.durationMs / 1000)), cpuSeconds,
    peakRssMB: Math.round(maxRssBytes / 1024 / 1024), durationsMs: report.durationsMs, bytes: report.tables.reduce((sum, { bytes }) => sum + bytes, 0),
  };
  if (args.json) process.stdout.write(`${JSON.stringify(result)}\n`);
  else for (const [name, value] of Object.entries(result)) process.stdout.write(`${name.padEnd(16)} ${typeof value === 'object' ? JSON.stringify(value) : String(value)}\n`);
  process.exitCode = report.ok && gold!.duplicates === Math.floor(rowCount / batchRows) * (batchRows / 100) ? 0 : 1;
} finally {
  await stack.stop();
}
