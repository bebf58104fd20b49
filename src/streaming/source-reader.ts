import type { CheckpointClient } from './checkpoint-client.ts';
import { CheckpointOutbox } from './checkpoint-outbox.ts';
import type { Settlement } from './checkpoint-outbox.ts';
import { CheckpointReporter } from './checkpoint-reporter.ts';
import { backoffMs } from './clock.ts';
import type { Clock } from './clock.ts';
import type { ByteBudget } from './byte-budget.ts';
import type { BronzeWriter } from './bronze-writer.ts';
import { flushReason } from './flush-policy.ts';
import type { FlushLimits } from './flush-policy.ts';
import { PartitionBuffer } from './partition-buffer.ts';
import type { ProducedSample } from './partition-buffer.ts';
import { RetentionWatch } from './retention-watch.ts';
import type { LogFacts } from './retention-watch.ts';
import type { TopicIdentity } from './topic-identity.ts';
import { recoverFiles } from './recover.ts';
import type { ReadFooter } from './recover.ts';
import type { AtStep } from './steps.ts';
import { bronzeFileSuffix } from '../contracts/bronze.ts';
import { topicPartitionsAtOnceMax } from '../contracts/stream.ts';
import type { CheckpointRange, WorkerHealth } from '../contracts/stream.ts';
import { TidemarkError, invariant, isTidemarkError } from '../domain/errors.ts';
import { topicPartitionKey } from '../domain/offsets.ts';
import type { TopicPartition } from '../domain/offsets.ts';
import { decompressRecords, fetchErrors } from '../kafka/consumer.ts';
import type { FetchRequest, FetchedPartition, GroupConsumer, PartitionReader } from '../kafka/consumer.ts';
import { decodeRecords } from '../kafka/record-batch.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Field } from '../lake/schema.ts';

export interface StreamingLog {
  debug(fields: Readonly<Record<string, unknown>>, message: string): void;
  info(fields: Readonly<Record<string, unknown>>, message: string): void;
  warn(fields: Readonly<Record<string, unknown>>, message: string): void;
  error(fields: Readonly<Record<string, unknown>>, message: string): void;
}

/** What happens in a streaming worker, for metrics and tests. Topic partitions are `<topic>/<partition>`. */
export type StreamingEvent =
  | { type: 'claimed'; source: string; topicPartition: string; epoch: number; nextOffset: string | null }
  | { type: 'recovered'; source: string; topicPartition: string; files: number; readFrom: string }
  | { type: 'recordsTaken'; source: string; topicPartition: string; records: number; bytes: number; lag: number }
  | { type: 'fileWritten'; source: string; topicPartition: string; rows: number; bytes: number; reason: FlushCause; encodeMs: number; putMs: number; produced: readonly ProducedSample[] }
  | { type: 'reading'; source: string; topicPartition: string; recoveryMs: number }
  | { type: 'reported'; source: string; bytes: number; acceptedAfterMs: number }
  | { type: 'accepted'; source: string; topicPartition: string; nextOffset: string }
  | { type: 'gap'; source: string; topicPartition: string; startOffset: string; endOffset: string }
  | { type: 'halted'; source: string; topicPartition: string; code: string; cause: string }
  | { type: 'claimLost'; source: string; topicPartition: string; cause: string }
  | { type: 'budget'; full: boolean; usedBytes: number };

export type FlushCause = 'size' | 'time' | 'budget' | 'gap' | 'stop';

