import type { ReprocessRange } from '../contracts/backfill.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { datasetOf } from '../datasets/pipeline.ts';
import { Coverage } from '../domain/offsets.ts';
import { dayMs } from '../domain/retention.ts';
import { compareSingleValues } from '../lake/iceberg/single-value.ts';
import type { BoundsFilter } from '../lake/table.ts';
import { offsetsOfFiles, rowsOfRange } from '../reprocess/select-offsets.ts';
import type { ArchiveManifest } from './archive.ts';
import type { SweepDeps } from './plan-sweep.ts';
import type { RetainedTable } from './policies.ts';
import { archivedIntervals, restoreArchive } from './restore.ts';
import { boundsOf } from './row-offsets.ts';

/** How long restored rows are left alone: a backfill that needs longer holds them by its tag anyway. */
const restoredForMs = 7 * dayMs;

const mayMatch = ({ schema: { fields } }: ArchiveManifest, file: ArchiveManifest['files'][number], bounds: readonly BoundsFilter[]): boolean => bounds.every(({ column, min, max }) => {
  const found = boundsOf(file.dataFile, fields, column);
  return !found || ((min === undefined || compareSingleValues(found.upper, min) >= 0) && (max === undefined || compareSingleValues(found.lower, max) <= 0));
});

export interface BackfillArchiveDeps extends SweepDeps {
  tables: readonly RetainedTable[];
  /** Says what would come back, and leaves it where it is. */
  dryRun?: boolean;
}

/** The archive as a backfill needs it: which archived rows a range means, and what it reads or replaces back in the tables. */
export const createBackfillArchive = ({ dryRun = false, tables, ...deps }: BackfillArchiveDeps) => {
  const { archive, pipeline, now = Date.now } = deps;
  const nameOf = (dataset: Dataset, table: 'bronze' | 'silver' | 'dlq'): string => (table === 'dlq' ? pipeline.dlqTable : dataset[table].name);

  const restore = async (name: string, offsets: Coverage, signal: AbortSignal): Promise<Coverage> => {
    const table = tables.find((one) => one.name === name);
    if (!table || offsets.isEmpty) return Coverage.empty;
    const { archived } = await archivedIntervals(archive, name, offsets);
    if (!archived.isEmpty && !dryRun) await restoreArchive({ ...deps, signal }, table, { offsets: archived, untilMs: now() + restoredForMs });
    return archived;
  };

  return {
    /** Exact to the row: the columns that the range asks for are read from the copies that may hold some. */
    async offsetsOf(source: string, range: ReprocessRange, signal: AbortSignal): Promise<Coverage> {
      const dataset = datasetOf(pipeline, source);
      let found = Coverage.empty;
      for (const { table, lineage, bounds, test } of rowsOfRange(range, dataset)) {
        const copies: { filePath: string; fileSizeBytes: number }[] = [];
        for (const { manifest } of await archive.list(nameOf(dataset, table))) {
          if (manifest.state !== 'archived' && manifest.state !== 'restoring') continue;
          for (const file of manifest.files) {
            if (table === 'dlq' && file.dataFile.partition['bronze_source'] !== source) continue;
            if (mayMatch(manifest, file, bounds)) copies.push({ filePath: archive.store.location(file.archiveKey), fileSizeBytes: file.dataFile.fileSizeBytes });
          }
        }
        found = found.union(await offsetsOfFiles({ store: archive.store, signal }, copies, lineage, test));
      }
      return found;
    },
    restoreBronze: (source: string, offsets: Coverage, signal: AbortSignal): Promise<Coverage> => restore(datasetOf(pipeline, source).bronze.name, offsets, signal),
    async restoreRefined(source: string, offsets: Coverage, signal: AbortSignal): Promise<Coverage> {
      const dataset = datasetOf(pipeline, source);
      return (await restore(nameOf(dataset, 'silver'), offsets, signal)).union(await restore(nameOf(dataset, 'dlq'), offsets, signal));
    },
  };
};
