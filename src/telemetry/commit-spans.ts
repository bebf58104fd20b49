import type { Catalog } from '../lake/table.ts';
import { aroundCommit } from './around-commit.ts';
import type { Tracing } from './tracing.ts';

/** The catalog, with a span for each table commit. */
export const withCommitSpans = <C extends Catalog>(catalog: C, tracing: Pick<Tracing, 'within'>): C => aroundCommit(catalog, (table, { commitId, add, remove }, commit) =>
  tracing.within('table commit', {
    attributes: { 'tidemark.table': table, 'tidemark.commit_id': commitId, 'tidemark.files_added': add.length, 'tidemark.files_removed': remove?.length ?? 0 },
  }, async (span) => {
    const result = await commit();
    span.set({ 'tidemark.status': result.status, 'tidemark.attempts': result.attempts, 'tidemark.snapshot_id': String(result.snapshotId) });
    return result;
  }));
