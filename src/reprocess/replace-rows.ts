import { randomUUID } from 'node:crypto';
import type { ReprocessPublished } from '../contracts/reprocess.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { dlqTable } from '../datasets/engine-tables.ts';
import { eachAtOnce } from '../domain/at-once.ts';
import { isTidemarkError } from '../domain/errors.ts';
import { Coverage } from '../domain/offsets.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import { spreadColumn } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { copyColumnChunks, isCopyable, objectSource, openParquet, readColumns, readStoredColumns } from '../lake/parquet-reader.ts';
import { DataFileBuilder } from '../lake/parquet-writer.ts';
import type { TableDefinition } from '../lake/schema.ts';
import { cleanUpOf } from '../lake/table.ts';
import type { Catalog, LiveFile } from '../lake/table.ts';
import { PlannedOffsets } from '../refine/gold-candidates.ts';
import { filesOfOffsets, rowLineage } from '../refine/lineage-files.ts';
import { partitionPath } from '../refine/partition-rows.ts';
import { publishingClaim } from './claims.ts';
import { offsetsOfFiles } from './select-offsets.ts';
import { stagedChunks } from './staging.ts';

/** Plain JSON: it crosses to a worker thread. */
export interface ReplaceRowsInput {
  source: string;
  table: 'silver' | 'dlq';
  reprocessId: string;
  planKey: string;
  chunks: number;
  /** Offsets of the plan. */
  offsets: CoverageJson;
  /** Offsets among them whose rows stay as they are, unless a staged row takes their place. */
  keep?: CoverageJson;
}

export interface ReplaceRowsDeps {
  store: ObjectStore;
  catalog: Catalog;
  dataset: Dataset;
  dlqTable: string;
  signal?: AbortSignal;
  onProgress?: (progress: { files: number; filesTotal: number }) => void;
}

const filesAtOnce = 4;
const attemptsMax = 30;

/** A live file without the replaced rows. */
interface Rewritten {
  removedRows: number;
  /** Undefined: no row is left, or (with none removed) the file stays as it is. */
  file: DataFile | undefined;
}

/**
 * Replaces the rows of the plan's offsets in one table by the staged files, in one commit that also marks the claim as published:
 * readers see the old rows or the new ones. Files with other rows too are written again without the offsets' rows. What was
 * prepared is kept when another commit comes between; a retry finds the claim's mark and does nothing.
 */
export const replaceRows = async (deps: ReplaceRowsDeps, input: ReplaceRowsInput): Promise<ReprocessPublished> => {
  const { catalog, store, dataset, signal } = deps;
  const definition = input.table === 'silver' ? dataset.silver : dlqTable(deps.dlqTable);
  const offsets = Coverage.fromJson(input.offsets);
  const add: DataFile[] = [];
  for await (const staged of stagedChunks(store, input.planKey, input.chunks)) {
    for (const file of input.table === 'silver' ? staged.silverFiles : staged.dlqFiles) add.push(file);
  }
  const replaced = input.keep ? offsets.subtract(await notStaged(deps, Coverage.fromJson(input.keep), add)) : offsets;
  const addedRows = add.reduce((sum, { recordCount }) => sum + recordCount, 0);
  const rewritten = new Map<string, Rewritten>();
  let cleanUp: string | undefined;
  const planned = new PlannedOffsets(replaced);
  for (let attempts = 1; ; attempts += 1) {
    signal?.throwIfAborted();
    const base = await catalog.load(definition.name);
    // What was written before a clean-up of orphan files may be gone.
    if (cleanUp !== cleanUpOf(base)) rewritten.clear();
    cleanUp = cleanUpOf(base);
    const claim = publishingClaim(base, input);
    if (claim.isPublished) return { status: 'alreadyCommitted', snapshotId: null, addedRows, removedRows: 0, attempts };
    const files = await filesOfOffsets(base, replaced, rowLineage, input.table === 'dlq' ? { partition: { bronze_source: dataset.source } } : {});
    let done = 0;
    const next = files.filter(({ filePath }) => !rewritten.has(filePath));
    await eachAtOnce(next, filesAtOnce, async (file) => {
      signal?.throwIfAborted();
      rewritten.set(file.filePath, await withoutRows(deps, definition, file, planned, input));
      done += 1;
      deps.onProgress?.({ files: done, filesTotal: files.length });
    });
    const touched = files.map((file) => ({ file, result: rewritten.get(file.filePath)! })).filter(({ result }) => result.removedRows > 0);
    const removedRows = touched.reduce((sum, { result }) => sum + result.removedRows, 0);
    try {
      const { status, snapshotId } = await catalog.commit(definition.name, {
        commitId: `${input.planKey}/${input.table}`,
        add: [...add, ...touched.flatMap(({ result }) => result.file ?? [])],
        remove: touched.map(({ file }) => file.filePath),
        preparedSince: base,
        coveragePresent: offsets,
        setProperties: claim.setProperties,
        check: claim.check,
        summary: { 'tidemark.source': input.source, 'tidemark.reprocess': input.reprocessId },
        ...(signal ? { signal } : {}),
      });
      return { status, snapshotId: snapshotId === null ? null : String(snapshotId), addedRows, removedRows, attempts };
    } catch (error) {
      // A file to rewrite is no longer live: a compaction took it.
      if (!isTidemarkError(error, 'COMMIT_CONFLICT') || attempts >= attemptsMax) throw error;
    }
  }
};

