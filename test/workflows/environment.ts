import { randomUUID } from 'node:crypto';
import { TestWorkflowEnvironment } from '@temporalio/testing';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import type { WorkflowHandle } from '@temporalio/client';
import { loadWorkflowBundle } from '../../scripts/wire/workflow-bundle.ts';
import { microBatchWorkflowId, microBatchWorkflowType } from '../../src/contracts/micro-batch.ts';
import type { MicroBatchInput, MicroBatchResult } from '../../src/contracts/micro-batch.ts';
import { claimUpdate, ledgerQuery, reportSignal, stateQuery, streamWorkflowId, streamWorkflowType } from '../../src/contracts/stream.ts';
import type { CheckpointRange, CheckpointReport, Claim, ClaimReply, ClaimRequest, LedgerView, StateQuery, StreamState } from '../../src/contracts/stream.ts';
import { searchAttributes } from '../../src/contracts/visibility.ts';
import { installTimeSkippingServer } from '../../src/stack/time-skipping-server.ts';
import type { FakeLake } from '../support/fake-lake.ts';

export interface Environment {
  temporal: TestWorkflowEnvironment;
  bundle: { code: string };
}

/** The SDK gives the server 5 s to start, which a JVM on a machine under load may miss; the next start finds its files in memory. */
const startServer = async (path: string, attemptsLeft = 5): Promise<TestWorkflowEnvironment> => {
  try {
    return await TestWorkflowEnvironment.createTimeSkipping({ server: { executable: { type: 'existing-path', path } } });
  } catch (error) {
    if (attemptsLeft <= 1) throw error;
    return startServer(path, attemptsLeft - 1);
  }
};

/** A real Temporal server, which has our search attributes already, with the bundle that a Temporal Worker runs. */
export const connectEnvironment = async (address: string): Promise<Environment> => {
  Runtime.install({ logger: new DefaultLogger('ERROR', () => {}), shutdownSignals: [] });
  return { temporal: await TestWorkflowEnvironment.createFromExistingServer({ address }), bundle: await loadWorkflowBundle() };
};

/**
 * Temporal's time-skipping server, with the same bundle: for what takes hours. Only Workflows that end by themselves: a Workflow that
 * continues as new while Signals come in can wait on it for minutes until its next task is handed out.
 */
export const startEnvironment = async (): Promise<Environment> => {
  Runtime.install({ logger: new DefaultLogger('ERROR', () => {}), shutdownSignals: [] });
  const temporal = await startServer(await installTimeSkippingServer());
  const indexedValueType = { KEYWORD: 2, INT: 3 } as const;
  await temporal.connection.operatorService.addSearchAttributes({
    namespace: 'default',
    searchAttributes: Object.fromEntries(Object.values(searchAttributes).map(({ name, type }) => [name, indexedValueType[type]])),
  });
  return { temporal, bundle: await loadWorkflowBundle() };
};

/** A range as a streaming worker reports it; its rows are its offsets. */
export const range = (topicPartition: string, start: number, end: number): CheckpointRange =>
  ({ topicPartition, fileEpoch: 1, startOffset: String(start), endOffset: String(end), rowCount: end - start, byteCount: 100, checksum: 'c'.repeat(64) });

/** The stream workflow of a source of its own over a fake lake, asked as a streaming worker asks it. */
export class StreamUnderTest {
  readonly source = `source-${randomUUID().slice(0, 8)}`;
  readonly lake: FakeLake;
  readonly handle: WorkflowHandle;
  private readonly environment: Environment;

  private constructor(environment: Environment, lake: FakeLake) {
    this.environment = environment;
    this.lake = lake;
    this.handle = environment.temporal.client.workflow.getHandle(streamWorkflowId(this.source));
  }

