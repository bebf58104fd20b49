import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { pauseSignal, streamWorkflowId } from '../../src/contracts/stream.ts';
import { deleteRecords, fetchOffsetBounds } from '../../src/kafka/topics.ts';
import { startStack } from '../../src/stack/index.ts';
import { startArmedPipeline } from '../support/armed-pipeline.ts';
import type { ArmedPipeline } from '../support/armed-pipeline.ts';

const minutes = 60_000;

test('Temporal loses its database, and the broker its records, with nothing refined yet: nothing is missing', async () => {
  const stack = await startStack();
  let pipeline: ArmedPipeline | undefined;
  try {
    // A session that a slow machine lets run out asks for new claims, and while the Temporal Worker sleeps nobody gives them.
    const started = await startArmedPipeline({ environment: { CONSUMER_SESSION_TIMEOUT_MS: '20000' } }, stack.endpoints);
    pipeline = started;
    const { running } = started;
    const { brokers } = running.config.kafka;
    const bronzeRows = async (): Promise<number> => (await Promise.all(['bronze_binance_trades', 'bronze_kraken_trades'].map((table) => running.rows(table)))).reduce((a, b) => a + b, 0);
    const atBroker = async (): Promise<number> => Object.values(await fetchOffsetBounds(brokers, running.topics)).reduce((sum, { high }) => sum + Number(high), 0);
    /** Rows of the Bronze files on S3, in the table or not: their names say their offsets. */
    const rowsOnS3 = async (): Promise<number> => {
      let rows = 0;
      for (const table of ['bronze_binance_trades', 'bronze_kraken_trades']) {
        for await (const { key } of running.lake.store.list(`warehouse/market_data/${table}/data/`)) {
          const [, start, end] = /\/0*(\d+)-0*(\d+)-\d+\.parquet$/.exec(key)!;
          rows += Number(end) - Number(start);
        }
      }
      return rows;
    };

    // Refining is out, Bronze goes on.
    await started.load('binance', 10);
    await started.load('kraken', 10);
    await running.untilMerged();
    for (const { source } of running.pipeline.datasets) await running.temporal.workflow.getHandle(streamWorkflowId(source)).signal(pauseSignal);
    await Promise.all([started.load('binance', 4_000), started.load('kraken', 4_000)]);
    while (await bronzeRows() < await atBroker()) await sleep(200);
    // Then the Temporal Worker sleeps too: what comes now is in files that no ledger has seen.
    process.kill(running.temporalWorker.pid!, 'SIGSTOP');
    await Promise.all([started.load('binance', 1_000), started.load('kraken', 1_000)]);
    const total = await atBroker();
    while (await rowsOnS3() < total) await sleep(200);

    await stack.servers.temporal.stop('SIGKILL');
    await Promise.all(['', '-shm', '-wal'].map((suffix) => rm(join(stack.dataDir, `temporal.db${suffix}`), { force: true })));
    for (const [key, { high }] of Object.entries(await fetchOffsetBounds(brokers, running.topics))) {
      const at = key.lastIndexOf('/');
      await deleteRecords(brokers, key.slice(0, at), [{ partition: Number(key.slice(at + 1)), offset: high }]);
    }
    for (const victim of [running.streamingWorker, running.temporalWorker]) process.kill(victim.pid!, 'SIGKILL');
    await stack.servers.temporal.restart();

    const gold = () => running.rows('gold_crypto_trades');
    while (await gold() < started.trades()) await sleep(250);
    expect(await gold()).toBe(started.trades());
    expect(await bronzeRows()).toBe(total);
    expect(await running.audit()).toMatchObject({ ok: true, findings: [] });
  } finally {
    // A process that sleeps hears no SIGTERM.
    const asleep = pipeline?.running.temporalWorker.pid;
    if (asleep !== undefined) process.kill(asleep, 'SIGCONT');
    await pipeline?.stop();
    await stack.stop();
  }
}, 8 * minutes);
