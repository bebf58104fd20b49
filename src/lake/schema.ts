/** Iceberg types that the tables use (Iceberg spec, "Schemas and Data Types"). */
export type PrimitiveType =
  | 'boolean' | 'int' | 'long' | 'float' | 'double' | 'date' | 'timestamp' | 'timestamptz' | 'string' | 'binary'
  | `decimal(${number},${number})`;
export interface ListType {
  type: 'list';
  elementId: number;
  element: PrimitiveType;
  elementRequired: boolean;
}
export type FieldType = PrimitiveType | ListType;

export interface Field {
  id: number;
  name: string;
  type: FieldType;
  required: boolean;
  doc?: string;
}

export type Transform = 'identity' | 'day' | 'hour';
export interface PartitionField {
  sourceId: number;
  fieldId: number;
  name: string;
  transform: Transform;
}

/** All that is needed to create a table. Field ids are permanent: they identify columns across schema changes. */
export interface TableDefinition {
  /** Without the namespace: `gold_crypto_trades`. */
  name: string;
  fields: readonly Field[];
  partitionBy: readonly PartitionField[];
  /** Names of the columns that rows are sorted by inside a data file; recorded as the sort order, all ascending, nulls first. */
  sortBy?: readonly string[];
  properties?: Readonly<Record<string, string>>;
}

/** Names of the source column → partition value (day: days since epoch; hour: hours since epoch; identity: the value itself). */
export type PartitionTuple = Record<string, number | string | null>;
