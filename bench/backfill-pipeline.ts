import { join } from 'node:path';
import type { WorkflowHandle } from '@temporalio/client';
import { ProgressLine, stopSignal } from '../scripts/cli.ts';
import { ScriptProcess } from '../scripts/wire/child-process.ts';
import { configToEnvironment } from '../src/config/config.ts';
import type { BackfillInput } from '../src/contracts/backfill.ts';
import { backfillWorkflowId, backfillWorkflowType } from '../src/contracts/backfill.ts';
import { startStack } from '../src/stack/index.ts';
import type { RunningPipeline } from '../test/support/pipeline-processes.ts';
import { startPipelineOn } from '../test/support/pipeline-processes.ts';

/** Real servers and a pipeline's processes, for the measurements of backfills. */
export interface BackfillBench {
  running: RunningPipeline;
  line: ProgressLine;
  /** Trades into Kafka, by a process of its own, so that this one's work is not in the way; `rate` in records a second. */
  load(count: number, seed: number, rate?: number): Promise<void>;
  /** Of all offsets, without a limit, unless the input says so. */
  start(id: string, input?: Partial<BackfillInput>): Promise<WorkflowHandle>;
}

export const benchSource = 'binance-trades';

export const withBackfillBench = async (environment: Record<string, string>, symbols: readonly string[], work: (bench: BackfillBench) => Promise<number>): Promise<number> => {
  const line = new ProgressLine();
  const stack = await startStack({ signal: stopSignal(), onProgress: ({ server, message }) => line.show(`${server}: ${message}`) });
  try {
    const running = await startPipelineOn(stack.endpoints, { environment: { FLUSH_INTERVAL_MS: '1000', FLUSH_INTERVAL_MAX_MS: '10000', LOG_LEVEL: 'warn', ...environment } });
    const { config, folder, temporal } = running;
    try {
      return await work({
        running, line,
        load: async (rows, seed, rate) => {
          const loader = new ScriptProcess({
            name: `load-${seed}`, script: '../bench/load.ts', restarts: false, logFile: join(folder, `load-${seed}.log`), env: { ...process.env, ...configToEnvironment(config) },
            args: [JSON.stringify({ exchange: 'binance', rows, seed, repeatRatio: 0.01, symbols, ...(rate === undefined ? {} : { rate }) })],
          });
          await loader.event((event) => event['event'] === 'stopped');
          await loader.stop();
        },
        start: (id, input = {}) => temporal.workflow.start(backfillWorkflowType, {
          workflowId: backfillWorkflowId(id), taskQueue: config.temporal.taskQueue, priority: { priorityKey: 5 },
          args: [{ id, source: benchSource, range: { by: 'all' }, rowsPerSecond: null, parallelism: 2, ...input } satisfies BackfillInput],
        }),
      });
    } finally {
      await running.stop();
    }
  } finally {
    await stack.stop();
  }
};

/** When an event of a history took place, ms since the epoch. */
export const eventMs = (event: { eventTime?: { seconds?: unknown; nanos?: number | null } | null } | undefined): number =>
  Number(event?.eventTime?.seconds ?? 0) * 1_000 + (event?.eventTime?.nanos ?? 0) / 1e6;
