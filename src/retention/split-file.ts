import type { DataFile } from '../lake/data-file.ts';
import { readColumns } from '../lake/parquet-reader.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import { DataFileBuilder } from '../lake/parquet-writer.ts';
import type { EncodedDataFile } from '../lake/parquet-writer.ts';
import type { Field } from '../lake/schema.ts';
import { TidemarkError, invariant } from '../domain/errors.ts';

/** The two halves of a file; `isDue` says of each row, by its number in the file, whether it is due. */
export interface SplitFile {
  due: EncodedDataFile;
  kept: EncodedDataFile;
}

/**
 * Writes the rows of one file into two, in their order: memory is one decoded row group and the encoded halves. Every column
 * of the file must be one of the table, so that no value is dropped.
 */
export const splitFile = async (file: ParquetFile, fields: readonly Field[], isDue: (row: number) => boolean): Promise<SplitFile> => {
  const unknown = file.columnNames.filter((name) => !fields.some((field) => field.name === name));
  if (unknown.length > 0) throw new TidemarkError('FILE_UNREADABLE', `data file: expected columns of its table, found ${unknown.join(', ')} besides`);
  const present = fields.filter(({ name }) => file.columnNames.includes(name)).map(({ name }) => name);
  const { keyValueMetadata } = file;
  const [due, kept] = [new DataFileBuilder({ fields, keyValueMetadata }), new DataFileBuilder({ fields, keyValueMetadata })];
  let first = 0;
  for (const [rowGroup, rows] of file.rowGroupRows.entries()) {
    const batch = await readColumns(file, { columns: present, rowGroups: [rowGroup] });
    const dueRows: number[] = [];
    const keptRows: number[] = [];
    for (let i = 0; i < rows; i += 1) (isDue(first + i) ? dueRows : keptRows).push(i);
    if (dueRows.length > 0) due.appendRows(batch, { indices: Uint32Array.from(dueRows) });
    if (keptRows.length > 0) kept.appendRows(batch, { indices: Uint32Array.from(keptRows) });
    first += rows;
  }
  const halves = { due: due.finish(), kept: kept.finish() };
  invariant(halves.due.metrics.recordCount + halves.kept.metrics.recordCount === file.rowCount, () => `a file of ${file.rowCount} rows was split into ${halves.due.metrics.recordCount} and ${halves.kept.metrics.recordCount}`);
  return halves;
};

export const dataFileOf = ({ metrics }: EncodedDataFile, filePath: string, partition: DataFile['partition']): DataFile => ({ ...metrics, filePath, partition });
