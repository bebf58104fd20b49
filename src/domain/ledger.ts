import { InvariantError, invariant } from './errors.ts';
import { mergeFreshness } from './freshness.ts';
import { TextTable, packCoverage, packInterval, packKey, packNumber, unpackCoverage, unpackInterval, unpackKey, unpackNumber } from './ledger-text.ts';
import { Coverage, IntervalSet } from './offsets.ts';
import type { CoverageJson, Interval } from './offsets.ts';
import { jsonBytes, payloadBytesMax } from './payload.ts';

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

/** A streaming worker reads no further than this offset, and why. */
export interface LedgerHalt {
  topicPartition: string;
  offset: string;
  cause: string;
}

export interface LedgerReport {
  owner: string;
  epochs: Record<string, number>;
  ranges: LedgerRange[];
  gaps: LedgerGap[];
  halts?: LedgerHalt[];
}

export interface LedgerPartition {
  owner: string | null;
  epoch: number;
  nextOffset: string | null;
  /** Why nothing of it is accepted until it is claimed again; null: it is not halted. */
  halted: string | null;
}

/** An accepted file that the Bronze table could not take: its offsets, and those behind it, are read again. */
export interface RefusedFile {
  topicPartition: string;
  startOffset: string;
  endOffset: string;
  cause: string;
  refusedAtMs: number;
}

export interface LedgerBatch {
  batch: number;
  intervals: CoverageJson;
  startedAtMs: number;
  /** Not refined, but put into the DLQ whole, with this reason. */
  divert?: string;
}

export interface FailedBatch {
  batch: number;
  intervals: CoverageJson;
  cause: string;
  failedAtMs: number;
}

/** A failed micro-batch's intervals on their way into another one of their own. */
export interface AgainBatch {
  /** The one that failed. */
  batch: number;
  intervals: CoverageJson;
  divert?: string;
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
  refusedFiles: number;
  freshness: Record<string, number>;
}

/** The whole state in plain JSON. It grows with the topic partitions: {@link CheckpointLedger.carry} is what crosses Temporal. */
export interface LedgerSnapshot {
  partitions: Record<string, LedgerPartition>;
  pending: PendingFile[];
  pendingGaps: LedgerGap[];
  open: CoverageJson;
  running: LedgerBatch[];
  again: AgainBatch[];
  failed: FailedBatch[];
  recent: BatchRecord[];
  gaps: LedgerGap[];
  refused: RefusedFile[];
  totals: LedgerTotals;
  nextBatch: number;
  /** The topic partition that the last micro-batch took from last. */
  lastTaken: string;
}

/** A ledger in short form, see ledger-text.ts. Only {@link CheckpointLedger} reads it. */
export interface CarriedLedger {
  topics: string[];
  owners: string[];
  /** `<key>:<owner>:<epoch>:<next offset>;…`; null: left out, the lake has to say and the topic partitions are claimed again. */
  partitions: string | null;
  halted: Record<string, string>;
  /** `<key>:<start>+<length>:<epoch>:<rows>:<bytes>;…` */
  pending: string;
  pendingGaps: LedgerGap[];
  open: string;
  running: CarriedBatch[];
  again: CarriedBatch[];
  failed: CarriedBatch[];
  recent: BatchRecord[];
  gaps: LedgerGap[];
  refused: RefusedFile[];
  totals: LedgerTotals;
  nextBatch: number;
  lastTaken: string;
}
/** `a`: when it started or failed, ms; `t`: its cause, or the reason of a diversion. */
interface CarriedBatch {
  n: number;
  i: string;
  a?: number;
  t?: string;
}