  /** Starts the workflow, and a Temporal Worker for the time that `use` runs. */
  static async run<T>(environment: Environment, lake: FakeLake, use: (stream: StreamUnderTest) => Promise<T>): Promise<T> {
    const stream = new StreamUnderTest(environment, lake);
    const { temporal, bundle } = environment;
    const worker = await Worker.create({
      connection: temporal.nativeConnection, taskQueue: stream.source, workflowBundle: bundle, activities: lake.activities(), maxCachedWorkflows: 50,
      // Deadlocks are looked for against the wall clock: a machine under load must not look like one.
      debugMode: true,
    });
    await temporal.client.workflow.start(streamWorkflowType, { workflowId: stream.handle.workflowId, taskQueue: stream.source, args: [{ source: stream.source }] });
    return worker.runUntil(async () => {
      try {
        return await use(stream);
      } finally {
        await stream.handle.terminate('the test is over').catch(() => {});
      }
    });
  }

  async claim(owner: string, ...topicPartitions: string[]): Promise<Claim[]> {
    return (await this.handle.executeUpdate<ClaimReply, [ClaimRequest]>(claimUpdate, { args: [{ owner, topicPartitions }] })).claims;
  }

  report(owner: string, claims: readonly Claim[], ...ranges: CheckpointRange[]): Promise<void> {
    const report: CheckpointReport = { owner, epochs: Object.fromEntries(claims.map(({ topicPartition, epoch }) => [topicPartition, epoch])), ranges, gaps: [] };
    return this.handle.signal(reportSignal, report);
  }

  state(query?: StateQuery): Promise<StreamState> {
    return query ? this.handle.query<StreamState, [StateQuery]>(stateQuery, query) : this.handle.query<StreamState>(stateQuery);
  }

  ledger(...topicPartitions: string[]): Promise<LedgerView> {
    return this.handle.query(ledgerQuery, { topicPartitions });
  }

  /** Asks until the state is as wished; what it was last goes into the failure. */
  async until(holds: (state: StreamState) => boolean, timeoutMs = 50_000): Promise<StreamState> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const state = await this.state();
      if (holds(state)) return state;
      if (Date.now() > deadline) throw new Error(`the stream did not get there: ${JSON.stringify(state)}`);
      await new Promise((wake) => setTimeout(wake, 20));
    }
  }

  /** The histories of all runs so far, the latest first. */
  async histories(): Promise<{ runId: string; events: History['events'] }[]> {
    const found: { runId: string; events: History['events'] }[] = [];
    let runId: string | undefined = (await this.handle.describe()).runId;
    while (runId) {
      const { events }: History = await this.environment.temporal.client.workflow.getHandle(this.handle.workflowId, runId).fetchHistory();
      found.push({ runId, events });
      runId = events?.[0]?.workflowExecutionStartedEventAttributes?.continuedExecutionRunId || undefined;
    }
    return found;
  }

  async microBatchHistory(batch: number): Promise<History> {
    return this.environment.temporal.client.workflow.getHandle(microBatchWorkflowId(this.source, batch)).fetchHistory();
  }
}
type History = Awaited<ReturnType<WorkflowHandle['fetchHistory']>>;

export const runMicroBatch = async (environment: Environment, lake: FakeLake, input: Omit<MicroBatchInput, 'source'>): Promise<MicroBatchResult> => {
  const source = `source-${randomUUID().slice(0, 8)}`;
  const { temporal, bundle } = environment;
  const worker = await Worker.create({ connection: temporal.nativeConnection, taskQueue: source, workflowBundle: bundle, activities: lake.activities(), debugMode: true });
  return worker.runUntil(temporal.client.workflow.execute(microBatchWorkflowType, {
    workflowId: `micro-batch/${source}/${input.batch}`, taskQueue: source, args: [{ source, ...input }],
  }) as Promise<MicroBatchResult>);
};

/** Bytes of the largest payload anywhere in a history. */
export const largestPayloadBytes = (value: unknown): number => {
  if (value === null || typeof value !== 'object') return 0;
  if ('data' in value && value.data instanceof Uint8Array && 'metadata' in value) return value.data.length;
  if (ArrayBuffer.isView(value)) return 0;
  return Object.values(value).reduce<number>((most, inner) => Math.max(most, largestPayloadBytes(inner)), 0);
};
