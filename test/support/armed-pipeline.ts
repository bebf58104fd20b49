import { setTimeout as sleep } from 'node:timers/promises';
import { inject } from 'vitest';
import type { Exchange } from '../../src/capture/feed.ts';
import { createKafkaTradeSink } from '../../src/capture/trade-sink.ts';
import { createRecordProducer } from '../../src/kafka/producer.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import type { StackEndpoints } from '../../src/stack/index.ts';
import type { CrashPoint } from './crash-point.ts';
import { crashingLives } from './crashing-lives.ts';
import { startPipelineOn } from './pipeline-processes.ts';
import type { PipelineOptions, RunningPipeline } from './pipeline-processes.ts';

/** A pipeline that knows how many different trades it was given, and a process of it that can be told where to die. */
export interface ArmedPipeline {
  running: RunningPipeline;
  /** Loads trades, each different from all before, some of them twice. */
  load(exchange: Exchange, trades: number): Promise<void>;
  /** Waits until the victim has died at so many of its points, while a trickle of trades flows. */
  died(times: number): Promise<void>;
  stop(): Promise<void>;
  /** Different trades loaded so far. */
  trades(): number;
}

/** Waits until all is merged. The result is {@link exact} if the audit finds nothing and Gold has each trade once. */
export const outcomeOf = async ({ running, trades }: ArmedPipeline): Promise<{ ok: boolean; findings: AuditReport['findings']; goldRowsTooMany: number }> => {
  await running.untilMerged();
  const { ok, findings } = await running.audit();
  return { ok, findings, goldRowsTooMany: await running.rows('gold_crypto_trades') - trades() };
};
export const exact = { ok: true, findings: [], goldRowsTooMany: 0 };

export interface Victim {
  name: 'streaming-worker' | 'temporal-worker';
  /** Where its lives end, one after the other; the one after them lives on. */
  points: readonly CrashPoint[];
}

export const startArmedPipeline = async ({ victim, environment = {}, ...options }: Pick<PipelineOptions, 'processEndpoints' | 'environment'> & { victim?: Victim } = {}, endpoints: StackEndpoints = inject('stack')): Promise<ArmedPipeline> => {
  const lives = crashingLives(victim?.name ?? '', victim?.points ?? []);
  let seed = 0;
  let trades = 0;
  const running = await startPipelineOn(endpoints, {
    ...options,
    environment: { CONSUMER_SESSION_TIMEOUT_MS: '2000', FLUSH_ROWS: '200', ...environment },
    ...lives.hooks,
  });
  const { kafka, schemaRegistry } = running.config;
  const producer = await createRecordProducer({ brokers: kafka.brokers });
  const sink = createKafkaTradeSink({ producer, registry: createRegistryClient({ url: schemaRegistry.url }), topicPrefix: kafka.topicPrefix });
  const load = async (exchange: Exchange, count: number): Promise<void> => {
    seed += 1;
    const symbols = exchange === 'binance' ? ['BTCUSDT', 'ETHUSDT', 'SOLUSDT'] : ['BTC/USD', 'ETH/USD', 'XRP/EUR'];
    const loaded = await loadGeneratedTrades({ sink, exchange, seed, trades: count, symbols, repeatRatio: 0.05 });
    trades += loaded.trades;
  };
  return {
    running,
    load,
    died: async (times) => {
      while (lives.deaths() < times) {
        // A trickle: what piles up while a process starts has to be merged afterwards.
        await Promise.all([load('binance', 60), load('kraken', 60)]);
        await sleep(500);
      }
    },
    stop: async () => {
      await producer.close();
      await running.stop();
    },
    trades: () => trades,
  };
};
