import { ActivityFailure, ApplicationFailure, ChildWorkflowFailure, TerminatedFailure } from '@temporalio/common';
import { expect, test } from 'vitest';
import { failureCause } from '../../src/domain/failure-cause.ts';

test('the cause of a failed micro-batch is the code and the message that its activity gave', () => {
  const given = ApplicationFailure.create({ type: 'OBJECT_NOT_FOUND', message: 'object store, get trades/0/1.parquet: 404 NoSuchKey', cause: new Error('The specified key does not exist.') });
  const activity = new ActivityFailure('Activity task failed', 'refineBatch', '1', 'NON_RETRYABLE_FAILURE', 'worker', given);
  const child = new ChildWorkflowFailure('default', { workflowId: 'micro-batch/trades/1', runId: 'r' }, 'microBatchWorkflow', 'NON_RETRYABLE_FAILURE', activity);
  expect(failureCause(child)).toBe('OBJECT_NOT_FOUND: object store, get trades/0/1.parquet: 404 NoSuchKey');
  expect(failureCause(new ChildWorkflowFailure('default', { workflowId: 'w', runId: 'r' }, 't', 'TIMEOUT', new TerminatedFailure('terminated by hand')))).toBe('terminated by hand');
  expect(failureCause('a text')).toBe('a text');
});