export interface SourceReaderOptions {
  source: string;
  owner: string;
  /** Columns of the Bronze table. */
  bronzeFields: readonly Field[];
  /** Where a file of the Bronze table goes, by its suffix under the data folder. */
  dataLocation(suffix: string): string;
  store: ObjectStore;
  readFooter: ReadFooter;
  checkpoints: CheckpointClient;
  writer: BronzeWriter;
  budget: ByteBudget;
  flush: FlushLimits;
  gapPolicy: 'continue' | 'halt';
  /** Most bytes of one topic partition in one fetch answer; a larger record batch comes alone. */
  partitionBytesMax: number;
  reportIntervalMs: number;
  /** How often the ledger is looked at when there is nothing to report. */
  lookIntervalMs: number;
  offsetCommitIntervalMs: number;
  /** How often retention is looked at. */
  forecastIntervalMs: number;
  identity: TopicIdentity;
  retention: LogFacts['retention'];
  /** What the process says of itself in each report. */
  health(): Pick<WorkerHealth, 'budgetShare' | 'flushIntervalMs' | 'flushReason'>;
  clock: Clock;
  log: StreamingLog;
  onEvent(event: StreamingEvent): void;
  atStep: AtStep;
  /** The budget is full: closes buffers of all sources. */
  closeBuffersAtBudget(): void;
  /** A crash at a step, or a bug. */
  onFatal(error: unknown): void;
}

/** One assigned topic partition. */
interface Lane extends TopicPartition {
  readonly key: string;
  phase: 'claiming' | 'recovering' | 'reading' | 'halted';
  epoch: number;
  /** The next offset to fetch. */
  expected: bigint;
  /** The end of the last closed buffer, file or gap: the next file starts here. */
  closedTo: bigint;
  buffer: PartitionBuffer | null;
  bufferedSinceMs: number;
  /** Aborts with the claim. */
  claim: AbortController;
  /** A fetch failed: not read on before the topic is known to be the one it was. */
  doubtful: boolean;
  /** While an answer is being taken: positions are between two states. */
  taking: Promise<void> | null;
  highWatermark: bigint | null;
  /** Kafka's timestamp of the record read last. */
  lastTimestampMs: number | null;
  /** When Kafka answered last, or it was assigned. */
  heardAtMs: number;
  claimedAtMs: number;
  logStart: bigint | null;
  /** Grows with each answer that brought records: the least was served longest ago. */
  servedAt: number;
  /** Not to be claimed before. */
  claimAfterMs: number;
  /** The latest files that the ledger accepted, by offset. */
  acceptedFiles: CheckpointRange[];
  /** Object key suffix → how often the ledger accepted the file and was back before it at the next claim. */
  takenBack: Map<string, number>;
}

export interface LaneState {
  phase: Lane['phase'];
  epoch: number;
  /** The next offset to fetch. */
  nextFetch: string;
  /** The ledger's next offset, as last read. */
  accepted: string | null;
  bufferedRows: number;
  waitingFiles: number;
  /** Records between the next fetch and the log's end; null before the first answer. */
  lag: number | null;
  /**
   * How far it is behind in time: the age of the record read last while more wait, 0 at the log's end; and at least the
   * time since Kafka was last heard, because nobody knows what came meanwhile.
   */
  lagMs: number;
  /** Until retention takes what is not durable yet, as things go; null: it will not. */
  lossInMs: number | null;
}

const claimRetryMs = { first: 200, max: 10_000 };
/** Before a claim that was lost to another owner is taken back: two that both believe to be assigned must not race. */
const reclaimDelayMs = 1_000;
/** At the budget, buffers close until what is left open is at most this share of it. */
const openShareAtBudget = 0.35;

const acceptedFilesKept = 256;
/**
 * A file that was accepted and taken back so often is not reported again but read from Kafka once more: the Bronze table
 * refuses it for a reason that its checksum does not show. The first time it may as well be Temporal that was lost.
 */
const takenBackMax = 2;

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/**
 * One source in one streaming worker: claims its topic partitions, recovers what an earlier owner left on S3, reads on
 * from there into buffers, closes them into Bronze files, and reports those.
 */
export class SourceReader implements PartitionReader {
  private readonly options: SourceReaderOptions;
  private readonly lanes = new Map<string, Lane>();
  private readonly outbox = new CheckpointOutbox();
  private readonly reporter: CheckpointReporter;
  private readonly watch: RetentionWatch;
  private readonly stopped = new AbortController();
  private readonly commits = new Map<string, TopicPartition & { offset: bigint }>();
  private consumer: GroupConsumer | null = null;
  private draining = false;
  private servings = 0;
  private claiming: Promise<void> | null = null;
  private lastOffsetCommitMs = -Infinity;
  private committing: Promise<void> = Promise.resolve();

