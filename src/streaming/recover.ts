import { hash } from 'node:crypto';
import { bronzeListFrom, bronzePartitionPrefix, parseBronzeFileSuffix } from '../contracts/bronze.ts';
import type { CheckpointRange } from '../contracts/stream.ts';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { topicPartitionKey } from '../domain/offsets.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { checkFooter, checksumMetadata } from './bronze-file.ts';
import type { BronzeFileIdentity } from './bronze-file.ts';

export interface FoundFile extends BronzeFileIdentity {
  key: string;
}

/** Row count and key-value metadata of a Parquet file's footer. */
export type ReadFooter = (bytes: Uint8Array) => Promise<{ rowCount: number; keyValueMetadata: Readonly<Record<string, string>> }>;

/**
 * Of the files found, those that follow on from `from` without a hole or an overlap. Several epochs may have written
 * overlapping files; the content of an offset never changes, so any chain is right. Taken is the one that reaches
 * furthest, then the one of fewest files, then the one of the highest epochs, then of the longest first files: the same choice whoever chooses.
 */
export const chooseChain = <T extends { start: bigint; end: bigint; epoch: number }>(files: readonly T[], from: bigint): T[] => {
  const byStart = new Map<bigint, T[]>();
  for (const file of files) {
    if (file.start < from || file.end <= file.start) continue;
    const known = byStart.get(file.start);
    if (known) known.push(file);
    else byStart.set(file.start, [file]);
  }
  const best = new Map<bigint, { file: T; reach: bigint; length: number }>();
  for (const start of [...byStart.keys()].sort((a, b) => (a < b ? 1 : -1))) {
    for (const file of byStart.get(start)!) {
      const rest = best.get(file.end);
      const option = { file, reach: rest?.reach ?? file.end, length: 1 + (rest?.length ?? 0) };
      const known = best.get(start);
      const isBetter = !known || option.reach > known.reach
        || (option.reach === known.reach && (option.length < known.length
          || (option.length === known.length && (file.epoch > known.file.epoch
            || (file.epoch === known.file.epoch && file.end > known.file.end)))));
      if (isBetter) best.set(start, option);
    }
  }
  const chain: T[] = [];
  for (let next = best.get(from); next; next = best.get(next.file.end)) chain.push(next.file);
  return chain;
};

export interface RecoverInput {
  store: ObjectStore;
  /** `catalog.dataLocation` of the Bronze table. */
  dataLocation(suffix: string): string;
  readFooter: ReadFooter;
  topic: string;
  partition: number;
  /** Null: the ledger has never seen the topic partition. */
  nextOffset: bigint | null;
  /** The broker's first offset; asked for only without a next offset. */
  logStart(): Promise<bigint>;
  /** Files to pass over, whatever they hold. */
  isRefused?(file: FoundFile): boolean;
  onUnreadable(file: FoundFile, cause: unknown): void;
  signal: AbortSignal;
}

/**
 * The Bronze files past the ledger's next offset that an earlier owner wrote and never reported, as the ranges to
 * report now, and the offset to read from behind them. A file that is not what its key says is left alone and passed over.
 */
export const recoverFiles = async (input: RecoverInput): Promise<{ ranges: CheckpointRange[]; readFrom: bigint }> => {
  const { store, topic, partition, nextOffset } = input;
  const prefix = store.keyOf(input.dataLocation(bronzePartitionPrefix(topic, partition)));
  const startAfter = store.keyOf(input.dataLocation(bronzeListFrom(topic, partition, nextOffset ?? 0n)));
  let files: FoundFile[] = [];
  for await (const { key } of store.list(prefix, { startAfter })) {
    const suffix = `${bronzePartitionPrefix(topic, partition)}${key.slice(prefix.length)}`;
    try {
      const file = { ...parseBronzeFileSuffix(suffix), key };
      if (!input.isRefused?.(file)) files.push(file);
    } catch (error) {
      if (!isTidemarkError(error, 'BAD_INPUT')) throw error; // not one of ours
    }
  }
  let from = nextOffset;
  if (from === null) {
    // The first owner started at the log's start of its day, which is not above today's. A file that starts higher has
    // lost its predecessor: the broker still has those records.
    const logStart = await input.logStart();
    const lowest = files.reduce<bigint | null>((least, { start }) => (least === null || start < least ? start : least), null);
    from = lowest !== null && lowest <= logStart ? lowest : logStart;
  }
  const verified = new Map<string, CheckpointRange>();
  for (;;) {
    input.signal.throwIfAborted();
    const chain = chooseChain(files, from);
    const unverified = chain.find(({ key }) => !verified.has(key));
    if (!unverified) {
      return { ranges: chain.map(({ key }) => verified.get(key)!), readFrom: chain.at(-1)?.end ?? from };
    }
    try {
      verified.set(unverified.key, await verifyFile(input, unverified));
    } catch (error) {
      if (isTidemarkError(error) && error.retryable) throw error;
      input.onUnreadable(unverified, error);
      files = files.filter(({ key }) => key !== unverified.key);
    }
  }
};

const verifyFile = async ({ store, readFooter, signal }: RecoverInput, file: FoundFile): Promise<CheckpointRange> => {
  const { body, metadata } = await store.get(file.key, { signal });
  const checksum = hash('sha256', body, 'hex');
  if (metadata[checksumMetadata] !== checksum) {
    throw new TidemarkError('CHECKSUM_MISMATCH', `${file.key}: expected SHA-256 ${metadata[checksumMetadata] ?? 'in its metadata'}, found ${checksum}`);
  }
  const { rowCount, keyValueMetadata } = await readFooter(body);
  checkFooter(file, keyValueMetadata, rowCount);
  return {
    topicPartition: topicPartitionKey(file.topic, file.partition),
    fileEpoch: file.epoch,
    startOffset: String(file.start),
    endOffset: String(file.end),
    rowCount,
    byteCount: body.length,
    checksum,
  };
};
