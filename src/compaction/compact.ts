import { hash, randomUUID } from 'node:crypto';
import type { CompactedGroup } from '../contracts/compaction.ts';
import { isTidemarkError } from '../domain/errors.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog } from '../lake/table.ts';
import { planCompaction } from './plan.ts';
import type { CompactionGroup } from './plan.ts';
import { throwIfHeld } from '../refine/gold-holds.ts';
import { rewriteFiles } from './rewrite.ts';
import type { CompactedTable, CompactionPolicy } from './tables.ts';

export interface CompactGroupDeps {
  store: ObjectStore;
  catalog: Catalog;
  table: CompactedTable;
  policy: CompactionPolicy;
  /** Rewritings that may be for nothing because others removed an input; default 5. */
  attemptsMax?: number;
  now?: () => number;
  signal?: AbortSignal;
  onProgress?: (progress: { rows: number; files: number }) => void;
  /** Between the steps; tests stop here. */
  atStep?: (step: CompactionStep) => Promise<void> | void;
}
export type CompactionStep = 'planned' | 'written' | 'committed';

const attemptsDefault = 5;

/** The same inputs are the same work. */
const commitIdOf = ({ definition }: CompactedTable, { files }: CompactionGroup): string =>
  `compaction/${definition.name}/${hash('sha256', files.map(({ filePath }) => filePath).sort().join('\n'), 'hex').slice(0, 32)}`;

/**
 * Compacts the first group that is due in a partition, in one table commit of operation `replace`: the same rows in fewer files. The
 * commit holds if every input is live still; else what is live then is planned and written anew. A repetition finds nothing left
 * to do; files of an attempt that was killed are in no table. Old files stay readable for the snapshots that name them.
 * Throws BUCKET_HELD, FILE_UNREADABLE, COMMIT_CONFLICT past attemptsMax.
 */
export const compactGroup = async (deps: CompactGroupDeps, { folder, group }: Pick<CompactionGroup, 'folder' | 'group'>): Promise<CompactedGroup> => {
  const { store, catalog, table, policy, attemptsMax = attemptsDefault, now = Date.now, signal, onProgress, atStep } = deps;
  const { name } = table.definition;
  for (let attempts = 1; ; attempts += 1) {
    signal?.throwIfAborted();
    const version = await catalog.load(name);
    const due = (await planCompaction(version, table, policy, now())).groups.find((one) => one.folder === folder && one.group === group);
    if (!due) return { status: 'nothingToDo', attempts, rows: 0, filesIn: 0, filesOut: 0, bytesIn: 0, bytesOut: 0, snapshotId: null };
    // Whoever replaces rows in a Gold bucket is not to be overtaken.
    throwIfHeld(version, [due.partition], now());
    await atStep?.('planned');
    const written = await rewriteFiles({ store, ...(signal ? { signal } : {}), ...(onProgress ? { onProgress } : {}) }, {
      files: due.files, partition: due.partition, targetBytes: policy.targetBytes,
      ...table.rewrite(group, (suffix) => catalog.dataLocation(name, suffix), folder, randomUUID),
    });
    await atStep?.('written');
    try {
      const { status, snapshotId } = await catalog.commit(name, {
        commitId: commitIdOf(table, due), operation: 'replace', preparedSince: version, add: written, remove: due.files.map(({ filePath }) => filePath),
        check: (base) => { throwIfHeld(base, [due.partition], now()); }, ...(signal ? { signal } : {}),
      });
      await atStep?.('committed');
      return {
        status, attempts, rows: due.rows, filesIn: due.files.length, filesOut: written.length, bytesIn: due.bytes,
        bytesOut: written.reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0), snapshotId: snapshotId === null ? null : String(snapshotId),
      };
    } catch (error) {
      if (!isTidemarkError(error, 'COMMIT_CONFLICT') || attempts >= attemptsMax) throw error;
    }
  }
};
