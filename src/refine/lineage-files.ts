import { compareSingleValues, decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { Coverage } from '../domain/offsets.ts';
import { parseTopicPartitionKey } from '../domain/offsets.ts';
import type { DataFile } from '../lake/data-file.ts';
import { rowGroupBounds, type ParquetFile } from '../lake/parquet-reader.ts';
import type { Field, PrimitiveType } from '../lake/schema.ts';
import type { LiveFile, ScanOptions, TableVersion } from '../lake/table.ts';

/** Names of the columns that say which Kafka record a row came from. */
export interface LineageColumns {
  topic: string;
  partition: string;
  offset: string;
}
export const bronzeLineage: LineageColumns = { topic: 'topic', partition: 'partition', offset: 'offset' };
/** In Silver, the DLQ and Gold. */
export const rowLineage: LineageColumns = { topic: 'kafka_topic', partition: 'kafka_partition', offset: 'kafka_offset' };

/** What a file's bounds say of its lineage. A topic's bound may be cut short; an absent one bounds nothing. */
export interface LineageBounds {
  topicMin: string | undefined;
  topicMax: string | undefined;
  partitionMin: number | undefined;
  partitionMax: number | undefined;
  offsetMin: bigint | undefined;
  offsetMax: bigint | undefined;
}

export const lineageBoundsOf = (fields: readonly Field[], columns: LineageColumns): ((file: Pick<DataFile, 'lowerBounds' | 'upperBounds'>) => LineageBounds) => {
  const reader = <T>(name: string) => {
    const { id, type } = fields.find((field) => field.name === name)!;
    return (bounds: Record<number, string>): T | undefined =>
      (bounds[id] === undefined ? undefined : decodeSingleValue(type as PrimitiveType, Buffer.from(bounds[id], 'base64')) as T);
  };
  const topic = reader<string>(columns.topic);
  const partition = reader<number>(columns.partition);
  const offset = reader<bigint>(columns.offset);
  return ({ lowerBounds, upperBounds }) => ({
    topicMin: topic(lowerBounds), topicMax: topic(upperBounds), partitionMin: partition(lowerBounds), partitionMax: partition(upperBounds), offsetMin: offset(lowerBounds), offsetMax: offset(upperBounds),
  });
};

/** Whether rows within the bounds may be of the offsets. */
export const mayHoldOffsets = (wanted: Coverage): ((bounds: LineageBounds) => boolean) => {
  const places = wanted.entries().map(([key, set]) => ({ ...parseTopicPartitionKey(key), set }));
  return ({ topicMin, topicMax, partitionMin, partitionMax, offsetMin, offsetMax }) => places.some(({ topic, partition, set }) =>
    (topicMin === undefined || compareSingleValues(topicMin, topic) <= 0) && (topicMax === undefined || compareSingleValues(topicMax, topic) >= 0)
    && (partitionMin === undefined || partitionMin <= partition) && (partitionMax === undefined || partitionMax >= partition)
    && (offsetMin === undefined || offsetMax === undefined || set.meets({ start: offsetMin, end: offsetMax + 1n })));
};

/** Live files that may hold rows of the offsets, by their bounds. One pass over the manifests, however many intervals there are. */
export const filesOfOffsets = async (version: TableVersion, offsets: Coverage, columns: LineageColumns, options: Omit<ScanOptions, 'bounds'> = {}): Promise<LiveFile[]> => {
  if (offsets.isEmpty) return [];
  const places = offsets.entries().map(([key, set]) => ({ ...parseTopicPartitionKey(key), set }));
  const least = <T>(values: readonly T[]): T => values.reduce((a, b) => (b < a ? b : a));
  const greatest = <T>(values: readonly T[]): T => values.reduce((a, b) => (b > a ? b : a));
  // The hull lets manifests be passed over; the intervals decide file by file. Topics compare by their bytes, so they are left out.
  const files = await version.scan({
    ...options,
    bounds: [
      { column: columns.partition, min: least(places.map(({ partition }) => partition)), max: greatest(places.map(({ partition }) => partition)) },
      { column: columns.offset, min: least(places.map(({ set }) => set.intervals[0]!.start)), max: greatest(places.map(({ set }) => set.intervals.at(-1)!.end)) - 1n },
    ],
  });
  const boundsOf = lineageBoundsOf(version.fields, columns);
  const mayHold = mayHoldOffsets(offsets);
  return files.filter((file) => mayHold(boundsOf(file)));
};

/** Whether a row group of an open file may hold rows of the offsets, by its statistics. */
export const mayGroupHoldOffsets = (fields: readonly Field[], columns: LineageColumns, wanted: Coverage): ((file: ParquetFile, rowGroup: number) => boolean) => {
  const mayHold = mayHoldOffsets(wanted);
  const field = (name: string): Field => fields.find((candidate) => candidate.name === name)!;
  const read = new WeakMap<ParquetFile, { topic: Bounds; partition: Bounds; offset: Bounds }>();
  return (file, rowGroup) => {
    let bounds = read.get(file);
    if (!bounds) {
      bounds = { topic: rowGroupBounds(file, field(columns.topic)), partition: rowGroupBounds(file, field(columns.partition)), offset: rowGroupBounds(file, field(columns.offset)) };
      read.set(file, bounds);
    }
    const { topic, partition, offset } = bounds;
    return mayHold({
      topicMin: topic[rowGroup]?.min as string | undefined, topicMax: topic[rowGroup]?.max as string | undefined,
      partitionMin: partition[rowGroup]?.min as number | undefined, partitionMax: partition[rowGroup]?.max as number | undefined,
      offsetMin: offset[rowGroup]?.min as bigint | undefined, offsetMax: offset[rowGroup]?.max as bigint | undefined,
    });
  };
};
type Bounds = ReturnType<typeof rowGroupBounds>;
