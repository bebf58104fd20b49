import type { Pipeline } from '../datasets/pipeline.ts';
import { pipelineTables } from '../datasets/pipeline.ts';
import type { RetentionClock, RetentionPolicy } from '../domain/retention.ts';
import { parsePolicy, policyProblems } from '../domain/retention.ts';
import { TidemarkError } from '../domain/errors.ts';
import type { TableDefinition } from '../lake/schema.ts';

/** What a table's rows are to the others: it decides what may need them, and where a row says its age. */
export type TableRole = 'bronze' | 'silver' | 'dlq';

export interface RetainedTable {
  readonly name: string;
  readonly role: TableRole;
  readonly clock: RetentionClock;
  readonly definition: TableDefinition;
  readonly policy: RetentionPolicy;
  /** Sources whose rows it holds. */
  readonly sources: readonly string[];
}

/** What holds unless the pipeline or the environment says otherwise. */
export const policyDefaults: Readonly<Record<TableRole, RetentionPolicy>> = {
  bronze: { hotDays: 30, purgeDays: 365 },
  silver: { hotDays: 30, purgeDays: 365 },
  dlq: { hotDays: 30, purgeDays: 90 },
};

/** `table=30/365,other=keep` as policies. @throws TidemarkError BAD_CONFIG with every part that is none. */
export const parsePolicies = (text: string): Record<string, RetentionPolicy> => {
  const policies: Record<string, RetentionPolicy> = {};
  const problems: string[] = [];
  for (const part of text.split(',').map((one) => one.trim()).filter((one) => one !== '')) {
    const [table, value, ...rest] = part.split('=').map((one) => one.trim());
    const policy = value === undefined || rest.length > 0 ? undefined : parsePolicy(value);
    if (!table || !policy) problems.push(`  expected <table>=<hot days>/<purge days>, <table>=<hot days>/never or <table>=keep, found ${JSON.stringify(part)}`);
    else if (policies[table]) problems.push(`  ${table}: expected one policy, found another: ${JSON.stringify(part)}`);
    else policies[table] = policy;
  }
  if (problems.length > 0) throw new TidemarkError('BAD_CONFIG', `retention policies, ${problems.length} problem${problems.length === 1 ? '' : 's'}:\n${problems.join('\n')}`);
  return policies;
};

/**
 * The tables that age, with their policies: the pipeline's, over them the given ones (of the environment).
 * @throws TidemarkError BAD_CONFIG that lists every problem: unknown tables, tables that cannot age, archives shorter than hot.
 */
export const retainedTables = (pipeline: Pipeline, given: Readonly<Record<string, RetentionPolicy>> = {}): RetainedTable[] => {
  const problems: string[] = [];
  const policies: Record<string, RetentionPolicy> = { ...pipeline.retention, ...given };
  const definitions = new Map(pipelineTables(pipeline).map((table) => [table.name, table]));
  const roles = new Map<string, { role: TableRole; sources: string[] }>();
  for (const { source, bronze, silver } of pipeline.datasets) {
    for (const [name, role] of [[bronze.name, 'bronze'], [silver.name, 'silver']] as const) {
      const known = roles.get(name);
      if (known) known.sources.push(source);
      else roles.set(name, { role, sources: [source] });
    }
  }
  roles.set(pipeline.dlqTable, { role: 'dlq', sources: pipeline.datasets.map(({ source }) => source) });
  const gold = new Set(pipeline.datasets.map((dataset) => dataset.gold.name));
  for (const [table, policy] of Object.entries(policies)) {
    if (!definitions.has(table)) {
      problems.push(`  ${table}: expected a table of the pipeline (${[...roles.keys()].join(', ')}), found none of this name`);
    } else if (!roles.has(table) && policy.hotDays !== null) {
      problems.push(gold.has(table)
        ? `  ${table}: expected keep: Gold remembers every key for ever, and would take a late duplicate of a row that left it`
        : `  ${table}: expected keep: backfills and audits read all of its rows`);
    }
    problems.push(...policyProblems(policy).map((problem) => `  ${table}: ${problem}`));
  }
  if (problems.length > 0) throw new TidemarkError('BAD_CONFIG', `retention policies, ${problems.length} problem${problems.length === 1 ? '' : 's'}:\n${problems.join('\n')}`);
  return [...roles].map(([name, { role, sources }]) => ({
    name, role, sources, clock: role === 'dlq' ? 'resolution' : 'ingestion', definition: definitions.get(name)!, policy: policies[name] ?? policyDefaults[role],
  }));
};

export const retainedTable = (tables: readonly RetainedTable[], name: string): RetainedTable => {
  const table = tables.find((one) => one.name === name);
  if (!table) throw new TidemarkError('BAD_INPUT', `table: expected one of ${tables.map((one) => one.name).join(', ')}, found ${name}`);
  return table;
};
