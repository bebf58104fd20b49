#!/usr/bin/env node
import '../src/config/require-node.ts';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client } from '@temporalio/client';
import type { WorkflowHandle } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/common';
import { InvalidArgumentError } from 'commander';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import type { Config } from '../src/config/config.ts';
import { extendRetentionWorkflowId, extendRetentionWorkflowType, extendSignal, restoreSignal } from '../src/contracts/retention-extension.ts';
import type { ExtendRetentionInput, RetentionExtension } from '../src/contracts/retention-extension.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { failureCause } from '../src/domain/failure-cause.ts';
import { fetchTopicConfigs } from '../src/kafka/topic-configs.ts';
import type { ObjectStore } from '../src/lake/object-store.ts';
import { listExtensions, loadExtension } from '../src/streaming/retention-extension.ts';
import { command, exitFailed, exitOk, parseDuration, runCommand, stopSignal, table } from './cli.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { connectTemporal } from './wire/temporal.ts';

interface Options {
  topic?: string[];
  source?: string[];
  for?: number;
  until?: number;
  to?: number;
  status?: boolean;
  restore?: boolean;
  dryRun?: boolean;
  json?: boolean;
}

const instant = (text: string): number => {
  const ms = Date.parse(text);
  if (Number.isNaN(ms)) throw new InvalidArgumentError('Expected a time such as 2026-03-01T06:00:00Z.');
  return ms;
};
const several = (name: string, names: string[] = []): string[] => [...names, name];

const program = command('extend-retention', 'Raise the broker retention of raw topics for a while, so that it does not overtake a reader that is behind, and put it back afterwards.')
  .option('--topic <name>', 'A Kafka topic; repeatable', several)
  .option('--source <name>', 'The topic of this source; repeatable', several)
  .option('--for <duration>', 'How long: 90s, 30m, 12h, 3d', parseDuration)
  .option('--until <time>', 'Or until when, ISO 8601', instant)
  .option('--to <duration>', 'retention.ms meanwhile (default: what it is now and the extension on top, so that no record that is there now goes)', parseDuration)
  .option('--status', 'What is extended, until when, and what it was before')
  .option('--restore', 'Put it back now')
  .option('--dry-run', 'Print what would change, and change nothing')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', '\nA Workflow extend-retention/<topic> waits and puts the old value back, also if this and every other process is gone; the same from the Temporal Web UI by its Signals'
    + `\n${extendSignal} and ${restoreSignal}. The old value is kept in the lake meanwhile. Asking again changes the running extension.`
    + `\nExit code: 0 when it is done, 1 if a topic was not found extended, or no Temporal Worker took it up, 2 for a bad command line.\n\n${environmentHelp()}`);

const pollMs = 100;
const deadlineMs = 30_000;
const retentionMsMax = Number.MAX_SAFE_INTEGER;

const topicsOf = async (config: Config, { topic = [], source = [] }: Options): Promise<string[]> => {
  const { datasets } = await loadPipeline(config);
  return [...new Set([...topic, ...source.map((name) => {
    const dataset = datasets.find((one) => one.source === name);
    if (!dataset) throw new TidemarkError('BAD_INPUT', `--source: expected one of ${datasets.map((one) => one.source).join(', ')}, found ${name}`);
    return `${config.kafka.topicPrefix}${dataset.topic}`;
  })])];
};

interface Plan extends ExtendRetentionInput {
  /** The effective one; -1: none. */
  nowMs: number;
  warning: string | null;
}

