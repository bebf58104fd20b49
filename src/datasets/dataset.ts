import type { ZodType } from 'zod';
import type { ColumnValues } from '../lake/columns.ts';
import type { Field, PartitionField, TableDefinition } from '../lake/schema.ts';
import type { EncodedRecord } from '../schema-registry/encoded-record.ts';

// A new dataset is one file: source topic, Avro schema, mapping, rules, key, event time. The engine knows the shapes
// below and nothing of what a dataset is about. A dataset is a plain module without side effects: worker threads
// import it by URL.

/** An Avro record schema as JSON (Avro 1.12 specification, "Schema Declaration"). */
export interface AvroRecordSchema {
  readonly type: 'record';
  readonly name: string;
  readonly namespace: string;
  readonly doc?: string;
  readonly fields: readonly AvroField[];
}
export interface AvroField {
  readonly name: string;
  readonly doc?: string;
  readonly type: AvroType;
  readonly default?: string | number | boolean | null | Readonly<Record<string, string>>;
}
export type AvroPrimitive = 'null' | 'boolean' | 'int' | 'long' | 'float' | 'double' | 'bytes' | 'string';
export type AvroType = AvroPrimitive | { readonly type: 'map'; readonly values: AvroPrimitive } | readonly AvroPrimitive[];

/**
 * A 64-bit integer on the hot path: an exact `number` while it is safe, a `bigint` past 2^53. Timestamps are µs since
 * the epoch, decimals their unscaled value. A mapping that cannot represent a value says NaN, and a rule refuses it.
 */
export type Int64 = number | bigint;

/** What a mapping gives for one column; the column's type in the table says how it is written. */
export type CellValue = string | Int64 | boolean | Uint8Array | readonly string[] | null;
export type Row = Readonly<Record<string, CellValue>>;

/** What a mapping may use besides the record. One object is reused for all records of a batch: copy, never keep it. */
export interface RecordContext {
  readonly topic: string;
  readonly partition: number;
  /** UUIDv5 of (topic, partition, offset), the same in every refining of the record; see src/refine/message-id.ts. */
  readonly messageId: string;
}

/** A column of Gold that Silver lacks: a pure function of the Silver columns named in `from`. */
export interface GoldColumn {
  readonly field: Field;
  readonly from: readonly string[];
  derive(columns: Readonly<Record<string, ColumnValues>>, rowCount: number): ColumnValues;
}

/**
 * Columns that a {@link Dataset.columnar} mapping writes, each value at the row that is being built. What is written at a row that is then
 * given up is overwritten by the next record.
 */
export interface ColumnWriters {
  text(column: string): TextWriter;
  coded(column: string): CodedWriter;
  int64(column: string): Int64Writer;
}
/** A text put together from ASCII bytes: begin, then its parts, then end. */
export interface TextWriter {
  begin(row: number): void;
  end(): void;
  /** Bytes that are known to be ASCII. */
  ascii(bytes: Uint8Array, start: number, end: number): void;
  literal(bytes: Uint8Array): void;
  /** The decimal digits of a safe integer that is not negative. */
  natural(value: number): void;
  /** Bytes that stand for themselves in a JSON text: false if one of them does not (a control character, a quote, a backslash) or is not ASCII. */
  jsonText(bytes: Uint8Array, start: number, end: number): boolean;
}
/** Texts or lists of few different values. */
export interface CodedWriter {
  set(row: number, value: string | readonly string[]): void;
}
export interface Int64Writer {
  /** A safe integer, within what the column's type holds. */
  set(row: number, value: number): void;
  setNull(row: number): void;
}

/**
 * Maps one record from its bytes into the columns, without an object, and checks it. The event time in µs if the record is valid and
 * its row is what {@link Dataset.map} would give; NaN for whatever is not plainly so, and then `map` and the rules decide: they are
 * the definition, this is their quick way for the records that are as most are.
 */
export type ColumnarMapping = (record: EncodedRecord, row: number) => number;

export interface ColumnarDefinition {
  /** The text column that takes the message id; the engine writes it. */
  readonly messageId: string;
  /** Writes every other column of the dataset. */
  mapping(columns: ColumnWriters): ColumnarMapping;
}

/** Error types every dataset has, whatever its rules are. */
export const schemaValidation = 'schema_validation';
export const unknownError = 'unknown_error';
/** Reasons of {@link schemaValidation}. */
export type SchemaReason =
  | 'null_value' | 'invalid_magic_byte' | 'unknown_schema_id' | 'incompatible_schema' | 'body_does_not_decode' | 'trailing_bytes';

export interface Dataset {
  /** Names the stream, its Workflow IDs and the DLQ's bronze_source: `binance-trades`. */
  readonly source: string;
  readonly topic: string;
  /** The registry's subject for record values. */
  readonly subject: string;
  /** Registered by capture; the reader's schema of refining. */
  readonly rawSchema: AvroRecordSchema;
  /** Changes whenever this dataset's file or one that it shares rules with changes; a test holds that. */
  readonly ruleVersion: string;
  readonly bronze: TableDefinition;
  readonly silver: TableDefinition;
  readonly gold: TableDefinition;
  /** The dataset's own columns; Silver has them and {@link lineageFields}. */
  readonly fields: readonly Field[];
  /** Columns of the Gold key: equal keys are duplicates. Equal keys also agree in all columns that Gold is partitioned by. */
  readonly key: readonly string[];
  /** The column of the event time: timestamptz. */
  readonly eventTime: string;
  /** Besides Silver's columns, in Gold. {@link goldIngestionField} comes with every dataset. */
  readonly goldColumns: readonly GoldColumn[];
  /** A pure function of the decoded record and its context. What it throws becomes unknown_error. */
  map(raw: unknown, context: RecordContext): Row;
  /** Optional: makes the quick way of `map` and `rules` for one batch. */
  readonly columnar?: ColumnarDefinition;
  /** Issues carry the reason as their message, and do not stop later rules. */
  readonly rules: ZodType;
  /** Error type → its reasons. The order decides: the first reason here that a row fails names its error type. */
  readonly reasons: Readonly<Record<string, readonly string[]>>;
}

