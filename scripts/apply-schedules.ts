#!/usr/bin/env node
import '../src/config/require-node.ts';
import { Client } from '@temporalio/client';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { command, exitOk, runCommand, table } from './cli.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { loadRetainedTables } from './wire/retention.ts';
import { applySchedules, findSchedules, nextRunOf, scheduleDifferences, scheduleOwner, wantedSchedules } from './wire/schedules.ts';
import { connectTemporal } from './wire/temporal.ts';

const program = command('apply-schedules', 'Make the Temporal Schedules those of the config: retention sweeps, audit, compactions. Shows the difference; done again it changes nothing.\nWhat is paused in the Web UI stays paused.')
  .option('--dry-run', 'Show the difference; change nothing')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\n${environmentHelp()}`);

await runCommand<{ dryRun?: boolean; json?: boolean }>(program, async ({ dryRun, json }) => {
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  loadRetainedTables(config, pipeline);
  const connection = await connectTemporal(config);
  try {
    const temporal = new Client({ connection, namespace: config.temporal.namespace });
    const owner = scheduleOwner(config, pipeline);
    const wanted = wantedSchedules(config, pipeline);
    const differences = scheduleDifferences(wanted, await findSchedules(temporal, owner, wanted));
    if (!dryRun) {
      await applySchedules(temporal, owner, wanted, differences);
      // When each runs next is known to the server now, also of the new ones.
      const applied = await findSchedules(temporal, owner, wanted);
      for (const difference of differences) difference.nextRunAt = nextRunOf(applied.find(({ scheduleId }) => scheduleId === difference.scheduleId));
    }
    const changed = differences.filter(({ action }) => action !== 'none').length;
    if (json) {
      process.stdout.write(`${JSON.stringify({ dryRun: dryRun ?? false, changed, schedules: differences })}\n`);
      return exitOk;
    }
    const words = { create: 'created', update: 'updated', delete: 'deleted', none: 'as wanted' };
    process.stdout.write(`${table(['Schedule', dryRun ? 'would be' : 'is', 'difference', 'next run'], differences.map(({ scheduleId, action, changes, paused, nextRunAt }) => [
      scheduleId, words[action], [...changes, ...(paused ? ['paused'] : [])].join('; ') || '–', nextRunAt ?? '–',
    ]))}\n${changed} of ${differences.length} Schedules ${dryRun ? 'would change' : 'changed'}${config.temporal.uiUrl ? `; Web UI ${config.temporal.uiUrl}/namespaces/${config.temporal.namespace}/schedules` : ''}\n`);
    return exitOk;
  } finally {
    await connection.close();
  }
});