/** What the lake says, for the topic partitions it knows. Travels in pages: each holds for the topic partitions in it. */
export interface LakeState {
  /** Past the last offset that Bronze covers, and past the recorded gaps that follow on from there. */
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
const refusedShownMax = 20;
const failedMax = 200;
/** Of the text that says why a micro-batch failed or a file was refused. */
export const causeCharsMax = 300;
/** Accepted files that wait for their table commit. What is reported past them is not accepted yet, and reported again. */
export const pendingFilesMax = 300;
export const pendingGapsMax = 50;
/** Intervals of one micro-batch: they are its Workflow's input. */
export const batchIntervalsMax = 100;
/** Intervals of all micro-batches that run, failed, or go again. */
export const heldIntervalsMax = 600;
invariant(batchIntervalsMax <= heldIntervalsMax, 'one micro-batch must fit into what all of them may hold');
/** Leaves room for the rest of the Workflow's input. */
const carriedBytesMax = payloadBytesMax - 2_048;

const emptyTotals = (): LedgerTotals => ({
  bronzeRows: 0, bronzeFiles: 0, bronzeBytes: 0, refinedRows: 0, silverRows: 0, dlqRows: 0, dlqByType: {},
  goldRows: 0, duplicates: 0, gapRecords: 0, batches: 0, refusedFiles: 0, freshness: {},
});

const intervalOf = (range: { startOffset: string; endOffset: string }): Interval =>
  ({ start: BigInt(range.startOffset), end: BigInt(range.endOffset) });

const coverageOf = (ranges: readonly { topicPartition: string; startOffset: string; endOffset: string }[]): Coverage =>
  Coverage.of(ranges.map((range) => [range.topicPartition, IntervalSet.of(intervalOf(range))] as const));

const union = (parts: readonly Coverage[]): Coverage => Coverage.of(parts.flatMap((part) => part.entries()));

/** Where a micro-batch's intervals are held while it runs, has failed, or goes again. */
interface Held {
  readonly batch: number;
  readonly offsets: Coverage;
}
interface Running extends Held {
  readonly startedAtMs: number;
  readonly divert?: string;
}
interface Failed extends Held {
  readonly cause: string;
  readonly failedAtMs: number;
}
interface Again extends Held {
  readonly divert?: string;
}

const diverting = (divert: string | undefined): { divert?: string } => (divert === undefined ? {} : { divert });

export class CheckpointLedger {
  private readonly partitions = new Map<string, LedgerPartition>();
  private pending: PendingFile[] = [];
  private waitingGaps: LedgerGap[] = [];
  private open = Coverage.empty;
  private runningBatches: Running[] = [];
  private again: Again[] = [];
  private failed: Failed[] = [];
  private recent: BatchRecord[] = [];
  private gaps: LedgerGap[] = [];
  private refused: RefusedFile[] = [];
  private totals = emptyTotals();
  private nextBatch = 1;
  private lastTaken = '';

  private constructor() {}

  static empty(): CheckpointLedger {
    return new CheckpointLedger();
  }

  /** A deep copy in plain JSON, whatever its size. */
  snapshot(): LedgerSnapshot {
    return copyOf({
      partitions: Object.fromEntries(this.partitions),
      pending: this.pending,
      pendingGaps: this.waitingGaps,
      open: this.open.toJson(),
      running: this.running,
      again: this.again.map(({ batch, offsets, divert }) => ({ batch, intervals: offsets.toJson(), ...diverting(divert) })),
      failed: this.failed.map(({ batch, offsets, cause, failedAtMs }) => ({ batch, intervals: offsets.toJson(), cause, failedAtMs })),
      recent: this.recent,
      gaps: this.gaps,
      refused: this.refused,
      totals: this.totals,
      nextBatch: this.nextBatch,
      lastTaken: this.lastTaken,
    });
  }

  /**
   * The state for continue-as-new, within one payload. What does not fit is left out in steps: first texts that people
   * read (a failed micro-batch keeps its cause in its own Workflow), in the end who reads which topic partition: then the
   * next run asks the lake, and the streaming workers claim again, as after a lost Temporal.
   *
   * @param complete false for a ledger that has not seen the lake yet: its claims are left out, too.
   */
  carry(complete: boolean, bytesMax = carriedBytesMax): CarriedLedger {
    const steps = !complete ? [] : [
      { causeChars: causeCharsMax, shown: 1, claims: true },
      { causeChars: 60, shown: 0.2, claims: true },
      { causeChars: 0, shown: 0, claims: true },
    ];
    for (const step of steps) {
      const carried = this.pack(step);
      if (jsonBytes(carried) <= bytesMax) return carried;
    }
    return this.pack({ causeChars: 0, shown: 0, claims: false });
  }

