import type { CellValue, ColumnarMapping, Dataset, RecordContext, Row, SchemaReason } from '../datasets/dataset.ts';
import { schemaValidation, unknownError } from '../datasets/dataset.ts';
import { TidemarkError, invariant } from '../domain/errors.ts';
import type { Coverage } from '../domain/offsets.ts';
import { topicPartitionKey } from '../domain/offsets.ts';
import type { Field } from '../lake/schema.ts';
import type { EncodableBatch, EncodableColumn, PackedColumn } from '../lake/columns.ts';
import { isConstantColumn, isPackedColumn, packBinaries, packedPrefixBytes, spreadColumn, textReader } from '../lake/columns.ts';
import type { AvroDecoder } from '../schema-registry/avro-decoder.ts';
import { EncodedRecord } from '../schema-registry/encoded-record.ts';
import { hasWireHeader, magicByte, wireHeaderBytes, wireSchemaId, wireSchemaIdAt } from '../schema-registry/wire-codec.ts';
import type { MessageIdWriter } from './message-id.ts';
import { messageIdBytes, messageIdWriter, messageIdsOf } from './message-id.ts';
import { OffsetCursor } from './offset-cursor.ts';
import type { RowColumn } from './row-columns.ts';
import { CodedColumn, Int64Column, PackedTextColumn, rowColumn } from './row-columns.ts';

// The one transform path: Bronze rows, the rules, and the resolutions of those offsets give Silver rows and DLQ rows.
// Pure and synchronous: micro-batch, backfill and DLQ replay differ in what they give it, not in what it does. A record that is
// as most are goes from its bytes into the columns (Dataset.columnar); whatever is odd in any way is decoded as an object, mapped and
// validated, which is the definition of what its row is.

/** Reason, under `unknown_error`, of a record that today's rules accept and that an operator purged: it stays out of Silver. */
export const purgedReason = 'purged_by_operator';

/** What a DLQ replay decided about an offset: other bytes, another schema id, or both; or that it is never to be refined. */
export interface Resolution {
  topic: string;
  partition: number;
  /** Decimal text. */
  offset: string;
  /** Base64; refined in place of the Bronze bytes. */
  replacement?: string;
  /** Decodes the body in place of the id that the bytes name. */
  schemaId?: number;
  /** The record goes to the DLQ whatever the rules say of it. */
  purged?: true;
}

/** How to decode a schema id, or why it cannot be. */
export type DecoderOrReason = { decoder: AvroDecoder } | { reason: SchemaReason; detail: string };

/** Columns of Bronze that refining reads. */
export const bronzeColumnsRead = ['raw_bytes', 'topic', 'partition', 'offset', 'kafka_timestamp', 'ingestion_timestamp'] as const;

interface DlqRow {
  raw: Uint8Array | null;
  reason: string;
  type: string;
  detail: string | null;
  topic: string;
  partition: number;
  offset: bigint;
  kafkaTimestamp: bigint;
  schemaId: number | null;
}

/** Records of Silver by the time they were produced: [start of the bucket in ms, records], ascending. */
export interface ProducedHistogram {
  bucketMs: number;
  buckets: [startMs: number, count: number][];
}

export interface Transformed {
  silver: EncodableBatch;
  dlq: EncodableBatch;
  /** Rows within the planned coverage. */
  bronzeRows: number;
  silverRows: number;
  dlqRows: number;
  /** Rows whose table has them already: they are planned for the other table only. */
  alreadyThereRows: number;
  dlqByType: Record<string, number>;
  dlqByReason: Record<string, number>;
  produced: ProducedHistogram;
  /** µs since the epoch; null without Silver rows. */
  eventTimeMin: number | null;
  eventTimeMax: number | null;
}

export interface TransformOptions {
  dataset: Dataset;
  /** At least the Bronze rows that will be appended. */
  rowsMax: number;
  /** Offsets whose row goes to Silver if it is valid, to the DLQ if it is not. Rows outside of both are passed over. */
  silver: Coverage;
  dlq: Coverage;
  resolutions?: readonly Resolution[];
  /** Processing time for validation_timestamp and error_timestamp; rules never see it. */
  nowMicros: bigint;
}

