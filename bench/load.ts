/** Loads generated trades of one exchange into its raw topic, in a process of its own. Configured by the environment and JSON in argv[2]. */
import { loadGeneratedTrades } from '../src/capture/load-generated.ts';
import { createKafkaTradeSink } from '../src/capture/trade-sink.ts';
import type { Exchange } from '../src/capture/feed.ts';
import { loadConfig } from '../src/config/config.ts';
import { createRecordProducer } from '../src/kafka/producer.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';

const { exchange, rows, seed, repeatRatio, rate, symbols } = JSON.parse(process.argv[2]!) as {
  exchange: Exchange; rows: number; seed: number; repeatRatio: number; rate?: number; symbols: string[];
};
const config = loadConfig();
const producer = await createRecordProducer({ brokers: config.kafka.brokers });
const sink = createKafkaTradeSink({ producer, registry: createRegistryClient({ url: config.schemaRegistry.url }), topicPrefix: config.kafka.topicPrefix });
const trades = Math.round(rows / (1 + repeatRatio));
const counts = await loadGeneratedTrades({ sink, exchange, seed, trades, symbols, repeatRatio, ...(rate === undefined ? {} : { rate }) });
await producer.close();
process.stdout.write(`${JSON.stringify({ event: 'stopped', ...counts, offsets: sink.produced().offsets })}\n`);