  private pack({ causeChars, shown, claims }: { causeChars: number; shown: number; claims: boolean }): CarriedLedger {
    const topics = new TextTable();
    const owners = new TextTable();
    const batch = ({ batch: n, offsets }: Held, more: Omit<CarriedBatch, 'n' | 'i'>): CarriedBatch => ({ n, i: packCoverage(offsets, topics), ...more });
    const last = <T>(list: readonly T[]): T[] => (shown === 0 ? [] : list.slice(-Math.ceil(list.length * shown)));
    const partitions = claims
      ? [...this.partitions].map(([key, { owner, epoch, nextOffset }]) => [
        packKey(key, topics), owner === null ? '' : packNumber(owners.indexOf(owner)), packNumber(epoch), nextOffset === null ? '' : packNumber(BigInt(nextOffset)),
      ].join(':')).join(';')
      : null;
    return {
      partitions,
      halted: claims ? Object.fromEntries([...this.partitions].flatMap(([key, { halted }]) => (halted === null ? [] : [[packKey(key, topics), halted.slice(0, Math.max(causeChars, 1))]]))) : {},
      pending: claims
        ? this.pending.map((file) => [packKey(file.topicPartition, topics), packInterval(intervalOf(file)), packNumber(file.fileEpoch), packNumber(file.rowCount), packNumber(file.byteCount)].join(':')).join(';')
        : '',
      pendingGaps: this.waitingGaps,
      open: claims ? packCoverage(this.open, topics) : '',
      running: this.runningBatches.map((one) => batch(one, { a: one.startedAtMs, ...(one.divert === undefined ? {} : { t: one.divert }) })),
      again: this.again.map((one) => batch(one, one.divert === undefined ? {} : { t: one.divert })),
      failed: this.failed.map((one) => batch(one, { a: one.failedAtMs, t: one.cause.slice(0, causeChars) })),
      recent: last(this.recent),
      gaps: last(this.gaps),
      refused: last(this.refused),
      totals: this.totals,
      nextBatch: this.nextBatch,
      lastTaken: this.lastTaken,
      topics: topics.texts,
      owners: owners.texts,
    };
  }

  /** The inverse of {@link carry}; `complete` is false if the lake has to be asked for what was left out. */
  static restore(carried: CarriedLedger): { ledger: CheckpointLedger; complete: boolean } {
    const ledger = new CheckpointLedger();
    const topics = new TextTable(carried.topics);
    const parts = (text: string): string[][] => (text === '' ? [] : text.split(';').map((part) => part.split(':')));
    for (const [key = '', owner = '', epoch = '', next = ''] of parts(carried.partitions ?? '')) {
      ledger.partitions.set(unpackKey(key, topics), {
        owner: owner === '' ? null : carried.owners[Number(unpackNumber(owner))] ?? null,
        epoch: Number(unpackNumber(epoch)),
        nextOffset: next === '' ? null : String(unpackNumber(next)),
        halted: carried.halted[key] ?? null,
      });
    }
    for (const [key = '', range = '', epoch = '', rows = '', bytes = ''] of parts(carried.pending)) {
      const { start, end } = unpackInterval(range);
      ledger.pending.push({
        topicPartition: unpackKey(key, topics), fileEpoch: Number(unpackNumber(epoch)), startOffset: String(start), endOffset: String(end),
        rowCount: Number(unpackNumber(rows)), byteCount: Number(unpackNumber(bytes)),
      });
    }
    const held = ({ n, i }: CarriedBatch): Held => ({ batch: n, offsets: unpackCoverage(i, topics) });
    ledger.open = unpackCoverage(carried.open, topics);
    ledger.runningBatches = carried.running.map((one) => ({ ...held(one), startedAtMs: one.a ?? 0, ...diverting(one.t) }));
    ledger.again = carried.again.map((one) => ({ ...held(one), ...diverting(one.t) }));
    ledger.failed = carried.failed.map((one) => ({ ...held(one), failedAtMs: one.a ?? 0, cause: one.t ?? '' }));
    const { pendingGaps, recent, gaps, refused, totals, nextBatch, lastTaken } = copyOf(carried);
    ledger.waitingGaps = pendingGaps;
    ledger.recent = recent;
    ledger.gaps = gaps;
    ledger.refused = refused;
    ledger.totals = totals;
    ledger.nextBatch = nextBatch;
    ledger.lastTaken = lastTaken;
    return { ledger, complete: carried.partitions !== null };
  }