  constructor(options: SourceReaderOptions) {
    this.options = options;
    const { source, owner, checkpoints, clock, log, reportIntervalMs, lookIntervalMs, atStep } = options;
    this.reporter = new CheckpointReporter({
      source, owner, outbox: this.outbox, checkpoints, clock, log, intervalMs: reportIntervalMs, lookIntervalMs, atStep,
      onSettled: (settlement) => this.onSettled(settlement),
      health: () => ({ atMs: clock.nowMs(), ...options.health(), losses: this.watch.losses() }),
      onReported: (bytes, acceptedAfterMs) => this.options.onEvent({ type: 'reported', source, bytes, acceptedAfterMs }),
      onLedgerLost: () => {
        for (const lane of this.lanes.values()) if (lane.phase === 'reading') this.claimAgain(lane, 'the stream workflow is gone', 0);
      },
    });
    this.watch = new RetentionWatch({
      source, log, clock, intervalMs: options.forecastIntervalMs,
      facts: { logBounds: (of) => this.connected.logBounds(of), timestampAt: (of, offset) => this.connected.timestampAt(of, offset), retention: options.retention },
      partitions: () => [...this.lanes.values()].flatMap(({ topic, partition, key }) => {
        const position = this.outbox.durableTo(key);
        return position === null ? [] : [{ topic, partition, key, position }];
      }),
      onWarning: () => this.reporter.tellHealth(),
    });
  }

  private get connected(): GroupConsumer {
    invariant(this.consumer, 'a source reader asks Kafka only after its consumer has joined');
    return this.consumer;
  }

  start(consumer: GroupConsumer): void {
    this.consumer = consumer;
    this.watch.start();
    this.reporter.start().catch((error: unknown) => this.options.onFatal(error));
  }

  /** Says now what `health` holds. */
  tellHealth(): void {
    this.reporter.tellHealth();
  }

  // --- assignment and claims

  assigned(partitions: readonly TopicPartition[]): void {
    const keys = new Set(partitions.map(({ topic, partition }) => topicPartitionKey(topic, partition)));
    for (const lane of this.lanes.values()) {
      if (keys.has(lane.key)) continue;
      this.lanes.delete(lane.key);
      this.dropClaim(lane);
      this.options.log.info({ source: this.options.source, topicPartition: lane.key }, 'topic partition taken away');
    }
    for (const { topic, partition } of partitions) {
      const key = topicPartitionKey(topic, partition);
      // A topic partition that was ours before the rebalance keeps its claim: its positions are ours, not the group's.
      if (this.lanes.has(key)) continue;
      this.lanes.set(key, {
        topic, partition, key, phase: 'claiming', epoch: 0, expected: 0n, closedTo: 0n, buffer: null, bufferedSinceMs: 0,
        claim: new AbortController(), doubtful: false, taking: null, highWatermark: null, lastTimestampMs: null, heardAtMs: this.options.clock.nowMs(), claimedAtMs: 0, logStart: null, servedAt: 0, claimAfterMs: 0, acceptedFiles: [], takenBack: new Map(),
      });
    }
    this.reporter.notify();
    this.claimSoon();
  }

  /** Forgets buffer and unreported files: after the next claim they are read or found again. */
  private dropClaim(lane: Lane): void {
    lane.claim.abort();
    lane.buffer?.release();
    lane.buffer = null;
    this.outbox.close(lane.key);
    this.options.budget.forget(lane);
    this.commits.delete(lane.key);
  }

  private claimAgain(lane: Lane, cause: string, delayMs: number): void {
    if (lane.phase === 'claiming' || this.lanes.get(lane.key) !== lane) return;
    const { source, log, onEvent, clock } = this.options;
    log.warn({ source, topicPartition: lane.key, epoch: lane.epoch, cause }, 'claim lost, claiming again');
    onEvent({ type: 'claimLost', source, topicPartition: lane.key, cause });
    this.dropClaim(lane);
    lane.claim = new AbortController();
    lane.phase = 'claiming';
    lane.claimAfterMs = clock.nowMs() + delayMs;
    this.reporter.notify();
    this.claimSoon();
  }

