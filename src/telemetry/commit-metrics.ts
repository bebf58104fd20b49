import { isTidemarkError } from '../domain/errors.ts';
import type { Catalog } from '../lake/table.ts';
import type { Metrics } from './metrics.ts';

/** The catalog, with its table commits measured. */
export const withCommitMetrics = <C extends Catalog>(catalog: C, metrics: Metrics): C => new Proxy(catalog, {
  get: (target, property) => {
    const value: unknown = Reflect.get(target, property, target);
    if (typeof value !== 'function') return value;
    if (property !== 'commit') return value.bind(target) as unknown;
    const commit: Catalog['commit'] = async (table, request) => {
      const from = performance.now();
      try {
        const result = await target.commit(table, request);
        metrics.add('iceberg_commit_conflicts_total', { table }, Math.max(0, result.attempts - 1));
        if (result.status === 'committed') metrics.observe('iceberg_commit_latency_seconds', { table }, (performance.now() - from) / 1_000);
        return result;
      } catch (error) {
        if (isTidemarkError(error, 'COMMIT_CONFLICT')) metrics.add('iceberg_commit_conflicts_total', { table });
        metrics.add('iceberg_commit_failures_total', { table, code: isTidemarkError(error) ? error.code : 'UNEXPECTED' });
        throw error;
      }
    };
    return commit;
  },
});