  /**
   * Takes over what the lake holds beyond the ledger: after a start without state, a Reset, or a lost Temporal. What the
   * ledger knows beyond the lake (files accepted, not yet committed) stays.
   */
  reconcile(lake: LakeState): void {
    for (const [key, lakeNext] of Object.entries(lake.nextOffsets)) {
      const known = this.partitions.get(key);
      if (!known) {
        this.partitions.set(key, { owner: null, epoch: lake.epochMax, nextOffset: lakeNext, halted: null });
      } else if (known.nextOffset === null || BigInt(known.nextOffset) < BigInt(lakeNext)) {
        known.nextOffset = lakeNext;
        known.epoch = Math.max(known.epoch, lake.epochMax);
      }
    }
    // A union, because the lake was read a moment ago: what was committed to Bronze since is open, too. What was refined
    // since comes up again, and refining it finds every offset covered: a batch without rows.
    this.open = this.open.union(Coverage.fromJson(lake.open)).subtract(this.busy());
    this.nextBatch = Math.max(this.nextBatch, lake.batchMax + 1);
  }

  private held(): Held[] {
    return [...this.runningBatches, ...this.again, ...this.failed];
  }

  private busy(): Coverage {
    return union(this.held().map(({ offsets }) => offsets));
  }

  /**
   * Gives each topic partition to the owner under a new epoch. `nowMs` makes epochs grow across a lost Temporal too: a
   * zombie of the lost ledger can never hold the current one.
   */
  claim(owner: string, topicPartitions: readonly string[], nowMs: number): { topicPartition: string; epoch: number; nextOffset: string | null }[] {
    return topicPartitions.map((key) => {
      const known = this.partitions.get(key) ?? { owner: null, epoch: 0, nextOffset: null, halted: null };
      known.owner = owner;
      known.epoch = Math.max(known.epoch + 1, Math.floor(nowMs));
      known.halted = null;
      this.partitions.set(key, known);
      return { topicPartition: key, epoch: known.epoch, nextOffset: known.nextOffset };
    });
  }

