import type { ParquetType, SchemaElement } from 'hyparquet';
import { TidemarkError } from '../domain/errors.ts';
import type { Field, PrimitiveType } from './schema.ts';

/** The one physical column that an Iceberg field becomes (Iceberg spec, appendix A, "Parquet"). */
export interface Leaf {
  field: Field;
  /** The field's id, or the list's element id. */
  fieldId: number;
  type: PrimitiveType;
  physical: ParquetType;
  path: string[];
  isList: boolean;
  /** 1 if the field itself may be null. */
  fieldOptional: 0 | 1;
  /** 1 if a list's element may be null. */
  elementOptional: 0 | 1;
  maxDefinitionLevel: number;
}

const decimalPattern = /^decimal\((\d+),(\d+)\)$/;

/** Precision and scale; undefined for other types. */
export const decimalOf = (type: PrimitiveType): { precision: number; scale: number } | undefined => {
  const match = decimalPattern.exec(type);
  return match ? { precision: Number(match[1]), scale: Number(match[2]) } : undefined;
};

const physicalTypes: Record<string, ParquetType> = {
  boolean: 'BOOLEAN', int: 'INT32', date: 'INT32', long: 'INT64', timestamp: 'INT64', timestamptz: 'INT64',
  float: 'FLOAT', double: 'DOUBLE', string: 'BYTE_ARRAY', binary: 'BYTE_ARRAY',
};

const physicalType = (type: PrimitiveType): ParquetType => {
  const decimal = decimalOf(type);
  if (!decimal) return physicalTypes[type]!;
  if (decimal.precision > 18) {
    throw new TidemarkError('BAD_INPUT', `${type}: expected a precision of at most 18 (a 64-bit integer), found ${decimal.precision}`);
  }
  return 'INT64';
};

const annotation = (type: PrimitiveType): Partial<SchemaElement> => {
  switch (type) {
    case 'string': return { converted_type: 'UTF8', logical_type: { type: 'STRING' } };
    case 'date': return { converted_type: 'DATE', logical_type: { type: 'DATE' } };
    // The converted type always means UTC, so that a timestamp without a zone has the logical type only.
    case 'timestamp': return { logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: false, unit: 'MICROS' } };
    case 'timestamptz': return { converted_type: 'TIMESTAMP_MICROS', logical_type: { type: 'TIMESTAMP', isAdjustedToUTC: true, unit: 'MICROS' } };
    default: {
      const decimal = decimalOf(type);
      return decimal ? { converted_type: 'DECIMAL', ...decimal, logical_type: { type: 'DECIMAL', ...decimal } } : {};
    }
  }
};

export const leafOf = (field: Field): Leaf => {
  const fieldOptional = field.required ? 0 : 1;
  if (typeof field.type === 'string') {
    return {
      field, fieldId: field.id, type: field.type, physical: physicalType(field.type), path: [field.name], isList: false,
      fieldOptional, elementOptional: 0, maxDefinitionLevel: fieldOptional,
    };
  }
  const elementOptional = field.type.elementRequired ? 0 : 1;
  return {
    field, fieldId: field.type.elementId, type: field.type.element, physical: physicalType(field.type.element),
    path: [field.name, 'list', 'element'], isList: true, fieldOptional, elementOptional,
    maxDefinitionLevel: fieldOptional + 1 + elementOptional,
  };
};

/** The Parquet schema of a table's fields, with Iceberg's field ids on every element that has one; lists have three levels. */
export const schemaElements = (fields: readonly Field[]): SchemaElement[] => {
  const elements: SchemaElement[] = [{ name: 'table', num_children: fields.length }];
  for (const field of fields) {
    const leaf = leafOf(field);
    const repetition = leaf.fieldOptional ? 'OPTIONAL' : 'REQUIRED';
    if (leaf.isList) {
      elements.push(
        { name: field.name, repetition_type: repetition, num_children: 1, converted_type: 'LIST', logical_type: { type: 'LIST' }, field_id: field.id },
        { name: 'list', repetition_type: 'REPEATED', num_children: 1 },
        { name: 'element', type: leaf.physical, repetition_type: leaf.elementOptional ? 'OPTIONAL' : 'REQUIRED', field_id: leaf.fieldId, ...annotation(leaf.type) },
      );
    } else {
      elements.push({ name: field.name, type: leaf.physical, repetition_type: repetition, field_id: field.id, ...annotation(leaf.type) });
    }
  }
  return elements;
};

/** A leaf of any Parquet file as the reader needs it: flat columns, and lists of one level however they are written. */
export interface FileLeaf {
  /** The top-level column's name. */
  name: string;
  element: SchemaElement;
  /** Index of the column chunk in each row group. */
  index: number;
  maxDefinitionLevel: number;
  /** Definition level at which the list has an element; 0 for flat columns. */
  listDefinitionLevel: number;
  isList: boolean;
  /** Undefined where the file has no field ids. */
  fieldId: number | undefined;
}

/** The leaves of a file's schema; columns that are neither flat nor a one-level list are left out: nothing can read them. */
export const fileLeaves = (schema: readonly SchemaElement[]): FileLeaf[] => {
  const leaves: FileLeaf[] = [];
  let at = 1;
  let chunkIndex = 0;
  const walk = (name: string, definition: number, listDefinition: number, isReadable: boolean): void => {
    const element = schema[at]!;
    at += 1;
    const maxDefinitionLevel = definition + (element.repetition_type === 'REQUIRED' ? 0 : 1);
    const isRepeated = element.repetition_type === 'REPEATED';
    const readable = isReadable && !(isRepeated && listDefinition > 0);
    const listDefinitionLevel = isRepeated ? maxDefinitionLevel : listDefinition;
    const children = element.num_children ?? 0;
    if (children > 0) {
      for (let child = 0; child < children; child += 1) walk(name, maxDefinitionLevel, listDefinitionLevel, readable && children === 1);
      return;
    }
    const index = chunkIndex;
    chunkIndex += 1;
    if (!readable) return;
    leaves.push({ name, element, index, maxDefinitionLevel, listDefinitionLevel, isList: listDefinitionLevel > 0, fieldId: element.field_id });
  };
  for (let column = 0; column < (schema[0]?.num_children ?? 0); column += 1) {
    walk(schema[at]!.name, 0, 0, true);
  }
  return leaves;
};
