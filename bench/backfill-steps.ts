/**
 * CPU time of each step of a backfill on one core, µs a row, beside the micro-batches that made the rows first:
 * `node bench/backfill-steps.ts [--json] [--rows N] [--batches N]`. The store is in memory; requests are not part of the figures.
 */
import { parseArgs } from 'node:util';
import avro from 'avsc';
import { generateTrades } from '../src/capture/generated-trades.ts';
import binanceTrades, { rawSchema } from '../src/datasets/binance-trades.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { Coverage } from '../src/domain/offsets.ts';
import { createObjectStoreCatalog } from '../src/lake/object-store-catalog.ts';
import { DecoderCache } from '../src/refine/decoders.ts';
import { GoldKeyCache } from '../src/refine/gold-key-cache.ts';
import { mergeGold, replaceGold } from '../src/refine/merge-gold.ts';
import { refineBronze } from '../src/refine/refine.ts';
import { takeClaim } from '../src/reprocess/claims.ts';
import { newPlanKey, writePlan } from '../src/reprocess/plan.ts';
import { replaceRows } from '../src/reprocess/replace-rows.ts';
import { loadChunk, stageChunk } from '../src/reprocess/staging.ts';
import { encodeWire } from '../src/schema-registry/wire-codec.ts';
import { schemaFingerprint } from '../src/schema-registry/schema-store.ts';
import { dlqTable } from '../src/datasets/engine-tables.ts';
import { putBronzeFile } from '../test/support/bronze-file.ts';
import { createMemoryObjectStore } from '../test/support/memory-object-store.ts';

const { values: args } = parseArgs({ options: { json: { type: 'boolean', default: false }, rows: { type: 'string', default: '600000' }, batches: { type: 'string', default: '6' } } });
const rowCount = Number(args.rows);
const batches = Number(args.batches);
const rowsPerBatch = Math.ceil(rowCount / batches);
const dataset = binanceTrades;
const { topic } = dataset;
const schemaId = 7;
const startMs = Date.UTC(2026, 0, 2, 3);
const dlqName = 'silver_dlq_trades';

const store = createMemoryObjectStore();
const catalog = createObjectStoreCatalog({ store, namespace: 'market_data' });
for (const table of [dataset.bronze, dataset.silver, dataset.gold, dlqTable(dlqName)]) await catalog.ensureTable(table);
const schema = JSON.stringify(rawSchema);
const decoders = new DecoderCache(dataset, {
  load: (id) => Promise.resolve({ id, schema, fingerprint: schemaFingerprint(schema) }),
  keep: () => Promise.reject(new TidemarkError('BAD_INPUT', 'not in this benchmark')),
});
const cache = new GoldKeyCache(store);
const refineDeps = { store, dataset, decoders, dlqTable: dlqName, dataLocation: (table: string, suffix: string) => catalog.dataLocation(table, suffix) };
const goldDeps = { store, catalog, dataset, cache };

const micros: Record<string, number> = {};
const timed = async <T>(step: string, work: () => Promise<T>): Promise<T> => {
  const from = process.threadCpuUsage();
  const result = await work();
  const { user, system } = process.threadCpuUsage(from);
  micros[step] = (micros[step] ?? 0) + (user + system) / rowCount;
  return result;
};

const type = avro.Type.forSchema(rawSchema as unknown as avro.Schema);
let trades = 0;
let values: Buffer[] = [];
const flush = async (): Promise<void> => {
  const batch = Math.ceil(trades / rowsPerBatch);
  const start = BigInt(trades - values.length);
  const end = BigInt(trades);
  const cover = Coverage.fromJson({ [`${topic}/0`]: `${start}-${end}` });
  const file = await putBronzeFile(store, { topic, partition: 0, startOffset: start, values, ingestionMs: startMs + 40_000_000 });
  values = [];
  await catalog.commit(dataset.bronze.name, { commitId: `bronze-${batch}`, add: [file], cover, coverageAbsent: cover });
  const refined = await timed('live: refine', () => refineBronze(refineDeps, { source: dataset.source, batchId: `b${batch}`, bronzeFiles: [file], silver: cover.toJson(), dlq: cover.toJson(), nowMs: startMs }));
  await catalog.commit(dataset.silver.name, { commitId: `silver-${batch}`, add: refined.silverFiles, cover, coverageAbsent: cover });
  await catalog.commit(dlqName, { commitId: `dlq-${batch}`, add: refined.dlqFiles, cover, coverageAbsent: cover });
  await timed('live: merge', () => mergeGold(goldDeps, { commitId: `gold-${batch}`, coverage: cover.toJson(), silverFiles: refined.silverFiles, nowMs: startMs }));
};

for (const some of generateTrades({
  exchange: 'binance', seed: 1, trades: rowCount, symbols: ['BTCUSDT', 'ETHUSDT', 'SOLUSDT', 'XRPUSDT', 'DOGEUSDT', 'BNBUSDT'], repeatRatio: 0.01, startMicros: startMs * 1_000, spanMicros: 4 * 3_600_000_000,
})) {
  for (const trade of some) {
    values.push(encodeWire(schemaId, type.toBuffer(trade)));
    trades += 1;
    if (values.length >= rowsPerBatch) await flush();
  }
}
if (values.length > 0) await flush();

const all = Coverage.fromJson({ [`${topic}/0`]: `0-${trades}` });
const reprocessId = 'backfill/bench';
const planKey = newPlanKey(reprocessId);
const { plan } = await timed('backfill: plan', () => writePlan({ store, catalog, dataset }, { reprocessId, planKey, offsets: all, dlq: 'replace', chunkRowsMax: 100_000 }));
const ref = { reprocessId, planKey };
for (const table of [dataset.silver.name, dlqName]) await takeClaim(catalog, table, ref, all);
for (let chunk = 0; chunk < plan.chunks; chunk += 1) {
  const { offsets, rows, bronzeFiles } = await loadChunk(store, planKey, chunk);
  const refined = await timed('backfill: refine', () => refineBronze(refineDeps, { source: dataset.source, batchId: `r${chunk}`, bronzeFiles, silver: offsets, dlq: offsets, nowMs: startMs }));
  const { silverFiles, dlqFiles, silverRows, dlqRows, dlqByType } = refined;
  await stageChunk(store, planKey, chunk, { silverFiles, dlqFiles, rows, silverRows, dlqRows, dlqByType, durationMs: 0 });
}
const rowsDeps = { store, catalog, dataset, dlqTable: dlqName };
for (const table of ['silver', 'dlq'] as const) {
  await timed(`backfill: replace ${table}`, () => replaceRows(rowsDeps, { ...ref, source: dataset.source, table, chunks: plan.chunks, offsets: plan.offsets }));
}
const gold = await timed('backfill: replace Gold', () => replaceGold(goldDeps, { commitId: `${planKey}/gold`, coverage: plan.offsets, silverTables: [dataset.silver.name], holder: reprocessId, nowMs: startMs + 1 }));
const peakMegabytes = Math.round(process.resourceUsage().maxRSS / 1024);
if (args.json) process.stdout.write(`${JSON.stringify({ rows: trades, micros, peakMegabytes })}\n`);
else {
  for (const [step, perRow] of Object.entries(micros)) process.stdout.write(`${step.padEnd(24)} ${perRow.toFixed(2).padStart(8)} µs a row\n`);
  process.stdout.write(`${trades} rows, ${gold.replacedRows} replaced in Gold; peak memory with the store in it ${peakMegabytes} MB\n`);
}
