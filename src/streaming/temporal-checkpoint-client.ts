import { WithStartWorkflowOperation } from '@temporalio/client';
import type { Client } from '@temporalio/client';
import { WorkflowNotFoundError } from '@temporalio/common';
import type { Workflow } from '@temporalio/common';
import { claimUpdate, ledgerQuery, reportSignal, streamWorkflowId, streamWorkflowType, topicPartitionsAtOnceMax } from '../contracts/stream.ts';
import type { Claim, ClaimReply, ClaimRequest, LedgerQuery, LedgerView, StreamWorkflowInput } from '../contracts/stream.ts';
import { TidemarkError } from '../domain/errors.ts';
import type { CheckpointClient } from './checkpoint-client.ts';

export interface TemporalCheckpointOptions {
  client: Client;
  taskQueue: string;
  /** For Signals and Queries. */
  deadlineMs?: number;
  /** A claim waits while the ledger is rebuilt from the lake. */
  claimDeadlineMs?: number;
}

/** Stands under "Details" in the Web UI for as long as the Workflow runs: what somebody who opens it can do there. */
const streamGuide = [
  'Streaming workers claim topic partitions here (Update `claim`) and report Bronze files that are durable (Signal `reportCheckpoint`); each is committed to the Bronze table at once, and micro-batches are started over what is open.',
  '',
  '- Signal `pause`: start no more micro-batches, while Bronze goes on; `resume`: start them again.',
  '- Signal `retryBatch` with the number of a failed micro-batch: refine it again; `divertBatch`: put it into the DLQ whole.',
  '- Query `state`: offsets, gaps, micro-batches and totals as JSON. The same for people: Current Details, or `npm run status`.',
].join('\n');

/** A payload has room for so many topic partitions; more are asked for in turns. */
const pagesOf = (topicPartitions: readonly string[]): string[][] =>
  Array.from({ length: Math.ceil(topicPartitions.length / topicPartitionsAtOnceMax) }, (_, page) => topicPartitions.slice(page * topicPartitionsAtOnceMax, (page + 1) * topicPartitionsAtOnceMax));

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

export const createTemporalCheckpointClient = ({ client, taskQueue, deadlineMs = 10_000, claimDeadlineMs = 60_000 }: TemporalCheckpointOptions): CheckpointClient => {
  const ask = async <T>(what: string, source: string, milliseconds: number, call: () => Promise<T>): Promise<T> => {
    try {
      return await client.withDeadline(Date.now() + milliseconds, call);
    } catch (error) {
      const code = error instanceof WorkflowNotFoundError ? 'WORKFLOW_NOT_FOUND' : 'TEMPORAL_UNAVAILABLE';
      throw new TidemarkError(code, `${what} of ${streamWorkflowId(source)} failed: ${messageOf(error)}`, { cause: error });
    }
  };
  const claimSome = (source: string, request: ClaimRequest): Promise<ClaimReply> => ask('claim', source, claimDeadlineMs, () => {
    const input: StreamWorkflowInput = { source };
    // An operation is good for one call.
    const startWorkflowOperation = new WithStartWorkflowOperation(streamWorkflowType, {
      workflowId: streamWorkflowId(source),
      taskQueue,
      args: [input],
      staticSummary: `Checkpoints and micro-batches of ${source}`,
      staticDetails: streamGuide,
      workflowIdConflictPolicy: 'USE_EXISTING',
      workflowIdReusePolicy: 'ALLOW_DUPLICATE',
    });
    return client.workflow.executeUpdateWithStart<Workflow, ClaimReply, [ClaimRequest]>(claimUpdate, { startWorkflowOperation, args: [request] });
  });
  return {
    claim: async (source, { owner, topicPartitions }) => {
      const claims: Claim[] = [];
      for (const some of pagesOf(topicPartitions)) claims.push(...(await claimSome(source, { owner, topicPartitions: some })).claims);
      return { claims };
    },
    report: (source, report) => ask('report', source, deadlineMs, () => client.workflow.getHandle(streamWorkflowId(source)).signal(reportSignal, report)),
    ledger: async (source, { topicPartitions }) => {
      const view: LedgerView = { ready: true, topicPartitions: {} };
      // Without names one question: the ledger answers with as many as it may.
      for (const some of topicPartitions === undefined ? [undefined] : pagesOf(topicPartitions)) {
        const part = await ask('ledger', source, deadlineMs, () => client.workflow.getHandle(streamWorkflowId(source))
          .query<LedgerView, [LedgerQuery]>(ledgerQuery, some === undefined ? {} : { topicPartitions: some }));
        view.ready &&= part.ready;
        Object.assign(view.topicPartitions, part.topicPartitions);
      }
      return view;
    },
  };
};