  private claimSoon(): void {
    if (this.isStopped || this.draining) return;
    this.claiming ??= this.claimWaiting()
      .catch((error: unknown) => this.options.onFatal(error))
      .finally(() => {
        this.claiming = null;
        if ([...this.lanes.values()].some(({ phase }) => phase === 'claiming')) this.claimSoon();
      });
  }

  private async claimWaiting(): Promise<void> {
    const { source, owner, checkpoints, clock, log, atStep } = this.options;
    for (let failures = 0; !this.isStopped && !this.draining;) {
      const waiting = [...this.lanes.values()].filter(({ phase }) => phase === 'claiming').slice(0, topicPartitionsAtOnceMax);
      if (waiting.length === 0) return;
      const delayMs = Math.max(...waiting.map(({ claimAfterMs }) => claimAfterMs)) - clock.nowMs();
      if (delayMs > 0) {
        await this.sleep(delayMs);
        continue;
      }
      const controllers = new Map(waiting.map((lane) => [lane.key, lane.claim]));
      try {
        await atStep('before-claim', source);
        const reply = await checkpoints.claim(source, { owner, topicPartitions: waiting.map(({ key }) => key) });
        await atStep('after-claim', source);
        failures = 0;
        for (const { topicPartition, epoch, nextOffset } of reply.claims) {
          const lane = this.lanes.get(topicPartition);
          if (lane?.phase !== 'claiming' || lane.claim !== controllers.get(topicPartition)) continue;
          lane.phase = 'recovering';
          lane.epoch = epoch;
          lane.claimedAtMs = clock.nowMs();
          countTakenBack(lane, nextOffset);
          this.options.onEvent({ type: 'claimed', source, topicPartition, epoch, nextOffset });
          this.recover(lane, nextOffset === null ? null : BigInt(nextOffset)).catch((error: unknown) => this.options.onFatal(error));
        }
      } catch (error) {
        if (!isTidemarkError(error) || !(error.retryable || error.code === 'WORKFLOW_NOT_FOUND')) throw error;
        log.warn({ source, topicPartitions: waiting.length, error: error.message }, 'claim not answered, trying again');
        await this.sleep(backoffMs(failures, claimRetryMs.first, claimRetryMs.max));
        failures += 1;
      }
    }
  }

  private async recover(lane: Lane, nextOffset: bigint | null): Promise<void> {
    const { source, store, dataLocation, readFooter, clock, log, onEvent } = this.options;
    const { signal } = lane.claim;
    for (let failures = 0; !signal.aborted && !this.isStopped; failures += 1) {
      try {
        await this.checkIdentity(lane.topic);
        const { ranges, readFrom } = await recoverFiles({
          store, dataLocation, readFooter, topic: lane.topic, partition: lane.partition, nextOffset, signal,
          isRefused: (file) => (lane.takenBack.get(bronzeFileSuffix(file)) ?? 0) >= takenBackMax,
          logStart: async () => (await this.connected.logBounds(lane)).start,
          onUnreadable: ({ key }, cause) => log.warn({ source, key, error: messageOf(cause) }, 'Bronze file is not what its key says, passed over'),
        });
        if (signal.aborted) return;
        this.outbox.claim(lane.key, lane.epoch, ranges.length > 0 ? BigInt(ranges[0]!.startOffset) : readFrom);
        for (const range of ranges) this.outbox.addFile(lane.key, BigInt(range.startOffset), BigInt(range.endOffset))(range);
        lane.expected = readFrom;
        lane.closedTo = readFrom;
        lane.phase = 'reading';
        onEvent({ type: 'reading', source, topicPartition: lane.key, recoveryMs: clock.nowMs() - lane.claimedAtMs });
        if (ranges.length > 0) onEvent({ type: 'recovered', source, topicPartition: lane.key, files: ranges.length, readFrom: String(readFrom) });
        log.info({ source, topicPartition: lane.key, epoch: lane.epoch, recoveredFiles: ranges.length, readFrom: String(readFrom) }, 'reading');
        this.reporter.notify();
        this.consumer?.wake();
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (isTidemarkError(error, 'TOPIC_RECREATED')) {
          lane.expected = lane.closedTo = nextOffset ?? 0n;
          this.outbox.claim(lane.key, lane.epoch, lane.closedTo);
          this.halt(lane, error);
          return;
        }
        if (!isTidemarkError(error) || !error.retryable) throw error;
        log.warn({ source, topicPartition: lane.key, error: error.message }, 'looking for unreported Bronze files failed, trying again');
        await this.sleep(backoffMs(failures, claimRetryMs.first, claimRetryMs.max));
      }
    }
  }

