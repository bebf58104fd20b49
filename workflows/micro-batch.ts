import { ApplicationFailure, proxyActivities, setCurrentDetails, upsertSearchAttributes } from '@temporalio/workflow';
import { ActivityFailure, defineSearchAttributeKey } from '@temporalio/common';
import type { MicroBatchActivities, MicroBatchInput, MicroBatchResult, PublishInput, RefinedBatch } from '../src/contracts/micro-batch.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';
import { countOf, microBatchDetails, recordsOf } from './details.ts';

const { refineBatch, publishSilver, publishDlq, mergeGold } = proxyActivities<MicroBatchActivities>({
  startToCloseTimeout: '15 minutes',
  heartbeatTimeout: '10 seconds',
  // No limit to attempts: an outage of hours must not fail a micro-batch that nothing is wrong with. What will not get
  // better by itself is not retryable by its code, see activities/edge.ts.
  retry: { initialInterval: '200 milliseconds', backoffCoefficient: 2, maximumInterval: '10 seconds' },
});

const rowsKey = defineSearchAttributeKey(searchAttributes.rows.name, searchAttributes.rows.type);
const dlqRowsKey = defineSearchAttributeKey(searchAttributes.dlqRows.name, searchAttributes.dlqRows.type);
const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);

/** How often a micro-batch refines again because another one published a part of its offsets meanwhile. */
const refineAgainMax = 5;

/**
 * One micro-batch: Bronze offsets → Silver and DLQ → Gold. Each step asks the lake which of its offsets are still missing,
 * so that a retry, a Reset or a second execution publishes nothing twice.
 */
export async function microBatchWorkflow(input: MicroBatchInput): Promise<MicroBatchResult> {
  const show = (phase: string, result: Partial<MicroBatchResult>): void => setCurrentDetails(microBatchDetails(phase, input, result));
  for (let round = 1; ; round += 1) {
    try {
      show(input.divert === undefined ? 'refining' : 'diverting to the DLQ', {});
      const refined = await refineBatch.executeWithOptions({ summary: countOf(recordsOf(input.intervals), 'record') }, [input]);
      const counts = countsOf(refined);
      const publish: PublishInput = { ...input, stagedKey: refined.stagedKey };
      show('publishing Silver and DLQ', counts);
      // Two tables, and neither waits for the other; both have ended before anything follows, also if one has failed.
      const published = await Promise.allSettled([
        publishSilver.executeWithOptions({ summary: countOf(counts.silverRows, 'row') }, [publish]), publishDlq.executeWithOptions({ summary: countOf(counts.dlqRows, 'row') }, [publish]),
      ]);
      for (const outcome of published) if (outcome.status === 'rejected') throw outcome.reason;
      show('merging Gold', counts);
      const { goldRows, duplicates, freshness } = await mergeGold.executeWithOptions({ summary: countOf(counts.silverRows, 'Silver row') }, [publish]);
      const result: MicroBatchResult = { ...counts, goldRows, duplicates, freshness };
      show('published', result);
      upsertSearchAttributes([
        { key: stateKey, value: 'published' }, { key: rowsKey, value: result.bronzeRows }, { key: dlqRowsKey, value: result.dlqRows },
      ]);
      return result;
    } catch (error) {
      // A part of the offsets was published by somebody else since they were refined: plan again against the lake.
      if (isCoverageConflict(error) && round < refineAgainMax) continue;
      upsertSearchAttributes([{ key: stateKey, value: 'failed' }]);
      throw error;
    }
  }
}

const countsOf = ({ bronzeRows, silverRows, dlqRows, dlqByType }: RefinedBatch) => ({ bronzeRows, silverRows, dlqRows, dlqByType });

const isCoverageConflict = (error: unknown): boolean =>
  error instanceof ActivityFailure && error.cause instanceof ApplicationFailure && error.cause.type === 'COVERAGE_CONFLICT';
