#!/usr/bin/env node
import '../src/config/require-node.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { startStack } from '../src/stack/index.ts';
import { runCommitZombies } from '../test/support/commit-zombies.ts';
import { faultKinds, killKinds, killsOf, runFaults } from '../test/support/fault-run.ts';
import type { FaultKind, FaultRunResult, KillKind } from '../test/support/fault-run.ts';
import { command, exitFailed, exitOk, runCommand, stopSignal, table, wholeNumber } from './cli.ts';

interface Options {
  seed?: number;
  runs: number;
  kills: number;
  rate: number;
  zombies: number;
  sleepSecondsMax: number;
  only?: string[];
  json?: boolean;
  verbose?: boolean;
}

const kinds: readonly string[] = [...killKinds, ...faultKinds];

const program = command('test:faults', 'The pipeline on real servers of its own while its processes are killed and its servers fail, by a seeded schedule; each run ends with an audit that must find nothing lost and nothing twice.')
  .option('--seed <n>', 'Seed of the first run; the next ones follow it (default: by the clock)', wholeNumber(1))
  .option('--runs <n>', 'Runs, each a pipeline of its own', wholeNumber(0), 4)
  .option('--kills <n>', 'Kills of each run; with --only faults that kill nothing: faults of each run', wholeNumber(1), 25)
  .option('--rate <n>', 'Trades a second of each exchange', wholeNumber(1), 400)
  .option('--sleep-seconds-max <n>', 'Longest sleep of a streaming worker, from 2 s on', wholeNumber(2), 8)
  .option('--zombies <n>', 'Afterwards: times that one of two processes is put to sleep inside a table commit while old versions are deleted', wholeNumber(0), 0)
  .option('--only <fault>', 'Kind of fault to inject; repeatable (default: all)', (kind: string, all: string[] = []) => [...all, kind])
  .option('--verbose', 'Print each fault as it strikes')
  .option('--json', 'Print one JSON object as the last line of stdout, and the table on stderr')
  .addHelpText('after', `\nFaults:\n  ${kinds.join('\n  ')}\n\nExit code: 0 if every audit was clean, 1 if not, 2 for a bad command line.`);

const rowsOf = (result: FaultRunResult): (string | number)[] => [
  result.seed, killsOf(result), Object.values(result.faults).reduce((sum, count) => sum + count, 0), Object.values(result.struck).reduce((sum, count) => sum + count, 0),
  result.records, result.goldRows, result.lost, result.twice, Math.round(result.healSeconds), Math.round(result.seconds), result.ok ? 'ok' : 'BROKEN',
];

const summed = (results: readonly FaultRunResult[], of: 'kills' | 'faults' | 'struck'): [string, number][] => {
  const sum = new Map<string, number>();
  for (const result of results) for (const [name, count] of Object.entries(result[of])) sum.set(name, (sum.get(name) ?? 0) + count);
  return [...sum].sort(([a], [b]) => (a < b ? -1 : 1));
};

await runCommand<Options>(program, async ({ seed = Date.now() % 1_000_000, runs, kills, rate, zombies, sleepSecondsMax, only, json, verbose }) => {
  const unknown = only?.find((kind) => !kinds.includes(kind));
  if (unknown !== undefined) throw new TidemarkError('BAD_INPUT', `--only: expected one of ${kinds.join(', ')}, found ${unknown}`);
  const signal = stopSignal();
  const progress = (line: string): void => void process.stderr.write(`${line}\n`);
  const results: FaultRunResult[] = [];
  let commits: Awaited<ReturnType<typeof runCommitZombies>> | null = null;
  const stack = await startStack({ signal, onProgress: ({ server, step, message }) => progress(`[stack] ${server} ${step}: ${message}`) });
  try {
    for (let run = 0; run < runs && !signal.aborted; run += 1) {
      progress(`run ${run + 1} of ${runs}: seed ${seed + run}`);
      const result = await runFaults({
        endpoints: stack.endpoints, servers: stack.servers, seed: seed + run, kills, rate, sleepMsMax: sleepSecondsMax * 1_000, signal,
        ...(only ? { only: only as (KillKind | FaultKind)[] } : {}),
        ...(verbose ? { onProgress: progress } : {}),
      });
      results.push(result);
      progress(`  ${killsOf(result)} kills, ${result.records} records, ${result.lost} lost, ${result.twice} twice, ${result.seconds.toFixed(0)} s: ${result.ok ? 'ok' : 'BROKEN'}`);
      if (!result.ok) {
        for (const problem of result.problems) progress(`  ${problem}`);
        progress(`  logs: ${result.logs}`);
        progress(`  again: npm run test:faults -- --seed ${result.seed} --runs 1 --kills ${kills} --rate ${rate}${sleepSecondsMax === 8 ? '' : ` --sleep-seconds-max ${sleepSecondsMax}`}${(only ?? []).map((kind) => ` --only ${kind}`).join('')} --verbose`);
      }
    }
    if (zombies > 0 && !signal.aborted) {
      progress(`${zombies} sleeps inside a table commit: seed ${seed}`);
      commits = await runCommitZombies({ s3: stack.endpoints.s3, seed, sleeps: zombies, signal, ...(verbose ? { onProgress: progress } : {}) });
      for (const problem of commits.problems) progress(`  ${problem}`);
      if (!commits.ok) progress(`  again: npm run test:faults -- --seed ${seed} --runs 0 --zombies ${zombies}`);
    }
  } finally {
    await stack.stop();
  }
  const ok = results.length === runs && results.every((result) => result.ok) && (zombies === 0 || commits?.ok === true);
  const people = json ? process.stderr : process.stdout;
  if (results.length > 0) people.write(`\n${table(['seed', 'kills', 'faults', 'requests struck', 'records', 'Gold rows', 'lost', 'twice', 'healed in s', 's', ''], results.map(rowsOf))}\n`);
  for (const [title, of] of [['killed', 'kills'], ['faults', 'faults'], ['requests struck', 'struck']] as const) {
    const rows = summed(results, of);
    if (rows.length > 0) people.write(`\n${table([title, 'times'], rows)}\n`);
  }
  const sum = (of: (result: FaultRunResult) => number): number => results.reduce((total, result) => total + of(result), 0);
  if (commits) {
    people.write(`\n${table(['slept inside a table commit', 'times'], Object.entries(commits.sleeps).sort(([a], [b]) => (a < b ? -1 : 1)))}\n`);
    people.write(`${commits.commits} commits, up to ${commits.versionsSleptMax} versions slept through: ${commits.lost} lost, ${commits.twice} twice, ${commits.seconds.toFixed(0)} s.\n`);
  }
  if (results.length > 0) people.write(`\n${sum(killsOf)} kills in ${results.length} runs: ${sum(({ lost }) => lost)} lost, ${sum(({ twice }) => twice)} twice.\n`);
  if (!ok) people.write('NOT OK.\n');
  if (json) process.stdout.write(`${JSON.stringify({ ok, kills: sum(killsOf), lost: sum(({ lost }) => lost), twice: sum(({ twice }) => twice), runs: results, commits })}\n`);
  return ok ? exitOk : exitFailed;
});