const two32 = 4_294_967_296;
const microsPerDay = 86_400_000_000;
/** Width of a {@link ProducedHistogram} bucket before it is coarsened. */
const producedBucketMicros = 10_000;
const producedBucketsMax = 256;
const detailCharsMax = 300;

/** Values of a 64-bit column without nulls. */
const int64Of = (column: EncodableColumn, rowCount: number): BigInt64Array => spreadColumn(column, rowCount) as BigInt64Array;
const packedOf = (column: EncodableColumn, rowCount: number): PackedColumn => {
  if (isPackedColumn(column)) return column;
  const values = isConstantColumn(column) ? Array.from({ length: rowCount }, () => column.constant) : column;
  return packBinaries(values as readonly (Uint8Array | null)[]);
};

const wordsOf = (values: BigInt64Array): Int32Array => new Int32Array(values.buffer, values.byteOffset, values.length * 2);
const numberOfWords = (words: Int32Array, row: number): number => words[2 * row + 1]! * two32 + (words[2 * row]! >>> 0);

const rawOf = ({ packed, positions }: PackedColumn, row: number): Uint8Array | null =>
  (positions[row] === positions[row + 1] ? null : packed.subarray(positions[row]! + packedPrefixBytes, positions[row + 1]));

/** JSON of a value for people: bounded, and never a throw. */
const shown = (value: unknown): string => {
  try {
    const text = typeof value === 'bigint' ? String(value) : JSON.stringify(value) ?? String(value);
    return text.length > detailCharsMax ? `${text.slice(0, detailCharsMax)}…` : text;
  } catch {
    return typeof value;
  }
};
const messageOf = (error: unknown): string => {
  const text = error instanceof Error ? error.message : shown(error);
  return text.length > detailCharsMax ? `${text.slice(0, detailCharsMax)}…` : text;
};

export class BronzeTransform {
  private readonly dataset: Dataset;
  private readonly plans: { silver: Coverage; dlq: Coverage };
  private readonly nowMicros: bigint;
  private readonly rowsMax: number;
  /** Topic partition key → offset → resolution. */
  private readonly resolutions = new Map<string, Map<number, Resolution>>();
  private readonly reasons = new Map<string, { rank: number; type: string }>();

  private readonly own: readonly RowColumn[];
  private readonly ownNames: readonly string[];
  private readonly lineage: { bronze_ingestion_timestamp: Int64Column; schema_id: RowColumn; kafka_topic: CodedColumn; kafka_partition: RowColumn; kafka_offset: Int64Column };
  /** The dataset's quick way from bytes to columns, if it has one. */
  private readonly columnar: { map: ColumnarMapping; messageIds: PackedTextColumn } | undefined;
  private readonly record = new EncodedRecord();

  private bronzeRows = 0;
  private silverRows = 0;
  private alreadyThereRows = 0;
  private readonly dlqRows: DlqRow[] = [];
  private readonly dlqByType: Record<string, number> = {};
  private readonly dlqByReason: Record<string, number> = {};
  private readonly produced = new Map<number, number>();
  private producedBucket = NaN;
  private producedCount = 0;
  private eventTimeMin = Infinity;
  private eventTimeMax = -Infinity;

