import { TidemarkError } from '../domain/errors.ts';

/** Digits of an offset in an object key: keys sort as offsets do (2^63 has 19 digits). */
const offsetDigits = 19;

export interface BronzeFileName {
  topic: string;
  partition: number;
  /** Half-open [start, end). */
  start: bigint;
  end: bigint;
  epoch: number;
}

/** `<topic>/<partition>/<start>-<end>-<epoch>.parquet`, offsets zero-padded; relative to the Bronze table's data folder. */
export const bronzeFileSuffix = ({ topic, partition, start, end, epoch }: BronzeFileName): string =>
  `${topic}/${partition}/${String(start).padStart(offsetDigits, '0')}-${String(end).padStart(offsetDigits, '0')}-${epoch}.parquet`;

/** The listing prefix of one topic partition. */
export const bronzePartitionPrefix = (topic: string, partition: number): string => `${topic}/${partition}/`;

/** A suffix that sorts before every file of the topic partition that starts at or after `offset`, and after all that start before. */
export const bronzeListFrom = (topic: string, partition: number, offset: bigint): string =>
  `${topic}/${partition}/${String(offset).padStart(offsetDigits, '0')}-`;

/** Parses the suffix (or any key that ends with it, given its `<topic>/<partition>/…` part). */
export const parseBronzeFileSuffix = (suffix: string): BronzeFileName => {
  const match = /^(.+)\/(\d+)\/(\d{19})-(\d{19})-(\d+)\.parquet$/.exec(suffix);
  if (!match) throw new TidemarkError('BAD_INPUT', `Bronze file: expected <topic>/<partition>/<start>-<end>-<epoch>.parquet, found ${suffix}`);
  return { topic: match[1]!, partition: Number(match[2]), start: BigInt(match[3]!), end: BigInt(match[4]!), epoch: Number(match[5]) };
};

/**
 * A compacted Bronze file: rows of one topic partition whose offsets lie in [start, end), maybe with holes that its footer tells.
 * The listing for files that nobody reported passes it over: it holds what the table has already.
 */
export const compactedBronzeFileSuffix = ({ topic, partition, start, end }: Omit<BronzeFileName, 'epoch'>, unique: string): string =>
  `${topic}/${partition}/${String(start).padStart(offsetDigits, '0')}-${String(end).padStart(offsetDigits, '0')}-compacted-${unique}.parquet`;

/** The topic partition and the offsets that the name of a Bronze file gives, written by a streaming worker or compacted; null for other names. */
export const bronzeFileExtent = (suffix: string): Omit<BronzeFileName, 'epoch'> | null => {
  const match = /^(.+)\/(\d+)\/(\d{19})-(\d{19})-(?:\d+|compacted-[\w-]+)\.parquet$/.exec(suffix);
  return match ? { topic: match[1]!, partition: Number(match[2]), start: BigInt(match[3]!), end: BigInt(match[4]!) } : null;
};
