import { topicPartitionKey } from '../domain/offsets.ts';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { bytesSource, openParquet } from '../lake/parquet-reader.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Field } from '../lake/schema.ts';
import type { Catalog } from '../lake/table.ts';
import { BronzeWriter } from './bronze-writer.ts';
import { ByteBudget } from './byte-budget.ts';
import type { CheckpointClient } from './checkpoint-client.ts';
import { CheckpointOutbox } from './checkpoint-outbox.ts';
import { CheckpointReporter } from './checkpoint-reporter.ts';
import { systemClock } from './clock.ts';
import { PartitionBuffer } from './partition-buffer.ts';
import { recoverFiles } from './recover.ts';
import type { StreamingLog } from './source-reader.ts';
import type { AtStep } from './steps.ts';

/** A record from outside of Kafka. Offsets grow; those left out are sparse. */
export interface ImportedRecord {
  offset: number;
  key: Uint8Array | null;
  value: Uint8Array;
}

export interface ImportOptions {
  source: string;
  /** Named by what it holds: `import/<checksum>`. Its one topic partition is 0. */
  topic: string;
  /** Past the last offset. */
  endOffset: number;
  /** The records from an offset on; asked again after a lost claim. */
  records(from: number): AsyncIterable<readonly ImportedRecord[]>;
  owner: string;
  bronze: { name: string; fields: readonly Field[] };
  catalog: Pick<Catalog, 'dataLocation'>;
  store: ObjectStore;
  checkpoints: CheckpointClient;
  log: StreamingLog;
  budgetBytes: number;
  flush: { rowsMax: number; bytesMax: number };
  signal: AbortSignal;
  onProgress?: (progress: { read: number; accepted: number }) => void;
  atStep?: AtStep;
}

export interface ImportOutcome {
  status: 'imported' | 'alreadyThere';
  /** Where this import began: above 0, an earlier one had come so far. */
  fromOffset: number;
  rows: number;
  files: number;
  /** Files of an earlier import that had not been reported. */
  recoveredFiles: number;
}

const none = -1;
/** Two imports of one file take turns, and must not race. */
const reclaimDelayMs = 1_000;

/**
 * Brings records into Bronze as a streaming worker does: claimed from the stream workflow, in files with range and epoch,
 * reported and read back; so micro-batches follow by themselves, and a second import, or one that was killed, goes on where
 * the ledger stands. In bounded memory. Throws TEMPORAL_UNAVAILABLE when nobody answers the claim.
 */
export const importRecords = async (options: ImportOptions): Promise<ImportOutcome> => {
  const outcome: ImportOutcome = { status: 'alreadyThere', fromOffset: none, rows: 0, files: 0, recoveredFiles: 0 };
  for (;;) {
    options.signal.throwIfAborted();
    const key = topicPartitionKey(options.topic, 0);
    const { claims: [claim] } = await options.checkpoints.claim(options.source, { owner: options.owner, topicPartitions: [key] });
    if (!claim) throw new TidemarkError('TEMPORAL_UNAVAILABLE', `${key}: expected a claim, found none`);
    const next = Number(claim.nextOffset ?? 0);
    if (outcome.fromOffset === none) outcome.fromOffset = next;
    if (next > options.endOffset) throw new TidemarkError('BAD_INPUT', `${key}: expected a ledger that ends at ${options.endOffset} at most, found ${next}: the lake holds another file under this name`);
    if (next === options.endOffset) return outcome;
    outcome.status = 'imported';
    if (await importOnce(options, key, claim.epoch, next, outcome)) return outcome;
    options.log.warn({ source: options.source, topicPartition: key }, 'claim lost, claiming again');
    await systemClock.sleep(reclaimDelayMs, options.signal);
  }
};