  constructor({ dataset, rowsMax, silver, dlq, resolutions = [], nowMicros }: TransformOptions) {
    this.dataset = dataset;
    this.plans = { silver, dlq };
    this.nowMicros = nowMicros;
    this.rowsMax = rowsMax;
    for (const resolution of resolutions) {
      const key = topicPartitionKey(resolution.topic, resolution.partition);
      const byOffset = this.resolutions.get(key) ?? new Map<number, Resolution>();
      byOffset.set(Number(resolution.offset), resolution);
      this.resolutions.set(key, byOffset);
    }
    let rank = 0;
    for (const [type, reasons] of Object.entries(dataset.reasons)) {
      for (const reason of reasons) this.reasons.set(reason, { rank: rank += 1, type });
    }
    const made = new Map<string, RowColumn>();
    const column = <Column extends RowColumn>(name: string, make: (field: Field, capacity: number) => Column): Column => {
      const field = dataset.silver.fields.find((candidate) => candidate.name === name);
      invariant(field && !made.has(name), () => `${dataset.silver.name}: expected the column ${name}, once`);
      const created = make(field, rowsMax);
      made.set(name, created);
      return created;
    };
    const text = (name: string): PackedTextColumn => column(name, (field, capacity) => new PackedTextColumn(field, capacity));
    const coded = (name: string): CodedColumn => column(name, (field, capacity) => new CodedColumn(field, capacity));
    const int64 = (name: string): Int64Column => column(name, Int64Column.of);
    this.columnar = dataset.columnar && { map: dataset.columnar.mapping({ text, coded, int64 }), messageIds: text(dataset.columnar.messageId) };
    this.ownNames = dataset.fields.map(({ name }) => name);
    this.own = this.ownNames.map((name) => made.get(name) ?? column(name, rowColumn));
    this.lineage = {
      bronze_ingestion_timestamp: int64('bronze_ingestion_timestamp'),
      schema_id: column('schema_id', rowColumn),
      kafka_topic: coded('kafka_topic'),
      kafka_partition: column('kafka_partition', rowColumn),
      kafka_offset: int64('kafka_offset'),
    };
  }

  /** Schema ids that {@link append} will ask for: those of the bytes, and those that resolutions name. */
  schemaIds(bronze: EncodableBatch): Set<number> {
    const ids = new Set<number>();
    const { packed, positions } = packedOf(bronze.columns['raw_bytes']!, bronze.rowCount);
    let before = -1;
    for (let row = 0; row < bronze.rowCount; row += 1) {
      const at = positions[row]! + packedPrefixBytes;
      if (at + wireHeaderBytes > positions[row + 1]! || packed[at] !== magicByte) continue;
      const id = wireSchemaIdAt(packed, at);
      if (id !== before) ids.add(id);
      before = id;
    }
    for (const byOffset of this.resolutions.values()) {
      for (const { schemaId, replacement } of byOffset.values()) {
        if (schemaId !== undefined) ids.add(schemaId);
        const bytes = replacement === undefined ? null : Buffer.from(replacement, 'base64');
        if (bytes !== null && hasWireHeader(bytes)) ids.add(wireSchemaId(bytes));
      }
    }
    return ids;
  }

