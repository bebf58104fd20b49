import { plannedCompaction } from '../src/compaction/plan.ts';
import type { CompactionPolicies } from '../src/compaction/tables.ts';
import { compactedTableOf, policyOf } from '../src/compaction/tables.ts';
import type { CompactionActivities } from '../src/contracts/compaction.ts';
import type { Pipeline } from '../src/datasets/pipeline.ts';
import type { Catalog } from '../src/lake/table.ts';
import type { RefinePool } from '../src/refine/refine-pool.ts';
import { asActivity } from './edge.ts';

export interface CompactionDeps {
  catalog: Catalog;
  pipeline: Pipeline;
  policies: CompactionPolicies;
  /** Where files are rewritten. */
  pool: Pick<RefinePool, 'run'>;
  now?: () => number;
}

export const createCompactionActivities = (deps: CompactionDeps): CompactionActivities => ({
  planCompaction: ({ table }) => asActivity(() => plannedCompaction(deps, table)),

  compactGroup: ({ table, folder, group }) => asActivity(({ signal, report }) =>
    deps.pool.run('compact', { table, folder, group, policy: policyOf(compactedTableOf(deps.pipeline, table), deps.policies) }, { signal, onProgress: report })),
});