  /** Throws TOPIC_RECREATED, KAFKA_UNAVAILABLE, OBJECT_STORE_UNAVAILABLE. */
  private async checkIdentity(topic: string): Promise<void> {
    await this.options.identity.check(topic, await this.connected.topicId(topic));
  }

  disturbed(topicPartitions: readonly TopicPartition[]): void {
    for (const { topic, partition } of topicPartitions) {
      const lane = this.lanes.get(topicPartitionKey(topic, partition));
      if (!lane || lane.phase !== 'reading' || lane.doubtful) continue;
      lane.doubtful = true;
      this.clearDoubt(lane).catch((error: unknown) => this.options.onFatal(error));
    }
  }

  private async clearDoubt(lane: Lane): Promise<void> {
    const { signal } = lane.claim;
    for (let failures = 0; !signal.aborted && !this.isStopped; failures += 1) {
      try {
        await this.checkIdentity(lane.topic);
        break;
      } catch (error) {
        if (signal.aborted) return;
        if (!isTidemarkError(error)) throw error;
        if (error.code === 'TOPIC_RECREATED') {
          await lane.taking;
          if (!signal.aborted && lane.phase === 'reading') this.halt(lane, error);
          break;
        }
        if (!error.retryable) throw error;
        await this.sleep(backoffMs(failures, claimRetryMs.first, claimRetryMs.max));
      }
    }
    lane.doubtful = false;
    this.consumer?.wake();
  }

  // --- reading

  wanted(): FetchRequest[] {
    if (this.isStopped || this.draining) return [];
    const { budget, partitionBytesMax } = this.options;
    return [...this.lanes.values()]
      .filter((lane) => lane.phase === 'reading' && !lane.doubtful && !lane.taking && budget.mayRead(lane))
      // The broker fills its answer in the order asked, and only the first may bring a record batch larger than asked for: each has its turn.
      .sort((a, b) => a.servedAt - b.servedAt)
      .map(({ topic, partition, expected }) => ({ topic, partition, offset: expected, bytesMax: partitionBytesMax }));
  }

  async fetched(answer: FetchedPartition): Promise<void> {
    const lane = this.lanes.get(topicPartitionKey(answer.topic, answer.partition));
    // An answer to a question that is no longer asked: the claim was lost, or another broker's answer was first.
    if (!lane || lane.phase !== 'reading' || lane.taking || this.isStopped || this.draining || answer.fetchOffset !== lane.expected) return;
    lane.heardAtMs = this.options.clock.nowMs();
    const { signal } = lane.claim;
    const taking = (answer.errorCode === fetchErrors.offsetOutOfRange ? this.explainPosition(lane, signal) : this.take(lane, answer, signal))
      .catch((error: unknown) => {
        if (!signal.aborted) this.options.onFatal(error);
      })
      .finally(() => {
        if (lane.taking === taking) lane.taking = null;
      });
    lane.taking = taking;
    await taking;
    if (signal.aborted) return;
    if (this.options.budget.full) this.options.closeBuffersAtBudget();
    else this.closeIfDue(lane);
  }