const planOf = async (config: Config, store: ObjectStore, topic: string, untilMs: number, to: number | undefined): Promise<Plan> => {
  const { effective } = await fetchTopicConfigs(config.kafka.brokers, topic);
  const nowMs = Number(effective['retention.ms'] ?? -1);
  // Of a topic that is extended already, its own retention counts: an extension of an extension must not add up.
  const known = await loadExtension(store, topic);
  const beforeMs = known?.extension.beforeMs ?? nowMs;
  const retentionMs = to ?? Math.min(retentionMsMax, beforeMs + untilMs - Date.now());
  if (beforeMs < 0) throw new TidemarkError('BAD_INPUT', `${topic}: expected a topic whose records age, found retention.ms ${nowMs}: nothing expires`);
  if (retentionMs <= beforeMs) throw new TidemarkError('BAD_INPUT', `--to: expected more than the ${beforeMs} ms that ${topic} has, found ${retentionMs} ms`);
  const bytes = Number(effective['retention.bytes'] ?? -1);
  return { topic, retentionMs, untilMs, nowMs, warning: bytes < 0 ? null : `${topic} has retention.bytes ${bytes} too: size may delete its records all the same` };
};

const hours = (ms: number | null): string => (ms === null ? '–' : ms < 0 ? 'for ever' : ms < 3_600_000 ? `${(ms / 60_000).toFixed(1)} min` : `${(ms / 3_600_000).toFixed(1)} h`);
const time = (ms: number): string => new Date(ms).toISOString();
const previousOf = ({ previous, beforeMs }: RetentionExtension): string => `${hours(beforeMs)}${previous === null ? ' (broker default)' : ''}`;

