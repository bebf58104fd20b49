import { expect, test } from 'vitest';
import { bundleWorkflowCode } from '@temporalio/worker';
import { workflowsPath } from '../../scripts/wire/workflow-bundle.ts';

test('the Workflows bundle for the Temporal sandbox, without a Node module or a room that does I/O', async () => {
  const messages: string[] = [];
  const note = (message: string): void => void messages.push(message);
  const { code } = await bundleWorkflowCode({
    workflowsPath, logger: { log: () => {}, trace: () => {}, debug: () => {}, info: () => {}, warn: note, error: note },
  });
  expect(messages).toEqual([]);
  for (const name of ['streamWorkflow', 'microBatchWorkflow']) expect(code).toContain(name);
  for (const room of ['lake', 'kafka', 'refine', 'streaming', 'config', 'telemetry', 'stack', 'capture']) expect(code).not.toContain(`/src/${room}/`);
}, 60_000);
