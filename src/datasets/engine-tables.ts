import type { Field, TableDefinition } from '../lake/schema.ts';
import { partitionBy } from './dataset.ts';

// Tables that every pipeline has, whatever its datasets are. Field ids are permanent. Bronze, Silver and Gold of a
// dataset: see dataset.ts.

const dlqFields: readonly Field[] = [
  { id: 1, name: 'raw_record', type: 'binary', required: false, doc: 'The rejected bytes; null is a tombstone' },
  { id: 2, name: 'error_reason', type: 'string', required: true, doc: 'Reasons, comma separated, the deciding one first' },
  { id: 3, name: 'error_type', type: 'string', required: true },
  { id: 4, name: 'error_timestamp', type: 'timestamptz', required: true, doc: 'When the record was refused' },
  { id: 5, name: 'bronze_source', type: 'string', required: true, doc: 'The source whose Bronze table holds the record' },
  { id: 6, name: 'kafka_topic', type: 'string', required: true },
  { id: 7, name: 'kafka_partition', type: 'int', required: true },
  { id: 8, name: 'kafka_offset', type: 'long', required: true },
  { id: 9, name: 'kafka_timestamp', type: 'timestamptz', required: true },
  { id: 10, name: 'schema_id', type: 'int', required: false, doc: 'Null where the bytes name none' },
  { id: 11, name: 'dlq_date', type: 'date', required: true, doc: 'UTC day of kafka_timestamp' },
  { id: 12, name: 'rule_version', type: 'string', required: true },
  { id: 13, name: 'error_detail', type: 'string', required: false, doc: 'What was expected and found, for people' },
];

/** Rejected records. Its rows never change: state and attempts live in {@link dlqResolutionsTable}. */
export const dlqTable = (name: string): TableDefinition => ({
  name,
  fields: dlqFields,
  partitionBy: partitionBy(dlqFields, [['dlq_date', 'identity'], ['bronze_source', 'identity'], ['error_type', 'identity']]),
  sortBy: ['kafka_topic', 'kafka_partition', 'kafka_offset'],
});

const resolutionFields: readonly Field[] = [
  { id: 1, name: 'topic', type: 'string', required: true },
  { id: 2, name: 'partition', type: 'int', required: true },
  { id: 3, name: 'offset', type: 'long', required: true },
  { id: 4, name: 'action', type: 'string', required: true, doc: 'recovered, purged, flagged, quarantined, or refused: tried again in vain, and open still' },
  { id: 5, name: 'replacement_bytes', type: 'binary', required: false, doc: 'Refined in place of the Bronze bytes' },
  { id: 6, name: 'schema_id', type: 'int', required: false, doc: 'Decodes the body in place of the id that its bytes name' },
  { id: 7, name: 'replay_id', type: 'string', required: true },
  { id: 8, name: 'reason', type: 'string', required: false, doc: 'What recovered it, why it was purged or flagged, or the reasons of its new refusal' },
  { id: 9, name: 'actor', type: 'string', required: true },
  { id: 10, name: 'attempt', type: 'int', required: true },
  { id: 11, name: 'resolved_at', type: 'timestamptz', required: true },
  { id: 12, name: 'bronze_source', type: 'string', required: true },
];

export const dlqResolutionsTable: TableDefinition = {
  name: 'dlq_resolutions',
  fields: resolutionFields,
  partitionBy: partitionBy(resolutionFields, [['bronze_source', 'identity']]),
  sortBy: ['topic', 'partition', 'offset'],
};

const gapFields: readonly Field[] = [
  { id: 1, name: 'bronze_source', type: 'string', required: true },
  { id: 2, name: 'topic', type: 'string', required: true },
  { id: 3, name: 'partition', type: 'int', required: true },
  { id: 4, name: 'start_offset', type: 'long', required: true, doc: 'First offset that is lost' },
  { id: 5, name: 'end_offset', type: 'long', required: true, doc: 'The next offset after the gap' },
  { id: 6, name: 'detected_at', type: 'timestamptz', required: true },
  { id: 7, name: 'cause', type: 'string', required: true },
];

/** Offsets that the broker's retention took before they were read. */
export const ingestGapsTable: TableDefinition = {
  name: 'ingest_gaps',
  fields: gapFields,
  partitionBy: partitionBy(gapFields, [['bronze_source', 'identity']]),
};

const findingFields: readonly Field[] = [
  { id: 1, name: 'audit_id', type: 'string', required: true, doc: 'The run of the audit that found it' },
  { id: 2, name: 'found_at', type: 'timestamptz', required: true },
  { id: 3, name: 'promise', type: 'string', required: true, doc: 'Which promise does not hold' },
  { id: 4, name: 'subject', type: 'string', required: true, doc: 'The table or topic that the finding is about' },
  { id: 5, name: 'topic', type: 'string', required: false },
  { id: 6, name: 'partition', type: 'int', required: false },
  { id: 7, name: 'start_offset', type: 'long', required: false },
  { id: 8, name: 'end_offset', type: 'long', required: false, doc: 'The next offset after the finding' },
  { id: 9, name: 'detail', type: 'string', required: true, doc: 'What was expected and found' },
];

export const auditFindingsTable: TableDefinition = {
  name: 'audit_findings',
  fields: findingFields,
  partitionBy: partitionBy(findingFields, [['found_at', 'day']]),
};