  /** Refines the rows of one Bronze file (its {@link bronzeColumnsRead}). `decoders` knows every id of {@link schemaIds}. */
  append(bronze: EncodableBatch, decoders: ReadonlyMap<number, DecoderOrReason>): void {
    const { rowCount, columns } = bronze;
    const raws = packedOf(columns['raw_bytes']!, rowCount);
    const topicOf = textReader(columns['topic']!, rowCount);
    const partitions = spreadColumn(columns['partition']!, rowCount) as Int32Array;
    const offsets = int64Of(columns['offset']!, rowCount);
    const kafkaTimestamps = int64Of(columns['kafka_timestamp']!, rowCount);
    const ingested = wordsOf(int64Of(columns['ingestion_timestamp']!, rowCount));
    const offsetWords = wordsOf(offsets);
    const kafkaWords = wordsOf(kafkaTimestamps);

    let topic = '';
    let partition = -1;
    let silverCursor!: OffsetCursor;
    let dlqCursor!: OffsetCursor;
    let resolutions: Map<number, Resolution> | undefined;
    let idOf!: (offset: number) => string;
    let writeId!: MessageIdWriter;
    const context: { -readonly [Key in keyof RecordContext]: RecordContext[Key] } = { topic, partition, messageId: '' };
    // One Buffer over the bytes that many rows share: avsc wants a Buffer, and one for each row costs more than decoding.
    let shared: ArrayBufferLike | undefined;
    let buffer: Buffer = Buffer.alloc(0);

    for (let i = 0; i < rowCount; i += 1) {
      if (partitions[i] !== partition || topicOf(i) !== topic) {
        topic = topicOf(i);
        partition = partitions[i]!;
        const key = topicPartitionKey(topic, partition);
        silverCursor = new OffsetCursor(this.plans.silver.of(key));
        dlqCursor = new OffsetCursor(this.plans.dlq.of(key));
        resolutions = this.resolutions.get(key);
        idOf = messageIdsOf(topic, partition);
        writeId = messageIdWriter(topic, partition);
        context.topic = topic;
        context.partition = partition;
      }
      const offset = numberOfWords(offsetWords, i);
      // Kafka counts from 0; a topic partition would need 2,800 years at 100,000 records a second to get here.
      if (offset >= Number.MAX_SAFE_INTEGER) throw new TidemarkError('BAD_INPUT', `${topicPartitionKey(topic, partition)}: expected offsets below 2^53, found ${offsets[i]!}`);
      const toSilver = silverCursor.has(offset);
      const toDlq = dlqCursor.has(offset);
      if (!toSilver && !toDlq) continue;
      this.bronzeRows += 1;
      const resolution = resolutions?.get(offset);
      if (!resolution && this.appendPlain(raws, i, decoders, writeId, offset, toSilver, topic, partition, numberOfWords(ingested, i), numberOfWords(kafkaWords, i))) continue;
      const raw = rawOf(raws, i);
      const bytes = resolution?.replacement === undefined ? raw : Buffer.from(resolution.replacement, 'base64');

      let schemaId: number | null = null;
      let reason: string | undefined;
      let detail: string | null = null;
      let type: string = schemaValidation;
      let row: Row | undefined;
      if (bytes === null) {
        reason = 'null_value' satisfies SchemaReason;
      } else if (!hasWireHeader(bytes)) {
        reason = 'invalid_magic_byte' satisfies SchemaReason;
        detail = bytes.length < wireHeaderBytes ? `expected at least ${wireHeaderBytes} bytes, found ${bytes.length}` : `expected magic byte 0, found ${bytes[0]!}`;
      } else {
        schemaId = resolution?.schemaId ?? wireSchemaId(bytes);
        const found = decoders.get(schemaId);
        invariant(found, () => `schema id ${schemaId} was not looked up`);
        if ('reason' in found) {
          ({ reason, detail } = found);
        } else {
          if (bytes.buffer !== shared) {
            shared = bytes.buffer;
            buffer = Buffer.from(shared);
          }
          const end = bytes.byteOffset + bytes.length;
          const walked = found.decoder.walk(buffer, bytes.byteOffset + wireHeaderBytes, end);
          if (walked < 0) {
            reason = 'body_does_not_decode' satisfies SchemaReason;
            detail = `decoding stopped at byte ${-1 - walked - bytes.byteOffset} of ${bytes.length}`;
          } else if (walked < end) {
            reason = 'trailing_bytes' satisfies SchemaReason;
            detail = `the record ends at byte ${walked - bytes.byteOffset} of ${bytes.length}`;
          } else {
            let record: unknown;
            try {
              record = found.decoder.decode(buffer, bytes.byteOffset + wireHeaderBytes);
            } catch (error) {
              reason = 'body_does_not_decode' satisfies SchemaReason;
              detail = messageOf(error);
            }
            if (reason === undefined) {
              context.messageId = idOf(offset);
              try {
                row = this.dataset.map(record, context);
                const verdict = this.dataset.rules.safeParse(row);
                if (!verdict.success) ({ type, reason, detail } = this.refusal(row, verdict.error.issues));
              } catch (error) {
                type = unknownError;
                reason = unknownError;
                detail = messageOf(error);
              }
            }
          }
        }
      }

      if (reason === undefined && resolution?.purged) {
        type = unknownError;
        reason = purgedReason;
      }
      if (reason === undefined && row) {
        const refused = this.appendRow(row, toSilver, schemaId!, topic, partition, offset, numberOfWords(ingested, i), numberOfWords(kafkaWords, i));
        if (refused === undefined) continue;
        type = unknownError;
        reason = unknownError;
        detail = refused;
      }
      if (!toDlq) {
        this.alreadyThereRows += 1;
        continue;
      }
      // A copy: the view would keep the whole page of its Bronze file.
      this.dlqRows.push({ raw: raw === null ? null : Uint8Array.from(raw), reason: reason!, type, detail, topic, partition, offset: offsets[i]!, kafkaTimestamp: kafkaTimestamps[i]!, schemaId });
      this.dlqByType[type] = (this.dlqByType[type] ?? 0) + 1;
      this.dlqByReason[reason!] = (this.dlqByReason[reason!] ?? 0) + 1;
    }
  }