  private async take(lane: Lane, answer: FetchedPartition, signal: AbortSignal): Promise<void> {
    const { source, budget, flush, clock, onEvent } = this.options;
    lane.highWatermark = answer.highWatermark;
    lane.logStart = answer.logStart;
    let records = 0;
    let bytes = 0;
    for (;;) {
      const buffer = lane.buffer ?? new PartitionBuffer(lane.closedTo, budget, lane, flush);
      const payloadBefore = buffer.payloadBytes;
      if (buffer.rows === 0) lane.bufferedSinceMs = clock.nowMs();
      const result = await decodeRecords({
        recordSet: answer.recordSet, from: lane.expected, origin: buffer.start, aborted: answer.aborted, sink: buffer, decompress: decompressRecords,
      });
      if (signal.aborted) {
        if (lane.buffer !== buffer) buffer.release();
        return;
      }
      lane.expected = result.next;
      lane.lastTimestampMs = buffer.lastTimestampMs ?? lane.lastTimestampMs;
      lane.buffer = buffer.rows > 0 ? buffer : null;
      records += result.records;
      bytes += buffer.payloadBytes - payloadBefore;
      if (result.unreadable) {
        this.halt(lane, result.unreadable);
        break;
      }
      if (!result.full) break;
      // Either the file is complete, and the rest of the answer goes to the next one, or the budget is used up: then the rest is fetched again.
      if (!buffer.complete) break;
      this.close(lane, 'size');
    }
    if (records > 0) {
      lane.servedAt = this.servings += 1;
      const lag = answer.highWatermark - lane.expected;
      onEvent({ type: 'recordsTaken', source, topicPartition: lane.key, records, bytes, lag: lag > 0n ? Number(lag) : 0 });
    }
  }

  /** The broker has nothing at the expected offset: retention passed the reader, or the log ends before it. */
  private async explainPosition(lane: Lane, signal: AbortSignal): Promise<void> {
    const { source, gapPolicy, clock, log, onEvent } = this.options;
    let bounds: { start: bigint; end: bigint };
    try {
      await this.checkIdentity(lane.topic);
      bounds = await this.connected.logBounds(lane);
    } catch (error) {
      if (signal.aborted) return;
      if (isTidemarkError(error, 'TOPIC_RECREATED')) {
        this.halt(lane, error);
        return;
      }
      if (!isTidemarkError(error) || !error.retryable) throw error;
      log.warn({ source, topicPartition: lane.key, error: error.message }, 'offset out of range, and the log bounds are not known yet');
      await this.sleep(claimRetryMs.first);
      return;
    }
    if (signal.aborted) return;
    if (bounds.end < lane.expected) {
      this.halt(lane, new TidemarkError('LOG_TRUNCATED', `${lane.key}: expected a log that reaches offset ${lane.expected}, found its end at ${bounds.end}`));
      return;
    }
    if (bounds.start <= lane.expected) {
      log.warn({ source, topicPartition: lane.key, offset: String(lane.expected), logStart: String(bounds.start), logEnd: String(bounds.end) }, 'offset out of range, yet within the log bounds: asking again');
      await this.sleep(claimRetryMs.first);
      return;
    }
    if (lane.buffer) this.close(lane, 'gap');
    const gap = { topicPartition: lane.key, startOffset: String(lane.closedTo), endOffset: String(bounds.start) };
    if (gapPolicy === 'halt') {
      this.halt(lane, new TidemarkError('RECORDS_EXPIRED', `${lane.key}: offsets [${gap.startOffset}, ${gap.endOffset}) are gone from the broker, and the policy is to halt`));
      return;
    }
    log.error({ source, ...gap }, 'records are gone from the broker before they were read: recorded as a gap');
    onEvent({ type: 'gap', source, ...gap });
    this.outbox.addGap({ ...gap, detectedAtMs: clock.nowMs() });
    lane.expected = bounds.start;
    lane.closedTo = bounds.start;
    this.reporter.notify();
  }

