import { randomUUID } from 'node:crypto';
import { ApplicationFailure } from '@temporalio/common';
import { Worker } from '@temporalio/worker';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { compactionWorkflowId, compactionWorkflowType } from '../../../src/contracts/compaction.ts';
import type { CompactionActivities, CompactionResult, PlannedCompaction } from '../../../src/contracts/compaction.ts';
import type { Environment } from '../environment.ts';
import { connectEnvironment } from '../environment.ts';

let environment: Environment;
beforeAll(async () => {
  environment = await connectEnvironment(inject('stack').temporal.address);
}, 180_000);
afterAll(() => environment.temporal.teardown());

/** A table whose files are counts by group: those of a group become one, and a thousand rows each. */
const fakeTable = (files: Record<string, number>, broken: readonly string[] = []) => {
  const compacted: string[] = [];
  const planned = (table: string): PlannedCompaction => {
    const groups = Object.entries(files).filter(([, count]) => count > 1).map(([folder, count]) => ({ folder, group: '', files: count, rows: count * 1_000, bytes: count * 10_000 }));
    return { table, groups: groups.slice(0, 2), groupsTotal: groups.length, filesTotal: 0, files: 0, rows: 0, bytes: 0, heldBack: { 'too few': 3 } };
  };
  const activities: CompactionActivities = {
    planCompaction: ({ table }) => Promise.resolve(planned(table)),
    compactGroup: ({ folder }) => {
      if (broken.includes(folder)) return Promise.reject(ApplicationFailure.nonRetryable('a page differs from its CRC', 'FILE_UNREADABLE'));
      const filesIn = files[folder]!;
      files[folder] = 1;
      compacted.push(folder);
      return Promise.resolve({ status: 'committed', attempts: 1, rows: filesIn * 1_000, filesIn, filesOut: 1, bytesIn: filesIn * 10_000, bytesOut: 9_000, snapshotId: '1' });
    },
  };
  return { activities, compacted };
};

const run = async (activities: CompactionActivities): Promise<CompactionResult> => {
  const { temporal, bundle } = environment;
  const taskQueue = `compaction-${randomUUID().slice(0, 8)}`;
  const worker = await Worker.create({ connection: temporal.nativeConnection, taskQueue, workflowBundle: bundle, activities, debugMode: true });
  return worker.runUntil(() => temporal.client.workflow.execute(compactionWorkflowType, { workflowId: compactionWorkflowId(taskQueue), taskQueue, args: [{ table: taskQueue }] }));
};

test('goes on until nothing is due, also past what one plan has room for', async () => {
  const { activities, compacted } = fakeTable({ a: 5, b: 3, c: 1, d: 4, e: 2 });
  expect(await run(activities)).toMatchObject({ groups: 4, filesIn: 14, filesOut: 4, rows: 14_000, bytesIn: 140_000, failed: [], heldBack: { 'too few': 3 } });
  expect(compacted).toEqual(['a', 'b', 'd', 'e']);
});

test('a group that cannot be compacted stops no other, and the Workflow fails and names it', async () => {
  const { activities, compacted } = fakeTable({ a: 5, b: 3, d: 4 }, ['a']);
  const failure = await run(activities).catch((error: unknown) => (error as Error).cause);
  expect(failure).toMatchObject({ type: 'COMPACTION_INCOMPLETE', message: expect.stringContaining('a page differs from its CRC') as string, details: [{ groups: 2, failed: [{ folder: 'a', group: '' }] }] });
  expect(compacted).toEqual(['b', 'd']);
});