  /**
   * Takes the ranges and gaps that follow on, then the halts behind them; ignores what is stale, known, or out of turn, and
   * what comes while too much waits for its table commit (it will be reported again).
   */
  accept(report: LedgerReport): { accepted: number } {
    const steps = [
      ...report.ranges.map((range) => ({ kind: 'range' as const, start: BigInt(range.startOffset), key: range.topicPartition, range })),
      ...report.gaps.map((gap) => ({ kind: 'gap' as const, start: BigInt(gap.startOffset), key: gap.topicPartition, gap })),
    ].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
    let accepted = 0;
    for (const step of steps) {
      const known = this.partitions.get(step.key);
      if (!known || known.halted !== null || known.owner !== report.owner || known.epoch !== report.epochs[step.key]) continue;
      if (known.nextOffset !== null && BigInt(known.nextOffset) !== step.start) continue;
      const found = step.kind === 'range' ? step.range : step.gap;
      if (BigInt(found.endOffset) <= step.start) continue;
      if (step.kind === 'range' ? this.pending.length >= pendingFilesMax : this.waitingGaps.length >= pendingGapsMax) continue;
      known.nextOffset = found.endOffset;
      accepted += 1;
      if (step.kind === 'range') {
        const { topicPartition, fileEpoch, startOffset, endOffset, rowCount, byteCount } = step.range;
        this.pending.push({ topicPartition, fileEpoch, startOffset, endOffset, rowCount, byteCount });
      } else {
        this.waitingGaps.push(step.gap);
        this.gaps = [...this.gaps, step.gap].slice(-gapsShownMax);
        this.totals.gapRecords += Number(BigInt(step.gap.endOffset) - step.start);
      }
    }
    for (const { topicPartition, offset, cause } of report.halts ?? []) {
      const known = this.partitions.get(topicPartition);
      if (!known || known.halted !== null || known.owner !== report.owner || known.epoch !== report.epochs[topicPartition]) continue;
      if (known.nextOffset !== null && known.nextOffset !== offset) continue;
      known.halted = cause.slice(0, causeCharsMax);
    }
    return { accepted };
  }

  /** Accepted files to commit next, oldest first. */
  pendingFiles(filesMax = this.pending.length): PendingFile[] {
    return this.pending.slice(0, filesMax);
  }

  pendingGaps(): readonly LedgerGap[] {
    return this.waitingGaps;
  }

  gapsRecorded(gaps: readonly LedgerGap[]): void {
    const done = new Set(gaps.map(gapKey));
    this.waitingGaps = this.waitingGaps.filter((gap) => !done.has(gapKey(gap)));
  }

  /** The files are in the Bronze table: their offsets are open for refining. */
  bronzeCommitted(files: readonly PendingFile[]): void {
    const done = new Set(files.map(fileKey));
    // A refusal while the commit ran may have dropped some: count only what was still pending.
    const committed = this.pending.filter((file) => done.has(fileKey(file)));
    this.pending = this.pending.filter((file) => !done.has(fileKey(file)));
    this.open = this.open.union(coverageOf(committed)).subtract(this.busy());
    this.totals.bronzeFiles += committed.length;
    for (const file of committed) {
      this.totals.bronzeRows += file.rowCount;
      this.totals.bronzeBytes += file.byteCount;
    }
  }

  /**
   * The Bronze table cannot take the file that starts at `startOffset`. The topic partition goes back to that offset, and
   * halts under an epoch that nobody holds: its streaming worker finds that it lost the claim, claims again, and reads the
   * records once more from the broker (or records them as a gap). All other topic partitions go on.
   */
  fileRefused(topicPartition: string, startOffset: string, cause: string, nowMs: number): void {
    const file = this.pending.find((one) => one.topicPartition === topicPartition && one.startOffset === startOffset);
    const known = this.partitions.get(topicPartition);
    if (!file || !known) return;
    const isBefore = (one: { topicPartition: string; startOffset: string }): boolean => one.topicPartition !== topicPartition || BigInt(one.startOffset) < BigInt(startOffset);
    this.pending = this.pending.filter(isBefore);
    this.waitingGaps = this.waitingGaps.filter(isBefore);
    const text = cause.slice(0, causeCharsMax);
    known.nextOffset = startOffset;
    known.owner = null;
    known.epoch += 1;
    known.halted = `the Bronze file [${startOffset}, ${file.endOffset}) was refused: ${text}`;
    this.refused = [...this.refused, { topicPartition, startOffset, endOffset: file.endOffset, cause: text, refusedAtMs: nowMs }].slice(-refusedShownMax);
    this.totals.refusedFiles += 1;
  }

  /** The latest that succeeded, the last one last. */
  recentBatches(count: number): readonly BatchRecord[] {
    return this.recent.slice(-count);
  }

  get openRecords(): number {
    return Number(this.open.size);
  }

  get pendingCount(): number {
    return this.pending.length;
  }

