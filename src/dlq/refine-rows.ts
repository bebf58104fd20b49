import avro from 'avsc';
import type { ReplayCounts, ReplayMode } from '../contracts/dlq-replay.ts';
import { noReplayCounts } from '../contracts/dlq-replay.ts';
import type { CleanseFunction } from '../datasets/cleanse.ts';
import { Purge, keep } from '../datasets/cleanse.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { unknownError } from '../datasets/dataset.ts';
import { invariant } from '../domain/errors.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { EncodableBatch } from '../lake/columns.ts';
import { spreadColumn } from '../lake/columns.ts';
import type { DecoderCache } from '../refine/decoders.ts';
import { divertReasons } from '../refine/divert.ts';
import type { DecoderOrReason, Resolution } from '../refine/transform.ts';
import { BronzeTransform } from '../refine/transform.ts';
import { encodeWireRecord, hasWireHeader, wireHeaderBytes, wireSchemaId } from '../schema-registry/wire-codec.ts';

/** A DLQ row that is refined again, with what the other tables know of it. */
export interface ReplayRow {
  topic: string;
  partition: number;
  offset: number;
  raw: Uint8Array | null;
  /** µs since the epoch. */
  kafkaTimestamp: bigint;
  /** Of its Bronze file, µs since the epoch. */
  ingestion: bigint;
  errorType: string;
  /** Comma separated, the deciding one first. */
  reason: string;
  /** Attempts before this one. */
  attempts: number;
  /** Why neither the DLQ nor Bronze gives the bytes; such a row is refused again, whatever the mode. */
  unreadable?: string;
}

export type ReplayOutcome =
  | { outcome: 'recovered'; schemaId: number | null; replacement: Uint8Array | null; reason: string }
  /** Refused again; `reason` as a DLQ row has it. `isQuarantined`: the limit of attempts is reached. */
  | { outcome: 'refused'; type: string; reason: string; detail: string | null; isQuarantined: boolean }
  | { outcome: 'purged' | 'flagged'; reason: string }
  | { outcome: 'kept' };

export interface RefinedRows {
  /** One for each row, in their order. */
  outcomes: ReplayOutcome[];
  /** Rows for Silver: those that were recovered. */
  silver: EncodableBatch;
  counts: ReplayCounts;
}

export interface RefineRowsDeps {
  dataset: Dataset;
  decoders: DecoderCache;
  mode: ReplayMode;
  /** Of the mode cleanse. */
  cleanse?: CleanseFunction;
  /** Schema id of the dataset's raw schema, for what a cleanse function returns. */
  encodeSchemaId?: number;
  attemptsMax: number;
  nowMs: number;
}

/** Reason, under `unknown_error`, of a record that its cleanse function threw at, or returned as something else. */
export const cleanseFailedReason = 'cleanse_failed';

const emptySilver: EncodableBatch = { rowCount: 0, columns: {} };
const detailCharsMax = 300;
const keyOf = (topic: string, partition: number, offset: number): string => `${topic}/${partition}/${offset}`;
const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error)).slice(0, detailCharsMax);

/** The record as the dataset's raw schema has it; null where the bytes do not decode. */
const decodedOf = (raw: Uint8Array | null, decoders: ReadonlyMap<number, DecoderOrReason>): unknown => {
  if (raw === null || !hasWireHeader(raw)) return null;
  const found = decoders.get(wireSchemaId(raw));
  if (!found || 'reason' in found) return null;
  const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.length);
  if (found.decoder.walk(bytes, wireHeaderBytes, bytes.length) !== bytes.length) return null;
  try {
    return found.decoder.decode(bytes, wireHeaderBytes);
  } catch {
    return null;
  }
};

/**
 * Refines DLQ rows again, in memory, through the one transform path: what they would have become in their micro-batch, under
 * the rules as they are now and the resolution that the mode gives them. Commits nothing. The rows are of one source.
 */
