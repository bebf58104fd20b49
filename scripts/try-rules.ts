#!/usr/bin/env node
import '../src/config/require-node.ts';
import { InvalidArgumentError } from 'commander';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { tryRules } from '../src/dlq/try-rules.ts';
import type { TriedRules } from '../src/dlq/try-rules.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { DecoderCache } from '../src/refine/decoders.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { createSchemaStore } from '../src/schema-registry/schema-store.ts';
import { utcMs } from '../src/domain/utc-time.ts';
import { ProgressLine, command, exitFailed, exitOk, runCommand, stopSignal, table, thousands, wholeNumber } from './cli.ts';
import { openLakeReadOnly } from './wire/lake.ts';
import { loadPipeline } from './wire/pipeline.ts';

interface Options { source?: string[]; sample: number; from?: bigint; until?: bigint; failAbove?: number; json?: boolean }

const micros = (text: string): bigint => {
  const ms = utcMs(text);
  if (ms === undefined) throw new InvalidArgumentError('Expected a date or time as ISO 8601 has it.');
  return BigInt(ms) * 1_000n;
};
const percent = (text: string): number => {
  const value = Number(text);
  if (!(value >= 0 && value <= 100)) throw new InvalidArgumentError('Expected a percentage.');
  return value;
};

const program = command('try-rules', 'A canary for rules: refine a sample of the lake\'s Bronze with the mapping and the rules of this working tree, and print which records would get another verdict. Writes nothing.')
  .option('--source <name>', 'Only this source; repeatable', (name: string, names: string[] = []) => [...names, name])
  .option('--sample <rows>', 'About so many records of each source, spread over its files', wholeNumber(1), 20_000)
  .option('--from <time>', 'Kafka timestamp from here on, ISO 8601, UTC without a zone', micros)
  .option('--until <time>', 'Kafka timestamp below this', micros)
  .option('--fail-above <percent>', 'Exit 1 if more of the valid records than this would be refused', percent)
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\n${environmentHelp()}`);

const printed = ({ source, ruleVersion, rows, valid, changes, newlyRefusedPercent }: TriedRules): string => [
  `${source}, ${ruleVersion}: ${thousands(rows)} records tried, ${thousands(valid.before)} were valid, ${thousands(valid.after)} would be${newlyRefusedPercent === null ? '' : `; ${newlyRefusedPercent.toFixed(3)} % of the valid ones would be refused`}`,
  ...(changes.length === 0 ? ['no verdict would change'] : [table(['was', 'would be', 'records', 'for example'], changes.map(({ before, after, rows: count, examples }) => [before, after, count, examples[0] ?? '']))]),
  '',
].join('\n');

await runCommand<Options>(program, async ({ source: names, sample, from, until, failAbove, json }) => {
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  for (const name of names ?? []) {
    if (!pipeline.datasets.some(({ source }) => source === name)) throw new TidemarkError('BAD_INPUT', `--source: expected one of ${pipeline.datasets.map(({ source }) => source).join(', ')}, found ${name}`);
  }
  const signal = stopSignal();
  const { store, catalog } = openLakeReadOnly(config, pipeline);
  const progress = new ProgressLine();
  try {
    const schemas = createSchemaStore({ store, registry: createRegistryClient({ url: config.schemaRegistry.url }) });
    const tried: TriedRules[] = [];
    for (const dataset of pipeline.datasets.filter(({ source }) => names?.includes(source) ?? true)) {
      tried.push(await tryRules({
        store, catalog, pipeline, decoders: new DecoderCache(dataset, schemas), signal, onProgress: ({ rows }) => progress.show(`${dataset.source}: ${thousands(rows)} records`),
      }, dataset, { sample, ...(from === undefined ? {} : { from }), ...(until === undefined ? {} : { until }) }));
    }
    process.stdout.write(`${json ? JSON.stringify({ tried }) : tried.map(printed).join('\n').trimEnd()}\n`);
    return failAbove !== undefined && tried.some(({ newlyRefusedPercent }) => (newlyRefusedPercent ?? 0) > failAbove) ? exitFailed : exitOk;
  } finally {
    store.close();
  }
});
