import { setImmediate } from 'node:timers/promises';
import type { CheckpointRange } from '../contracts/stream.ts';
import { bronzeFileSuffix } from '../contracts/bronze.ts';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { releaseBuffer } from '../lake/release.ts';
import type { Field } from '../lake/schema.ts';
import { traceparentName } from '../telemetry/tracing.ts';
import type { TraceSpan, Tracing } from '../telemetry/tracing.ts';
import { checkpointRange, checksumMetadata, encodeBronzeFile } from './bronze-file.ts';
import type { BronzeFileIdentity, EncodedBronzeFile } from './bronze-file.ts';
import type { ByteBudget } from './byte-budget.ts';
import { backoffMs } from './clock.ts';
import type { Clock } from './clock.ts';
import type { PartitionBuffer, ProducedSample } from './partition-buffer.ts';
import type { AtStep } from './steps.ts';

export interface BronzeFileJob {
  identity: BronzeFileIdentity;
  /** Handed over: the writer gives its bytes back to the budget. */
  buffer: PartitionBuffer;
  fields: readonly Field[];
  /** Where the file goes, by its suffix under the table's data folder. */
  dataLocation(suffix: string): string;
  /** Aborts when the topic partition is ours no longer. */
  signal: AbortSignal;
}

export interface WrittenFile {
  range: CheckpointRange;
  encodeMs: number;
  putMs: number;
  /** Kafka's timestamps of its records. */
  produced: readonly ProducedSample[];
}

export interface BronzeWriterOptions {
  store: ObjectStore;
  budget: ByteBudget;
  clock: Clock;
  atStep: AtStep;
  /** Told of each failed attempt; the write goes on. */
  onRetry(key: string, error: Error): void;
  /** Told of each buffer whose file is encoded, while its rows are there. */
  onEncoded?: (buffer: PartitionBuffer) => void;
  uploadsMax?: number;
  /** A span for each file, which goes on the trace of the first capture batch in it; the object's metadata carries it on. */
  tracing?: Pick<Tracing, 'start'>;
}

interface EncodedJob { file: EncodedBronzeFile; encodeMs: number; produced: readonly ProducedSample[]; span: TraceSpan | undefined }

/** Capture batches that the span of a file names. */
const originsMax = 16;

const retryMs = { first: 100, max: 10_000 };

/** Buffer → Parquet → object. Encodes one file at a time, puts a few at once, and tries for as long as S3 is away. */
export class BronzeWriter {
  private readonly options: BronzeWriterOptions & { uploadsMax: number };
  private encoding: Promise<unknown> = Promise.resolve();
  private uploads = 0;
  private readonly uploadWaiters: (() => void)[] = [];
  private readonly jobs = new Set<Promise<unknown>>();

  constructor(options: BronzeWriterOptions) {
    this.options = { uploadsMax: 4, ...options };
  }

  /**
   * Null when the signal aborted first. Throws CHECKSUM_MISMATCH when another content has our key (another process with
   * our epoch: claim again), else only what the store cannot recover from, and what `atStep` throws.
   */
  write(job: BronzeFileJob): Promise<WrittenFile | null> {
    const encoded = this.encoding.then(() => this.encode(job));
    this.encoding = encoded.catch(() => undefined);
    const written = encoded.then((file) => file && this.upload(job, file));
    const settled = written.then(() => undefined, () => undefined).finally(() => this.jobs.delete(settled));
    this.jobs.add(settled);
    return written;
  }

  /** Resolves when nothing is being written. */
  async idle(): Promise<void> {
    while (this.jobs.size > 0) await Promise.all(this.jobs);
  }

  private async encode({ identity, buffer, fields, signal }: BronzeFileJob): Promise<EncodedJob | null> {
    // Encoding holds the event loop: let fetch answers and heartbeats in between two files.
    await setImmediate();
    if (signal.aborted) {
      buffer.release();
      return null;
    }
    const from = performance.now();
    const span = this.startSpan(identity, buffer);
    const file = encodeBronzeFile(identity, buffer, fields, this.options.clock.nowMs());
    const produced = buffer.sampleTimestamps();
    this.options.onEncoded?.(buffer);
    buffer.release();
    this.options.budget.take(file.bytes.length);
    return { file, encodeMs: performance.now() - from, produced, span };
  }

  private startSpan({ topic, partition, start, end, epoch }: BronzeFileIdentity, buffer: PartitionBuffer): TraceSpan | undefined {
    const { tracing } = this.options;
    if (!tracing) return undefined;
    const [parent, ...links] = buffer.headerValues(traceparentName, originsMax);
    return tracing.start('Bronze file', {
      parent, links,
      attributes: { 'messaging.destination.name': topic, 'tidemark.partition': partition, 'tidemark.start_offset': String(start), 'tidemark.end_offset': String(end), 'tidemark.epoch': epoch, 'tidemark.rows': buffer.rows },
    });
  }

  private async upload({ dataLocation, signal }: BronzeFileJob, { file, encodeMs, produced, span }: EncodedJob): Promise<WrittenFile | null> {
    const { store, budget, atStep } = this.options;
    const key = store.keyOf(dataLocation(bronzeFileSuffix(file)));
    const from = performance.now();
    const range = checkpointRange(file);
    await this.takeUploadTurn();
    try {
      await atStep('before-upload', key);
      await this.put(key, file.bytes, { [checksumMetadata]: file.checksum, ...(span && span.traceparent !== '' ? { [traceparentName]: span.traceparent } : {}) }, signal);
      if (signal.aborted) return null;
      await atStep('after-upload', key);
      return { range, encodeMs, putMs: performance.now() - from, produced };
    } finally {
      span?.end();
      budget.give(range.byteCount);
      this.uploads -= 1;
      this.uploadWaiters.shift()?.();
    }
  }

  private async put(key: string, bytes: Uint8Array, metadata: { [checksumMetadata]: string } & Record<string, string>, signal: AbortSignal): Promise<void> {
    const { store, clock, onRetry } = this.options;
    const checksum = metadata[checksumMetadata];
    for (let failures = 0; !signal.aborted; failures += 1) {
      try {
        await store.put(key, bytes, { condition: 'absent', metadata, contentType: 'application/vnd.apache.parquet', signal });
        // Only now: a request that failed may still be reading it.
        releaseBuffer(bytes.buffer);
        return;
      } catch (error) {
        if (signal.aborted) return;
        try {
          if (isTidemarkError(error, 'PRECONDITION_FAILED')) {
            // An earlier attempt whose answer was lost, or not ours at all.
            const found = (await store.head(key)).metadata[checksumMetadata];
            if (found === checksum) return;
            throw new TidemarkError('CHECKSUM_MISMATCH', `${key}: expected SHA-256 ${checksum}, found ${found ?? 'an object without one'}`, { cause: error });
          }
          throw error;
        } catch (failure) {
          // Gone between the 412 and the look: the next attempt decides.
          const isTransient = isTidemarkError(failure) && (failure.retryable || failure.code === 'OBJECT_NOT_FOUND');
          if (!isTransient) throw failure;
          onRetry(key, failure);
          await clock.sleep(backoffMs(failures, retryMs.first, retryMs.max), signal);
        }
      }
    }
  }

  private async takeUploadTurn(): Promise<void> {
    while (this.uploads >= this.options.uploadsMax) await new Promise<void>((resolve) => this.uploadWaiters.push(resolve));
    this.uploads += 1;
  }
}
