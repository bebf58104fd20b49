import { InvalidArgumentError } from 'commander';
import { environmentHelp, loadConfig } from '../../src/config/config.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import { createExplainer } from '../../src/explain/explain-record.ts';
import type { RecordStory, RowPlace, WorkflowReference } from '../../src/explain/explain-record.ts';
import { findMessage } from '../../src/explain/find-message.ts';
import type { RecordPlace } from '../../src/explain/find-message.ts';
import { isMessageId } from '../../src/refine/message-id.ts';
import { ProgressLine, command, exitFailed, exitOk, milliseconds, runCommand, stopSignal, thousands, wholeNumber } from '../cli.ts';
import { openLakeReadOnly } from './lake.ts';
import { loadPipeline } from './pipeline.ts';
import { webUiUrl } from './web-ui.ts';

interface Options {
  where: Record<string, string>;
  hour?: { startMicros: bigint; endMicros: bigint };
  limit: number;
  json?: boolean;
}

const hourMs = 3_600_000;
const equality = (text: string, known: Record<string, string>): Record<string, string> => {
  const at = text.indexOf('=');
  if (at < 1) throw new InvalidArgumentError('Expected <column>=<value>.');
  return { ...known, [text.slice(0, at)]: text.slice(at + 1) };
};
const hourOf = (text: string): Options['hour'] => {
  const startMs = /^\d{4}-\d\d-\d\dT\d\d$/.test(text) ? Date.parse(`${text}:00:00Z`) : Number.NaN;
  if (Number.isNaN(startMs)) throw new InvalidArgumentError('Expected a UTC hour such as 2023-04-05T13.');
  return { startMicros: BigInt(startMs) * 1_000n, endMicros: BigInt(startMs + hourMs) * 1_000n };
};

// The body of scripts/explain.ts.
const program = command('explain', 'The way of one record through the lake: Kafka offset, Bronze file, schema id, rule version, micro-batch, Silver, DLQ or Gold file,\nits duplicates, resolutions, and the backfills and compactions that rewrote it. Reads the lake alone; changes nothing.')
  .argument('<record...>', 'A message_id; the last column of a key (a trade id, BINANCE-123); or a place: <topic>/<partition>/<offset>, as one word or three.\nA source name (binance-trades) stands for its topic')
  .option('--where <column=value>', 'With a key: only rows with this text in another column, e.g. exchange=BINANCE; repeatable', equality, {})
  .option('--hour <UTC hour>', 'With a key: only event times of this hour, e.g. 2023-04-05T13; a lake of any size is searched at once then', hourOf)
  .option('--limit <n>', 'Most records that are explained', wholeNumber(1), 20)
  .option('--json', 'Print one JSON object')
  .addHelpText('after', `\nExit code: 0 if the record was found, 1 if not, 2 for a bad command line.\n\n${environmentHelp()}`);

const writerText = (writer: WorkflowReference | null): string => (writer === null ? '' : `by ${writer.workflowId}${writer.url === null ? '' : `\n             ${writer.url}`}`);
const fileLines = ({ file, rowGroup, row, writer }: RowPlace): string[] => [
  `             ${file}`, `             row group ${rowGroup}, row ${thousands(row)}${writer === null ? '' : `, ${writerText(writer)}`}`,
];

const printed = (story: RecordStory): string => {
  const { bronze } = story;
  const lines = [`${story.topic}/${story.partition}/${story.offset} · ${story.source} · ${story.messageId}`, `  ${story.verdict}`, ''];
  if (bronze.status === 'present') {
    lines.push(
      `  Kafka      ${bronze.kafkaTimestamp}, ${bronze.valueBytes === null ? 'a tombstone' : `${thousands(bronze.valueBytes)} bytes`}${bronze.schemaId === null ? '' : `, schema id ${bronze.schemaId}`}`,
      `  Bronze     ${bronze.ingestedAt}, ${bronze.table}`, ...fileLines(bronze),
    );
  } else if (bronze.status === 'gap') {
    lines.push(`  Bronze     a recorded gap, found ${bronze.detectedAt}: ${bronze.cause}`);
  } else {
    lines.push(`  Bronze     ${bronze.status === 'sparse' ? 'covered, and the broker had no record there' : 'nothing'}`);
  }
  for (const one of story.silver) {
    lines.push(`  Silver     ${one.refinedAt}, ${one.table}, rules ${one.ruleVersion}, schema id ${one.schemaId}`, ...fileLines(one),
      `             ${Object.entries(one.values).map(([name, value]) => `${name}=${value ?? 'null'}`).join(' ')}`);
  }
  for (const one of story.dlq) {
    lines.push(`  DLQ        ${one.refusedAt}, ${one.table}, rules ${one.ruleVersion}: ${one.errorType}: ${one.reasons}`, ...(one.detail === null ? [] : [`             ${one.detail}`]), ...fileLines(one));
  }
  for (const one of story.resolutions) {
    lines.push(`  Resolution ${one.at}, ${one.action} (attempt ${one.attempt}) by ${one.actor}${one.reason === null ? '' : `: ${one.reason}`}, ${writerText(one.replay)}`);
  }
  for (const one of story.gold) {
    lines.push(`  Gold       ${one.mergedAt}, ${one.table}${one.isOwn ? '' : `: the row of ${one.winner.topic}/${one.winner.partition}/${one.winner.offset} (${one.winner.messageId})`}`, ...fileLines(one));
  }
  for (const one of story.copies) lines.push(`  Same key   ${one.topic}/${one.partition}/${one.offset} (${one.messageId})`);
  for (const one of story.rewrites) lines.push(`  Rewritten  ${one.at}, ${one.table}, ${one.operation} ${writerText(one.writer)}`.trimEnd());
  return lines.join('\n');
};

