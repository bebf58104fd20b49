import { bronzeLineage, refinedLineage } from '../audit/lineage.ts';
import type { LineageColumns } from '../audit/lineage.ts';
import type { Interval } from '../domain/offsets.ts';
import { Coverage, IntervalSet, parseTopicPartitionKey, topicPartitionKey } from '../domain/offsets.ts';
import { TidemarkError, invariant } from '../domain/errors.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { SingleValue } from '../lake/iceberg/single-value.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { objectSource, openParquet, readColumns } from '../lake/parquet-reader.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import type { Field } from '../lake/schema.ts';
import type { TableVersion } from '../lake/table.ts';
import { footerKeys } from '../streaming/bronze-file.ts';
import type { TableRole } from './policies.ts';

export const lineageOf = (role: TableRole): LineageColumns => (role === 'bronze' ? bronzeLineage : refinedLineage);

/** Collects offsets row by row; rows of one topic partition in ascending runs cost one interval each run. */
export class OffsetCollector {
  private readonly places = new Map<string, { start: bigint; end: bigint }[]>();

  add(topic: string, partition: number, offset: bigint): void {
    const key = topicPartitionKey(topic, partition);
    let intervals = this.places.get(key);
    if (!intervals) this.places.set(key, intervals = []);
    const last = intervals.at(-1);
    if (last && offset === last.end) last.end += 1n;
    else intervals.push({ start: offset, end: offset + 1n });
  }

  coverage(): Coverage {
    return Coverage.of([...this.places].map(([key, intervals]) => [key, IntervalSet.of(...intervals as Interval[])] as const));
  }
}

/** Offsets of the rows of an open file, or of those that `wanted` chooses by their number in the file. */
export const offsetsOfRows = async (file: ParquetFile, names: LineageColumns, wanted?: (row: number) => boolean): Promise<Coverage> => {
  const collector = new OffsetCollector();
  let first = 0;
  for (const [rowGroup, rows] of file.rowGroupRows.entries()) {
    const { columns } = await readColumns(file, { columns: [names.topic, names.partition, names.offset], rowGroups: [rowGroup] });
    const [topics, partitions, offsets] = [columns[names.topic]!, columns[names.partition]!, columns[names.offset]!];
    for (let i = 0; i < rows; i += 1) {
      if (!wanted || wanted(first + i)) collector.add(topics[i] as string, partitions[i] as number, BigInt(offsets[i] as bigint));
    }
    first += rows;
  }
  return collector.coverage();
};

/** The offsets that a Bronze file stands for, by its own footer; undefined if it says nothing. */
export const declaredOffsets = ({ keyValueMetadata }: Pick<ParquetFile, 'keyValueMetadata'>): Coverage | undefined => {
  const key = keyValueMetadata[footerKeys.topicPartition];
  const range = keyValueMetadata[footerKeys.range];
  if (key === undefined || range === undefined) return undefined;
  parseTopicPartitionKey(key);
  return Coverage.of([[key, IntervalSet.parse(range)]]);
};

export const boundsOf = (file: Pick<DataFile, 'lowerBounds' | 'upperBounds'>, fields: readonly Field[], column: string): { lower: SingleValue; upper: SingleValue } | undefined => {
  const field = fields.find(({ name }) => name === column);
  invariant(field && typeof field.type === 'string', () => `column ${column} is no primitive column`);
  const [lower, upper] = [file.lowerBounds[field.id], file.upperBounds[field.id]];
  const decode = (text: string): SingleValue => decodeSingleValue(field.type as Parameters<typeof decodeSingleValue>[0], Buffer.from(text, 'base64'));
  return lower === undefined || upper === undefined ? undefined : { lower: decode(lower), upper: decode(upper) };
};

/** Whether a file may hold rows of the offsets, as far as its bounds tell. Bounds of topics may be cut texts. */
export const mayHoldOffsets = (file: Pick<DataFile, 'lowerBounds' | 'upperBounds'>, fields: readonly Field[], names: LineageColumns, offsets: Coverage): boolean => {
  const [topics, partitions, rows] = [names.topic, names.partition, names.offset].map((name) => boundsOf(file, fields, name));
  return offsets.entries().some(([key, { intervals }]) => {
    const { topic, partition } = parseTopicPartitionKey(key);
    if (topics && (topic < String(topics.lower) || (topic > String(topics.upper) && !topic.startsWith(String(topics.upper))))) return false;
    if (partitions && (partition < Number(partitions.lower) || partition > Number(partitions.upper))) return false;
    return !rows || intervals.some(({ start, end }) => start <= BigInt(rows.upper as bigint) && end > BigInt(rows.lower as bigint));
  });
};

/** Of these offsets, those that have a row in the table: reads the lineage columns of the files that may hold them, no others. */
export const liveOffsets = async (store: ObjectStore, version: TableVersion, role: TableRole, wanted: Coverage, signal?: AbortSignal): Promise<Coverage> => {
  if (wanted.isEmpty) return Coverage.empty;
  const names = lineageOf(role);
  let live = Coverage.empty;
  for (const file of await version.scan()) {
    if (!mayHoldOffsets(file, version.fields, names, wanted)) continue;
    signal?.throwIfAborted();
    const parquet = await openParquet(objectSource(store, store.keyOf(file.filePath), file.fileSizeBytes, signal ? { signal } : {}));
    live = live.union((await offsetsOfRows(parquet, names)).intersect(wanted));
  }
  return live;
};

/** @throws TidemarkError FILE_UNREADABLE if the file has other rows than the table says. */
export const openDataFile = async (store: ObjectStore, key: string, { fileSizeBytes, recordCount, filePath }: Pick<DataFile, 'fileSizeBytes' | 'recordCount' | 'filePath'>, signal?: AbortSignal): Promise<ParquetFile> => {
  const file = await openParquet(objectSource(store, key, fileSizeBytes, signal ? { signal } : {}));
  if (file.rowCount !== recordCount) throw new TidemarkError('FILE_UNREADABLE', `data file ${filePath}: expected ${recordCount} rows as its table says, found ${file.rowCount} in ${key}`);
  return file;
};
