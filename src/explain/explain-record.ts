import { streamWorkflowId } from '../contracts/stream.ts';
import { goldSummary } from '../contracts/properties.ts';
import { microBatchWorkflowId } from '../contracts/micro-batch.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { dlqResolutionsTable, ingestGapsTable } from '../datasets/engine-tables.ts';
import { pipelineTables } from '../datasets/pipeline.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { isTidemarkError } from '../domain/errors.ts';
import { Coverage, topicPartitionKey } from '../domain/offsets.ts';
import { decimalOf } from '../lake/parquet-schema.ts';
import type { Field } from '../lake/schema.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { BoundsFilter, Catalog, SnapshotInfo, TableVersion } from '../lake/table.ts';
import { messageIdsOf } from '../refine/message-id.ts';
import { hasWireHeader, wireSchemaId } from '../schema-registry/wire-codec.ts';
import type { RecordPlace } from './find-message.ts';
import { findRows } from './find-rows.ts';
import type { FoundRow, FoundValue } from './find-rows.ts';

/** Plain JSON throughout: 64-bit integers are decimal texts, times ISO texts with microseconds. */
export interface WorkflowReference {
  workflowId: string;
  /** Null without TEMPORAL_UI_URL. */
  url: string | null;
}
export interface RowPlace {
  table: string;
  file: string;
  rowGroup: number;
  /** Within the row group. */
  row: number;
  /** When the file was committed; null once its snapshot has expired. */
  committedAt: string | null;
  /** Who wrote the row; null where neither snapshot nor file name tell. */
  writer: WorkflowReference | null;
}
/** A commit, retained still, that took away the file which held the row until then. */
export interface Rewrite {
  table: string;
  at: string;
  operation: SnapshotInfo['operation'];
  writer: WorkflowReference | null;
}
export interface CopyPlace {
  topic: string;
  partition: number;
  offset: string;
  messageId: string;
}

export interface RecordStory extends CopyPlace {
  source: string;
  bronze:
    | (RowPlace & { status: 'present'; kafkaTimestamp: string; ingestedAt: string; valueBytes: number | null; schemaId: number | null; headers: string | null })
    /** `sparse`: the broker has no record there (compaction, transaction markers). `notThere`: not ingested, or never produced. */
    | { status: 'sparse' | 'notThere' }
    | { status: 'gap'; detectedAt: string; cause: string };
  silver: (RowPlace & { refinedAt: string; schemaId: number; ruleVersion: string; values: Record<string, string | null> })[];
  dlq: (RowPlace & { refusedAt: string; schemaId: number | null; ruleVersion: string; errorType: string; reasons: string; detail: string | null })[];
  resolutions: { action: string; at: string; attempt: number; actor: string; reason: string | null; replay: WorkflowReference }[];
  gold: (RowPlace & { mergedAt: string; /** The record whose row it is; this one, or the one that won against it. */ winner: CopyPlace; isOwn: boolean })[];
  /** Other records in Silver with the same key. */
  copies: CopyPlace[];
  rewrites: Rewrite[];
  /** Where it stands, in a sentence. */
  verdict: string;
}

export interface ExplainDeps {
  store: ObjectStore;
  catalog: Pick<Catalog, 'load'>;
  pipeline: Pipeline;
  /** Put before each dataset's topic. */
  topicPrefix: string;
  /** The address of a Workflow in the Web UI. */
  workflowUrl: (workflowId: string) => string | null;
  signal?: AbortSignal;
  onProgress?: (what: string) => void;
}

/** What findRows needs of a row's place, in the columns of a table. */
const refined = { topic: 'kafka_topic', partition: 'kafka_partition', offset: 'kafka_offset' } as const;
const plain = { topic: 'topic', partition: 'partition', offset: 'offset' } as const;
const whereOf = (columns: typeof refined | typeof plain, { topic, partition, offset }: RecordPlace) =>
  ({ [columns.topic]: topic, [columns.partition]: partition, [columns.offset]: offset });

