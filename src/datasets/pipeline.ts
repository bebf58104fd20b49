import type { RetentionPolicy } from '../domain/retention.ts';
import type { TableDefinition } from '../lake/schema.ts';
import type { CleanseFunction } from './cleanse.ts';
import type { Dataset } from './dataset.ts';
import { auditFindingsTable, dlqResolutionsTable, dlqTable, ingestGapsTable } from './engine-tables.ts';

/** What one deployment runs: the default export of a pipeline module. */
export interface Pipeline {
  /** The catalog namespace of all its tables. */
  readonly namespace: string;
  /** The table of rejected records, shared by all datasets. */
  readonly dlqTable: string;
  readonly datasets: readonly Dataset[];
  /** How long rows stay in which table, by its name. Tables without one have the defaults of src/retention/policies.ts. */
  readonly retention?: Readonly<Record<string, RetentionPolicy>>;
  /** Functions that mend rejected records in a DLQ replay, by name. */
  readonly cleansing?: Readonly<Record<string, CleanseFunction>>;
}

export const datasetOf = (pipeline: Pipeline, source: string): Dataset => {
  const dataset = pipeline.datasets.find((candidate) => candidate.source === source);
  if (!dataset) throw new TypeError(`source: expected one of ${pipeline.datasets.map((candidate) => candidate.source).join(', ')}, found ${source}`);
  return dataset;
};

/** Throws a TypeError that lists the names there are, for this source. */
export const cleanseFunctionOf = ({ cleansing = {} }: Pipeline, name: string, source: string): CleanseFunction => {
  const found = Object.hasOwn(cleansing, name) ? cleansing[name] : undefined;
  if (!found?.sources.includes(source)) {
    const names = Object.entries(cleansing).flatMap(([known, { sources }]) => (sources.includes(source) ? [known] : []));
    throw new TypeError(`cleanse function of ${source}: expected one of ${names.join(', ') || '(none is registered)'}, found ${name}`);
  }
  return found;
};

/** Every table of the pipeline, each once, in an order in which they can be created. */
export const pipelineTables = (pipeline: Pipeline): TableDefinition[] => {
  const tables = new Map<string, TableDefinition>();
  for (const { bronze, silver, gold } of pipeline.datasets) {
    for (const table of [bronze, silver, gold]) tables.set(table.name, table);
  }
  for (const table of [dlqTable(pipeline.dlqTable), dlqResolutionsTable, ingestGapsTable, auditFindingsTable]) tables.set(table.name, table);
  return [...tables.values()];
};