  get failedCount(): number {
    return this.failed.length;
  }

  /** Failed micro-batches that were told to go again and have not started yet. */
  get againCount(): number {
    return this.again.length;
  }

  get haltedCount(): number {
    return [...this.partitions.values()].filter(({ halted }) => halted !== null).length;
  }

  get running(): LedgerBatch[] {
    return this.runningBatches.map(({ batch, offsets, startedAtMs, divert }) => ({ batch, intervals: offsets.toJson(), startedAtMs, ...diverting(divert) }));
  }

  get runningCount(): number {
    return this.runningBatches.length;
  }

  /**
   * A new running micro-batch: a failed one that goes again, as it was; else up to `recordsMax` open offsets, an equal
   * share of each topic partition first, topic partitions in turns. Null if there is none to start.
   */
  startBatch(recordsMax: number, nowMs: number): LedgerBatch | null {
    const [again] = this.again;
    if (again) {
      this.again = this.again.slice(1);
      return this.run(again.offsets, nowMs, again.divert);
    }
    // Past the limits something fails for every batch: the open intervals wait, instead of ever more failed ones.
    const held = this.held().reduce((sum, { offsets }) => sum + intervalsOf(offsets), 0);
    if (this.open.isEmpty || this.failed.length >= failedMax || held + batchIntervalsMax > heldIntervalsMax) return null;
    const candidates = inTurn(this.open, this.lastTaken, batchIntervalsMax);
    const taken = takeOffsets(candidates, BigInt(recordsMax));
    this.lastTaken = inTurnKeys(taken.keys(), this.lastTaken).at(-1) ?? '';
    this.open = this.open.subtract(taken);
    return this.run(taken, nowMs);
  }

  private run(offsets: Coverage, startedAtMs: number, divert?: string): LedgerBatch {
    const batch = this.nextBatch;
    this.nextBatch += 1;
    this.runningBatches.push({ batch, offsets, startedAtMs, ...diverting(divert) });
    return { batch, intervals: offsets.toJson(), startedAtMs, ...diverting(divert) };
  }

  batchSucceeded(batch: number, outcome: BatchOutcome): void {
    this.countBatch(this.takeRunning(batch), outcome);
  }

  private countBatch({ batch, startedAtMs }: Running, outcome: BatchOutcome): void {
    const { totals } = this;
    totals.batches += 1;
    totals.refinedRows += outcome.bronzeRows;
    totals.silverRows += outcome.silverRows;
    totals.dlqRows += outcome.dlqRows;
    totals.goldRows += outcome.goldRows;
    totals.duplicates += outcome.duplicates;
    totals.freshness = mergeFreshness(totals.freshness, outcome.freshness);
    for (const [type, count] of Object.entries(outcome.dlqByType)) totals.dlqByType[type] = (totals.dlqByType[type] ?? 0) + count;
    this.recent = [...this.recent, { ...outcome, freshness: {}, batch, startedAtMs }].slice(-recentMax);
  }

  /** The intervals stay out of the open ones, visible, until {@link retryBatch}. */
  batchFailed(batch: number, cause: string, nowMs: number): void {
    const { offsets } = this.takeRunning(batch);
    this.failed.push({ batch, offsets, cause: cause.slice(0, causeCharsMax), failedAtMs: nowMs });
  }

  /** The micro-batch is gone without an outcome (terminated, or lost with its history): the lake says what is still open. */
  batchLost(batch: number): void {
    const { offsets } = this.takeRunning(batch);
    this.open = this.open.union(offsets);
  }

  /**
   * Another micro-batch of this number ran, which a lost history had started over offsets of its own. Its rows count if it succeeded
   * (else `outcome` is null); of our offsets all are open again, and those that it refined are found covered.
   */
  batchForestalled(batch: number, outcome: BatchOutcome | null): void {
    const running = this.takeRunning(batch);
    const { offsets, divert } = running;
    if (outcome !== null) this.countBatch(running, outcome);
    if (divert === undefined) this.open = this.open.union(offsets);
    else this.again.push({ batch, offsets, divert });
  }