const hourMicros = 3_600_000_000n;
const unitMicros = { day: 24n * hourMicros, hour: hourMicros } as const;
const commitIdKey = 'tidemark.commit-id';

/** `2026-04-05T13:05:24.120345Z`. */
export const timeText = (micros: bigint): string => {
  const seconds = new Date(Number(micros / 1_000n)).toISOString().slice(0, 19);
  return `${seconds}.${String(((micros % 1_000_000n) + 1_000_000n) % 1_000_000n).padStart(6, '0')}Z`;
};

/** A value as people write it. */
export const valueText = (value: FoundValue, { type }: Field): string | null => {
  if (value === null) return null;
  if (typeof value === 'bigint') {
    if (type === 'timestamptz' || type === 'timestamp') return timeText(value);
    const scale = typeof type === 'string' ? decimalOf(type)?.scale ?? 0 : 0;
    if (scale === 0) return String(value);
    const digits = String(value < 0n ? -value : value).padStart(scale + 1, '0');
    return `${value < 0n ? '-' : ''}${digits.slice(0, -scale)}.${digits.slice(-scale)}`.replace(/\.?0+$/, '');
  }
  if (type === 'date' && typeof value === 'number') return new Date(value * 86_400_000).toISOString().slice(0, 10);
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  return typeof value === 'object' ? value.join(', ') : String(value);
};

const loadOrNull = async (catalog: Pick<Catalog, 'load'>, name: string): Promise<TableVersion | null> => {
  try {
    return await catalog.load(name);
  } catch (error) {
    if (isTidemarkError(error, 'TABLE_NOT_FOUND')) return null;
    throw error;
  }
};

/** The Workflow that a commit belongs to: its id begins with it. */
const workflowOfCommit = ({ summary }: SnapshotInfo): string | null => {
  const { [goldSummary.source]: source, [goldSummary.batch]: batch, [commitIdKey]: commitId = '' } = summary;
  if (source !== undefined && batch !== undefined) return microBatchWorkflowId(source, Number(batch));
  const [kind = '', id = ''] = commitId.split('/');
  if (kind === 'bronze') return streamWorkflowId(id);
  return /^(backfill|dlq-replay|retention-sweep|compaction)$/.test(kind) && id !== '' ? `${kind}/${id}` : null;
};