const open = ({ store, signal }: ReplaceRowsDeps, { filePath, fileSizeBytes }: Pick<DataFile, 'filePath' | 'fileSizeBytes'>) =>
  openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes, signal ? { signal } : {}));

const lineageNames = [rowLineage.topic, rowLineage.partition, rowLineage.offset];

/** Offsets of `kept` that no staged file has a row of. */
const notStaged = async (deps: ReplaceRowsDeps, kept: Coverage, staged: readonly DataFile[]): Promise<Coverage> => {
  if (kept.isEmpty) return kept;
  return kept.subtract(await offsetsOfFiles(deps, staged, rowLineage));
};

const withoutRows = async (deps: ReplaceRowsDeps, definition: TableDefinition, file: LiveFile, planned: PlannedOffsets, { planKey }: ReplaceRowsInput): Promise<Rewritten> => {
  const { store, catalog, signal } = deps;
  const source = await open(deps, file);
  const { columns, rowCount } = await readStoredColumns(source, { columns: lineageNames, rowGroups: [...source.rowGroupRows.keys()] });
  const numberOfRow = planned.numbering(columns[rowLineage.topic]!, columns[rowLineage.partition]!, rowCount);
  const offsets = spreadColumn(columns[rowLineage.offset]!, rowCount) as BigInt64Array;
  const words = new Int32Array(offsets.buffer, offsets.byteOffset, offsets.length * 2);
  const kept = new Uint32Array(rowCount);
  let count = 0;
  for (let row = 0; row < rowCount; row += 1) {
    const number = numberOfRow(row);
    if (number < 0 || !planned.has(number, offsets, words, row)) kept[count++] = row;
  }
  if (count === rowCount || count === 0) return { removedRows: rowCount - count, file: undefined };
  const builder = new DataFileBuilder({ fields: definition.fields, rowGroupRows: 2 ** 31 });
  const fields = definition.fields.filter(({ name }) => source.columnNames.includes(name));
  const canCopy = fields.every((field) => isCopyable(source, field));
  let at = 0;
  let from = 0;
  for (const [group, groupRows] of source.rowGroupRows.entries()) {
    const until = from + groupRows;
    const first = at;
    while (at < count && kept[at]! < until) at += 1;
    const indices = kept.subarray(first, at).map((row) => row - from);
    from = until;
    if (indices.length === 0) continue;
    signal?.throwIfAborted();
    if (indices.length === groupRows && canCopy) {
      const copies = await copyColumnChunks(source, group, fields);
      builder.appendRowGroup(groupRows, ({ field }) => copies[fields.indexOf(field)] ?? { constant: null });
    } else {
      const batch = await readColumns(source, { columns: fields.map(({ name }) => name), rowGroups: [group] });
      builder.appendRows(batch, { indices });
    }
  }
  const { bytes, metrics } = builder.finish();
  const filePath = catalog.dataLocation(definition.name, `${partitionPath(definition, file.partition)}/${planKey.split('/').at(-2) ?? 'reprocess'}-${randomUUID()}.parquet`);
  await store.put(store.keyOf(filePath), bytes, { contentType: 'application/vnd.apache.parquet', ...(signal ? { signal } : {}) });
  return { removedRows: rowCount - count, file: { filePath, partition: file.partition, ...metrics } };
};
