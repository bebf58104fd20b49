import type { DlqState } from '../contracts/dlq-replay.ts';
import type { ColumnBatch } from '../lake/columns.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { LiveFile, TableVersion } from '../lake/table.ts';
import { readRows } from './read-rows.ts';
import type { LastResolutions, ResolutionRow } from './resolutions.ts';
import { stateOf } from './resolutions.ts';
import type { DlqSelector } from './selection.ts';
import { selectionColumns } from './selection.ts';

export interface SelectedRow {
  /** Position in the file's batch. */
  row: number;
  topic: string;
  partition: number;
  offset: number;
  state: DlqState;
  last: ResolutionRow | undefined;
}

export interface SelectRowsOptions {
  store: ObjectStore;
  version: TableVersion;
  selector: DlqSelector;
  last: LastResolutions;
  /** Read besides those that the selection needs. */
  columns?: readonly string[];
  signal?: AbortSignal;
  /** Told of rows that fit in all but their state. */
  onOtherState?: (state: DlqState) => void;
}

/** The rows that a selection takes, file by file: days first, then in the order of their files. */
export const selectRows = async function* ({ store, version, selector, last, columns = [], signal, onOtherState }: SelectRowsOptions): AsyncGenerator<{ file: LiveFile; batch: ColumnBatch; rows: SelectedRow[] }> {
  const files = (await version.scan(selector.scan)).sort((a, b) => Number(a.partition['dlq_date']) - Number(b.partition['dlq_date']) || (a.filePath < b.filePath ? -1 : 1));
  for await (const { file, batch } of readRows(store, files, [...new Set([...selectionColumns, ...columns])], signal)) {
    const rows: SelectedRow[] = [];
    for (let row = 0; row < batch.rowCount; row += 1) {
      if (!selector.takes(batch, row)) continue;
      const topic = batch.columns['kafka_topic']![row] as string;
      const partition = batch.columns['kafka_partition']![row] as number;
      const offset = Number(batch.columns['kafka_offset']![row] as bigint);
      const known = last.get(topic, partition, offset);
      const state = stateOf(known);
      if (selector.states.has(state)) rows.push({ row, topic, partition, offset, state, last: known });
      else onOtherState?.(state);
    }
    if (rows.length > 0) yield { file, batch, rows };
  }
};