export const createExplainer = ({ store, catalog, pipeline, topicPrefix, workflowUrl, signal, onProgress }: ExplainDeps) => {
  const versions = new Map<string, Promise<TableVersion | null>>();
  const version = (name: string): Promise<TableVersion | null> => {
    let loaded = versions.get(name);
    if (!loaded) versions.set(name, loaded = loadOrNull(catalog, name));
    return loaded;
  };
  // Begun before they are asked for: each takes a few requests after each other, and whatever is asked needs most of them.
  for (const { name } of pipelineTables(pipeline)) version(name).catch(() => undefined);
  const options = signal ? { signal } : {};
  const reference = (workflowId: string): WorkflowReference => ({ workflowId, url: workflowUrl(workflowId) });
  const messageIdAt = (topic: string, partition: number, offset: bigint): string => messageIdsOf(topic, partition)(Number(offset));
  const copyOf = ({ values }: FoundRow): CopyPlace => {
    const [topic, partition, offset] = [values['kafka_topic'] as string, values['kafka_partition'] as number, values['kafka_offset'] as bigint];
    return { topic, partition, offset: String(offset), messageId: messageIdAt(topic, partition, offset) };
  };

  const placeOf = (table: TableVersion, { file, rowGroup, row }: FoundRow): RowPlace => {
    const snapshot = table.snapshots.find(({ snapshotId }) => snapshotId === file.addedSnapshotId);
    // A file of refining is named after its micro-batch: that outlives the snapshot.
    const named = pipeline.datasets.flatMap(({ source }) => {
      const batch = new RegExp(`/${source}-(\\d+)-[0-9a-f]{8}-[0-9a-f-]+\\.parquet$`).exec(file.filePath)?.[1];
      return batch === undefined ? [] : [microBatchWorkflowId(source, Number(batch))];
    })[0];
    const writer = (snapshot && workflowOfCommit(snapshot)) ?? named ?? null;
    return {
      table: table.name, file: file.filePath, rowGroup, row,
      committedAt: snapshot ? new Date(snapshot.timestampMs).toISOString() : null,
      writer: writer === null ? null : reference(writer),
    };
  };

  const rewritesOf = async (table: TableVersion | null, where: Record<string, bigint | number | string>, within: readonly BoundsFilter[] = []): Promise<Rewrite[]> => {
    const rewrites: Rewrite[] = [];
    for (const snapshot of table?.snapshots ?? []) {
      if (snapshot.operation === 'append' || !table?.snapshots.some(({ snapshotId }) => snapshotId === snapshot.parentSnapshotId)) continue;
      const bounds = [...Object.entries(where).map(([column, value]) => ({ column, min: value, max: value })), ...within];
      const [before, after] = await Promise.all([snapshot.parentSnapshotId!, snapshot.snapshotId].map((snapshotId) => table.scan({ snapshotId, bounds })));
      const kept = new Set(after!.map(({ filePath }) => filePath));
      const removed = new Set(before!.map(({ filePath }) => filePath).filter((path) => !kept.has(path)));
      if (removed.size === 0) continue;
      const rows = await findRows(store, table, { where, within, columns: [], snapshotId: snapshot.parentSnapshotId!, onlyFiles: removed, ...options });
      const workflowId = workflowOfCommit(snapshot);
      if (rows.length > 0) {
        rewrites.push({ table: table.name, at: new Date(snapshot.timestampMs).toISOString(), operation: snapshot.operation, writer: workflowId === null ? null : reference(workflowId) });
      }
    }
    return rewrites;
  };

  const datasetOfTopic = async (topic: string, key: string): Promise<Dataset | undefined> => {
    const byTopic = pipeline.datasets.find((dataset) => `${topicPrefix}${dataset.topic}` === topic);
    if (byTopic) return byTopic;
    for (const dataset of pipeline.datasets) if (!(await version(dataset.bronze.name))?.coverage.of(key).isEmpty) return dataset;
    return undefined;
  };

  /** The Gold bucket of a Silver row, as conditions on Gold's and Silver's columns. */
  const bucketOf = (dataset: Dataset, row: FoundRow): { where: Record<string, bigint | number | string>; within: BoundsFilter[] } => {
    const where: Record<string, bigint | number | string> = {};
    for (const column of dataset.key) where[column] = row.values[column] as string;
    const within: BoundsFilter[] = [];
    for (const { sourceId, transform } of dataset.gold.partitionBy) {
      const column = dataset.gold.fields.find(({ id }) => id === sourceId)!.name;
      const value = row.values[column];
      if (transform === 'identity') {
        where[column] = value as string;
      } else {
        const width = unitMicros[transform];
        const micros = value as bigint;
        const start = micros - ((micros % width) + width) % width;
        within.push({ column, min: start, max: start + width - 1n });
      }
    }
    return { where, within };
  };

  const explainPlace = async (place: RecordPlace): Promise<RecordStory | null> => {
    const key = topicPartitionKey(place.topic, place.partition);
    const dataset = await datasetOfTopic(place.topic, key);
    if (!dataset) return null;
    onProgress?.(`${key}/${place.offset}`);
    const [bronze, silver, dlq, gold, resolutions, gaps] = await Promise.all(
      [dataset.bronze.name, dataset.silver.name, pipeline.dlqTable, dataset.gold.name, dlqResolutionsTable.name, ingestGapsTable.name].map(version));
    const find = (table: TableVersion | null | undefined, columns: typeof refined | typeof plain, names?: readonly string[]): Promise<FoundRow[]> =>
      table ? findRows(store, table, { where: whereOf(columns, place), ...(names ? { columns: names } : {}), ...options }) : Promise.resolve([]);
    const [bronzeRows, silverRows, dlqRows, resolved] = await Promise.all([
      find(bronze, plain, ['raw_bytes', 'kafka_timestamp', 'ingestion_timestamp', 'headers']),
      find(silver, refined), find(dlq, refined), find(resolutions, plain),
    ]);

    const goldFound: RecordStory['gold'] = [];
    const copies = new Map<string, CopyPlace>();
    const rewrites = [await rewritesOf(silver ?? null, whereOf(refined, place)), await rewritesOf(dlq ?? null, whereOf(refined, place))].flat();
    for (const row of silverRows.slice(0, 1)) {
      const { where, within } = bucketOf(dataset, row);
      const feeders = pipeline.datasets.filter(({ gold: { name } }) => name === dataset.gold.name);
      const [inGold, sameKey] = await Promise.all([
        gold ? findRows(store, gold, { where, within, columns: [...Object.values(refined), 'gold_ingestion_timestamp'], ...options }) : [],
        Promise.all(feeders.map(async ({ silver: { name } }) => {
          const table = await version(name);
          return table ? findRows(store, table, { where, within, columns: Object.values(refined), ...options }) : [];
        })),
      ]);
      for (const found of inGold) {
        const winner = copyOf(found);
        const isOwn = winner.topic === place.topic && winner.partition === place.partition && winner.offset === String(place.offset);
        goldFound.push({ ...placeOf(gold!, found), mergedAt: timeText(found.values['gold_ingestion_timestamp'] as bigint), winner, isOwn });
      }
      for (const one of sameKey.flat().map(copyOf)) {
        if (one.topic !== place.topic || one.partition !== place.partition || one.offset !== String(place.offset)) copies.set(one.messageId, one);
      }
      if (gold) rewrites.push(...await rewritesOf(gold, where, within));
    }

    const silverFields = dataset.silver.fields;
    const story: Omit<RecordStory, 'verdict'> = {
      source: dataset.source,
      topic: place.topic,
      partition: place.partition,
      offset: String(place.offset),
      messageId: messageIdAt(place.topic, place.partition, place.offset),
      bronze: { status: 'notThere' },
      silver: silverRows.map((row) => ({
        ...placeOf(silver!, row),
        refinedAt: timeText(row.values['validation_timestamp'] as bigint),
        schemaId: row.values['schema_id'] as number,
        ruleVersion: row.values['rule_version'] as string,
        values: Object.fromEntries(dataset.fields.map(({ name }) => [name, valueText(row.values[name] ?? null, silverFields.find((field) => field.name === name)!)])),
      })),
      dlq: dlqRows.map((row) => ({
        ...placeOf(dlq!, row),
        refusedAt: timeText(row.values['error_timestamp'] as bigint),
        schemaId: row.values['schema_id'] as number | null,
        ruleVersion: row.values['rule_version'] as string,
        errorType: row.values['error_type'] as string,
        reasons: row.values['error_reason'] as string,
        detail: row.values['error_detail'] as string | null,
      })),
      resolutions: resolved.map(({ values }) => ({
        action: values['action'] as string,
        at: timeText(values['resolved_at'] as bigint),
        attempt: values['attempt'] as number,
        actor: values['actor'] as string,
        reason: values['reason'] as string | null,
        replay: reference(`dlq-replay/${values['replay_id'] as string}`),
      })).sort((a, b) => (a.at < b.at ? -1 : 1)),
      gold: goldFound,
      copies: [...copies.values()],
      rewrites: rewrites.sort((a, b) => (a.at < b.at ? -1 : 1)),
    };

    const [row] = bronzeRows;
    if (row) {
      const raw = row.values['raw_bytes'] as Uint8Array | null;
      story.bronze = {
        status: 'present', ...placeOf(bronze!, row),
        kafkaTimestamp: timeText(row.values['kafka_timestamp'] as bigint),
        ingestedAt: timeText(row.values['ingestion_timestamp'] as bigint),
        valueBytes: raw?.length ?? null,
        schemaId: raw !== null && hasWireHeader(raw) ? wireSchemaId(raw) : null,
        headers: row.values['headers'] as string | null,
      };
    } else if (gaps?.coverage.of(key).has(place.offset)) {
      const found = await findRows(store, gaps, {
        where: { topic: place.topic, partition: place.partition }, within: [{ column: 'start_offset', max: place.offset }, { column: 'end_offset', min: place.offset + 1n }], ...options,
      });
      const gap = found.find(({ values }) => (values['start_offset'] as bigint) <= place.offset && (values['end_offset'] as bigint) > place.offset);
      story.bronze = { status: 'gap', detectedAt: gap ? timeText(gap.values['detected_at'] as bigint) : 'unknown', cause: gap ? gap.values['cause'] as string : 'unknown' };
    } else if (bronze?.coverage.of(key).has(place.offset)) {
      story.bronze = { status: 'sparse' };
    }
    return { ...story, verdict: verdictOf(story, { isGoldCovered: gold?.coverage.of(key).has(place.offset) ?? false }) };
  };

  /** Places of the records whose key's last column has this value: from Gold, and where Gold has none from Silver. */
  const findKey = async (value: string, where: Readonly<Record<string, string>>, within: { startMicros: bigint; endMicros: bigint } | null): Promise<RecordPlace[]> => {
    const places = new Map<string, RecordPlace>();
    for (const layer of ['gold', 'silver'] as const) {
      const searched = new Set<string>();
      for (const dataset of pipeline.datasets) {
        const { name } = dataset[layer];
        const table = searched.has(name) ? null : await version(name);
        searched.add(name);
        if (!table) continue;
        const unknown = Object.keys(where).find((column) => !dataset.fields.some((field) => field.name === column && field.type === 'string'));
        if (unknown !== undefined) continue;
        const rows = await findRows(store, table, {
          where: { [dataset.key.at(-1)!]: value, ...where },
          within: within ? [{ column: dataset.eventTime, min: within.startMicros, max: within.endMicros - 1n }] : [],
          columns: Object.values(refined), ...options,
          onProgress: ({ files, filesTotal }) => onProgress?.(`${name}: ${files} of ${filesTotal} files`),
        });
        for (const { values } of rows) {
          const place = { topic: values['kafka_topic'] as string, partition: values['kafka_partition'] as number, offset: values['kafka_offset'] as bigint };
          places.set(`${place.topic}/${place.partition}/${place.offset}`, place);
        }
      }
      if (places.size > 0) break;
    }
    return [...places.values()];
  };

  /** Every offset that Bronze covers. */
  const bronzeCoverage = async (): Promise<Coverage> =>
    (await Promise.all(pipeline.datasets.map(({ bronze: { name } }) => version(name)))).reduce((sum, table) => (table ? sum.union(table.coverage) : sum), Coverage.empty);

  return { explainPlace, findKey, bronzeCoverage };
};

