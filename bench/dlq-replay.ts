/**
 * Rows a second of a DLQ replay, from its plan to published Gold: records that a bad release refused for twelve reasons, spread thinly
 * among valid ones, refined again under the release that mends it:
 * `node bench/dlq-replay.ts [--json] [--rows N] [--valid-each N] [--s3]`. One thread and no Temporal; the store is memory, or with --s3 the
 * one that the environment names, with a bucket of its own.
 */
import { randomUUID } from 'node:crypto';
import { parseArgs } from 'node:util';
import { z } from 'zod';
import { openStore } from '../scripts/wire/lake.ts';
import { loadConfig } from '../src/config/config.ts';
import { noReplayCounts, replayOutcomes, sumReplayCounts } from '../src/contracts/dlq-replay.ts';
import binanceTrades, { rawSchema } from '../src/datasets/binance-trades.ts';
import { tradeReasons } from '../src/datasets/crypto-trades.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import { createDlqLake, rawSchemaId, withRules } from '../test/support/dlq-lake.ts';
import { createMemoryObjectStore } from '../test/support/memory-object-store.ts';
import { binanceRaw, wireEncoder } from '../test/support/raw-records.ts';

const { values: args } = parseArgs({
  options: { json: { type: 'boolean', default: false }, rows: { type: 'string', default: '100000' }, 'valid-each': { type: 'string', default: '3' }, s3: { type: 'boolean', default: false } },
});
const rows = Number(args.rows);
const validEach = Number(args['valid-each']);
const { source } = binanceTrades;

/** Every one of these refuses some records; the one that throws is the twelfth. */
const reasons: readonly string[] = Object.values(tradeReasons).flat();
const reasonsTotal = reasons.length + 1;
const isBad = (id: number): boolean => id % (validEach + 1) === 0;
const badRelease = withRules(source, ({ rules }) => ({
  ruleVersion: 'bad',
  rules: rules.and(z.any().check((payload) => {
    const id = (payload.value as { source_sequence: number }).source_sequence;
    if (!isBad(id)) return;
    const reason = reasons[(id / (validEach + 1)) % reasonsTotal];
    if (reason === undefined) throw new Error('no rule was thought of');
    payload.issues.push({ code: 'custom', message: reason, input: id, continue: true });
  })),
}));

const s3 = args.s3 ? openStore({ s3: { ...loadConfig().s3, bucket: `bench-${randomUUID().slice(0, 8)}` } }) : undefined;
await s3?.ensureBucket();
const store: ObjectStore = s3 ?? createMemoryObjectStore('lake');
const lake = await createDlqLake(store);
lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
const encode = wireEncoder(rawSchema, rawSchemaId);
const startMs = Date.UTC(2026, 0, 2, 3);
const fileRows = 50_000;
const total = rows * (validEach + 1);
for (let start = 0; start < total; start += fileRows) {
  const values = Array.from({ length: Math.min(fileRows, total - start) }, (_, i) => {
    const id = start + i;
    const at = startMs + id * 5;
    return encode(binanceRaw({ trade_id: id, price: `${28_000 + (id % 900)}.25000000`, trade_time_ms: at, event_time_ms: at + 1, ingestion_timestamp: (at + 4) * 1_000 }));
  });
  await lake.ingest(binanceTrades, values, { start, ingestionMs: startMs + start });
  await lake.refine(source, badRelease);
}
const dlqFiles = (await (await lake.catalog.load('silver_dlq_trades')).scan()).length;

const times: Record<string, number> = {};
const cpuFrom = process.cpuUsage();
const timed = async <T>(name: string, work: () => Promise<T>): Promise<T> => {
  const started = performance.now();
  const result = await work();
  times[name] = (times[name] ?? 0) + performance.now() - started;
  return result;
};
const input = lake.input(source, { mode: 'rules' });
const steps = lake.steps(input);
const { chunks } = await timed('plan', steps.plan);
await timed('claim', () => steps.claim());
let counts = noReplayCounts;
for (let chunk = 0; chunk < chunks; chunk += 1) counts = sumReplayCounts(counts, await timed('stage', () => steps.stage(chunk)));
await timed('resolutions', steps.resolutions);
await timed('silver', steps.silver);
const { goldRows } = await timed('gold', steps.gold);
await timed('close', () => steps.close(true));
s3?.close();
if (counts.recovered !== rows || replayOutcomes(counts) !== rows || goldRows !== rows) throw new Error(`expected ${rows} rows recovered and in Gold, found ${JSON.stringify({ counts, goldRows })}`);

const cpu = process.cpuUsage(cpuFrom);
const cpuMs = Math.round((cpu.user + cpu.system) / 1_000);
const totalMs = Object.values(times).reduce((sum, ms) => sum + ms, 0);
const perSecond = Math.round((rows * 1_000) / totalMs);
const rssMb = Math.round(process.resourceUsage().maxRSS / 1_024);
if (args.json) {
  console.log(JSON.stringify({ rows, reasons: reasonsTotal, bronzeRows: total, dlqFiles, chunks, store: args.s3 ? 's3' : 'memory', rowsPerSecond: perSecond, cpuMs, milliseconds: Object.fromEntries(Object.entries(times).map(([step, ms]) => [step, Math.round(ms)])), rssMb }));
} else {
  console.log(`${rows.toLocaleString('en')} records of ${reasonsTotal} reasons in ${dlqFiles} DLQ files, among ${total.toLocaleString('en')} of Bronze, in ${chunks} chunks; store: ${args.s3 ? 'S3' : 'memory'}`);
  for (const [step, ms] of Object.entries(times)) console.log(`  ${step.padEnd(12)} ${Math.round(ms).toLocaleString('en').padStart(7)} ms`);
  console.log(`${perSecond.toLocaleString('en')} rows a second to published Gold, ${cpuMs.toLocaleString('en')} ms of CPU; peak memory ${rssMb} MB, with the lake in it unless it is on S3`);
}
