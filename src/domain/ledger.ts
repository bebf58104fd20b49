import { InvariantError } from './errors.ts';
import { mergeFreshness } from './freshness.ts';
import { Coverage, IntervalSet } from './offsets.ts';
import type { CoverageJson, Interval } from './offsets.ts';

/**
 * The checkpoint ledger of one source: who reads which topic partition, from where, what is durable but not yet in the
 * Bronze table, what is in Bronze but not yet refined. It coordinates; the lake is the authority, and the ledger is
 * rebuilt from it (see {@link CheckpointLedger.reconcile}). Pure and synchronous: the stream workflow's state.
 */

/** An accepted Bronze file that waits for its table commit. Offsets are decimal text: the ledger crosses Temporal. */
export interface PendingFile {
  topicPartition: string;
  fileEpoch: number;
  startOffset: string;
  endOffset: string;
  rowCount: number;
  byteCount: number;
}

export interface LedgerRange extends PendingFile {
  checksum: string;
}

export interface LedgerGap {
  topicPartition: string;
  startOffset: string;
  endOffset: string;
  detectedAtMs: number;
}

export interface LedgerReport {
  owner: string;
  epochs: Record<string, number>;
  ranges: LedgerRange[];
  gaps: LedgerGap[];
}

export interface LedgerPartition {
  owner: string | null;
  epoch: number;
  nextOffset: string | null;
  halted: string | null;
}

export interface LedgerBatch {
  batch: number;
  intervals: CoverageJson;
  startedAtMs: number;
}

export interface FailedBatch {
  batch: number;
  intervals: CoverageJson;
  cause: string;
  failedAtMs: number;
}

export interface BatchOutcome {
  bronzeRows: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  goldRows: number;
  duplicates: number;
  durationMs: number;
  freshness: Record<string, number>;
}

export interface BatchRecord extends BatchOutcome {
  batch: number;
  startedAtMs: number;
}

export interface LedgerTotals {
  bronzeRows: number;
  bronzeFiles: number;
  bronzeBytes: number;
  refinedRows: number;
  silverRows: number;
  dlqRows: number;
  dlqByType: Record<string, number>;
  goldRows: number;
  duplicates: number;
  gapRecords: number;
  batches: number;
  freshness: Record<string, number>;
}

export interface LedgerSnapshot {
  partitions: Record<string, LedgerPartition>;
  pending: PendingFile[];
  pendingGaps: LedgerGap[];
  open: CoverageJson;
  running: LedgerBatch[];
  failed: FailedBatch[];
  recent: BatchRecord[];
  gaps: LedgerGap[];
  totals: LedgerTotals;
  nextBatch: number;
}

/** What the lake says, for the topic partitions it knows. */
export interface LakeState {
  /** Past the last offset that Bronze or a recorded gap covers. */
  nextOffsets: Record<string, string>;
  /** In Bronze, and not in all of Silver, DLQ and Gold. */
  open: CoverageJson;
  /** The highest epoch that a committed Bronze file carries. */
  epochMax: number;
  /** The highest micro-batch number that a table commit carries. */
  batchMax: number;
}

const recentMax = 20;
const gapsShownMax = 50;
const failedMax = 200;

const emptyTotals = (): LedgerTotals => ({
  bronzeRows: 0, bronzeFiles: 0, bronzeBytes: 0, refinedRows: 0, silverRows: 0, dlqRows: 0, dlqByType: {},
  goldRows: 0, duplicates: 0, gapRecords: 0, batches: 0, freshness: {},
});

const intervalOf = (range: { startOffset: string; endOffset: string }): Interval =>
  ({ start: BigInt(range.startOffset), end: BigInt(range.endOffset) });

const coverageOf = (ranges: readonly { topicPartition: string; startOffset: string; endOffset: string }[]): Coverage =>
  Coverage.of(ranges.map((range) => [range.topicPartition, IntervalSet.of(intervalOf(range))] as const));

export class CheckpointLedger {
  private readonly state: LedgerSnapshot;

  private constructor(state: LedgerSnapshot) {
    this.state = state;
  }

  static empty(): CheckpointLedger {
    return new CheckpointLedger({
      partitions: {}, pending: [], pendingGaps: [], open: {}, running: [], failed: [], recent: [], gaps: [],
      totals: emptyTotals(), nextBatch: 1,
    });
  }

  static restore(snapshot: LedgerSnapshot): CheckpointLedger {
    return new CheckpointLedger(structuredCloneJson(snapshot));
  }

  /** A deep copy in plain JSON: the state that continue-as-new carries. */
  snapshot(): LedgerSnapshot {
    return structuredCloneJson(this.state);
  }