/** False: the claim was lost. */
const importOnce = async (options: ImportOptions, key: string, epoch: number, nextOffset: number, outcome: ImportOutcome): Promise<boolean> => {
  const { source, topic, endOffset, records, owner, bronze, catalog, store, checkpoints, log, budgetBytes, flush, signal, onProgress, atStep = () => undefined } = options;
  const clock = systemClock;
  const lost = new AbortController();
  const claim = AbortSignal.any([signal, lost.signal]);
  let roomMade: (() => void) | null = null;
  const budget = new ByteBudget(budgetBytes, () => roomMade?.());
  const writer = new BronzeWriter({ store, budget, clock, atStep, onRetry: (object, error) => log.warn({ key: object, error: error.message }, 'Bronze file not stored, trying again') });
  const outbox = new CheckpointOutbox();
  let read = nextOffset;
  const reporter = new CheckpointReporter({
    source, owner, outbox, checkpoints, clock, log, atStep,
    onSettled: ({ accepted, stale }) => {
      for (const { offset } of accepted) onProgress?.({ read, accepted: Number(offset) });
      if (stale.length > 0) lost.abort();
    },
    onLedgerLost: () => lost.abort(),
  });
  let failure: unknown;
  const fail = (error: unknown): void => {
    failure ??= error;
    lost.abort();
  };
  let buffer: PartitionBuffer | null = null;
  try {
    const { ranges, readFrom } = await recoverFiles({
      store, dataLocation: (suffix) => catalog.dataLocation(bronze.name, suffix), topic, partition: 0, nextOffset: BigInt(nextOffset), signal: claim,
      readFooter: async (bytes) => {
        const { rowCount, keyValueMetadata } = await openParquet(bytesSource(bytes));
        return { rowCount, keyValueMetadata };
      },
      logStart: () => Promise.resolve(0n),
      onUnreadable: ({ key: object }, cause) => log.warn({ source, key: object, error: cause instanceof Error ? cause.message : String(cause) }, 'Bronze file is not what its key says, passed over'),
    });
    outbox.claim(key, epoch, BigInt(nextOffset));
    for (const range of ranges) outbox.addFile(key, BigInt(range.startOffset), BigInt(range.endOffset))(range);
    outcome.recoveredFiles += ranges.length;
    reporter.start().catch(fail);
    reporter.notify();

    let closedTo = readFrom;
    const close = (end: bigint): void => {
      if (!buffer) return;
      const job = { identity: { topic, partition: 0, start: buffer.start, end, epoch }, buffer, fields: bronze.fields, dataLocation: (suffix: string) => catalog.dataLocation(bronze.name, suffix), signal: claim };
      const durable = outbox.addFile(key, buffer.start, end);
      buffer = null;
      closedTo = end;
      (async () => {
        const written = await writer.write(job);
        if (!written) return;
        durable(written.range);
        outcome.files += 1;
        outcome.rows += written.range.rowCount;
        reporter.notify();
      })().catch((error: unknown) => {
        // Another process has our key: whoever claims last goes on.
        if (isTidemarkError(error, 'CHECKSUM_MISMATCH')) lost.abort();
        else fail(error);
      });
    };
    const room = (): Promise<void> => new Promise((resolve) => {
      const done = (): void => {
        roomMade = null;
        claim.removeEventListener('abort', done);
        resolve();
      };
      roomMade = done;
      claim.addEventListener('abort', done, { once: true });
      if (claim.aborted) done();
    });

    let scratch = Buffer.alloc(1_024);
    read = Number(readFrom);
    const producedMs = clock.nowMs();
    if (read < endOffset) {
      for await (const batch of records(read)) {
        for (const { offset, key: recordKey, value } of batch) {
          const keyBytes = recordKey?.length ?? 0;
          if (keyBytes + value.length > scratch.length) scratch = Buffer.alloc((keyBytes + value.length) * 2);
          if (recordKey) scratch.set(recordKey, 0);
          scratch.set(value, keyBytes);
          for (;;) {
            if (claim.aborted) break;
            buffer ??= new PartitionBuffer(closedTo, budget, lost, flush);
            if (buffer.append(scratch, offset - Number(buffer.start), producedMs, recordKey ? 0 : -1, keyBytes, keyBytes, keyBytes + value.length, -1, -1)) break;
            if (buffer.rows > 0) close(BigInt(offset));
            else {
              buffer.release();
              buffer = null;
            }
            if (!budget.mayRead(lost)) await room();
          }
          if (claim.aborted) break;
          read = offset + 1;
        }
        onProgress?.({ read, accepted: Number(outbox.accepted(key) ?? nextOffset) });
        if (claim.aborted) break;
      }
      if (!claim.aborted) close(BigInt(endOffset));
    }
    if (!claim.aborted) await reporter.drained(claim);
  } catch (error) {
    if (!claim.aborted) failure ??= error;
  } finally {
    (buffer as PartitionBuffer | null)?.release();
    if (!claim.aborted) lost.abort();
    await writer.idle();
    await reporter.stop();
  }
  if (failure !== undefined) throw failure;
  signal.throwIfAborted();
  return (outbox.accepted(key) ?? 0n) >= BigInt(endOffset);
};
