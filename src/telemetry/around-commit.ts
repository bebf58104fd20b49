import type { Catalog, CommitRequest, CommitResult } from '../lake/table.ts';

type AroundCommit = (table: string, request: CommitRequest, commit: () => Promise<CommitResult>) => Promise<CommitResult>;

/** The same catalog, with something done around each of its table commits. */
export const aroundCommit = <C extends Catalog>(catalog: C, around: AroundCommit): C => new Proxy(catalog, {
  get: (target, property) => {
    const value: unknown = Reflect.get(target, property, target);
    if (typeof value !== 'function') return value;
    if (property !== 'commit') return value.bind(target) as unknown;
    const commit: Catalog['commit'] = (table, request) => around(table, request, () => target.commit(table, request));
    return commit;
  },
});
