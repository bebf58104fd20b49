import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { Coverage } from '../domain/offsets.ts';
import { parseTopicPartitionKey } from '../domain/offsets.ts';
import { messageIdFinder } from '../refine/message-id.ts';
import type { MessageSlice } from './find-message-thread.ts';

export interface RecordPlace {
  topic: string;
  partition: number;
  offset: bigint;
}

export interface MessageSearch {
  place: RecordPlace | null;
  /** Ids that were made for it. */
  offsetsTried: number;
}

export interface MessageSearchOptions {
  signal?: AbortSignal;
  onProgress?: (progress: { offsets: number; offsetsTotal: number }) => void;
  /** Default: one for each core, four at most. */
  threadsMax?: number;
}

/** Gone through in some twenty milliseconds: threads that share them end about together, and the newest records are found at once. */
const sliceOffsets = 50_000;
/** Fewer are gone through sooner than threads start. */
const offsetsWithoutThreads = 100_000;
const threadsMaxDefault = 4;

/** The newest offsets of every topic partition first, then the ones before them. */
export const newestFirst = (coverage: Coverage): MessageSlice[] => {
  const byTopicPartition = coverage.entries().map(([key, set]) => {
    const { topic, partition } = parseTopicPartitionKey(key);
    const slices: MessageSlice[] = [];
    for (const interval of set.intervals.toReversed()) {
      const start = Number(interval.start);
      for (let end = Number(interval.end); end > start; end -= sliceOffsets) slices.push({ topic, partition, start: Math.max(start, end - sliceOffsets), end });
    }
    return slices;
  });
  const slices: MessageSlice[] = [];
  for (let nth = 0; byTopicPartition.some(({ length }) => length > nth); nth += 1) {
    for (const one of byTopicPartition) {
      const slice = one[nth];
      if (slice) slices.push(slice);
    }
  }
  return slices;
};

/**
 * The place of a message id among the offsets that Bronze covers. An id is a hash of its place and tells nothing by itself, but
 * the places are known: their ids are made again until one agrees. So the search reads nothing from the store, takes the same
 * time wherever the record went, and its cost is bounded by the number of offsets.
 */
export const findMessage = async (messageId: string, coverage: Coverage, { signal, onProgress, threadsMax = threadsMaxDefault }: MessageSearchOptions = {}): Promise<MessageSearch> => {
  const slices = newestFirst(coverage);
  const offsetsTotal = slices.reduce((sum, { start, end }) => sum + end - start, 0);
  let offsets = 0;
  const placeOf = ({ topic, partition }: MessageSlice, offset: number): RecordPlace => ({ topic, partition, offset: BigInt(offset) });
  if (offsetsTotal <= offsetsWithoutThreads) {
    for (const slice of slices) {
      const offset = messageIdFinder(slice.topic, slice.partition, messageId)(slice.start, slice.end);
      offsets += slice.end - slice.start;
      if (offset !== null) return { place: placeOf(slice, offset), offsetsTried: offsets };
    }
    return { place: null, offsetsTried: offsets };
  }

  const threads: Worker[] = [];
  let next = 0;
  const run = (): Promise<RecordPlace | null> => new Promise((resolve, reject) => {
    const thread = new Worker(new URL('./find-message-thread.ts', import.meta.url), { workerData: { messageId } });
    threads.push(thread);
    let slice: MessageSlice | undefined;
    const goOn = (): void => {
      slice = signal?.aborted ? undefined : slices[next++];
      if (slice) thread.postMessage(slice, []);
      else resolve(null);
    };
    thread.on('message', (offset: number | null) => {
      if (offset !== null) {
        resolve(placeOf(slice!, offset));
        return;
      }
      offsets += slice!.end - slice!.start;
      onProgress?.({ offsets, offsetsTotal });
      goOn();
    });
    thread.once('error', reject);
    goOn();
  });
  try {
    const runs = Array.from({ length: Math.max(1, Math.min(availableParallelism(), threadsMax, slices.length)) }, run);
    // Whoever finds it ends the search; all must have come back with nothing for it to be nowhere.
    const place = await Promise.race([
      ...runs.map(async (one) => await one ?? await new Promise<never>(() => {})),
      Promise.all(runs).then((all) => all.find((one) => one !== null) ?? null),
    ]);
    signal?.throwIfAborted();
    return { place, offsetsTried: offsets };
  } finally {
    await Promise.all(threads.map((thread) => thread.terminate()));
  }
};
