/**
 * Rows a second of refining on one core, Bronze files to encoded Silver and DLQ files, with the cost of each step. CPU time, except that read,
 * transform, split and encode are wall clock:
 * `node bench/refine.ts [--json] [--rows N] [--rounds N]`. The store is memory; requests are not part of the figures.
 */
import { parseArgs } from 'node:util';
import avro from 'avsc';
import binanceTrades, { rawSchema } from '../src/datasets/binance-trades.ts';
import { DecoderCache } from '../src/refine/decoders.ts';
import { messageIdsOf } from '../src/refine/message-id.ts';
import { refineBronze } from '../src/refine/refine.ts';
import { compileDecoder } from '../src/schema-registry/avro-decoder.ts';
import { encodeWire, wireHeaderBytes } from '../src/schema-registry/wire-codec.ts';
import { schemaFingerprint } from '../src/schema-registry/schema-store.ts';
import { putBronzeFile } from '../test/support/bronze-file.ts';
import { createMemoryObjectStore } from '../test/support/memory-object-store.ts';

const { values: args } = parseArgs({ options: { json: { type: 'boolean', default: false }, rows: { type: 'string', default: '150000' }, rounds: { type: 'string', default: '5' } } });
const rowCount = Number(args.rows);
const rounds = Number(args.rounds);

/** A small generator with a seed, so that every run refines the same rows. */
let state = 42;
const random = (below: number): number => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * below);
};

const schemaId = 7;
const type = avro.Type.forSchema(rawSchema as unknown as avro.Schema);
const startMs = Date.UTC(2026, 0, 2, 3);
const symbols = ['BTCUSDT', 'ETHUSDT', 'SOLUSDT', 'BNBUSDT', 'XRPUSDT'];
let clock = startMs;
const values = Array.from({ length: rowCount }, (_, i) => {
  clock += random(3);
  return encodeWire(schemaId, type.toBuffer({
    event_type: 'trade', event_time_ms: clock + 1, symbol: symbols[random(symbols.length)], trade_id: 3_071_245_454 + i,
    price: `${28_000 + random(900)}.${String(random(100)).padStart(2, '0')}000000`, quantity: `0.${String(random(99_999) + 1).padStart(5, '0')}000`,
    trade_time_ms: clock, is_buyer_maker: random(2) === 1, is_best_match: true, ingestion_timestamp: (clock + 4) * 1000 + random(1000),
    market: 'spot', native_id: null, extra: { b: String(20_720_542_158 + i), a: String(20_720_542_592 + i) },
  }));
});

const store = createMemoryObjectStore();
const topic = binanceTrades.topic;
const file = await putBronzeFile(store, { topic, partition: 3, startOffset: 1_000_000n, values });
const schema = JSON.stringify(rawSchema);
const decoders = new DecoderCache(binanceTrades, {
  load: (id) => Promise.resolve({ id, schema, fingerprint: schemaFingerprint(schema) }),
  keep: () => Promise.reject(new Error('not in this benchmark')),
});
const coverage = { [`${topic}/3`]: `1000000-${1_000_000 + rowCount}` };

const figures: Record<string, number>[] = [];
for (let round = 0; round < rounds; round += 1) {
  const started = process.threadCpuUsage();
  const result = await refineBronze(
    { store, dataset: binanceTrades, decoders, dlqTable: 'silver_dlq_trades', dataLocation: (table, suffix) => store.location(`${table}/${suffix}`) },
    { source: binanceTrades.source, batchId: `bench-${round}`, bronzeFiles: [file], silver: coverage, dlq: coverage, nowMs: startMs },
  );
  const { user, system } = process.threadCpuUsage(started);
  const totalMs = (user + system) / 1000;
  if (result.silverRows !== rowCount) throw new Error(`expected ${rowCount} Silver rows, found ${JSON.stringify({ ...result, silverFiles: [], dlqFiles: [] })}`);
  figures.push({ totalMs, ...result.timings });
}

/** µs a row of one step alone, best of the rounds. */
const alone = (work: (i: number) => unknown): number => {
  let best = Infinity;
  for (let round = 0; round < rounds; round += 1) {
    const started = process.threadCpuUsage();
    for (let i = 0; i < rowCount; i += 1) work(i);
    best = Math.min(best, process.threadCpuUsage(started).user / rowCount);
  }
  return best;
};
const decoder = compileDecoder(schema, rawSchema);
const records = values.map((value) => decoder.decode(value, wireHeaderBytes));
const idOf = messageIdsOf(topic, 3);
const context = { topic, partition: 3, messageId: idOf(1) };
const rows = records.map((record) => binanceTrades.map(record, context));
const steps = {
  walk: alone((i) => decoder.walk(values[i]!, wireHeaderBytes, values[i]!.length)),
  decode: alone((i) => decoder.decode(values[i]!, wireHeaderBytes)),
  messageId: alone((i) => idOf(1_000_000 + i)),
  map: alone((i) => binanceTrades.map(records[i], context)),
  rules: alone((i) => binanceTrades.rules.safeParse(rows[i])),
};

const best = (step: string): number => Math.min(...figures.map((figure) => figure[step]!));
const perRow = Object.fromEntries(['read', 'transform', 'split', 'encode', 'totalMs'].map((step) => [step === 'totalMs' ? 'total' : step, (best(step) * 1000) / rowCount]));
const withoutEncode = 1e6 / (perRow['total']! - perRow['encode']!);
if (args.json) {
  console.log(JSON.stringify({ rows: rowCount, microsPerRow: perRow, alone: steps, rowsPerSecond: 1e6 / perRow['total']!, rowsPerSecondWithoutEncode: withoutEncode }));
} else {
  console.log(`${rowCount} rows, best of ${rounds}; µs a row`);
  for (const [step, micros] of Object.entries(perRow)) console.log(`  ${step.padEnd(10)} ${micros.toFixed(2)}`);
  console.log('steps of transform alone');
  for (const [step, micros] of Object.entries(steps)) console.log(`  ${step.padEnd(10)} ${micros.toFixed(2)}`);
  console.log(`rows a second: ${Math.round(1e6 / perRow['total']!).toLocaleString('en')} in all, ${Math.round(withoutEncode).toLocaleString('en')} without the Parquet encoding of Silver`);
}
