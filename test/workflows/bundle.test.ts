import vm from 'node:vm';
import { expect, test } from 'vitest';
import { bundleWorkflowCode } from '@temporalio/worker';
import { slim, workflowsPath } from '../../scripts/wire/workflow-bundle.ts';

test('the Workflows bundle for the Temporal sandbox, without a Node module or a room that does I/O', async () => {
  const messages: string[] = [];
  const note = (message: string): void => void messages.push(message);
  const { code } = await bundleWorkflowCode({
    workflowsPath, logger: { log: () => {}, trace: () => {}, debug: () => {}, info: () => {}, warn: note, error: note },
  });
  expect(messages).toEqual([]);
  for (const name of ['streamWorkflow', 'microBatchWorkflow']) expect(code).toContain(name);
  for (const room of ['lake', 'kafka', 'refine', 'streaming', 'config', 'telemetry', 'stack', 'capture']) expect(code).not.toContain(`/src/${room}/`);
}, 180_000);

test('a slim bundle does what the bundle does, is ASCII, and still says which source a line comes from', () => {
  const map = { version: 3, file: 'bundle.js', sources: ['workflows/stream.ts'], sourcesContent: ['const a = 1;'], names: ['a'], mappings: 'AAAA' };
  const script = '// A → B\nconst naïve = "… 🌊";\n[naïve, `é ${naïve}`, /[→…]/.test("…"), /^.$/u.test("🌊")];\n';
  const code = `${script}//# sourceMappingURL=data:application/json;charset=utf-8;base64,${Buffer.from(JSON.stringify(map)).toString('base64')}`;
  const made = slim(code);
  expect(made).toMatch(/^[\0-\x7f]*$/);
  expect(vm.runInNewContext(made)).toEqual(vm.runInNewContext(code));
  const { sourcesContent: _, ...kept } = map;
  expect(JSON.parse(Buffer.from(made.slice(made.lastIndexOf('base64,') + 7), 'base64').toString())).toEqual(kept);
});