export const refineRows = async ({ dataset, decoders, mode, cleanse, encodeSchemaId, attemptsMax, nowMs }: RefineRowsDeps, rows: readonly ReplayRow[]): Promise<RefinedRows> => {
  const outcomes: (ReplayOutcome | undefined)[] = rows.map(() => undefined);
  const resolutions: Resolution[] = [];
  const replacements = new Map<number, Uint8Array>();
  const refuse = (type: string, reason: string, detail: string | null, { attempts }: ReplayRow): ReplayOutcome =>
    ({ outcome: 'refused', type, reason, detail, isQuarantined: attempts + 1 >= attemptsMax });

  if (mode.mode === 'purge' || mode.mode === 'flag') {
    for (let i = 0; i < rows.length; i += 1) outcomes[i] = { outcome: mode.mode === 'purge' ? 'purged' : 'flagged', reason: mode.reason };
  }
  for (const [i, row] of rows.entries()) if (row.unreadable !== undefined) outcomes[i] ??= refuse(unknownError, divertReasons.unreadable, row.unreadable, row);
  if (mode.mode === 'schema') {
    for (const { topic, partition, offset } of rows) resolutions.push({ topic, partition, offset: String(offset), schemaId: mode.schemaId });
  } else if (mode.mode === 'cleanse') {
    invariant(cleanse && encodeSchemaId !== undefined, 'a cleanse replay without its function or its schema id');
    const known = await decoders.lookUp(new Set(rows.flatMap(({ raw }) => (raw !== null && hasWireHeader(raw) ? [wireSchemaId(raw)] : []))));
    const type = avro.Type.forSchema(dataset.rawSchema as unknown as avro.Schema);
    for (const [i, row] of rows.entries()) {
      if (outcomes[i]) continue;
      const { topic, partition, offset, raw, kafkaTimestamp, errorType, reason } = row;
      try {
        const verdict = cleanse.cleanse(decodedOf(raw, known), {
          source: dataset.source, topic, partition, offset, kafkaTimestamp, errorType, reasons: reason.split(','), rawBytes: raw,
          schemaId: raw !== null && hasWireHeader(raw) ? wireSchemaId(raw) : null,
        });
        if (verdict === keep) outcomes[i] = { outcome: 'kept' };
        else if (verdict instanceof Purge) outcomes[i] = { outcome: 'purged', reason: verdict.reason };
        else {
          const replacement = encodeWireRecord(encodeSchemaId, type, verdict);
          replacements.set(i, replacement);
          resolutions.push({ topic, partition, offset: String(offset), replacement: replacement.toString('base64') });
        }
      } catch (error) {
        outcomes[i] = refuse(unknownError, cleanseFailedReason, messageOf(error), row);
      }
    }
  }

  const order = rows.map((_, i) => i).filter((i) => outcomes[i] === undefined)
    .sort((a, b) => {
      const [one, other] = [rows[a]!, rows[b]!];
      return one.topic === other.topic ? one.partition - other.partition || one.offset - other.offset : one.topic < other.topic ? -1 : 1;
    });
  let silver = emptySilver;
  if (order.length > 0) {
    const at = order.map((i) => rows[i]!);
    // The batch holds the selected rows alone, so one interval from the first to the last plans those of a topic partition.
    const ends = new Map<string, { start: bigint; end: bigint }>();
    for (const { topic, partition, offset } of at) {
      const key = topicPartitionKey(topic, partition);
      ends.set(key, { start: ends.get(key)?.start ?? BigInt(offset), end: BigInt(offset) + 1n });
    }
    const planned = Coverage.of([...ends].map(([key, interval]) => [key, IntervalSet.of(interval)] as const));
    const transform = new BronzeTransform({ dataset, rowsMax: at.length, silver: planned, dlq: planned, nowMicros: BigInt(nowMs) * 1_000n, resolutions });
    const bronze = {
      rowCount: at.length,
      columns: {
        raw_bytes: at.map(({ raw }) => raw),
        topic: at.map(({ topic }) => topic),
        partition: Int32Array.from(at, ({ partition }) => partition),
        offset: BigInt64Array.from(at, ({ offset }) => BigInt(offset)),
        kafka_timestamp: BigInt64Array.from(at, ({ kafkaTimestamp }) => kafkaTimestamp),
        ingestion_timestamp: BigInt64Array.from(at, ({ ingestion }) => ingestion),
      },
    };
    transform.append(bronze, await decoders.lookUp(transform.schemaIds(bronze)));
    const transformed = transform.finish();
    silver = transformed.silver;
    const places = new Map(order.map((i) => [keyOf(rows[i]!.topic, rows[i]!.partition, rows[i]!.offset), i]));
    const [topics, partitions, offsets, types, reasons, details] = ['kafka_topic', 'kafka_partition', 'kafka_offset', 'error_type', 'error_reason', 'error_detail']
      .map((name) => spreadColumn(transformed.dlq.columns[name]!, transformed.dlqRows));
    for (let n = 0; n < transformed.dlqRows; n += 1) {
      const i = places.get(keyOf(topics![n] as string, partitions![n] as number, Number(offsets![n])))!;
      outcomes[i] = refuse(types![n] as string, reasons![n] as string, details![n] as string | null, rows[i]!);
    }
    for (const i of order) {
      outcomes[i] ??= {
        outcome: 'recovered', schemaId: mode.mode === 'schema' ? mode.schemaId : null, replacement: replacements.get(i) ?? null,
        reason: mode.mode === 'schema' ? `schema id ${mode.schemaId}` : mode.mode === 'cleanse' ? `cleanse ${mode.cleanse}` : dataset.ruleVersion,
      };
    }
  }

  const counts: ReplayCounts = { ...noReplayCounts, selected: rows.length, refusedByReason: {} };
  for (const outcome of outcomes) {
    invariant(outcome, 'a selected row without an outcome');
    if (outcome.outcome !== 'refused') {
      counts[outcome.outcome] += 1;
      continue;
    }
    counts[outcome.isQuarantined ? 'quarantined' : 'refused'] += 1;
    const reason = outcome.reason.split(',')[0]!;
    counts.refusedByReason[reason] = (counts.refusedByReason[reason] ?? 0) + 1;
  }
  invariant(silver.rowCount === counts.recovered, () => `replay: expected ${counts.recovered} recovered rows for Silver, found ${silver.rowCount}`);
  return { outcomes: outcomes as ReplayOutcome[], silver, counts };
};