  private halt(lane: Lane, cause: TidemarkError): void {
    const { source, log, onEvent } = this.options;
    if (lane.buffer) this.close(lane, 'gap');
    lane.phase = 'halted';
    log.error({ source, topicPartition: lane.key, code: cause.code, error: cause.message }, 'topic partition halted');
    onEvent({ type: 'halted', source, topicPartition: lane.key, code: cause.code, cause: cause.message });
    this.outbox.halt(lane.key, `${cause.code}: ${cause.message}`);
    this.reporter.notify();
  }

  // --- Bronze files

  /** Closes what has waited long enough; called a few times in each flush interval. */
  closeDue(): void {
    const lanes = [...this.lanes.values()];
    if (lanes.filter((lane) => this.closeIfDue(lane) === 'time').length > 0) {
      for (const lane of lanes) this.closeIfDue(lane, true);
    }
    if (this.commits.size > 0) this.commitOffsetsIfDue();
  }

  private closeIfDue(lane: Lane, inCompany = false): FlushCause | null {
    if (!lane.buffer || lane.taking) return null;
    const { flush, clock } = this.options;
    const reason = flushReason({
      rows: lane.buffer.rows,
      payloadBytes: lane.buffer.payloadBytes,
      ageMs: clock.nowMs() - lane.bufferedSinceMs,
      unacceptedFiles: this.outbox.waiting(lane.key),
    }, flush, inCompany);
    if (reason) this.close(lane, reason);
    return reason;
  }

  /** Open buffers of this source: what the budget counts for each, and how to close it. Not while records are taken into it. */
  closable(): { heldBytes: number; close(): void }[] {
    return [...this.lanes.values()].filter(({ buffer, taking }) => buffer && !taking)
      .map((lane) => ({ heldBytes: lane.buffer!.heldBytes, close: () => this.close(lane, 'budget') }));
  }

  private close(lane: Lane, reason: FlushCause): void {
    const { buffer } = lane;
    if (!buffer) return;
    const { source, writer, bronzeFields, dataLocation, onEvent } = this.options;
    lane.buffer = null;
    lane.closedTo = lane.expected;
    const { signal } = lane.claim;
    const durable = this.outbox.addFile(lane.key, buffer.start, lane.expected);
    const job = {
      identity: { topic: lane.topic, partition: lane.partition, start: buffer.start, end: lane.expected, epoch: lane.epoch },
      buffer, fields: bronzeFields, dataLocation, signal,
    };
    (async () => {
      const written = await writer.write(job);
      if (!written || signal.aborted) return;
      durable(written.range);
      onEvent({ type: 'fileWritten', source, topicPartition: lane.key, rows: written.range.rowCount, bytes: written.range.byteCount, reason, encodeMs: written.encodeMs, putMs: written.putMs, produced: written.produced });
      this.reporter.notify();
    })().catch((error: unknown) => {
      if (isTidemarkError(error, 'CHECKSUM_MISMATCH') && !signal.aborted) this.claimAgain(lane, error.message, 0);
      else if (!signal.aborted || !isTidemarkError(error)) this.options.onFatal(error);
    });
  }

  // --- checkpoints

  private onSettled({ accepted, stale }: Settlement): void {
    const { source, onEvent } = this.options;
    for (const { topicPartition, offset, files } of accepted) {
      const lane = this.lanes.get(topicPartition);
      if (!lane) continue;
      lane.acceptedFiles = [...lane.acceptedFiles, ...files].slice(-acceptedFilesKept);
      this.commits.set(topicPartition, { topic: lane.topic, partition: lane.partition, offset });
      onEvent({ type: 'accepted', source, topicPartition, nextOffset: String(offset) });
    }
    for (const topicPartition of stale) {
      const lane = this.lanes.get(topicPartition);
      if (lane) this.claimAgain(lane, 'the ledger gave the topic partition to another epoch, or went back', reclaimDelayMs);
    }
    this.commitOffsetsIfDue();
  }

