import { TidemarkError } from '../../domain/errors.ts';
import { Coverage, parseTopicPartitionKey, topicPartitionKey } from '../../domain/offsets.ts';
import type { Field, FieldType, PartitionField, PrimitiveType, TableDefinition, Transform } from '../schema.ts';
import type { SnapshotInfo } from '../table.ts';

/** Table metadata as its JSON file holds it (Iceberg spec, "Table Metadata Fields", format version 2). */
export interface TableMetadata {
  'format-version': 2;
  'table-uuid': string;
  'location': string;
  'last-sequence-number': number;
  'last-updated-ms': number;
  'last-column-id': number;
  'current-schema-id': number;
  'schemas': SchemaJson[];
  'default-spec-id': number;
  'partition-specs': { 'spec-id': number; 'fields': PartitionFieldJson[] }[];
  'last-partition-id': number;
  'default-sort-order-id': number;
  'sort-orders': { 'order-id': number; 'fields': SortFieldJson[] }[];
  'properties': Record<string, string>;
  /** -1: none yet. Iceberg's own writers leave it so in version 2, and every reader takes it. */
  'current-snapshot-id': number;
  'snapshots': SnapshotJson[];
  'snapshot-log': { 'timestamp-ms': number; 'snapshot-id': number }[];
  'metadata-log': { 'timestamp-ms': number; 'metadata-file': string }[];
  'refs': Record<string, { 'snapshot-id': number; 'type': 'branch' | 'tag' }>;
}

interface SchemaJson { 'type': 'struct'; 'schema-id': number; 'fields': FieldJson[] }
interface FieldJson { id: number; name: string; required: boolean; type: string | { [key: string]: unknown }; doc?: string }
interface PartitionFieldJson { 'source-id': number; 'field-id': number; 'name': string; 'transform': string }
interface SortFieldJson { 'transform': string; 'source-id': number; 'direction': 'asc' | 'desc'; 'null-order': 'nulls-first' | 'nulls-last' }
export interface SnapshotJson {
  'snapshot-id': number;
  'parent-snapshot-id'?: number;
  'sequence-number': number;
  'timestamp-ms': number;
  'summary': { operation: SnapshotInfo['operation'] } & Record<string, string>;
  'manifest-list': string;
  'schema-id': number;
}

export const mainBranch = 'main';
export const commitIdKey = 'tidemark.commit-id';
/** Names the commit call that wrote a version, and the one that wrote the version it builds on: the chain that tells a commit from one in the void. */
export const attemptProperty = 'tidemark.attempt';
export const parentAttemptProperty = 'tidemark.parent-attempt';
const coveragePrefix = 'tidemark.covered.';

/** Metadata of a table that holds no rows yet. BAD_INPUT when the definition contradicts itself. */
export function initialMetadata(definition: TableDefinition, location: string, uuid: string, nowMs: number): TableMetadata {
  const { fields, partitionBy, sortBy = [] } = definition;
  const ids = fields.flatMap(({ id, type }) => (typeof type === 'string' ? [id] : [id, type.elementId]));
  if (new Set(ids).size !== ids.length || new Set(fields.map(({ name }) => name)).size !== fields.length) {
    throw new TidemarkError('BAD_INPUT', `table ${definition.name}: expected field ids and names that are unique, found ${ids.join(', ')}`);
  }
  const sortFields = sortBy.map((name): SortFieldJson => {
    const field = fields.find((candidate) => candidate.name === name);
    if (!field) throw new TidemarkError('BAD_INPUT', `table ${definition.name}: expected sort columns among its fields, found ${name}`);
    return { 'transform': 'identity', 'source-id': field.id, 'direction': 'asc', 'null-order': 'nulls-first' };
  });
  // Order id 0 is the spec's name for "unsorted".
  const sortOrderId = sortFields.length > 0 ? 1 : 0;
  return {
    'format-version': 2,
    'table-uuid': uuid,
    'location': location,
    'last-sequence-number': 0,
    'last-updated-ms': nowMs,
    'last-column-id': Math.max(0, ...ids),
    'current-schema-id': 0,
    'schemas': [{ 'type': 'struct', 'schema-id': 0, 'fields': fields.map(fieldToJson) }],
    'default-spec-id': 0,
    'partition-specs': [{ 'spec-id': 0, 'fields': partitionBy.map(partitionFieldToJson) }],
    // Partition field ids begin at 1000 by convention, and 999 means that there is none.
    'last-partition-id': Math.max(999, ...partitionBy.map(({ fieldId }) => fieldId)),
    'default-sort-order-id': sortOrderId,
    'sort-orders': [{ 'order-id': sortOrderId, 'fields': sortFields }],
    'properties': { 'write.parquet.compression-codec': 'zstd', ...definition.properties },
    'current-snapshot-id': -1,
    'snapshots': [],
    'snapshot-log': [],
    'metadata-log': [],
    'refs': {},
  };
}

