/**
 * How long `npm run explain` takes, the start of its process included, over a lake on a real S3 server:
 * `node bench/explain.ts [--json] [--rows N] [--hours N] [--runs N]`. By message_id of the newest and of the oldest record, by trade id
 * (all of the lake, and one hour of it), and by place. The least of the runs: the others had company. CPU is that of the whole process, its start
 * and threads included: it says the same on a machine that others use.
 */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import binanceTrades from '../src/datasets/binance-trades.ts';
import { messageIdsOf } from '../src/refine/message-id.ts';
import { startStack } from '../src/stack/index.ts';
import { firstTradeId, generateLake } from './audit-lake.ts';

const { values: args } = parseArgs({
  options: { json: { type: 'boolean', default: false }, rows: { type: 'string', default: '3000000' }, hours: { type: 'string', default: '24' }, runs: { type: 'string', default: '3' } },
});
const bucket = 'bench-explain';
const rowCount = Number(args.rows);

const stack = await startStack({ servers: ['s3'] });
try {
  const { endpoint, region, accessKeyId, secretAccessKey } = stack.endpoints.s3;
  await generateLake(stack.endpoints.s3, { bucket, rowCount, hours: Number(args.hours) });
  const script = fileURLToPath(new URL('../scripts/explain.ts', import.meta.url));
  const env = {
    ...process.env, S3_ENDPOINT: endpoint, S3_REGION: region, AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey, TIDEMARK_BUCKET: bucket,
    TIDEMARK_PIPELINE: fileURLToPath(new URL('audit-pipeline.ts', import.meta.url)), TIDEMARK_TOPIC_PREFIX: '',
  };
  const explain = (...record: string[]): { record: string; milliseconds: number; withinMilliseconds: number; cpuMilliseconds: number } => {
    let milliseconds = Infinity;
    let withinMilliseconds = Infinity;
    let cpuMilliseconds = Infinity;
    for (let run = 0; run < Number(args.runs); run += 1) {
      const start = performance.now();
      const { status, stdout, stderr } = spawnSync(process.execPath, [script, '--json', ...record], { env, encoding: 'utf8' });
      if (status !== 0) throw new Error(`explain ${record.join(' ')} ended with ${status}: ${stderr}`);
      milliseconds = Math.min(milliseconds, performance.now() - start);
      const { durationMs, cpuMs } = JSON.parse(stdout) as { durationMs: number; cpuMs: number };
      withinMilliseconds = Math.min(withinMilliseconds, durationMs);
      cpuMilliseconds = Math.min(cpuMilliseconds, cpuMs);
    }
    return { record: record.join(' '), milliseconds: Math.round(milliseconds), withinMilliseconds, cpuMilliseconds };
  };
  const { topic } = binanceTrades;
  const partitionRows = Math.floor(rowCount / 4);
  const idOf = messageIdsOf(topic, 0);
  const place = `${topic}/0/${partitionRows >> 1}`;
  const trade = `BINANCE-${firstTradeId + (rowCount >> 1)}`;
  const { stdout } = spawnSync(process.execPath, [script, '--json', trade], { env, encoding: 'utf8' });
  const hour = (JSON.parse(stdout) as { records: { silver: { values: { timestamp: string } }[] }[] }).records[0]!.silver[0]!.values.timestamp.slice(0, 13);
  const figures = {
    'place': explain(place),
    'newest message_id': explain(idOf(partitionRows - 1)),
    'oldest message_id': explain(idOf(0)),
    'trade id': explain(trade),
    'trade id of an hour': explain(trade, '--hour', hour),
  };
  if (args.json) process.stdout.write(`${JSON.stringify({ rows: rowCount, figures })}\n`);
  else {
    process.stdout.write(`${rowCount} rows\n`);
    for (const [name, { milliseconds, withinMilliseconds, cpuMilliseconds }] of Object.entries(figures)) process.stdout.write(`${name.padEnd(22)} ${milliseconds} ms, of which ${withinMilliseconds} ms without the start of Node; CPU ${cpuMilliseconds} ms\n`);
  }
} finally {
  await stack.stop();
}