  /** For lag tools: what the ledger has accepted, now and then. */
  private commitOffsetsIfDue(force = false): void {
    const { source, clock, offsetCommitIntervalMs, atStep, onFatal } = this.options;
    if (this.commits.size === 0 || (!force && clock.nowMs() - this.lastOffsetCommitMs < offsetCommitIntervalMs)) return;
    this.lastOffsetCommitMs = clock.nowMs();
    const offsets = [...this.commits.values()];
    this.commits.clear();
    this.committing = (async () => {
      await atStep('before-offset-commit', source);
      await this.consumer?.commitOffsets(offsets);
      await atStep('after-offset-commit', source);
    })().catch((error: unknown) => onFatal(error));
  }

  // --- end

  /** Stops reading, closes every buffer, and waits until the ledger has accepted it all, or the signal aborts. */
  async drain(deadline: AbortSignal): Promise<void> {
    this.draining = true;
    await Promise.all([...this.lanes.values()].map(({ taking }) => taking));
    for (const lane of this.lanes.values()) this.close(lane, 'stop');
    await this.reporter.drained(deadline);
    this.commitOffsetsIfDue(true);
    await this.committing;
  }

  /** At once: what is not reported is found, or read, by the next owner. */
  async stop(): Promise<void> {
    this.stopped.abort();
    for (const lane of this.lanes.values()) this.dropClaim(lane);
    await this.watch.stop();
    await this.reporter.stop();
  }

  state(): Record<string, LaneState> {
    return Object.fromEntries([...this.lanes.values()].map((lane) => [lane.key, {
      phase: lane.phase,
      epoch: lane.epoch,
      nextFetch: String(lane.expected),
      accepted: this.outbox.accepted(lane.key)?.toString() ?? null,
      bufferedRows: lane.buffer?.rows ?? 0,
      waitingFiles: this.outbox.waiting(lane.key),
      lag: lane.highWatermark === null ? null : Number(lane.highWatermark > lane.expected ? lane.highWatermark - lane.expected : 0n),
      lagMs: lagMsOf(lane, this.options.clock.nowMs()),
      lossInMs: this.watch.lossInMs(lane.key),
    }]));
  }

  private get isStopped(): boolean {
    return this.stopped.signal.aborted;
  }

  private sleep(ms: number): Promise<void> {
    return this.options.clock.sleep(ms, this.stopped.signal);
  }
}

/** A fetch that finds nothing is answered after a wait: silence of so long says nothing. */
const silenceMs = 5_000;

const lagMsOf = ({ highWatermark, expected, lastTimestampMs, heardAtMs }: Lane, nowMs: number): number => {
  const behindMs = highWatermark !== null && highWatermark > expected && lastTimestampMs !== null ? nowMs - lastTimestampMs : 0;
  const silentMs = nowMs - heardAtMs;
  return Math.max(0, behindMs, silentMs > silenceMs ? silentMs : 0);
};

const countTakenBack = (lane: Lane, nextOffset: string | null): void => {
  for (const { startOffset, endOffset, fileEpoch } of lane.acceptedFiles) {
    if (nextOffset !== null && BigInt(startOffset) < BigInt(nextOffset)) continue;
    const suffix = bronzeFileSuffix({ topic: lane.topic, partition: lane.partition, start: BigInt(startOffset), end: BigInt(endOffset), epoch: fileEpoch });
    lane.takenBack.set(suffix, (lane.takenBack.get(suffix) ?? 0) + 1);
  }
  lane.acceptedFiles = [];
};

/** Closes the largest open buffers until what stays open is a small share of the budget; the rest drains through S3. */
export const closeAtBudget = (readers: Iterable<SourceReader>, budget: ByteBudget): void => {
  const open = [...readers].flatMap((reader) => reader.closable()).sort((a, b) => b.heldBytes - a.heldBytes);
  let held = open.reduce((sum, { heldBytes }) => sum + heldBytes, 0);
  for (const { heldBytes, close } of open) {
    if (held <= budget.limit * openShareAtBudget && !budget.waitsForAll) return;
    close();
    held -= heldBytes;
  }
};
