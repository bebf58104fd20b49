import { readFile, readdir } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { DefaultLogger, Runtime, Worker, bundleWorkflowCode } from '@temporalio/worker';
import type { WorkflowBundleWithSourceMap } from '@temporalio/worker';
import { beforeAll, expect, test } from 'vitest';
import { historyFromJson } from '../../scripts/wire/history-json.ts';
import type { HistoryJson } from '../../scripts/wire/history-json.ts';
import { loadWorkflowBundle } from '../../scripts/wire/workflow-bundle.ts';
import * as workflows from '../../workflows/index.ts';

interface Recorded {
  name: string;
  workflowId: string;
  history: HistoryJson;
}

const folder = fileURLToPath(new URL('../histories', import.meta.url));
let recorded: Recorded[];

beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger('ERROR', () => {}), shutdownSignals: [] });
  const names = (await readdir(folder)).filter((name) => name.endsWith('.json'));
  recorded = await Promise.all(names.map(async (name) => ({ name, ...JSON.parse(await readFile(`${folder}/${name}`, 'utf8')) as Omit<Recorded, 'name'> })));
});

const startedOf = ({ history }: Recorded) => history.events[0]!['workflowExecutionStartedEventAttributes'] as { workflowType: { name: string } };
const endOf = ({ history }: Recorded): unknown => history.events.at(-1)!['eventType'];
const typeOf = (one: Recorded): string => startedOf(one).workflowType.name;

const replay = async (workflowBundle: { code: string } | WorkflowBundleWithSourceMap, histories: readonly Recorded[]): Promise<Map<string, Error | undefined>> => {
  const outcome = new Map<string, Error | undefined>();
  const results = Worker.runReplayHistories({ workflowBundle }, histories.map(({ workflowId, history, name }) => ({ workflowId: `${name} ${workflowId}`, history: historyFromJson(history) })));
  for await (const { workflowId, error } of results) outcome.set(workflowId.split(' ')[0]!, error);
  return outcome;
};

test('every Workflow Type has a recorded history; among them are runs that continued as new, that failed, and that were carried over', () => {
  expect(new Set(recorded.map(typeOf))).toEqual(new Set(Object.keys(workflows)));
  const ends = recorded.map((one) => String(endOf(one)));
  const closed = 'EVENT_TYPE_WORKFLOW_EXECUTION_';
  expect(ends).toEqual(expect.arrayContaining(['CONTINUED_AS_NEW', 'FAILED', 'COMPLETED'].map((end) => closed + end)));
  // One that was still running.
  expect(ends.some((end) => !end.startsWith(closed))).toBe(true);
  expect(recorded.some(({ history }) => JSON.stringify(history.events[0]).includes('continuedExecutionRunId'))).toBe(true);
});

test('today\'s Workflows replay every recorded history: a change that breaks running ones fails here before it ships', async () => {
  const outcome = await replay(await loadWorkflowBundle(), recorded);
  expect(Object.fromEntries([...outcome].map(([name, error]) => [name, error?.message]))).toEqual(Object.fromEntries(recorded.map(({ name }) => [name, undefined])));
}, 180_000);

test('a Workflow that began without traces goes on where they are turned on: every recorded history replays with the interceptors', async () => {
  const bundle = await loadWorkflowBundle({ traced: true });
  expect(bundle.code).toContain('interceptors-opentelemetry');
  const outcome = await replay(bundle, recorded);
  expect(Object.fromEntries([...outcome].map(([name, error]) => [name, error?.message]))).toEqual(Object.fromEntries(recorded.map(({ name }) => [name, undefined])));
}, 240_000);

test('a Workflow whose commands come in another order fails the replay', async () => {
  const bundle = await bundleWorkflowCode({
    workflowsPath: fileURLToPath(new URL('fixtures/reordered-workflows.ts', import.meta.url)),
    logger: new DefaultLogger('ERROR', () => {}),
  });
  const completed = recorded.filter((one) => typeOf(one) === 'microBatchWorkflow' && endOf(one) === 'EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED');
  const outcome = await replay(bundle, completed);
  expect(completed.length).toBeGreaterThan(0);
  for (const [name, error] of outcome) expect(error?.name, name).toBe('DeterminismViolationError');
}, 180_000);
