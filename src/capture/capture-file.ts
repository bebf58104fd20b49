import { createReadStream, createWriteStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { once } from 'node:events';
import { constants, createGunzip, createGzip } from 'node:zlib';
import { TidemarkError } from '../domain/errors.ts';
import type { Feed } from './feed.ts';
import { feedOf } from './feed.ts';
import type { Frame } from './frame.ts';
import type { FrameBatch, FrameSource } from './frame-source.ts';

// A capture file is text, gzip or plain: a JSON header {"capture":1,"exchange","market","feed","source"}, then lines of
// `<receive time in ns since the epoch> <frame as received>`.

const readChunkBytes = 256 * 1024;
/** A line longer than this is rubbish, and must not fill the memory. */
const lineCharsMax = 64 * 1024 * 1024;
const gzipMagic = 0x1f8b;

export const isGzip = async (path: string): Promise<boolean> => {
  const file = await open(path).catch((cause: unknown) => { throw unreadable(path, cause); });
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(2), 0, 2, 0);
    return bytesRead === 2 && buffer.readUInt16BE(0) === gzipMagic;
  } finally {
    await file.close();
  }
};

const unreadable = (path: string, cause: unknown): TidemarkError =>
  new TidemarkError('FILE_UNREADABLE', `capture file ${path}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });

const headerOf = (path: string, line: string): Feed => {
  let header: unknown;
  try {
    header = JSON.parse(line);
  } catch {
    header = undefined;
  }
  const { capture, exchange, market, feed, source } = (header ?? {}) as Record<string, unknown>;
  if (capture !== 1 || typeof exchange !== 'string' || typeof market !== 'string') {
    throw new TidemarkError('BAD_INPUT', `capture file ${path}: expected a header {"capture":1,"exchange","market","feed","source"}, found ${JSON.stringify(line.slice(0, 100))}`);
  }
  return feedOf(exchange, market, typeof feed === 'string' ? feed : '', typeof source === 'string' ? source : '');
};

const nanos = /^\d{4,19}$/;

/**
 * Reads a capture file's lines in batches of one read chunk. A line that is no `<ns> <frame>` comes as a batch's
 * `damaged`; a file cut short (its recorder was killed) gives all that it holds, and its end as damaged.
 *
 * @throws TidemarkError FILE_UNREADABLE, or BAD_INPUT without a header.
 */
export async function* readCaptureFile(path: string, signal?: AbortSignal): AsyncGenerator<FrameBatch, void, undefined> {
  const zipped = await isGzip(path);
  const file = createReadStream(path, { highWaterMark: readChunkBytes });
  const stream = zipped ? file.pipe(createGunzip({ chunkSize: readChunkBytes })) : file;
  // pipe() does not carry errors on, and an error of a stream that nobody reads ends the process.
  if (stream !== file) file.on('error', (error) => stream.destroy(error));
  stream.setEncoding('utf8');

  let feed: Feed | undefined;
  let rest = '';
  const linesOf = (text: string, last: boolean): FrameBatch | undefined => {
    const lines = (rest + text).split('\n');
    rest = last ? '' : lines.pop() ?? '';
    const frames: Frame[] = [];
    const damaged: { text: string; reason: string }[] = [];
    if (rest.length > lineCharsMax) {
      damaged.push({ text: rest, reason: `capture file ${path}: a line of more than ${lineCharsMax} characters` });
      rest = '';
    }
    for (const line of lines) {
      if (feed === undefined) {
        feed = headerOf(path, line);
        continue;
      }
      if (line === '') continue;
      const space = line.indexOf(' ');
      const receivedNs = line.slice(0, Math.max(space, 0));
      if (nanos.test(receivedNs)) frames.push({ receivedNs, text: line.endsWith('\r') ? line.slice(space + 1, -1) : line.slice(space + 1) });
      else damaged.push({ text: line, reason: `capture file ${path}: expected <receive time in ns> <frame>` });
    }
    return feed && (frames.length > 0 || damaged.length > 0) ? { feed, frames, damaged } : undefined;
  };

  try {
    for await (const chunk of stream as AsyncIterable<string>) {
      if (signal?.aborted) return;
      const batch = linesOf(chunk, false);
      if (batch) yield batch;
    }
  } catch (error) {
    if (!feed || !(error instanceof Error && 'code' in error && String(error.code).startsWith('Z_'))) {
      throw error instanceof TidemarkError ? error : unreadable(path, error);
    }
    // The recorder was killed in the middle of a line: what came before it counts.
    const damaged = [{ text: rest, reason: `capture file ${path}: cut short or damaged: ${error.message}` }];
    rest = '';
    yield { feed, frames: [], damaged };
    return;
  } finally {
    file.destroy();
    stream.destroy();
  }
  const batch = linesOf('', true);
  if (batch) yield batch;
  if (!feed) throw new TidemarkError('BAD_INPUT', `capture file ${path}: expected a header, found an empty file`);
}

/** One or more capture files, one after the other; with `loop` from the beginning again, until the signal. */
export const captureFileSource = (paths: readonly string[], { loop = false }: { loop?: boolean } = {}): FrameSource => ({
  name: paths.join(', '),
  async* batches(signal) {
    const rounds = loop ? Number.POSITIVE_INFINITY : 1;
    for (let round = 0; round < rounds; round += 1) {
      for (const path of paths) {
        yield* readCaptureFile(path, signal);
        if (signal?.aborted) return;
      }
    }
  },
});

export interface CaptureRecorder {
  /** Resolves when the file's buffer has room again. */
  write(frames: readonly Frame[]): Promise<void>;
  close(): Promise<void>;
}

/** How much of a recording a killed process may lose. */
const recorderFlushMs = 1_000;

/** Writes a capture file, gzip; what it holds is readable within a second also when the process is killed. Never overwrites. */
export const recordCaptureFile = async (path: string, { exchange, market, feed, source }: Feed): Promise<CaptureRecorder> => {
  const file = createWriteStream(path, { flags: 'wx' });
  try {
    await once(file, 'open');
  } catch (cause) {
    throw new TidemarkError('BAD_INPUT', `recording ${path}: expected a new file in a folder that exists, found ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  const gzip = createGzip();
  gzip.pipe(file);
  let failure: Error | undefined;
  const fail = (error: Error): void => {
    failure ??= error;
    gzip.destroy(error);
  };
  file.on('error', fail);
  gzip.on('error', fail);
  gzip.write(`${JSON.stringify({ capture: 1, exchange, market, feed, source })}\n`);
  const timer = setInterval(() => gzip.flush(constants.Z_SYNC_FLUSH), recorderFlushMs);
  timer.unref();
  const throwFailure = (): void => {
    if (failure) throw new TidemarkError('FILE_UNREADABLE', `recording ${path}: ${failure.message}`, { cause: failure });
  };
  return {
    async write(frames) {
      throwFailure();
      let text = '';
      // A frame is one line; a line break within one is white space of its JSON.
      for (const frame of frames) text += `${frame.receivedNs} ${/[\r\n]/.test(frame.text) ? frame.text.replaceAll(/[\r\n]+/g, ' ') : frame.text}\n`;
      if (text !== '' && !gzip.write(text)) await Promise.race([once(gzip, 'drain'), once(gzip, 'close')]);
      throwFailure();
    },
    async close() {
      clearInterval(timer);
      if (!failure) {
        gzip.end();
        await once(file, 'close').catch(() => undefined);
      }
      throwFailure();
    },
  };
};
