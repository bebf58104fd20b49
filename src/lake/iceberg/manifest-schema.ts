import { TidemarkError } from '../../domain/errors.ts';
import type { Field, PartitionField, PrimitiveType } from '../schema.ts';
import { transformResultType } from './transforms.ts';

/** Avro schemas of manifests and manifest lists (Iceberg spec, "Manifests" and "Manifest Lists", format version 2), field ids included. */

type AvroSchemaJson = string | { [key: string]: unknown } | AvroSchemaJson[];
interface AvroField { name: string; type: AvroSchemaJson; 'field-id': number; default?: null }

const required = (id: number, name: string, type: AvroSchemaJson): AvroField => ({ name, type, 'field-id': id });
const optional = (id: number, name: string, type: AvroSchemaJson): AvroField => ({ name, type: ['null', type], 'field-id': id, default: null });

/** Avro has only string keys in maps, so Iceberg keeps maps by field id as arrays of pairs. */
const mapById = (keyId: number, valueId: number, value: 'long' | 'bytes'): AvroSchemaJson => ({
  type: 'array',
  logicalType: 'map',
  items: { type: 'record', name: `k${keyId}_v${valueId}`, fields: [required(keyId, 'key', 'int'), required(valueId, 'value', value)] },
});

const list = (elementId: number, items: AvroSchemaJson): AvroSchemaJson => ({ type: 'array', items, 'element-id': elementId });

function avroTypeOf(type: PrimitiveType): AvroSchemaJson {
  switch (type) {
    case 'boolean':
    case 'int':
    case 'long':
    case 'float':
    case 'double':
    case 'string':
      return type;
    case 'binary':
      return 'bytes';
    case 'date':
      return { type: 'int', logicalType: 'date' };
    case 'timestamp':
    case 'timestamptz':
      return { type: 'long', logicalType: 'timestamp-micros', 'adjust-to-utc': type === 'timestamptz' };
    default:
      throw new TidemarkError('BAD_INPUT', `partition field: expected a type that manifests can hold, found ${type}`);
  }
}

/** A partition field with the type of its values. */
export interface PartitionColumn {
  name: string;
  fieldId: number;
  /** Name of the source column: the key in a PartitionTuple. */
  sourceName: string;
  sourceId: number;
  sourceType: PrimitiveType;
  transform: PartitionField['transform'];
  type: PrimitiveType;
}

export const partitionColumns = (fields: readonly Field[], spec: readonly PartitionField[]): PartitionColumn[] =>
  spec.map(({ name, fieldId, sourceId, transform }) => {
    const source = fields.find(({ id }) => id === sourceId);
    if (!source || typeof source.type !== 'string') {
      throw new TidemarkError('BAD_INPUT', `partition field ${name}: expected a primitive source column, found field id ${sourceId}`);
    }
    return { name, fieldId, sourceName: source.name, sourceId, sourceType: source.type, transform, type: transformResultType(transform, source.type) };
  });

/** The columns of an entry before its data file: all that changes when an entry is carried into another manifest. */
export const entryHeadFields: AvroField[] = [
  required(0, 'status', 'int'),
  optional(1, 'snapshot_id', 'long'),
  optional(3, 'sequence_number', 'long'),
  optional(4, 'file_sequence_number', 'long'),
];

export const manifestEntrySchema = (partition: readonly PartitionColumn[]): AvroSchemaJson => ({
  type: 'record',
  name: 'manifest_entry',
  fields: [
    ...entryHeadFields,
    required(2, 'data_file', {
      type: 'record',
      name: 'r2',
      fields: [
        required(134, 'content', 'int'),
        required(100, 'file_path', 'string'),
        required(101, 'file_format', 'string'),
        required(102, 'partition', {
          type: 'record',
          name: 'r102',
          fields: partition.map(({ fieldId, name, type }) => optional(fieldId, name, avroTypeOf(type))),
        }),
        required(103, 'record_count', 'long'),
        required(104, 'file_size_in_bytes', 'long'),
        optional(108, 'column_sizes', mapById(117, 118, 'long')),
        optional(109, 'value_counts', mapById(119, 120, 'long')),
        optional(110, 'null_value_counts', mapById(121, 122, 'long')),
        optional(137, 'nan_value_counts', mapById(138, 139, 'long')),
        optional(125, 'lower_bounds', mapById(126, 127, 'bytes')),
        optional(128, 'upper_bounds', mapById(129, 130, 'bytes')),
        optional(131, 'key_metadata', 'bytes'),
        optional(132, 'split_offsets', list(133, 'long')),
        optional(135, 'equality_ids', list(136, 'int')),
        optional(140, 'sort_order_id', 'int'),
      ],
    }),
  ],
});

/** The part of an entry that planning looks at first; metrics are decoded only for the files that remain. */
export const entryOutlineSchema = (partition: readonly PartitionColumn[]): AvroSchemaJson => ({
  type: 'record',
  name: 'manifest_entry',
  fields: [
    ...entryHeadFields,
    required(2, 'data_file', {
      type: 'record',
      name: 'r2',
      fields: [
        required(100, 'file_path', 'string'),
        required(102, 'partition', {
          type: 'record',
          name: 'r102',
          fields: partition.map(({ fieldId, name, type }) => optional(fieldId, name, avroTypeOf(type))),
        }),
        required(103, 'record_count', 'long'),
        required(104, 'file_size_in_bytes', 'long'),
      ],
    }),
  ],
});

export const manifestFileSchema: AvroSchemaJson = {
  type: 'record',
  name: 'manifest_file',
  fields: [
    required(500, 'manifest_path', 'string'),
    required(501, 'manifest_length', 'long'),
    required(502, 'partition_spec_id', 'int'),
    required(517, 'content', 'int'),
    required(515, 'sequence_number', 'long'),
    required(516, 'min_sequence_number', 'long'),
    required(503, 'added_snapshot_id', 'long'),
    required(504, 'added_files_count', 'int'),
    required(505, 'existing_files_count', 'int'),
    required(506, 'deleted_files_count', 'int'),
    required(512, 'added_rows_count', 'long'),
    required(513, 'existing_rows_count', 'long'),
    required(514, 'deleted_rows_count', 'long'),
    optional(507, 'partitions', list(508, {
      type: 'record',
      name: 'r508',
      fields: [
        required(509, 'contains_null', 'boolean'),
        optional(518, 'contains_nan', 'boolean'),
        optional(510, 'lower_bound', 'bytes'),
        optional(511, 'upper_bound', 'bytes'),
      ],
    })),
    optional(519, 'key_metadata', 'bytes'),
  ],
};