  /**
   * Takes over what the lake holds beyond the ledger: after a start without state, a Reset, or a lost Temporal. What the
   * ledger knows beyond the lake (files accepted, not yet committed) stays.
   */
  reconcile(lake: LakeState): void {
    for (const [key, lakeNext] of Object.entries(lake.nextOffsets)) {
      const known = this.state.partitions[key];
      if (!known) {
        this.state.partitions[key] = { owner: null, epoch: lake.epochMax, nextOffset: lakeNext, halted: null };
      } else if (known.nextOffset === null || BigInt(known.nextOffset) < BigInt(lakeNext)) {
        known.nextOffset = lakeNext;
        known.epoch = Math.max(known.epoch, lake.epochMax);
      }
    }
    // A union, because the lake was read a moment ago: what was committed to Bronze since is open, too. What was refined
    // since comes up again, and refining it finds every offset covered: a batch without rows.
    this.state.open = Coverage.fromJson(this.state.open).union(Coverage.fromJson(lake.open)).subtract(this.busy()).toJson();
    this.state.nextBatch = Math.max(this.state.nextBatch, lake.batchMax + 1);
  }

  private busy(): Coverage {
    return [...this.state.running, ...this.state.failed]
      .reduce((sum, { intervals }) => sum.union(Coverage.fromJson(intervals)), Coverage.empty);
  }

  /**
   * Gives each topic partition to the owner under a new epoch. `nowMs` makes epochs grow across a lost Temporal too: a
   * zombie of the lost ledger can never hold the current one.
   */
  claim(owner: string, topicPartitions: readonly string[], nowMs: number): { topicPartition: string; epoch: number; nextOffset: string | null }[] {
    return topicPartitions.map((key) => {
      const known = this.state.partitions[key] ?? { owner: null, epoch: 0, nextOffset: null, halted: null };
      known.owner = owner;
      known.epoch = Math.max(known.epoch + 1, Math.floor(nowMs));
      known.halted = null;
      this.state.partitions[key] = known;
      return { topicPartition: key, epoch: known.epoch, nextOffset: known.nextOffset };
    });
  }

  /** Takes the ranges and gaps that follow on; ignores what is stale, known, or out of turn (it will be reported again). */
  accept(report: LedgerReport): { accepted: number } {
    const steps = [
      ...report.ranges.map((range) => ({ kind: 'range' as const, start: BigInt(range.startOffset), key: range.topicPartition, range })),
      ...report.gaps.map((gap) => ({ kind: 'gap' as const, start: BigInt(gap.startOffset), key: gap.topicPartition, gap })),
    ].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
    let accepted = 0;
    for (const step of steps) {
      const known = this.state.partitions[step.key];
      if (!known || known.owner !== report.owner || known.epoch !== report.epochs[step.key]) continue;
      if (known.nextOffset !== null && BigInt(known.nextOffset) !== step.start) continue;
      const found = step.kind === 'range' ? step.range : step.gap;
      if (BigInt(found.endOffset) <= step.start) continue;
      known.nextOffset = found.endOffset;
      accepted += 1;
      if (step.kind === 'range') {
        const { topicPartition, fileEpoch, startOffset, endOffset, rowCount, byteCount } = step.range;
        this.state.pending.push({ topicPartition, fileEpoch, startOffset, endOffset, rowCount, byteCount });
      } else {
        this.state.pendingGaps.push(step.gap);
        this.state.gaps = [...this.state.gaps, step.gap].slice(-gapsShownMax);
        this.state.totals.gapRecords += Number(BigInt(step.gap.endOffset) - step.start);
      }
    }
    return { accepted };
  }

  /** Accepted files to commit next, oldest first. */
  pendingFiles(filesMax: number): PendingFile[] {
    return this.state.pending.slice(0, filesMax);
  }

  pendingGaps(): LedgerGap[] {
    return this.state.pendingGaps;
  }

  gapsRecorded(count: number): void {
    this.state.pendingGaps = this.state.pendingGaps.slice(count);
  }

  /** The files are in the Bronze table: their offsets are open for refining. */
  bronzeCommitted(files: readonly PendingFile[]): void {
    const done = new Set(files.map(fileKey));
    // A reconcile while the commit ran may have dropped some: count only what was still pending.
    const committed = this.state.pending.filter((file) => done.has(fileKey(file)));
    this.state.pending = this.state.pending.filter((file) => !done.has(fileKey(file)));
    this.state.open = Coverage.fromJson(this.state.open).union(coverageOf(committed)).subtract(this.busy()).toJson();
    this.state.totals.bronzeFiles += committed.length;
    for (const file of committed) {
      this.state.totals.bronzeRows += file.rowCount;
      this.state.totals.bronzeBytes += file.byteCount;
    }
  }

  get openRecords(): number {
    return Number(Coverage.fromJson(this.state.open).size);
  }