  /**
   * Lets a failed micro-batch go again under a new number, with the same intervals and no others, so that what failed
   * once cannot take more with it. With `divert` it goes to the DLQ whole, for that reason. False: no such failed one.
   */
  retryBatch(batch: number, divert?: string): boolean {
    const failed = this.failed.find((entry) => entry.batch === batch);
    if (!failed) return false;
    this.failed = this.failed.filter((entry) => entry !== failed);
    this.again.push({ batch, offsets: failed.offsets, ...diverting(divert) });
    return true;
  }

  /** Why a micro-batch failed; null if it is not among the failed ones. */
  causeOf(batch: number): string | null {
    return this.failed.find((entry) => entry.batch === batch)?.cause ?? null;
  }

  view(topicPartitions: readonly string[] = this.topicPartitions()): Record<string, { owner: string | null; epoch: number; nextOffset: string | null; halted: boolean }> {
    return Object.fromEntries(topicPartitions.map((key) => {
      const known = this.partitions.get(key);
      return [key, { owner: known?.owner ?? null, epoch: known?.epoch ?? 0, nextOffset: known?.nextOffset ?? null, halted: (known?.halted ?? null) !== null }];
    }));
  }

  /** All known, in the order of their names. */
  topicPartitions(): string[] {
    return [...this.partitions.keys()].sort();
  }

  private takeRunning(batch: number): Running {
    const running = this.runningBatches.find((entry) => entry.batch === batch);
    if (!running) throw new InvariantError(`micro-batch ${batch} is not running`);
    this.runningBatches = this.runningBatches.filter((entry) => entry !== running);
    return running;
  }
}

const fileKey = (file: PendingFile): string => `${file.topicPartition}:${file.startOffset}-${file.endOffset}-${file.fileEpoch}`;

const gapKey = (gap: LedgerGap): string => `${gap.topicPartition}:${gap.startOffset}-${gap.endOffset}`;

export const intervalsOf = (coverage: Coverage): number => coverage.entries().reduce((sum, [, { intervals }]) => sum + intervals.length, 0);

/** The names in order, beginning behind `after`, and round. */
const inTurnKeys = (keys: readonly string[], after: string): string[] => [...keys.filter((key) => key > after), ...keys.filter((key) => key <= after)];

/** At most `intervalsMax` intervals: the first of each topic partition, then the second ones, beginning behind the one that was taken from last. */
const inTurn = (open: Coverage, after: string, intervalsMax: number): Coverage => {
  const keys = inTurnKeys(open.keys(), after);
  const taken = new Map<string, Interval[]>();
  let left = intervalsMax;
  for (let nth = 0; left > 0; nth += 1) {
    const before = left;
    for (const key of keys) {
      const interval = open.of(key).intervals[nth];
      if (interval === undefined || left === 0) continue;
      taken.set(key, [...(taken.get(key) ?? []), interval]);
      left -= 1;
    }
    if (left === before) break;
  }
  return Coverage.of([...taken].map(([key, intervals]) => [key, IntervalSet.of(...intervals)] as const));
};

/** Up to `count` offsets: an equal share of each topic partition, and what is left over from those that have more. */
const takeOffsets = (open: Coverage, count: bigint): Coverage => {
  let taken = Coverage.empty;
  let rest = open;
  while (!rest.isEmpty && taken.size < count) {
    const keys = rest.keys();
    const left = count - taken.size;
    const share = left / BigInt(keys.length);
    // Fewer offsets than topic partitions: one of each, as far as they go.
    const from = share > 0n ? rest.entries() : rest.entries().slice(0, Number(left));
    const step = Coverage.of(from.map(([key, set]) => [key, takeFirst(set, share > 0n ? share : 1n)] as const));
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

// The Workflow sandbox has no structuredClone in every SDK version, and the state is plain JSON by construction.
const copyOf = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T;
