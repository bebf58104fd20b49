import type { DlqState } from '../contracts/dlq-replay.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { isTidemarkError } from '../domain/errors.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog } from '../lake/table.ts';
import type { DecoderCache } from '../refine/decoders.ts';
import type { PartialRecord } from '../schema-registry/partial-decode.ts';
import { decodePartly } from '../schema-registry/partial-decode.ts';
import type { RegistryClient } from '../schema-registry/registry-client.ts';
import { loadKeptSchema, schemaFingerprint } from '../schema-registry/schema-store.ts';
import { hasWireHeader, wireHeaderBytes, wireSchemaId } from '../schema-registry/wire-codec.ts';
import { readRows } from './read-rows.ts';
import { refineRows } from './refine-rows.ts';
import type { ResolutionRow } from './resolutions.ts';
import { loadLastResolutions, stateOf } from './resolutions.ts';
import type { RecordPlace } from './selection.ts';

export interface ShowDeps {
  store: ObjectStore;
  catalog: Pick<Catalog, 'load'>;
  pipeline: Pipeline;
  registry: Pick<RegistryClient, 'schemaById'>;
  decodersOf(source: string): DecoderCache;
}

/** What is known of a schema id: SHA-256 fingerprints, or why there is none. */
export interface SchemaKnowledge {
  id: number;
  lake: string | null;
  registry: string | null;
  registryProblem: string | null;
}

export interface ShownRow {
  source: string;
  topic: string;
  partition: number;
  offset: number;
  state: DlqState;
  errorType: string;
  reason: string;
  detail: string | null;
  ruleVersion: string;
  /** ISO 8601. */
  kafkaTimestamp: string;
  errorTimestamp: string;
  /** Null: a tombstone, or bytes that Bronze did not give. */
  rawHex: string | null;
  schema: SchemaKnowledge | null;
  decoded: PartialRecord | null;
  /** What the rules as they are now say of the DLQ's bytes. */
  today: { ruleVersion: string; outcome: string; reason: string | null; detail: string | null };
  /** In their order; the last one counts. */
  resolutions: (Omit<ResolutionRow, 'replacement' | 'resolvedAt'> & { replacementHex: string | null; resolvedAt: string })[];
}

const timeText = (micros: bigint): string => new Date(Number(micros) / 1_000).toISOString();
const columns = [
  'raw_record', 'error_reason', 'error_type', 'error_timestamp', 'bronze_source', 'kafka_topic', 'kafka_partition', 'kafka_offset', 'kafka_timestamp', 'schema_id', 'rule_version', 'error_detail',
] as const;

const knowledgeOf = async ({ store, registry }: ShowDeps, id: number): Promise<{ knowledge: SchemaKnowledge; schema: string | undefined }> => {
  const kept = await loadKeptSchema(store, id);
  let registered: string | undefined;
  let registryProblem: string | null = null;
  try {
    registered = id < 0 ? undefined : await registry.schemaById(id);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    registryProblem = isTidemarkError(error, 'SCHEMA_NOT_FOUND') ? null : error.message;
  }
  return {
    knowledge: { id, lake: kept?.fingerprint ?? null, registry: registered === undefined ? null : schemaFingerprint(registered), registryProblem },
    schema: kept?.schema ?? registered,
  };
};

/** Everything known of one DLQ row; undefined: the DLQ has no such row. Reads the files whose bounds meet the offset. */
export const showDlqRow = async (deps: ShowDeps, { topic, partition, offset }: RecordPlace): Promise<ShownRow | undefined> => {
  const { store, catalog, pipeline } = deps;
  const table = await catalog.load(pipeline.dlqTable);
  const files = await table.scan({ bounds: [{ column: 'kafka_offset', min: BigInt(offset), max: BigInt(offset) }, { column: 'kafka_partition', min: partition, max: partition }] });
  for await (const { batch } of readRows(store, files, columns)) {
    const at = (name: (typeof columns)[number]) => batch.columns[name]!;
    for (let row = 0; row < batch.rowCount; row += 1) {
      if (Number(at('kafka_offset')[row]) !== offset || at('kafka_partition')[row] !== partition || at('kafka_topic')[row] !== topic) continue;
      const source = at('bronze_source')[row] as string;
      const dataset = pipeline.datasets.find((candidate) => candidate.source === source);
      const raw = at('raw_record')[row] as Uint8Array | null;
      const [errorType, reason] = [at('error_type')[row] as string, at('error_reason')[row] as string];
      const kafkaTimestamp = at('kafka_timestamp')[row] as bigint;
      const coverage = Coverage.of([[topicPartitionKey(topic, partition), IntervalSet.of({ start: BigInt(offset), end: BigInt(offset) + 1n })]]);
      const history: ResolutionRow[] = [];
      const last = await loadLastResolutions({ store, catalog }, source, { coverage, withReplacements: true, onRow: (_topic, _partition, _offset, one) => { history.push(one); } });
      const named = raw !== null && hasWireHeader(raw) ? await knowledgeOf(deps, wireSchemaId(raw)) : undefined;
      let decoded: PartialRecord | null = null;
      if (raw !== null && named?.schema !== undefined) decoded = decodePartly(named.schema, raw, wireHeaderBytes);
      const { outcomes } = dataset === undefined ? { outcomes: [] } : await refineRows(
        { dataset, decoders: deps.decodersOf(source), mode: { mode: 'rules' }, attemptsMax: Number.MAX_SAFE_INTEGER, nowMs: 0 },
        [{ topic, partition, offset, raw, kafkaTimestamp, ingestion: kafkaTimestamp, errorType, reason, attempts: 0 }],
      );
      const [outcome] = outcomes;
      return {
        source, topic, partition, offset, state: stateOf(last.get(topic, partition, offset)), errorType, reason, detail: at('error_detail')[row] as string | null,
        ruleVersion: at('rule_version')[row] as string, kafkaTimestamp: timeText(kafkaTimestamp), errorTimestamp: timeText(at('error_timestamp')[row] as bigint),
        rawHex: raw === null ? null : Buffer.from(raw).toString('hex'), schema: named?.knowledge ?? null, decoded,
        today: {
          ruleVersion: dataset?.ruleVersion ?? '–', outcome: outcome === undefined ? 'unknown source' : outcome.outcome === 'recovered' ? 'valid' : outcome.outcome,
          reason: outcome?.outcome === 'refused' ? outcome.reason : null, detail: outcome?.outcome === 'refused' ? outcome.detail : null,
        },
        resolutions: history.sort((a, b) => Number(a.resolvedAt - b.resolvedAt) || a.attempt - b.attempt).map(({ replacement, resolvedAt, ...rest }) => ({
          ...rest, resolvedAt: timeText(resolvedAt), replacementHex: replacement === null ? null : Buffer.from(replacement).toString('hex'),
        })),
      };
    }
  }
  return undefined;
};
