import type { ColumnBatch } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { objectSource, openParquet, readColumns } from '../lake/parquet-reader.ts';

/** A data file as far as reading it needs; a live file is one. */
export type RowFile = Pick<DataFile, 'filePath' | 'fileSizeBytes'>;

/** Small files, each a request or two: so many are under way at once. */
const filesAhead = 8;

/** Columns of each file, in the order of the files; the next files are fetched while one is used. */
export const readRows = async function* <File extends RowFile>(
  store: ObjectStore, files: readonly File[], columns: readonly string[], signal?: AbortSignal,
): AsyncGenerator<{ file: File; batch: ColumnBatch }> {
  const read = async (file: File): Promise<ColumnBatch> =>
    readColumns(await openParquet(objectSource(store, store.keyOf(file.filePath), file.fileSizeBytes, signal ? { signal } : {})), { columns });
  const ahead: Promise<ColumnBatch>[] = [];
  try {
    for (let next = 0, at = 0; at < files.length; at += 1) {
      signal?.throwIfAborted();
      for (; next < files.length && next < at + filesAhead; next += 1) {
        const batch = read(files[next]!);
        // Whoever stops in the middle does not wait for it: its failure is nobody's then.
        batch.catch(() => {});
        ahead.push(batch);
      }
      yield { file: files[at]!, batch: await ahead.shift()! };
    }
  } finally {
    await Promise.allSettled(ahead);
  }
};
