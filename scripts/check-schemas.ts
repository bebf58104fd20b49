#!/usr/bin/env node
import '../src/config/require-node.ts';
import { readFile } from 'node:fs/promises';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { backwardProblems } from '../src/schema-registry/compatibility.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { command, exitFailed, exitOk, runCommand, table } from './cli.ts';
import { loadPipeline } from './wire/pipeline.ts';

interface Options { file?: string; subject?: string; json?: boolean }

interface CheckedSchema {
  subject: string;
  /** Latest first; empty: the subject is new. */
  versions: { version: number; schemaId: number; problems: string[] }[];
  /** Whether the latest version's records can be read. */
  ok: boolean;
}

const program = command('check-schemas', 'Check the Avro schemas of the pipeline against those that are registered: each must read what the latest version wrote (BACKWARD).\nOlder versions are looked at too: Bronze holds their records, and a backfill reads them.')
  .option('--file <path>', 'Check this .avsc file in place of the pipeline\'s schemas; wants --subject')
  .option('--subject <name>', 'The registry\'s subject of --file')
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\nExit code: 0, 1 if the latest version's records could not be read, 2 for a bad command line.\n\n${environmentHelp()}`);

const parsed = (what: string, text: string): unknown => {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new TidemarkError('BAD_INPUT', `${what}: expected an Avro schema as JSON, found ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
};

await runCommand<Options>(program, async ({ file, subject: named, json }) => {
  if ((file === undefined) !== (named === undefined)) throw new TidemarkError('BAD_INPUT', '--file and --subject: expected both or none, found one');
  const config = loadConfig();
  const wanted: { subject: string; schema: unknown }[] = [];
  if (file !== undefined && named !== undefined) {
    const text = await readFile(file, 'utf8').catch((error: unknown) => { throw new TidemarkError('BAD_INPUT', `--file: expected a readable file, found ${error instanceof Error ? error.message : String(error)}`, { cause: error }); });
    wanted.push({ subject: named, schema: parsed(file, text) });
  } else {
    for (const { subject, rawSchema } of (await loadPipeline(config)).datasets) wanted.push({ subject: `${config.kafka.topicPrefix}${subject}`, schema: rawSchema });
  }
  const registry = createRegistryClient({ url: config.schemaRegistry.url });
  const checked: CheckedSchema[] = [];
  for (const { subject, schema } of wanted) {
    const versions: CheckedSchema['versions'] = [];
    for (const version of (await registry.versions(subject)).toReversed()) {
      const registered = await registry.version(subject, version);
      versions.push({ version, schemaId: registered.id, problems: backwardProblems(schema, parsed(`subject ${subject}, version ${version}`, registered.schema)) });
    }
    checked.push({ subject, versions, ok: (versions[0]?.problems.length ?? 0) === 0 });
  }
  const ok = checked.every((one) => one.ok);
  if (json) {
    process.stdout.write(`${JSON.stringify({ ok, checked })}\n`);
  } else {
    process.stdout.write(`${table(['subject', 'versions', 'latest', 'reads the latest'], checked.map(({ subject, versions, ok: reads }) => [
      subject, versions.length, versions[0] === undefined ? 'none: it is new' : `${versions[0].version} (schema id ${versions[0].schemaId})`, reads ? 'yes' : 'NO',
    ]))}\n`);
    for (const { subject, versions } of checked) {
      for (const [i, { version, problems }] of versions.entries()) {
        for (const problem of problems) process.stdout.write(`${i === 0 ? 'INCOMPATIBLE' : 'older version'} ${subject}, version ${version}: ${problem}\n`);
      }
    }
  }
  return ok ? exitOk : exitFailed;
});