await runCommand<Options>(program, async ({ where, hour, limit, json }, args) => {
  const startedMs = performance.now();
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  const signal = stopSignal();
  const progress = new ProgressLine();
  const { store, catalog } = openLakeReadOnly(config, pipeline);
  try {
    const explainer = createExplainer({
      store, catalog, pipeline, topicPrefix: config.kafka.topicPrefix, signal,
      workflowUrl: (workflowId) => webUiUrl(config, workflowId),
      onProgress: (what) => progress.show(`Looking at ${what}`),
    });
    const text = args.join('/');
    const place = /^(.+)\/(\d+)[/:](\d+)$/.exec(text);
    let places: RecordPlace[];
    let offsetsTried: number | null = null;
    if (place) {
      const named = pipeline.datasets.find(({ source }) => source === place[1]);
      places = [{ topic: named ? `${config.kafka.topicPrefix}${named.topic}` : place[1]!, partition: Number(place[2]), offset: BigInt(place[3]!) }];
    } else if (args.length > 1) {
      throw new TidemarkError('BAD_INPUT', `record: expected a message_id, a key, or <topic> <partition> <offset>, found ${args.join(' ')}`);
    } else if (isMessageId(text)) {
      const found = await findMessage(text, await explainer.bronzeCoverage(), {
        signal, onProgress: ({ offsets, offsetsTotal }) => progress.show(`Looking among ${thousands(offsets)} of ${thousands(offsetsTotal)} offsets`),
      });
      offsetsTried = found.offsetsTried;
      places = found.place ? [found.place] : [];
    } else {
      const columns = new Set(pipeline.datasets.flatMap(({ fields }) => fields.filter(({ type }) => type === 'string').map(({ name }) => name)));
      for (const column of Object.keys(where)) {
        if (!columns.has(column)) throw new TidemarkError('BAD_INPUT', `--where: expected one of ${[...columns].join(', ')}, found ${column}`);
      }
      places = await explainer.findKey(text, where, hour ?? null);
    }
    const records: RecordStory[] = [];
    for (const one of places.slice(0, limit)) {
      const story = await explainer.explainPlace(one);
      if (story) records.push(story);
    }
    const isFound = records.some(({ bronze, silver, dlq }) => bronze.status !== 'notThere' || silver.length > 0 || dlq.length > 0);
    const durationMs = Math.round(performance.now() - startedMs);
    if (json) {
      const { user, system } = process.cpuUsage();
      process.stdout.write(`${JSON.stringify({ record: text, found: places.length, records, ...(offsetsTried === null ? {} : { offsetsTried }), durationMs, cpuMs: Math.round((user + system) / 1_000) })}\n`);
    } else {
      process.stdout.write(`${records.map((story) => `${printed(story)}\n\n`).join('')}`);
      if (places.length > limit) process.stdout.write(`… ${thousands(places.length - limit)} more: narrow it with --where or --hour, or raise --limit\n`);
      if (!isFound && records.length === 0) process.stdout.write(`Nothing in the lake is called ${text}${offsetsTried === null ? '' : ` (${thousands(offsetsTried)} offsets tried)`}. A record that was refused has no key yet: give its topic, partition and offset.\n`);
      process.stdout.write(`${thousands(records.length)} record${records.length === 1 ? '' : 's'} in ${milliseconds(durationMs)}.\n`);
    }
    return isFound ? exitOk : exitFailed;
  } finally {
    store.close();
  }
});
