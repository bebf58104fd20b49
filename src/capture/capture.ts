import { setTimeout as delay } from 'node:timers/promises';
import type { CoverageJson } from '../domain/offsets.ts';
import { TidemarkError } from '../domain/errors.ts';
import type { CaptureRecorder } from './capture-file.ts';
import { recordCaptureFile } from './capture-file.ts';
import type { Feed } from './feed.ts';
import type { CapturedTrade, Frame } from './frame.ts';
import type { FrameBatch, FrameSource } from './frame-source.ts';
import { parseFrame } from './parse-frame.ts';
import type { TradeSink } from './trade-sink.ts';

/** A frame, or a piece of a damaged file, that could not be read: kept, so that nothing is lost silently. */
export interface UnparsableFrame {
  feed: Feed;
  /** Null where not even a receive time could be read. */
  receivedNs: string | null;
  reason: string;
  text: string;
}

export interface CaptureCounts {
  frames: number;
  trades: number;
  /** Frames by kind; a trade frame can hold several trades, or none. */
  kinds: Record<string, number>;
  /** Counted, and handed to `keepUnparsable`. */
  unparsable: number;
  /** Acknowledged by the broker. */
  produced: number;
  /** The offsets that they have there, for each topic partition. */
  offsets: CoverageJson;
  connections: number;
  drops: number;
  durationMs: number;
}

export interface CaptureOptions {
  source: FrameSource;
  sink: TradeSink;
  /** Most trades a second; default: as fast as the sink takes them. */
  rate?: number;
  /** Ends after this many trades. */
  tradesMax?: number;
  /** Writes the frames to this new capture file as well. */
  recordTo?: string;
  /** Default: counted only. */
  keepUnparsable?: (frame: UnparsableFrame) => void;
  /** Ends the capture: what a live source has received by then is still delivered; with a rate, what the sink has taken. */
  signal?: AbortSignal;
  /** Called about once a second, and at the end. */
  onProgress?: (counts: CaptureCounts) => void;
  /** Longest wait at the end for records to be acknowledged; default: for as long as it takes. After the signal 10 s at most. */
  flushTimeoutMs?: number;
}

const progressEveryMs = 1_000;
/** Frames that are parsed before their trades are written: what waits for the sink waits as text. */
const framesAtOnce = 500;
/** After the signal: how long the sink may still take for what it has. */
const stopTimeoutMs = 10_000;
/** With a rate, trades are released in slices of this long. */
const sliceMs = 20;

/** Lets `rate` trades a second pass, evenly from the start: a reader that was late catches up at most one second. */
const createPacer = (rate: number, signal: AbortSignal | undefined) => {
  let allowedFromMs = performance.now();
  return {
    sliceTrades: Math.max(1, Math.floor((rate * sliceMs) / 1_000)),
    async pass(trades: number): Promise<void> {
      const now = performance.now();
      allowedFromMs = Math.max(allowedFromMs, now - 1_000);
      const waitMs = allowedFromMs - now;
      allowedFromMs += (trades * 1_000) / rate;
      if (waitMs > 0) await delay(waitMs, undefined, signal ? { signal } : {}).catch(() => undefined);
    },
  };
};

/**
 * Takes the trades out of a source's frames and writes them to the sink, until the source ends or the signal comes; then
 * flushes. A frame that is no trade is counted by kind; one that cannot be read is counted and kept.
 *
 * @throws TidemarkError of the source (FILE_UNREADABLE, BAD_INPUT) or of the sink (KAFKA_REFUSED, KAFKA_UNAVAILABLE after the signal).
 */
export const runCapture = async ({
  source, sink, rate, tradesMax = Number.POSITIVE_INFINITY, recordTo, keepUnparsable, signal, onProgress, flushTimeoutMs,
}: CaptureOptions): Promise<CaptureCounts> => {
  const startedMs = performance.now();
  const kinds = new Map<string, number>();
  let frames = 0;
  let trades = 0;
  let unparsable = 0;
  let recorder: { feed: Feed; file: CaptureRecorder } | undefined;
  const pacer = rate === undefined ? undefined : createPacer(rate, signal);

  const counts = (): CaptureCounts => {
    const { records, offsets } = sink.produced();
    const { connections, drops } = source.connectionCounts?.() ?? { connections: 0, drops: 0 };
    return {
      frames, trades, kinds: Object.fromEntries([...kinds].sort(([a], [b]) => (a < b ? -1 : 1))), unparsable, produced: records, offsets, connections, drops,
      durationMs: Math.round(performance.now() - startedMs),
    };
  };

  const keep = (frame: UnparsableFrame): void => {
    unparsable += 1;
    keepUnparsable?.(frame);
  };

  const record = async ({ feed, frames: batch }: FrameBatch): Promise<void> => {
    if (recordTo === undefined) return;
    recorder ??= { feed, file: await recordCaptureFile(recordTo, feed) };
    if (recorder.feed.exchange !== feed.exchange || recorder.feed.market !== feed.market) {
      throw new TidemarkError('BAD_INPUT', `recording ${recordTo}: expected frames of ${recorder.feed.exchange} ${recorder.feed.market} alone, found some of ${feed.exchange} ${feed.market}`);
    }
    await recorder.file.write(batch);
  };

  const write = async ({ exchange }: Feed, batch: readonly CapturedTrade[]): Promise<void> => {
    if (!pacer) {
      trades += batch.length;
      await sink.write(exchange, batch);
      return;
    }
    for (let start = 0; start < batch.length; start += pacer.sliceTrades) {
      const slice = batch.slice(start, start + pacer.sliceTrades);
      await pacer.pass(slice.length);
      if (signal?.aborted) return;
      trades += slice.length;
      await sink.write(exchange, slice);
    }
  };

  /** The trades of the frames, up to the most that is wanted. */
  const parse = (feed: Feed, batch: readonly Frame[]): CapturedTrade[] => {
    const found: CapturedTrade[] = [];
    for (const frame of batch) {
      if (trades + found.length >= tradesMax) break;
      frames += 1;
      const parsed = parseFrame(feed, frame);
      if (parsed.kind === 'unparsable') keep({ feed, receivedNs: frame.receivedNs, reason: parsed.reason, text: frame.text });
      else kinds.set(parsed.kind, (kinds.get(parsed.kind) ?? 0) + 1);
      if (parsed.kind === 'trade') for (const trade of parsed.trades) found.push(trade);
    }
    return found.slice(0, tradesMax - trades);
  };

  const progress = onProgress && setInterval(() => onProgress(counts()), progressEveryMs);
  let stopDeadline: NodeJS.Timeout | undefined;
  const onStop = (): void => { stopDeadline = setTimeout(() => sink.abort(), stopTimeoutMs); };
  if (signal?.aborted) onStop();
  else signal?.addEventListener('abort', onStop, { once: true });
  try {
    for await (const batch of source.batches(signal)) {
      await record(batch);
      for (const { text, reason } of batch.damaged) keep({ feed: batch.feed, receivedNs: null, reason, text });
      for (let start = 0; start < batch.frames.length; start += framesAtOnce) {
        if (trades >= tradesMax || (pacer && signal?.aborted)) break;
        const found = parse(batch.feed, batch.frames.slice(start, start + framesAtOnce));
        if (found.length > 0) await write(batch.feed, found);
      }
      if (trades >= tradesMax) break;
    }
    await sink.flush(flushTimeoutMs);
  } finally {
    clearInterval(progress);
    clearTimeout(stopDeadline);
    signal?.removeEventListener('abort', onStop);
    await recorder?.file.close();
  }
  const final = counts();
  onProgress?.(final);
  return final;
};
