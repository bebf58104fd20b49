import { ApplicationFailure } from '@temporalio/common';
import { lakePage } from '../../activities/stream.ts';
import type { BronzeCommit, MicroBatchActivities, MicroBatchOutcome, StreamActivities, StreamStart } from '../../src/contracts/micro-batch.ts';
import { historyEventsMaxDefault } from '../../src/contracts/stream.ts';
import type { StreamLimits } from '../../src/contracts/stream.ts';
import { Coverage, IntervalSet } from '../../src/domain/offsets.ts';
import { whileAlive } from './heartbeats.ts';

const of = (ranges: readonly { topicPartition: string; startOffset: string; endOffset: string }[]): Coverage =>
  Coverage.of(ranges.map(({ topicPartition, startOffset, endOffset }) => [topicPartition, IntervalSet.of({ start: BigInt(startOffset), end: BigInt(endOffset) })] as const));

type Activities = StreamActivities & MicroBatchActivities;
export type FakeStep = keyof Activities;

/**
 * A lake that is nothing but the offsets its tables cover, behind the activities' names: it refuses what the real one
 * refuses, and counts what would be a row twice. `before` may wait or throw, as the real activities do.
 */
export class FakeLake {
  bronze = Coverage.empty;
  gaps = Coverage.empty;
  silver = Coverage.empty;
  dlq = Coverage.empty;
  gold = Coverage.empty;
  limits: StreamLimits;
  /** Bronze files that cannot be read, as `<topic partition>:<start>`. */
  readonly unreadable = new Set<string>();
  readonly calls: { step: FakeStep; input: unknown }[] = [];
  readonly outcomes = new Map<number, MicroBatchOutcome>();
  before: (step: FakeStep, input: { batch?: number; intervals?: Record<string, string> }) => Promise<void> | void = () => {};
  private batchMax = 0;
  private waiting: (() => void)[] = [];

  constructor(limits: Partial<StreamLimits> = {}) {
    this.limits = { batchRecordsMax: 1_000, runningMax: 2, historyEventsMax: historyEventsMaxDefault, ...limits };
  }

  /** Resolves when the condition holds; looked at after each activity. */
  async until(holds: () => boolean): Promise<void> {
    while (!holds()) await new Promise<void>((resolve) => this.waiting.push(resolve));
  }

  callsOf(step: FakeStep): number {
    return this.calls.filter((call) => call.step === step).length;
  }

  private async step<T>(step: FakeStep, input: { batch?: number; intervals?: Record<string, string> }, work: () => T): Promise<T> {
    this.calls.push({ step, input });
    this.wake();
    await whileAlive(() => this.before(step, input));
    const result = work();
    this.wake();
    return result;
  }

  private wake(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  private append(table: 'bronze' | 'gaps' | 'silver' | 'dlq' | 'gold', offsets: Coverage): 'committed' | 'alreadyCommitted' {
    if (this[table].contains(offsets)) return 'alreadyCommitted';
    if (this[table].overlaps(offsets)) throw ApplicationFailure.create({ type: 'COVERAGE_CONFLICT', message: `${table}: a part is covered`, nonRetryable: true });
    this[table] = this[table].union(offsets);
    return 'committed';
  }

  /** Refined offsets of a staged batch, by its key: as the real one, what Silver lacks. */
  private readonly staged = new Map<string, Coverage>();

  activities(): Activities {
    const published = { snapshotId: '1', attempts: 1 };
    return {
      loadLakeState: ({ from }) => this.step('loadLakeState', {}, (): StreamStart => {
        const nextOffsets = new Map(this.bronze.keys().map((key) => [key, this.bronze.of(key).intervals.at(-1)!.end] as const));
        const { next, ...page } = lakePage(nextOffsets, this.bronze.subtract(this.silver.intersect(this.dlq).intersect(this.gold)), from);
        return { lake: { ...page, epochMax: 0, batchMax: this.batchMax }, next, limits: this.limits };
      }),
      commitBronze: (input) => this.step('commitBronze', {}, (): BronzeCommit => {
        const refused: BronzeCommit['refused'] = {};
        const taken = input.files.filter(({ topicPartition, startOffset }) => {
          if (this.unreadable.has(`${topicPartition}:${startOffset}`)) refused[topicPartition] ??= { startOffset, cause: 'the file cannot be read' };
          return refused[topicPartition] === undefined;
        });
        const missing = taken.filter((file) => !this.bronze.contains(of([file])));
        return { status: this.append('bronze', of(missing)), ...published, rowCount: 0, refused };
      }),
      recordGaps: ({ gaps }) => this.step('recordGaps', {}, () => ({ status: this.append('gaps', of(gaps)), ...published })),
      awaitMicroBatch: ({ batch }) => this.step('awaitMicroBatch', { batch }, (): MicroBatchOutcome => {
        const outcome = this.outcomes.get(batch);
        if (!outcome) throw ApplicationFailure.create({ type: 'MICRO_BATCH_RUNNING', message: 'running', nextRetryDelay: 20 });
        return outcome;
      }),
      refineBatch: (input) => this.step('refineBatch', input, () => {
        const offsets = Coverage.fromJson(input.intervals).subtract(this.silver);
        const stagedKey = `staging/${input.source}/${input.batch}-${this.calls.length}`;
        this.staged.set(stagedKey, offsets);
        const bronzeRows = Number(offsets.size);
        const dlqRows = input.divert === undefined ? 0 : bronzeRows;
        return { stagedKey, bronzeRows, silverRows: bronzeRows - dlqRows, dlqRows, dlqByType: dlqRows > 0 ? { unknown_error: dlqRows } as Record<string, number> : {}, silverFiles: 1, dlqFiles: 0 };
      }),
      publishSilver: (input) => this.step('publishSilver', input, () => {
        this.batchMax = Math.max(this.batchMax, input.batch);
        return { status: this.append('silver', this.staged.get(input.stagedKey)!), ...published };
      }),
      publishDlq: (input) => this.step('publishDlq', input, () => ({ status: this.append('dlq', this.staged.get(input.stagedKey)!), ...published })),
      mergeGold: (input) => this.step('mergeGold', input, () => {
        const offsets = Coverage.fromJson(input.intervals).subtract(this.gold);
        const goldRows = Number(offsets.size);
        const status = this.append('gold', offsets);
        this.outcomes.set(input.batch, {
          status: 'completed', result: { bronzeRows: goldRows, silverRows: goldRows, dlqRows: 0, dlqByType: {}, goldRows, duplicates: 0, freshness: {} },
        });
        return { status, ...published, goldRows, duplicates: 0, freshness: { 10: goldRows } };
      }),
    };
  }
}