/** TABLE_CORRUPT when the bytes are no metadata of version 2, or hold numbers that a double cannot. */
export function parseMetadata(bytes: Uint8Array, location: string): TableMetadata {
  let metadata: TableMetadata;
  try {
    metadata = JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString()) as TableMetadata;
  } catch (cause) {
    throw new TidemarkError('TABLE_CORRUPT', `table metadata ${location}: expected JSON, found ${bytes.length} bytes of something else`, { cause });
  }
  const version = (metadata as { 'format-version'?: unknown })['format-version'];
  if (version !== 2) throw new TidemarkError('TABLE_CORRUPT', `table metadata ${location}: expected format version 2, found ${String(version)}`);
  for (const { 'snapshot-id': id } of metadata.snapshots) {
    // Our ids fit a double; another engine's 63 bits would be rounded to an id that does not exist.
    if (!Number.isSafeInteger(id)) throw new TidemarkError('TABLE_CORRUPT', `table metadata ${location}: expected snapshot ids below 2^53, found ${id}`);
  }
  return metadata;
}

const fieldToJson = ({ id, name, required, type, doc }: Field): FieldJson => ({
  id,
  name,
  required,
  type: typeof type === 'string'
    ? typeToJson(type)
    : { 'type': 'list', 'element-id': type.elementId, 'element-required': type.elementRequired, 'element': typeToJson(type.element) },
  ...(doc ? { doc } : {}),
});
const typeToJson = (type: PrimitiveType): string => type.replace(',', ', ');
const typeFromJson = (type: unknown): PrimitiveType => String(type).replaceAll(' ', '') as PrimitiveType;
const fieldTypeFromJson = (type: FieldJson['type']): FieldType => (typeof type === 'string' ? typeFromJson(type) : {
  type: 'list', elementId: Number(type['element-id']), elementRequired: Boolean(type['element-required']), element: typeFromJson(type['element']),
});
const partitionFieldToJson = ({ sourceId, fieldId, name, transform }: PartitionField): PartitionFieldJson =>
  ({ 'source-id': sourceId, 'field-id': fieldId, name, transform });

export const currentSchema = (metadata: TableMetadata): SchemaJson => {
  const schema = metadata.schemas.find((candidate) => candidate['schema-id'] === metadata['current-schema-id']);
  if (!schema) throw new TidemarkError('TABLE_CORRUPT', `table metadata of ${metadata.location}: expected schema ${metadata['current-schema-id']}, found none`);
  return schema;
};
export const fieldsOf = (metadata: TableMetadata): Field[] => currentSchema(metadata).fields.map(({ id, name, required, type, doc }) => ({
  id, name, required, type: fieldTypeFromJson(type), ...(doc ? { doc } : {}),
}));

