import { afterAll, beforeAll, expect, test } from 'vitest';
import { ApplicationFailure } from '@temporalio/common';
import { WorkflowFailedError } from '@temporalio/client';
import { Coverage } from '../../src/domain/offsets.ts';
import { FakeLake } from '../support/fake-lake.ts';
import type { Environment } from './environment.ts';
import { runMicroBatch, startEnvironment } from './environment.ts';

let environment: Environment;
beforeAll(async () => {
  environment = await startEnvironment();
}, 180_000);
afterAll(() => environment.temporal.teardown());

const key = 'trades/0';
const part = (text: string): Coverage => Coverage.fromJson({ [key]: text });

/** Silver and the DLQ are published side by side: which of the two comes first says nothing. */
const stepsOf = (lake: FakeLake): string[] => lake.calls.map(({ step }) => (step === 'publishSilver' || step === 'publishDlq' ? 'publish' : step));

test('a micro-batch refines, publishes Silver and the DLQ, then Gold, and says what became of its rows', async () => {
  const lake = new FakeLake();
  expect(await runMicroBatch(environment, lake, { batch: 7, intervals: { [key]: '10-110' } }))
    .toEqual({ bronzeRows: 100, silverRows: 100, dlqRows: 0, dlqByType: {}, goldRows: 100, duplicates: 0, freshness: { 10: 100 } });
  expect(stepsOf(lake)).toEqual(['refineBatch', 'publish', 'publish', 'mergeGold']);
  expect([lake.silver, lake.dlq, lake.gold].every((covered) => covered.equals(part('10-110')))).toBe(true);
});

test('when somebody else published a part of its offsets meanwhile, a micro-batch refines again what is still missing', async () => {
  const lake = new FakeLake();
  let interfered = false;
  lake.before = (step) => {
    if (step !== 'publishSilver' || interfered) return;
    interfered = true;
    lake.silver = lake.dlq = part('0-40');
  };
  expect(await runMicroBatch(environment, lake, { batch: 1, intervals: { [key]: '0-100' } })).toMatchObject({ bronzeRows: 60, goldRows: 100 });
  expect(stepsOf(lake)).toEqual(['refineBatch', 'publish', 'publish', 'refineBatch', 'publish', 'publish', 'mergeGold']);
  expect(lake.silver.equals(part('0-100'))).toBe(true);
});

test('conflicts without an end fail the micro-batch with their code, after five more attempts', async () => {
  const lake = new FakeLake();
  lake.before = (step) => {
    if (step === 'publishDlq') throw ApplicationFailure.create({ type: 'COVERAGE_CONFLICT', message: 'a part is covered', nonRetryable: true });
  };
  const failure = await runMicroBatch(environment, lake, { batch: 1, intervals: { [key]: '0-100' } }).catch((error: unknown) => error);
  expect(failure).toBeInstanceOf(WorkflowFailedError);
  expect((failure as WorkflowFailedError).cause?.cause).toMatchObject({ type: 'COVERAGE_CONFLICT' });
  expect(lake.callsOf('refineBatch')).toBe(5);
});

test('an outage of a day fails no micro-batch', async () => {
  const lake = new FakeLake();
  let attempts = 0;
  lake.before = (step) => {
    // 10 s is the longest pause between two attempts; a day of them would be 8,640.
    attempts += step === 'mergeGold' ? 1 : 0;
    if (step === 'mergeGold' && attempts <= 100) throw ApplicationFailure.create({ type: 'OBJECT_STORE_UNAVAILABLE', message: 'S3 is away', nextRetryDelay: '15 minutes' });
  };
  expect(await runMicroBatch(environment, lake, { batch: 1, intervals: { [key]: '0-100' } })).toMatchObject({ goldRows: 100 });
  expect(attempts).toBe(101);
}, 60_000);

test('a reset to its start, or a second execution, publishes nothing twice', async () => {
  const lake = new FakeLake();
  await runMicroBatch(environment, lake, { batch: 3, intervals: { [key]: '0-100' } });
  expect(await runMicroBatch(environment, lake, { batch: 3, intervals: { [key]: '0-100' } })).toMatchObject({ bronzeRows: 0, goldRows: 0 });
  expect(lake.gold.equals(part('0-100'))).toBe(true);
});
