import type { ObjectStore } from '../../src/lake/object-store.ts';
import { objectSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import type { TableVersion } from '../../src/lake/table.ts';

/** Columns that hold a processing time: the only ones in which two refinings of one record may differ. */
export const processingTimes: ReadonlySet<string> = new Set(['validation_timestamp', 'error_timestamp', 'gold_ingestion_timestamp']);

const textOf = (value: unknown): string => {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  return typeof value === 'bigint' ? String(value) : JSON.stringify(value);
};

/** Every row of a table as text, ordered, so that two tables compare row by row; the columns given are left out. */
export const rowTexts = async (store: ObjectStore, version: TableVersion, without: ReadonlySet<string> = processingTimes): Promise<string[]> => {
  const names = version.fields.map(({ name }) => name).filter((name) => !without.has(name));
  const rows: string[] = [];
  for (const { filePath, fileSizeBytes } of await version.scan()) {
    const { rowCount, columns } = await readColumns(await openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes)), { columns: names });
    for (let row = 0; row < rowCount; row += 1) rows.push(names.map((name) => textOf(columns[name]![row])).join('|'));
  }
  return rows.sort();
};