await runCommand<Options>(program, async (options) => {
  const { for: forMs, until, to, status, restore, dryRun, json } = options;
  const asked = [status, restore, forMs !== undefined || until !== undefined].filter(Boolean).length;
  if (asked !== 1 || (forMs !== undefined && until !== undefined)) throw new TidemarkError('BAD_INPUT', 'expected one of --for, --until, --status and --restore');
  const config = loadConfig();
  const topics = await topicsOf(config, options);
  if (topics.length === 0 && !status) throw new TidemarkError('BAD_INPUT', 'expected --topic or --source, found neither');
  const signal = stopSignal();
  const { store } = openLakeReadOnly(config, await loadPipeline(config));
  try {
    if (status) {
      const extensions = (await listExtensions(store)).filter(({ topic }) => topics.length === 0 || topics.includes(topic));
      if (json) process.stdout.write(`${JSON.stringify({ extensions })}\n`);
      else if (extensions.length === 0) process.stdout.write('no topic is extended\n');
      else process.stdout.write(`${table(['topic', 'retention', 'until', 'before'], extensions.map((one) => [one.topic, hours(one.retentionMs), time(one.untilMs), previousOf(one)]))}\n`);
      return exitOk;
    }
    const untilMs = until ?? Date.now() + (forMs ?? 0);
    if (!restore && untilMs <= Date.now()) throw new TidemarkError('BAD_INPUT', `--until: expected a time to come, found ${time(untilMs)}`);
    const plans = restore ? [] : await Promise.all(topics.map((topic) => planOf(config, store, topic, untilMs, to)));
    for (const { warning } of plans) if (warning !== null) process.stderr.write(`extend-retention: ${warning}\n`);
    const known = new Map<string, RetentionExtension | null>();
    for (const topic of topics) known.set(topic, (await loadExtension(store, topic))?.extension ?? null);
    if (dryRun) {
      const changes = restore
        ? topics.map((topic) => ({ topic, extension: known.get(topic) ?? null }))
        : plans.map(({ topic, retentionMs, nowMs }) => ({ topic, nowMs, retentionMs, untilMs }));
      if (json) process.stdout.write(`${JSON.stringify({ dryRun: true, changes })}\n`);
      else if (restore) process.stdout.write(`${table(['topic', 'retention', 'would be put back to'], topics.map((topic) => [topic, hours(known.get(topic)?.retentionMs ?? null), known.get(topic) ? previousOf(known.get(topic)!) : 'not extended']))}\n`);
      else process.stdout.write(`${table(['topic', 'retention now', 'would be', 'until'], plans.map((plan) => [plan.topic, hours(plan.nowMs), hours(plan.retentionMs), time(plan.untilMs)]))}\n`);
      return exitOk;
    }

    const connection = await connectTemporal(config);
    try {
      const { workflow } = new Client({ connection, namespace: config.temporal.namespace });
      const waitUntil = async (what: string, holds: () => Promise<boolean>): Promise<void> => {
        const deadline = Date.now() + deadlineMs;
        while (!(await holds())) {
          signal.throwIfAborted();
          if (Date.now() > deadline) throw new TidemarkError('TEMPORAL_UNAVAILABLE', `${what} within ${deadlineMs / 1000} s: does a Temporal Worker run? It will be taken up when one does`);
          await sleep(pollMs);
        }
      };
      const failIfFailed = async (handle: WorkflowHandle): Promise<void> => {
        const { status: found } = await handle.describe();
        if (found.name !== 'FAILED') return;
        await handle.result().catch((error: unknown) => {
          throw new TidemarkError('KAFKA_REFUSED', `${handle.workflowId}: ${error instanceof Error ? failureCause(error) : String(error)}`, { cause: error });
        });
      };
      if (restore) {
        const notExtended: string[] = [];
        for (const topic of topics) {
          try {
            await workflow.getHandle(extendRetentionWorkflowId(topic)).signal(restoreSignal);
            continue;
          } catch (error) {
            if (!(error instanceof WorkflowNotFoundError)) throw error;
          }
          const left = known.get(topic);
          if (!left) {
            notExtended.push(topic);
            continue;
          }
          // Its Workflow is gone, with Temporal's database or by a termination: a new one puts it back at once.
          await workflow.start(extendRetentionWorkflowType, {
            workflowId: extendRetentionWorkflowId(topic), taskQueue: config.temporal.taskQueue, staticSummary: `Broker retention of ${topic} goes back`,
            args: [{ topic, retentionMs: left.retentionMs, untilMs: Date.now() } satisfies ExtendRetentionInput],
          });
        }
        for (const topic of topics) await waitUntil(`${topic} was not put back`, async () => (await loadExtension(store, topic)) === null);
        if (json) process.stdout.write(`${JSON.stringify({ restored: topics.filter((topic) => !notExtended.includes(topic)), notExtended })}\n`);
        else for (const topic of topics) process.stdout.write(`${topic}: ${notExtended.includes(topic) ? 'was not extended' : `put back to ${known.get(topic) ? previousOf(known.get(topic)!) : 'what it was'}`}\n`);
        return notExtended.length > 0 ? exitFailed : exitOk;
      }
      const raised: RetentionExtension[] = [];
      for (const { topic, retentionMs } of plans) {
        const input: ExtendRetentionInput = { topic, retentionMs, untilMs };
        const handle = await workflow.signalWithStart(extendRetentionWorkflowType, {
          workflowId: extendRetentionWorkflowId(topic), taskQueue: config.temporal.taskQueue, staticSummary: `Broker retention of ${topic}, raised for a while`,
          args: [input], signal: extendSignal, signalArgs: [input],
        });
        await waitUntil(`${topic} was not raised`, async () => {
          await failIfFailed(handle);
          const { extension } = await loadExtension(store, topic) ?? {};
          if (extension?.retentionMs !== retentionMs || extension.untilMs !== untilMs) return false;
          return (await fetchTopicConfigs(config.kafka.brokers, topic)).overrides['retention.ms'] === String(retentionMs);
        });
        raised.push((await loadExtension(store, topic))!.extension);
      }
      if (json) process.stdout.write(`${JSON.stringify({ extensions: raised })}\n`);
      else process.stdout.write(`${table(['topic', 'retention', 'until', 'before', 'Workflow'], raised.map((one) => [one.topic, hours(one.retentionMs), time(one.untilMs), previousOf(one), extendRetentionWorkflowId(one.topic)]))}\n`);
      return exitOk;
    } finally {
      await connection.close();
    }
  } finally {
    store.close();
  }
});
