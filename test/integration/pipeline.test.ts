import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import { captureFileSource } from '../../src/capture/capture-file.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { exchangeData, unlessAbsent } from '../capture/exchange-data.ts';
import { queryWithDuckDb, readWithPyIceberg } from '../support/readers/index.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const { s3 } = inject('stack');
const minutes = 60_000;

describe('the main job', () => {
  let running: RunningPipeline;
  beforeAll(async () => {
    running = await startPipeline();
  }, 2 * minutes);
  afterAll(async () => {
    await running.stop();
  }, minutes);

  test('a trade that comes again after a reconnect is in Gold once, and every bad record is in the DLQ with its raw bytes and reason', async () => {
    const load = await running.withSink((sink) => loadGeneratedTrades({
      sink, exchange: 'binance', seed: 7, trades: 6_000, symbols: ['BTCUSDT', 'ETHUSDT'], repeatRatio: 0.05,
    }));
    expect(load.repeated).toBeGreaterThan(0);
    const { config } = running;
    const bad = await produceBadRecords({
      brokers: config.kafka.brokers, registry: createRegistryClient({ url: config.schemaRegistry.url }), exchange: 'binance', topicPrefix: config.kafka.topicPrefix, seed: 99,
    });
    await running.untilMerged();

    const gold = await queryWithDuckDb(s3, { gold: await running.location('gold_crypto_trades') },
      'SELECT count(*) AS n, count(DISTINCT (exchange, symbol, trade_id)) AS keys FROM gold');
    expect(gold).toEqual([{ n: load.trades, keys: load.trades }]);

    const dlq = await readWithPyIceberg(s3, await running.location('silver_dlq_trades'), {
      columns: ['kafka_topic', 'kafka_partition', 'kafka_offset', 'error_type', 'error_reason', 'raw_record'],
    });
    const place = (topic: unknown, partition: unknown, offset: unknown): string => `${String(topic)}/${String(partition)}/${String(offset)}`;
    const found = new Map(dlq.rows.map((row) => [place(row['kafka_topic'], row['kafka_partition'], row['kafka_offset']), row]));
    expect(found.size).toBe(bad.length);
    const bronze = await readWithPyIceberg(s3, await running.location('bronze_binance_trades'), { columns: ['topic', 'partition', 'offset', 'raw_bytes'] });
    const raw = new Map(bronze.rows.map((row) => [place(row['topic'], row['partition'], row['offset']), row['raw_bytes']]));
    for (const { kind, topic, partition, offset, errorType, reason } of bad) {
      const key = place(topic, partition, offset);
      expect(found.get(key), kind).toMatchObject({ error_type: errorType, raw_record: raw.get(key) });
      expect(String(found.get(key)!['error_reason']), kind).toContain(reason);
    }
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  }, 3 * minutes);

  test(`every trade of the real captures is in Gold, exact to the last decimal${unlessAbsent}`, async () => {
    if (exchangeData === undefined) return;
    const truth = JSON.parse(await readFile(join(exchangeData, 'TRUTH.json'), 'utf8')) as
      Record<string, { exchange: string; market: string; trades: number; symbols: Record<string, { trades: number; distinct_ids: number | null; quantity: string; notional: string }> }>;
    const before = await running.rows('gold_crypto_trades');
    const counts = await running.capture(captureFileSource(Object.keys(truth).map((name) => join(exchangeData!, name))));
    await running.untilMerged();

    const expected = new Map<string, { trades: number; quantity: bigint; notional: bigint }>();
    const venues: Record<string, string> = { 'binance spot': 'BINANCE', 'binance usdm': 'BINANCE_USDM', 'binance us': 'BINANCE_US', 'kraken spot': 'KRAKEN', 'kraken futures': 'KRAKEN_FUTURES' };
    for (const { exchange, market, symbols } of Object.values(truth)) {
      for (const [name, symbol] of Object.entries(symbols)) {
        const key = `${venues[`${exchange} ${market}`]} ${name.replaceAll('XBT', 'BTC').replace('/', '')}`;
        const sum = expected.get(key) ?? { trades: 0, quantity: 0n, notional: 0n };
        expected.set(key, { trades: sum.trades + symbol.trades, quantity: sum.quantity + units(symbol.quantity, 8), notional: sum.notional + units(symbol.notional, 16) });
      }
    }
    const total = [...expected.values()].reduce((sum, { trades }) => sum + trades, 0);
    expect(counts.produced).toBe(total);
    expect(await running.rows('gold_crypto_trades') - before).toBe(total);
    const rows = await queryWithDuckDb(s3, { gold: await running.location('gold_crypto_trades') },
      `SELECT exchange, symbol, count(*) AS trades, CAST(sum(quantity) AS VARCHAR) AS quantity, CAST(sum(price::DECIMAL(38,8) * quantity) AS VARCHAR) AS notional
       FROM gold WHERE timestamp < TIMESTAMPTZ '2026-09-27' GROUP BY exchange, symbol`);
    const found = new Map(rows.map((row) => [`${String(row['exchange'])} ${String(row['symbol'])}`, row]));
    for (const [key, sum] of expected) {
      const row = found.get(key);
      expect(row?.['trades'], key).toBe(sum.trades);
      expect(units(String(row?.['quantity']), 8), key).toBe(sum.quantity);
      expect(units(String(row?.['notional']), 16), key).toBe(sum.notional);
    }
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  }, 4 * minutes);
});

test('kill -9 of the streaming worker and of the Temporal Worker in the middle changes nothing', async () => {
  const running = await startPipeline({ BATCH_ROWS_MAX: '3000', FLUSH_ROWS: '1500' });
  try {
    await Promise.all([running.streamingWorker, running.temporalWorker].map((one) => one.event((event) => event['event'] === 'ready')));
    const trades = 40_000;
    const loading = running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'kraken', seed: 11, trades, symbols: ['BTC/USD', 'ETH/USD', 'SOL/USD', 'XRP/EUR'], repeatRatio: 0.02 }));
    const bronzeRows = () => running.rows('bronze_kraken_trades');
    while (await bronzeRows() === 0) await sleep(20);
    process.kill(running.streamingWorker.pid!, 'SIGKILL');
    const { pid } = running.temporalWorker;
    process.kill(pid!, 'SIGKILL');
    // Gold may have rows of the first life: it is the second one that is killed here.
    const isBack = (): boolean => running.temporalWorker.pid !== undefined && running.temporalWorker.pid !== pid;
    while (!isBack() || await running.rows('gold_crypto_trades') === 0) await sleep(50);
    process.kill(running.temporalWorker.pid!, 'SIGKILL');
    await loading;
    await running.untilMerged();
    expect(running.streamingWorker.restarts + running.temporalWorker.restarts).toBeGreaterThanOrEqual(3);
    expect(await running.rows('gold_crypto_trades')).toBe(trades);
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  } finally {
    await running.stop();
  }
}, 5 * minutes);

/** A decimal text, possibly with an exponent, as units of 10^-scale. */
const units = (text: string, scale: number): bigint => {
  const match = /^(-?)(\d+)(?:\.(\d+))?(?:E([+-]?\d+))?$/i.exec(text);
  if (!match) throw new Error(`no decimal: ${text}`);
  const [, sign, whole, fraction = '', exponent = '0'] = match;
  const shift = scale + Number(exponent) - fraction.length;
  const digits = BigInt(`${whole}${fraction}`);
  const value = shift >= 0 ? digits * 10n ** BigInt(shift) : digits / 10n ** BigInt(-shift);
  return sign === '-' ? -value : value;
};
