#!/usr/bin/env node
import '../src/config/require-node.ts';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { dayMs } from '../src/domain/retention.ts';
import { retainedTable } from '../src/retention/policies.ts';
import { dayText } from '../src/retention/plan-sweep.ts';
import { restoreArchive } from '../src/retention/restore.ts';
import { ProgressLine, command, exitFailed, exitOk, fileSize, runCommand, stopSignal, table, thousands, wholeNumber } from './cli.ts';
import { parseRanges } from './wire/audit.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';
import { loadRetainedTables, openArchive } from './wire/retention.ts';

interface Options {
  table: string;
  manifest?: string[];
  range?: string[];
  all?: boolean;
  keepDays: number;
  list?: boolean;
  dryRun?: boolean;
  json?: boolean;
}

const collect = (value: string, values: string[] = []): string[] => [...values, value];

const program = command('restore-archive', 'Put archived rows back into their table: the very files, checked by their SHA-256, each in the table once however often this runs.')
  .requiredOption('--table <name>', 'The table that the rows were taken from')
  .option('--range <offsets>', 'Files that hold any of these offsets: <topic>/<partition>:<start>-<end>[,...], or <start>-<end>[,...] of every topic partition; repeatable', collect)
  .option('--manifest <id>', 'The files of this manifest; repeatable', collect)
  .option('--all', 'Everything that the archive holds of the table')
  .option('--keep-days <n>', 'Days for which no sweep takes the rows again', wholeNumber(1, 3_650), 7)
  .option('--list', 'Print the manifests of the table; change nothing')
  .option('--dry-run', 'Print what would be restored; change nothing')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\nExit code: 0 when everything asked for is in the table, 1 if a part of it is purged for ever, 2 for a bad command line.\n\n${environmentHelp()}`);

await runCommand<Options>(program, async ({ table: name, manifest: manifestIds, range, all, keepDays, list, dryRun, json }) => {
  if (!list && [manifestIds, range, all].filter((one) => one !== undefined).length !== 1) {
    throw new TidemarkError('BAD_INPUT', 'expected one of --range, --manifest and --all (or --list)');
  }
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  const retained = retainedTable(loadRetainedTables(config, pipeline), name);
  const signal = stopSignal();
  const lake = openLakeReadOnly(config, pipeline);
  const { archive, store } = openArchive(config, lake, pipeline);
  const progress = new ProgressLine();
  try {
    const manifests = (await archive.list(name)).map(({ manifest }) => manifest);
    if (list) {
      const shown = manifests.map(({ manifestId, state, firstDay, lastDay, files, rows, bytes, offsets }) => ({ manifestId, state, firstDay: dayText(firstDay), lastDay: dayText(lastDay), files: files.length, rows, bytes, offsets }));
      process.stdout.write(json ? `${JSON.stringify({ table: name, manifests: shown })}\n`
        : shown.length === 0 ? `${name}: nothing is archived\n` : `${table(['manifest', 'state', 'oldest day', 'youngest day', 'files', 'rows', 'size'], shown.map((one) => [one.manifestId, one.state, one.firstDay, one.lastDay, one.files, one.rows, fileSize(one.bytes)]))}\n`);
      return exitOk;
    }
    const unknown = manifestIds?.find((id) => !manifests.some(({ manifestId }) => manifestId === id));
    if (unknown !== undefined) throw new TidemarkError('BAD_INPUT', `--manifest: expected one of ${manifests.length} of ${name} (see --list), found ${unknown}`);
    const offsets = range && await parseRanges(range, lake.catalog, pipeline, retained.sources);
    const restored = await restoreArchive({ ...lake, archive, pipeline, signal }, retained, {
      ...(offsets ? { offsets } : {}), ...(manifestIds ? { manifestIds } : {}), untilMs: Date.now() + keepDays * dayMs, dryRun: dryRun ?? false,
      onProgress: ({ manifestId, files, bytes }) => progress.show(`Restoring ${manifestId}: ${thousands(files)} files, ${fileSize(bytes)}`),
    });
    if (json) process.stdout.write(`${JSON.stringify({ ...restored, table: name, dryRun: dryRun ?? false, purged: restored.purged.toJson() })}\n`);
    else {
      process.stdout.write(`${name}: ${dryRun ? 'would restore' : 'restored'} ${thousands(restored.rows)} rows in ${thousands(restored.files)} files (${fileSize(restored.bytes)}) of ${restored.manifests.length} manifests`
        + `${restored.alreadyThereFiles > 0 ? `; ${thousands(restored.alreadyThereFiles)} files are in the table already` : ''}\n`);
      for (const [key, set] of restored.purged.entries()) process.stdout.write(`PURGED for ever: ${key} [${set.toString()}]\n`);
    }
    return restored.purged.isEmpty ? exitOk : exitFailed;
  } finally {
    store.close();
    lake.store.close();
  }
});
