/** The limit beneath: kafkajs consuming topics and dropping the records. Rows a second on one core, process start left out. */
import { createKafka } from '../src/kafka/client.ts';

const { brokers, topics, rows } = JSON.parse(process.argv[2]!) as { brokers: string[]; topics: string[]; rows: number };
const consumer = createKafka({ brokers, clientId: 'tidemark-bench' }).consumer({ groupId: `bench-drop-${process.pid}`, maxBytesPerPartition: 8 * 1024 * 1024 });
await consumer.connect();
await consumer.subscribe({ topics, fromBeginning: true });
let seen = 0;
let startedMs = 0;
let cpu = process.cpuUsage();
const { promise, resolve } = Promise.withResolvers<void>();
await consumer.run({
  autoCommit: false,
  eachBatch: ({ batch }) => {
    if (startedMs === 0) {
      startedMs = performance.now();
      cpu = process.cpuUsage();
    }
    seen += batch.messages.length;
    if (seen >= rows) resolve();
    return Promise.resolve();
  },
});
await promise;
const seconds = (performance.now() - startedMs) / 1000;
const { user, system } = process.cpuUsage(cpu);
process.stdout.write(`${JSON.stringify({ event: 'stopped', rowsPerSecond: seen / seconds, cpuSecondsPerMillion: (user + system) / seen })}\n`);
process.exit(0);
