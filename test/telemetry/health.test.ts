import { expect, onTestFinished, test } from 'vitest';
import { startTelemetry } from '../../scripts/wire/telemetry.ts';

const start = async () => {
  const telemetry = await startTelemetry({ metrics: { port: 0, host: '127.0.0.1', tablesEveryMs: 60_000 }, traces: { endpoint: null }, logLevel: 'silent' }, 'test');
  onTestFinished(() => telemetry.close());
  const ask = async (path: string): Promise<{ status: number; body: string }> => {
    const answer = await fetch(`${telemetry.http!.url}${path}`);
    return { status: answer.status, body: await answer.text() };
  };
  return { telemetry, ask };
};

test('a process is alive before it is ready, ready once it can work, and says why it no longer is', async () => {
  const { telemetry, ask } = await start();
  expect(await ask('/healthz')).toEqual({ status: 200, body: 'ok\n' });
  expect(await ask('/readyz')).toMatchObject({ status: 503, body: expect.stringContaining('starting') as string });
  let waiting = 0;
  telemetry.setReadiness(() => ({ ready: waiting === 0, waiting }));
  expect((await ask('/readyz')).status).toBe(200);
  waiting = 2;
  expect(await ask('/readyz')).toMatchObject({ status: 503, body: expect.stringContaining('"waiting":2') as string });
  expect((await ask('/healthz')).status).toBe(200);
});

test('the metrics are there though another exporter does not answer, and runbooks are served by name alone', async () => {
  const { telemetry, ask } = await start();
  telemetry.addExposition(() => Promise.reject(new Error('no answer')));
  telemetry.addExposition(() => Promise.resolve('temporal_requests_total 3\n'));
  const { status, body } = await ask('/metrics');
  expect(status).toBe(200);
  expect(body).toContain('process_resident_memory_bytes');
  expect(body).toContain('temporal_requests_total 3');
  expect((await ask('/docs/runbooks/IngestGap.md')).body).toContain('## What to do');
  for (const path of ['/docs/runbooks/Nothing.md', '/docs/runbooks/..%2f..%2fpackage.json', '/docs/runbooks/../../package.json']) expect((await ask(path)).status).toBe(404);
});