  /** The quick way: true if the record is a valid one, plainly, and its row is in. */
  private appendPlain(
    { packed, positions }: PackedColumn, i: number, decoders: ReadonlyMap<number, DecoderOrReason>, writeId: MessageIdWriter, offset: number,
    toSilver: boolean, topic: string, partition: number, ingestedMicros: number, kafkaMicros: number,
  ): boolean {
    const { columnar, record } = this;
    const start = positions[i]! + packedPrefixBytes;
    const end = positions[i + 1]!;
    if (!columnar || start + wireHeaderBytes > end || packed[start] !== magicByte) return false;
    const schemaId = wireSchemaIdAt(packed, start);
    const found = decoders.get(schemaId);
    if (!found || 'reason' in found || !found.decoder.fields) return false;
    if (!record.moveTo(packed, start + wireHeaderBytes, end, found.decoder.fields)) return false;
    const at = this.silverRows;
    invariant(at < this.rowsMax, () => `more rows than the ${this.rowsMax} announced`);
    const eventTime = columnar.map(record, at);
    if (Number.isNaN(eventTime)) return false;
    if (!toSilver) {
      this.alreadyThereRows += 1;
      return true;
    }
    const { messageIds } = columnar;
    messageIds.begin(at);
    const position = messageIds.take(messageIdBytes);
    writeId(offset, messageIds.target, position);
    messageIds.end();
    this.appendLineage(schemaId, topic, partition, offset, ingestedMicros, kafkaMicros, eventTime);
    return true;
  }

  /** Undefined when the row is in; else why a column refused it. */
  private appendRow(row: Row, toSilver: boolean, schemaId: number, topic: string, partition: number, offset: number, ingestedMicros: number, kafkaMicros: number): string | undefined {
    const at = this.silverRows;
    invariant(at < this.rowsMax, () => `more rows than the ${this.rowsMax} announced`);
    for (let c = 0; c < this.own.length; c += 1) {
      const value: CellValue | undefined = row[this.ownNames[c]!];
      const column = this.own[c]!;
      if (!column.append(at, value)) {
        return `column ${column.field.name}: expected ${typeof column.field.type === 'string' ? column.field.type : 'list'}${column.field.required ? '' : ' or null'}, found ${shown(value)}`;
      }
    }
    if (!toSilver) {
      this.alreadyThereRows += 1;
      return undefined;
    }
    this.appendLineage(schemaId, topic, partition, offset, ingestedMicros, kafkaMicros, Number(row[this.dataset.eventTime]));
    return undefined;
  }

  /** The row's other columns are in: with its lineage it counts. */
  private appendLineage(schemaId: number, topic: string, partition: number, offset: number, ingestedMicros: number, kafkaMicros: number, eventTime: number): void {
    const at = this.silverRows;
    const { bronze_ingestion_timestamp, schema_id, kafka_topic, kafka_partition, kafka_offset } = this.lineage;
    bronze_ingestion_timestamp.set(at, ingestedMicros);
    schema_id.append(at, schemaId);
    kafka_topic.set(at, topic);
    kafka_partition.append(at, partition);
    kafka_offset.set(at, offset);
    this.silverRows = at + 1;
    if (eventTime < this.eventTimeMin) this.eventTimeMin = eventTime;
    if (eventTime > this.eventTimeMax) this.eventTimeMax = eventTime;
    const bucket = Math.floor(kafkaMicros / producedBucketMicros);
    if (bucket !== this.producedBucket) {
      this.countProduced();
      this.producedBucket = bucket;
    }
    this.producedCount += 1;
  }