  get pendingCount(): number {
    return this.state.pending.length;
  }

  get running(): readonly LedgerBatch[] {
    return this.state.running;
  }

  /** Moves up to `recordsMax` open offsets, an equal share of each topic partition first, into a new running micro-batch. */
  startBatch(recordsMax: number, nowMs: number): LedgerBatch | null {
    const open = Coverage.fromJson(this.state.open);
    // Past the limit something fails for every batch: the open intervals wait, instead of ever more failed ones.
    if (open.isEmpty || this.state.failed.length >= failedMax) return null;
    const taken = takeOffsets(open, BigInt(recordsMax));
    const batch: LedgerBatch = { batch: this.state.nextBatch, intervals: taken.toJson(), startedAtMs: nowMs };
    this.state.nextBatch += 1;
    this.state.open = open.subtract(taken).toJson();
    this.state.running.push(batch);
    return batch;
  }

  batchSucceeded(batch: number, outcome: BatchOutcome): void {
    const running = this.takeRunning(batch);
    const { totals } = this.state;
    totals.batches += 1;
    totals.refinedRows += outcome.bronzeRows;
    totals.silverRows += outcome.silverRows;
    totals.dlqRows += outcome.dlqRows;
    totals.goldRows += outcome.goldRows;
    totals.duplicates += outcome.duplicates;
    totals.freshness = mergeFreshness(totals.freshness, outcome.freshness);
    for (const [type, count] of Object.entries(outcome.dlqByType)) totals.dlqByType[type] = (totals.dlqByType[type] ?? 0) + count;
    this.state.recent = [...this.state.recent, { ...outcome, freshness: {}, batch, startedAtMs: running.startedAtMs }].slice(-recentMax);
  }

  /** The intervals stay out of the open ones, visible, until {@link retryBatch}. */
  batchFailed(batch: number, cause: string, nowMs: number): void {
    const { intervals } = this.takeRunning(batch);
    this.state.failed.push({ batch, intervals, cause: cause.slice(0, 500), failedAtMs: nowMs });
  }

  /** The micro-batch is gone without an outcome (terminated, or lost with its history): the lake says what is still open. */
  batchLost(batch: number): void {
    const { intervals } = this.takeRunning(batch);
    this.state.open = Coverage.fromJson(this.state.open).union(Coverage.fromJson(intervals)).toJson();
  }

  /** Puts a failed micro-batch's intervals back among the open ones; false if there is no such batch. */
  retryBatch(batch: number): boolean {
    const failed = this.state.failed.find((entry) => entry.batch === batch);
    if (!failed) return false;
    this.state.failed = this.state.failed.filter((entry) => entry !== failed);
    this.state.open = Coverage.fromJson(this.state.open).union(Coverage.fromJson(failed.intervals)).toJson();
    return true;
  }

  view(topicPartitions?: readonly string[]): Record<string, { owner: string | null; epoch: number; nextOffset: string | null }> {
    const keys = topicPartitions ?? Object.keys(this.state.partitions);
    return Object.fromEntries(keys.map((key) => {
      const known = this.state.partitions[key];
      return [key, { owner: known?.owner ?? null, epoch: known?.epoch ?? 0, nextOffset: known?.nextOffset ?? null }];
    }));
  }

  private takeRunning(batch: number): LedgerBatch {
    const running = this.state.running.find((entry) => entry.batch === batch);
    if (!running) throw new InvariantError(`micro-batch ${batch} is not running`);
    this.state.running = this.state.running.filter((entry) => entry !== running);
    return running;
  }
}

const fileKey = (file: PendingFile): string => `${file.topicPartition}:${file.startOffset}-${file.endOffset}-${file.fileEpoch}`;

/** Up to `count` offsets: an equal share of each topic partition, and what is left over from those that have more. */
const takeOffsets = (open: Coverage, count: bigint): Coverage => {
  let taken = Coverage.empty;
  let rest = open;
  while (!rest.isEmpty && taken.size < count) {
    const keys = rest.keys();
    const share = (count - taken.size) / BigInt(keys.length);
    const step = Coverage.of(rest.entries().map(([key, set]) => [key, takeFirst(set, share > 0n ? share : 1n)] as const));
    taken = taken.union(step);
    rest = rest.subtract(step);
  }
  return taken;
};

const takeFirst = (set: IntervalSet, count: bigint): IntervalSet => {
  const out: Interval[] = [];
  let left = count;
  for (const { start, end } of set.intervals) {
    if (left === 0n) break;
    const take = end - start < left ? end - start : left;
    out.push({ start, end: start + take });
    left -= take;
  }
  return IntervalSet.of(...out);
};

// The workflow sandbox has no structuredClone in every SDK version, and the state is plain JSON by construction.
const structuredCloneJson = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