/** A dataset as its file declares it; what follows from that is filled in by {@link defineDataset}. */
export interface DatasetSpec<Raw, Mapped extends Row> {
  source: string;
  topic: string;
  rawSchema: AvroRecordSchema;
  ruleVersion: string;
  bronzeTable: string;
  silverTable: string;
  goldTable: string;
  fields: readonly Field[];
  key: readonly string[];
  eventTime: string;
  /** Gold is partitioned by these columns as they are, and then by the hour of the event time. */
  goldBucketBy: readonly string[];
  goldColumns: readonly GoldColumn[];
  map(raw: Raw, context: RecordContext): Mapped;
  columnar?: ColumnarDefinition;
  rules: ZodType;
  reasons: Readonly<Record<string, readonly string[]>>;
}

/** Field ids from here on are the engine's in Silver and Gold; ids below are the dataset's, list elements included. */
export const lineageFieldIdMin = 101;
/** Ids of Gold's own columns. */
export const goldFieldIdMin = 201;

/** Silver's columns that say where a row came from. Gold has them too. */
export const lineageFields: readonly Field[] = [
  { id: 101, name: 'validation_timestamp', type: 'timestamptz', required: true, doc: 'When the row was refined' },
  { id: 102, name: 'bronze_ingestion_timestamp', type: 'timestamptz', required: true, doc: 'When its Bronze file was written' },
  { id: 103, name: 'schema_id', type: 'int', required: true, doc: 'Schema id that the record was decoded with' },
  { id: 104, name: 'kafka_topic', type: 'string', required: true },
  { id: 105, name: 'kafka_partition', type: 'int', required: true },
  { id: 106, name: 'kafka_offset', type: 'long', required: true },
  { id: 107, name: 'rule_version', type: 'string', required: true, doc: 'Version of the mapping and the rules' },
];
export const goldIngestionField: Field = { id: 201, name: 'gold_ingestion_timestamp', type: 'timestamptz', required: true, doc: 'When the row was merged into Gold' };

/** Partition field ids start here (Iceberg spec, "Partition Specs"). */
const partitionFieldIdMin = 1000;

export const partitionBy = (fields: readonly Field[], parts: readonly (readonly [column: string, transform: PartitionField['transform']])[]): PartitionField[] =>
  parts.map(([column, transform], i) => {
    const field = fields.find(({ name }) => name === column);
    if (!field) throw new TypeError(`partition column: expected one of ${fields.map(({ name }) => name).join(', ')}, found ${column}`);
    return { sourceId: field.id, fieldId: partitionFieldIdMin + i, name: transform === 'identity' ? column : `${column}_${transform}`, transform };
  });

const bronzeFields: readonly Field[] = [
  { id: 1, name: 'raw_bytes', type: 'binary', required: false, doc: 'The record value as Kafka held it: 5-byte header and Avro body; null is a tombstone' },
  { id: 2, name: 'topic', type: 'string', required: true },
  { id: 3, name: 'partition', type: 'int', required: true },
  { id: 4, name: 'offset', type: 'long', required: true },
  { id: 5, name: 'key', type: 'binary', required: false },
  { id: 6, name: 'headers', type: 'string', required: false, doc: 'JSON list of [name, base64 value] pairs; null without headers' },
  { id: 7, name: 'kafka_timestamp', type: 'timestamptz', required: true },
  { id: 8, name: 'ingestion_timestamp', type: 'timestamptz', required: true, doc: 'When the Bronze file was written; one for all its rows' },
  { id: 9, name: 'ingestion_date', type: 'date', required: true, doc: 'UTC day of ingestion_timestamp' },
];

export const bronzeTable = (name: string): TableDefinition => ({
  name,
  fields: bronzeFields,
  partitionBy: partitionBy(bronzeFields, [['ingestion_timestamp', 'day']]),
  sortBy: ['topic', 'partition', 'offset'],
});

export const defineDataset = <Raw, Mapped extends Row>(spec: DatasetSpec<Raw, Mapped>): Dataset => {
  const silverFields = [...spec.fields, ...lineageFields];
  const goldFields = [...silverFields, goldIngestionField, ...spec.goldColumns.map(({ field }) => field)];
  return {
    source: spec.source,
    topic: spec.topic,
    subject: `${spec.topic}-value`,
    rawSchema: spec.rawSchema,
    ruleVersion: spec.ruleVersion,
    bronze: bronzeTable(spec.bronzeTable),
    silver: { name: spec.silverTable, fields: silverFields, partitionBy: partitionBy(silverFields, [[spec.eventTime, 'hour']]), sortBy: [spec.eventTime] },
    gold: {
      name: spec.goldTable,
      fields: goldFields,
      partitionBy: partitionBy(goldFields, [...spec.goldBucketBy.map((column) => [column, 'identity'] as const), [spec.eventTime, 'hour']]),
      sortBy: [spec.eventTime],
    },
    fields: spec.fields,
    key: spec.key,
    eventTime: spec.eventTime,
    goldColumns: spec.goldColumns,
    map: (raw, context) => spec.map(raw as Raw, context),
    ...(spec.columnar ? { columnar: spec.columnar } : {}),
    rules: spec.rules,
    reasons: spec.reasons,
  };
};
