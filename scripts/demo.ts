#!/usr/bin/env node
import '../src/config/require-node.ts';
import { spawn } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TidemarkError } from '../src/domain/errors.ts';
import { cacheFolder } from '../src/stack/index.ts';
import { command, exitFailed, exitOk, exitUsage, runCommand, stopSignal, untilStopped, wholeNumber } from './cli.ts';
import { runDemo } from './wire/demo-run.ts';
import type { DemoOptions } from './wire/demo-run.ts';

interface Options {
  input?: string[];
  live?: boolean;
  trades: number;
  rate?: number;
  seed: number;
  keep?: boolean;
  stop?: boolean;
  json?: boolean;
  /** Internal: this process is the keeper that a `--keep` run leaves behind. */
  keeper?: boolean;
}

const program = command('demo', 'The main job on this machine: starts the servers, an exchange simulator, capture, a streaming worker and a Temporal Worker, lets trades flow into Gold, and proves that none was lost and none is there twice.')
  .option('--input <file>', 'Capture file in place of the simulator; repeatable', (file: string, files: string[] = []) => [...files, file])
  .option('--live', 'The real exchanges in place of the simulator; needs internet. Ends after --trades or Ctrl-C')
  .option('--trades <n>', 'Trades that the simulator makes', wholeNumber(1), 200_000)
  .option('--rate <n>', 'Most trades a second (default: as fast as it goes)', wholeNumber(1))
  .option('--seed <n>', 'Seed of the simulator', wholeNumber(0), 1)
  .option('--keep', 'Leave everything running afterwards')
  .option('--stop', 'Stop what a run with --keep left running')
  .option('--json', 'Print one JSON object as the last line of stdout, and the table on stderr')
  .addHelpText('after', '\nExit code: 0 if the conservation law held offset by offset and key by key, 1 if not, 2 for a bad command line.');
program.addOption(program.createOption('--keeper').hideHelp());

/** Where a kept run is remembered. */
const keptFile = (): string => join(cacheFolder(process.env), 'demo-kept.json');

const readKept = async (): Promise<{ pid: number } | null> => {
  try {
    const kept = JSON.parse(await readFile(keptFile(), 'utf8')) as { pid: number };
    process.kill(kept.pid, 0);
    return kept;
  } catch {
    return null;
  }
};

const stopKept = async (): Promise<number> => {
  const kept = await readKept();
  if (kept === null) {
    process.stdout.write('Nothing to stop: no demo was left running.\n');
    return exitOk;
  }
  process.kill(kept.pid, 'SIGTERM');
  for (;;) {
    try {
      process.kill(kept.pid, 0);
    } catch {
      break;
    }
    await new Promise((wake) => setTimeout(wake, 100));
  }
  await rm(keptFile(), { force: true });
  process.stdout.write('Stopped.\n');
  return exitOk;
};

/** Runs the demo in a process of its own that outlives this one, and passes its output on until it is done. */
const runAndKeep = async (): Promise<number> => {
  if (await readKept() !== null) {
    process.stderr.write('demo: a demo is running already; stop it with: npm run demo -- --stop\n');
    return exitUsage;
  }
  const keeper = spawn(process.execPath, [fileURLToPath(import.meta.url), ...process.argv.slice(2), '--keeper'], {
    detached: true, stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  keeper.stdout!.pipe(process.stdout, { end: false });
  keeper.stderr!.pipe(process.stderr, { end: false });
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, () => keeper.kill(name));
  const done = await new Promise<{ code: number; running: boolean }>((settle) => {
    keeper.once('message', (message) => settle({ code: (message as { code: number }).code, running: true }));
    keeper.once('close', (code) => settle({ code: code ?? exitFailed, running: false }));
  });
  if (done.running) {
    await mkdir(cacheFolder(process.env), { recursive: true });
    await writeFile(keptFile(), JSON.stringify({ pid: keeper.pid }));
    // What the keeper wrote before its message may still be in the pipes.
    await new Promise((wake) => setImmediate(wake));
    keeper.disconnect();
    keeper.stdout!.destroy();
    keeper.stderr!.destroy();
    keeper.unref();
  }
  return done.code;
};

await runCommand<Options>(program, async (options) => {
  if (options.stop) return stopKept();
  if (options.live && options.input) throw new TidemarkError('BAD_INPUT', '--live and --input: expected one of them, found both');
  if (options.keep && !options.keeper) return runAndKeep();
  const signal = stopSignal();
  const folder = await mkDemoFolder();
  const demo: DemoOptions = {
    source: options.live ? { kind: 'live' } : options.input ? { kind: 'files', files: options.input.map((file) => resolve(file)) } : { kind: 'simulator', seed: options.seed },
    trades: options.trades,
    rate: options.rate,
    keep: options.keep === true,
    json: options.json === true,
    folder,
    signal,
  };
  let code = exitFailed;
  await runDemo(demo, async (result) => {
    code = result;
    if (!options.keeper) return;
    // The starter leaves now; what is printed after this has no reader.
    for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
    process.send?.({ code: result });
    await untilStopped(signal);
  });
  if (options.keeper) await rm(keptFile(), { force: true });
  // Logs matter when something went wrong; unreadable frames are kept for whoever fed real ones in.
  if (code === exitOk && !options.keep && demo.source.kind === 'simulator') await rm(folder, { recursive: true, force: true });
  return code;
});

async function mkDemoFolder(): Promise<string> {
  const folder = join(tmpdir(), `tidemark-demo-${process.pid}`);
  await mkdir(folder, { recursive: true });
  return folder;
}
