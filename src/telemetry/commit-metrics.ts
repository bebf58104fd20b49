import { isTidemarkError } from '../domain/errors.ts';
import type { Catalog } from '../lake/table.ts';
import { aroundCommit } from './around-commit.ts';
import type { Metrics } from './metrics.ts';

/** The catalog, with its table commits measured. */
export const withCommitMetrics = <C extends Catalog>(catalog: C, metrics: Metrics): C => aroundCommit(catalog, async (table, _request, commit) => {
  const from = performance.now();
  try {
    const result = await commit();
    metrics.add('iceberg_commit_conflicts_total', { table }, Math.max(0, result.attempts - 1));
    if (result.status === 'committed') metrics.observe('iceberg_commit_latency_seconds', { table }, (performance.now() - from) / 1_000);
    return result;
  } catch (error) {
    if (isTidemarkError(error, 'COMMIT_CONFLICT')) metrics.add('iceberg_commit_conflicts_total', { table });
    metrics.add('iceberg_commit_failures_total', { table, code: isTidemarkError(error) ? error.code : 'UNEXPECTED' });
    throw error;
  }
});
