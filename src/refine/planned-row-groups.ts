import type { Coverage } from '../domain/offsets.ts';
import { IntervalSet } from '../domain/offsets.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import { rowGroupBounds } from '../lake/parquet-reader.ts';
import type { TableDefinition } from '../lake/schema.ts';

/**
 * The row groups of a Bronze file that may hold planned offsets, by the bounds in its footer: a compacted file holds those of
 * hundreds of micro-batches. Bounds of a topic may be cut short, so the offsets of all topic partitions count.
 */
export const plannedRowGroups = (file: ParquetFile, bronze: TableDefinition, planned: Coverage): number[] => {
  const field = bronze.fields.find(({ name }) => name === 'offset')!;
  const wanted = planned.entries().map(([, set]) => set);
  return rowGroupBounds(file, field).flatMap((bounds, group) => {
    if (!bounds) return [group];
    const inGroup = IntervalSet.of({ start: bounds.min as bigint, end: (bounds.max as bigint) + 1n });
    return wanted.some((set) => set.overlaps(inGroup)) ? [group] : [];
  });
};