export const currentSpec = (metadata: TableMetadata): TableMetadata['partition-specs'][number] => {
  const spec = metadata['partition-specs'].find((candidate) => candidate['spec-id'] === metadata['default-spec-id']);
  if (!spec) throw new TidemarkError('TABLE_CORRUPT', `table metadata of ${metadata.location}: expected partition spec ${metadata['default-spec-id']}, found none`);
  return spec;
};
export const partitionFieldsOf = (metadata: TableMetadata): PartitionField[] => currentSpec(metadata).fields.map((field) => ({
  sourceId: field['source-id'], fieldId: field['field-id'], name: field.name, transform: field.transform as Transform,
}));

export const currentSnapshotOf = (metadata: TableMetadata): SnapshotJson | null =>
  metadata.snapshots.find((snapshot) => snapshot['snapshot-id'] === metadata['current-snapshot-id']) ?? null;

export const snapshotInfo = (snapshot: SnapshotJson): SnapshotInfo => {
  const { operation, ...summary } = snapshot.summary;
  return {
    snapshotId: BigInt(snapshot['snapshot-id']),
    parentSnapshotId: snapshot['parent-snapshot-id'] === undefined ? null : BigInt(snapshot['parent-snapshot-id']),
    sequenceNumber: BigInt(snapshot['sequence-number']),
    timestampMs: snapshot['timestamp-ms'],
    operation,
    summary,
  };
};

/** One property for each topic: `tidemark.covered.<topic>` = `{"<partition>":"<start>-<end>,…"}`. */
export function coverageFromProperties(properties: Readonly<Record<string, string>>, table: string): Coverage {
  const json: Record<string, string> = {};
  for (const [key, value] of Object.entries(properties)) {
    if (!key.startsWith(coveragePrefix)) continue;
    try {
      for (const [partition, intervals] of Object.entries(JSON.parse(value) as Record<string, string>)) {
        json[topicPartitionKey(key.slice(coveragePrefix.length), Number(partition))] = intervals;
      }
    } catch (cause) {
      throw new TidemarkError('TABLE_CORRUPT', `table ${table}, property ${key}: expected intervals by partition as JSON, found ${value}`, { cause });
    }
  }
  return Coverage.fromJson(json);
}

export function coverageToProperties(coverage: Coverage): Record<string, string> {
  const byTopic = new Map<string, Record<string, string>>();
  for (const [key, set] of coverage.entries()) {
    const { topic, partition } = parseTopicPartitionKey(key);
    const intervals = byTopic.get(topic) ?? {};
    intervals[String(partition)] = set.toString();
    byTopic.set(topic, intervals);
  }
  return Object.fromEntries([...byTopic].map(([topic, intervals]) => [coveragePrefix + topic, JSON.stringify(intervals)]));
}

/** Says how the definition differs from the table; null when they agree. Docs and properties may differ. */
export function definitionMismatch(metadata: TableMetadata, definition: TableDefinition): string | null {
  const describeField = ({ id, name, required, type }: Field): string =>
    `${id}: ${name} ${typeof type === 'string' ? type : `list<${type.elementId}: ${type.element}${type.elementRequired ? ' required' : ''}>`}${required ? ' required' : ''}`;
  const describePartition = ({ fieldId, sourceId, name, transform }: PartitionField): string => `${fieldId}: ${name} = ${transform}(${sourceId})`;
  const difference = (what: string, expected: string[], found: string[]): string | null => {
    const missing = expected.filter((text) => !found.includes(text));
    const extra = found.filter((text) => !expected.includes(text));
    if (missing.length === 0 && extra.length === 0) return null;
    return `${what}: expected ${missing.join('; ') || 'nothing more'}, found ${extra.join('; ') || 'nothing more'}`;
  };
  return difference('fields', definition.fields.map(describeField), fieldsOf(metadata).map(describeField))
    ?? difference('partition fields', definition.partitionBy.map(describePartition), partitionFieldsOf(metadata).map(describePartition));
}