  /** Rows of one bucket follow each other: the map is asked once for them. */
  private countProduced(): void {
    if (this.producedCount > 0) this.produced.set(this.producedBucket, (this.produced.get(this.producedBucket) ?? 0) + this.producedCount);
    this.producedCount = 0;
  }

  private refusal(row: Row, issues: readonly { message: string; path: readonly PropertyKey[] }[]): { type: string; reason: string; detail: string } {
    const failed = [...new Set(issues.map(({ message }) => message))]
      .map((reason) => ({ reason, ...(this.reasons.get(reason) ?? { rank: Infinity, type: unknownError }) }))
      .sort((a, b) => a.rank - b.rank);
    return {
      type: failed[0]!.type,
      reason: failed.map(({ reason }) => reason).join(','),
      detail: issues.map(({ message, path }) => (path.length === 0 ? message : `${message}: found ${shown(row[String(path[0])])}`)).join('; '),
    };
  }

  finish(): Transformed {
    this.countProduced();
    const { silverRows, dlqRows, bronzeRows, alreadyThereRows } = this;
    invariant(silverRows + dlqRows.length + alreadyThereRows === bronzeRows,
      () => `rows lost: ${bronzeRows} in, ${silverRows} to Silver, ${dlqRows.length} to the DLQ, ${alreadyThereRows} there already`);
    const columns: Record<string, EncodableBatch['columns'][string]> = {};
    this.own.forEach((column, c) => { columns[this.ownNames[c]!] = column.finish(silverRows); });
    for (const [name, column] of Object.entries(this.lineage)) columns[name] = column.finish(silverRows);
    columns['validation_timestamp'] = { constant: this.nowMicros };
    columns['rule_version'] = { constant: this.dataset.ruleVersion };
    return {
      silver: { rowCount: silverRows, columns },
      dlq: {
        rowCount: dlqRows.length,
        columns: {
          raw_record: dlqRows.map(({ raw }) => raw),
          error_reason: dlqRows.map(({ reason }) => reason),
          error_type: dlqRows.map(({ type }) => type),
          error_timestamp: { constant: this.nowMicros },
          bronze_source: { constant: this.dataset.source },
          kafka_topic: dlqRows.map(({ topic }) => topic),
          kafka_partition: Int32Array.from(dlqRows, ({ partition }) => partition),
          kafka_offset: BigInt64Array.from(dlqRows, ({ offset }) => offset),
          kafka_timestamp: BigInt64Array.from(dlqRows, ({ kafkaTimestamp }) => kafkaTimestamp),
          schema_id: dlqRows.map(({ schemaId }) => schemaId),
          dlq_date: Int32Array.from(dlqRows, ({ kafkaTimestamp }) => Math.floor(Number(kafkaTimestamp) / microsPerDay)),
          rule_version: { constant: this.dataset.ruleVersion },
          error_detail: dlqRows.map(({ detail }) => detail),
        },
      },
      bronzeRows,
      silverRows,
      dlqRows: dlqRows.length,
      alreadyThereRows,
      dlqByType: this.dlqByType,
      dlqByReason: this.dlqByReason,
      produced: coarsened(this.produced),
      eventTimeMin: silverRows === 0 ? null : this.eventTimeMin,
      eventTimeMax: silverRows === 0 ? null : this.eventTimeMax,
    };
  }
}

/** Doubles the width of the buckets until there are few enough to travel. */
const coarsened = (produced: ReadonlyMap<number, number>): ProducedHistogram => {
  let bucketMs = producedBucketMicros / 1000;
  let buckets = new Map(produced);
  while (buckets.size > producedBucketsMax) {
    const wider = new Map<number, number>();
    for (const [bucket, count] of buckets) {
      const into = Math.floor(bucket / 2);
      wider.set(into, (wider.get(into) ?? 0) + count);
    }
    buckets = wider;
    bucketMs *= 2;
  }
  return { bucketMs, buckets: [...buckets].sort(([a], [b]) => a - b).map(([bucket, count]) => [bucket * bucketMs, count]) };
};
