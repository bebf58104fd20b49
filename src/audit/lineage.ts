import { topicPartitionKey } from '../domain/offsets.ts';
import type { ColumnBatch, ColumnValues } from '../lake/columns.ts';

/** Numbers topic partitions in the order in which they are met, so that a row holds four bytes in place of a text. */
export class TopicPartitions {
  private readonly indexes = new Map<string, Map<number, number>>();
  private readonly places: { topic: string; partition: number; key: string }[] = [];

  indexOf(topic: string, partition: number): number {
    let partitions = this.indexes.get(topic);
    if (!partitions) this.indexes.set(topic, partitions = new Map());
    let index = partitions.get(partition);
    if (index === undefined) {
      index = this.places.length;
      partitions.set(partition, index);
      this.places.push({ topic, partition, key: topicPartitionKey(topic, partition) });
    }
    return index;
  }

  get size(): number {
    return this.places.length;
  }

  at(index: number): { topic: string; partition: number; key: string } {
    return this.places[index]!;
  }

  keyOf(index: number): string {
    return this.places[index]!.key;
  }

  /** The order of lineage: (topic, partition, offset). */
  compare(placeA: number, offsetA: number, placeB: number, offsetB: number): number {
    if (placeA === placeB) return offsetA - offsetB;
    const a = this.places[placeA]!;
    const b = this.places[placeB]!;
    return a.topic === b.topic ? a.partition - b.partition : a.topic < b.topic ? -1 : 1;
  }
}

export interface LineageColumns {
  topic: string;
  partition: string;
  offset: string;
}
export const bronzeLineage: LineageColumns = { topic: 'topic', partition: 'partition', offset: 'offset' };
export const refinedLineage: LineageColumns = { topic: 'kafka_topic', partition: 'kafka_partition', offset: 'kafka_offset' };

/** `place` of a row whose lineage is null or no Kafka offset. */
export const noPlace = -1;

/** Where each row of a batch comes from. Valid until the next {@link LineageReader.read}. */
export interface Lineage {
  rowCount: number;
  places: Int32Array;
  offsets: Float64Array;
}

const two32 = 4_294_967_296;
const highWordMax = 0x1f_ff_ff;

/** An int64 column as numbers; what is null, or past 2^53 either way, becomes NaN. */
export const int64Numbers = (column: ColumnValues, rowCount: number, out: Float64Array): void => {
  if (column instanceof BigInt64Array) {
    const words = new Int32Array(column.buffer, column.byteOffset, column.length * 2);
    for (let i = 0; i < rowCount; i += 1) {
      const high = words[2 * i + 1]!;
      out[i] = high > highWordMax || high < -highWordMax ? Number.NaN : high * two32 + (words[2 * i]! >>> 0);
    }
    return;
  }
  for (let i = 0; i < rowCount; i += 1) {
    const value = column[i];
    const number = typeof value === 'bigint' || typeof value === 'number' ? Number(value) : Number.NaN;
    out[i] = Number.isSafeInteger(number) ? number : Number.NaN;
  }
};

export class LineageReader {
  private readonly topicPartitions: TopicPartitions;
  private places = new Int32Array(0);
  private offsets = new Float64Array(0);

  constructor(topicPartitions: TopicPartitions) {
    this.topicPartitions = topicPartitions;
  }

  read({ columns, rowCount }: ColumnBatch, names: LineageColumns): Lineage {
    if (this.places.length < rowCount) {
      this.places = new Int32Array(rowCount);
      this.offsets = new Float64Array(rowCount);
    }
    const { places, offsets } = this;
    const topics = columns[names.topic]!;
    const partitions = columns[names.partition]!;
    int64Numbers(columns[names.offset]!, rowCount, offsets);
    let lastTopic: unknown;
    let lastPartition: unknown;
    let place = noPlace;
    for (let i = 0; i < rowCount; i += 1) {
      const topic = topics[i];
      const partition = partitions[i];
      if (topic !== lastTopic || partition !== lastPartition) {
        lastTopic = topic;
        lastPartition = partition;
        place = typeof topic === 'string' && typeof partition === 'number' ? this.topicPartitions.indexOf(topic, partition) : noPlace;
      }
      places[i] = offsets[i]! >= 0 ? place : noPlace;
    }
    return { rowCount, places, offsets };
  }
}