const verdictOf = ({ bronze, silver, dlq, gold, resolutions }: Omit<RecordStory, 'verdict'>, { isGoldCovered }: { isGoldCovered: boolean }): string => {
  if (silver.length > 1 || gold.length > 1) return 'More than once in a table, against the promise: run npm run audit.';
  const last = resolutions.at(-1);
  if (gold[0]) {
    const origin = dlq.length > 0 && last?.action === 'recovered' ? ' after a DLQ replay recovered it' : '';
    return gold[0].isOwn ? `In Gold${origin}.` : `A duplicate: Gold holds the row of ${gold[0].winner.topic}/${gold[0].winner.partition}/${gold[0].winner.offset}, which has the same key and the lesser offset.`;
  }
  if (silver[0]) return isGoldCovered ? 'In Silver, and Gold lacks its key, against the promise: run npm run audit.' : 'In Silver, not yet merged into Gold.';
  if (dlq[0]) return last && last.action !== 'refused' ? `In the DLQ (${dlq[0].reasons}), ${last.action}.` : `Refused: open in the DLQ (${dlq[0].reasons}).`;
  switch (bronze.status) {
    case 'present': return 'In Bronze, not yet refined.';
    case 'gap': return 'Lost: the broker no longer had it when it was to be read.';
    case 'sparse': return 'The broker has no record at this offset.';
    case 'notThere': return 'Not in the lake.';
  }
};
