#!/usr/bin/env node
import '../src/config/require-node.ts';
import './wire/as-service.ts';
import { activityFields } from '../activities/edge.ts';
import { collectGarbage } from '../src/config/collect-garbage.ts';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { command, exitFailed, exitOk, runCommand, stopSignal } from './cli.ts';
import { startTelemetry } from './wire/telemetry.ts';
import { startTemporalWorker } from './wire/temporal-worker.ts';

const program = command('run-temporal-worker', 'Run a Temporal Worker: the Workflows of every stream, and the activities that refine, publish and merge')
  .option('--json', 'Print one JSON object when it is ready, and one when it has stopped')
  .addHelpText('after', `\n${environmentHelp()}`);

await runCommand<{ json?: boolean }>(program, async ({ json }) => {
  const config = loadConfig();
  const stop = stopSignal();
  const telemetry = await startTelemetry(config, 'temporal-worker', activityFields);
  const { log } = telemetry;
  const worker = await startTemporalWorker(config, log, telemetry);
  // Half of the heap is what loading the modules left behind, and so early V8 would let it stay.
  collectGarbage();
  const { taskQueue, namespace, uiUrl } = config.temporal;
  if (json) process.stdout.write(`${JSON.stringify({ event: 'ready', pid: process.pid, taskQueue, namespace, http: telemetry.http?.url ?? null })}\n`);
  else process.stdout.write(`Temporal Worker ready: task queue ${taskQueue}, namespace ${namespace}${uiUrl ? `, Web UI ${uiUrl}` : ''}${telemetry.http ? `, page ${telemetry.http.url}, metrics ${telemetry.http.url}/metrics` : ''}. Ctrl-C stops it.\n`);
  stop.addEventListener('abort', () => void worker.stop().catch(() => {}), { once: true });
  let code = exitOk;
  try {
    await worker.done;
  } catch (error) {
    log.error({ err: error }, 'the Temporal Worker failed');
    code = exitFailed;
  }
  await telemetry.close();
  if (json) process.stdout.write(`${JSON.stringify({ event: 'stopped', maxRssBytes: process.resourceUsage().maxRSS * 1024 })}\n`);
  return code;
});
