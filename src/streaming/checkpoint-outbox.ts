import { topicPartitionsAtOnceMax } from '../contracts/stream.ts';
import type { CheckpointRange, CheckpointReport, GapRange, HaltedRange, LedgerView } from '../contracts/stream.ts';
import { invariant } from '../domain/errors.ts';

/** What waits for the ledger, in offset order: a file from the moment that its buffer closes, or a gap. */
interface Entry {
  end: bigint;
  start: bigint;
  /** Null while the file is not yet durable: it holds back what follows. */
  durable: { kind: 'range'; range: CheckpointRange } | { kind: 'gap'; gap: GapRange } | null;
}

interface OpenPartition {
  epoch: number;
  /** Where the next entry has to start. */
  end: bigint;
  entries: Entry[];
  accepted: bigint | null;
  /** Number of the last report that named it. */
  reportedAt: number;
  /** Reading ends behind the entries. */
  halt: { cause: string; isSeen: boolean } | null;
}

export interface Settlement {
  /** Topic partitions whose accepted offset moved, and the files of ours that moved it. */
  accepted: { topicPartition: string; offset: bigint; files: CheckpointRange[] }[];
  /** Ours no longer, or the ledger went back behind what we reported: claim again. */
  stale: string[];
}

/** A report stays well under Temporal's payload limit of 64 KiB that this project keeps to. */
export const reportBytesMax = 48 * 1024;

/**
 * The durable ranges and gaps of one source that the ledger has not accepted yet. Pure: no clock, no I/O. Since a Signal
 * has no answer, nothing leaves before the ledger was read back.
 */
export class CheckpointOutbox {
  private readonly open = new Map<string, OpenPartition>();
  private reports = 0;

  /** After a claim: everything known of an earlier epoch is forgotten. */
  claim(topicPartition: string, epoch: number, next: bigint): void {
    this.open.set(topicPartition, { epoch, end: next, entries: [], accepted: null, reportedAt: 0, halt: null });
  }

  close(topicPartition: string): void {
    this.open.delete(topicPartition);
  }

  /**
   * A place in line for a file that is being written; call the result once it is durable. Calling it after the topic
   * partition was closed or claimed again does nothing.
   */
  addFile(topicPartition: string, start: bigint, end: bigint): (range: CheckpointRange) => void {
    const entry = this.add(topicPartition, start, end);
    return (range) => {
      entry.durable = { kind: 'range', range };
    };
  }

  addGap(gap: GapRange): void {
    this.add(gap.topicPartition, BigInt(gap.startOffset), BigInt(gap.endOffset)).durable = { kind: 'gap', gap };
  }

  /** Nothing follows what was added: to be reported until the ledger shows it. */
  halt(topicPartition: string, cause: string): void {
    const known = this.open.get(topicPartition);
    if (known) known.halt = { cause, isSeen: false };
  }

  /** Files or gaps that the ledger has not accepted yet. */
  waiting(topicPartition: string): number {
    return this.open.get(topicPartition)?.entries.length ?? 0;
  }

  /** Whether {@link collect} would give a report. */
  get isReportable(): boolean {
    return [...this.open.values()].some(({ entries, halt }) => (entries.length > 0 ? entries[0]!.durable !== null : halt?.isSeen === false));
  }

  /** Where the durable ranges end; null: not claimed. */
  durableTo(topicPartition: string): bigint | null {
    const known = this.open.get(topicPartition);
    return known ? known.entries.find(({ durable }) => durable === null)?.start ?? known.end : null;
  }

  /** Files that are being written. */
  get writing(): number {
    let count = 0;
    for (const { entries } of this.open.values()) for (const { durable } of entries) if (durable === null) count += 1;
    return count;
  }

  /** Our epoch of each claimed topic partition. */
  epochs(): Record<string, number> {
    return Object.fromEntries([...this.open].map(([topicPartition, { epoch }]) => [topicPartition, epoch]));
  }

  get isEmpty(): boolean {
    return [...this.open.values()].every(({ entries, halt }) => entries.length === 0 && halt?.isSeen !== false);
  }

  /** The ledger's next offset, as last read. */
  accepted(topicPartition: string): bigint | null {
    return this.open.get(topicPartition)?.accepted ?? null;
  }

  /**
   * The next report: of each topic partition what is durable without a hole before it, in turns, up to the size limit;
   * those first that were not reported for longest.
   */
  collect(owner: string): CheckpointReport | null {
    const report: CheckpointReport = { owner, epochs: {}, ranges: [], gaps: [] };
    let bytes = JSON.stringify(report).length;
    const lines = [...this.open]
      .filter(([, { entries }]) => entries.length > 0 && entries[0]!.durable !== null)
      .sort(([, a], [, b]) => a.reportedAt - b.reportedAt)
      .slice(0, topicPartitionsAtOnceMax);
    const isAdded = (topicPartition: string, known: OpenPartition, durable: NonNullable<Entry['durable']>): boolean => {
      const size = JSON.stringify(durable).length + (topicPartition in report.epochs ? 0 : topicPartition.length + 24);
      if (bytes + size > reportBytesMax) return false;
      bytes += size;
      report.epochs[topicPartition] = known.epoch;
      if (durable.kind === 'range') report.ranges.push(durable.range);
      else report.gaps.push(durable.gap);
      return true;
    };
    for (let turn = 0, open = lines; open.length > 0; turn += 1) {
      // Once something does not fit, nothing behind it may: its topic partition's order would break.
      open = open.filter(([topicPartition, known]) => {
        const durable = known.entries[turn]?.durable;
        return durable ? isAdded(topicPartition, known, durable) : false;
      });
    }
    for (const [topicPartition, { epoch, end, entries, halt }] of this.open) {
      // The ledger takes it once it has everything before it, which may be in this very report.
      if (halt?.isSeen !== false || entries.some(({ durable }) => durable === null)) continue;
      const halted: HaltedRange = { topicPartition, offset: String(end), cause: halt.cause };
      const size = JSON.stringify(halted).length + topicPartition.length + 24;
      if (bytes + size > reportBytesMax || Object.keys(report.epochs).length >= topicPartitionsAtOnceMax) break;
      bytes += size;
      report.epochs[topicPartition] = epoch;
      (report.halts ??= []).push(halted);
    }
    const named = Object.keys(report.epochs);
    if (named.length === 0) return null;
    this.reports += 1;
    for (const topicPartition of named) this.open.get(topicPartition)!.reportedAt = this.reports;
    return report;
  }

  /**
   * Takes in where the ledger stands after a report; what it has accepted is dropped, what it has not stays for the next one.
   *
   * @param epochs of the report: a topic partition that was claimed again since is passed over.
   */
  settle(owner: string, epochs: Readonly<Record<string, number>>, view: LedgerView): Settlement {
    const settlement: Settlement = { accepted: [], stale: [] };
    for (const [topicPartition, found] of Object.entries(view.topicPartitions)) {
      const known = this.open.get(topicPartition);
      if (!known || epochs[topicPartition] !== known.epoch) continue;
      // An epoch below ours is a ledger that was built again from a lake without a file of ours.
      if (found.epoch !== known.epoch || found.owner !== owner) {
        settlement.stale.push(topicPartition);
        continue;
      }
      if (known.halt && found.halted !== false) known.halt.isSeen = true;
      const next = found.nextOffset === null ? null : BigInt(found.nextOffset);
      if (next === null) continue;
      const files: CheckpointRange[] = [];
      while (known.entries.length > 0 && known.entries[0]!.end <= next) {
        const { durable } = known.entries.shift()!;
        if (durable?.kind === 'range') files.push(durable.range);
      }
      if (known.entries.length > 0 && known.entries[0]!.start !== next) {
        // The ledger was set back, or took a range that is not ours under our epoch: only a claim can tell.
        settlement.stale.push(topicPartition);
        continue;
      }
      if (next !== known.accepted) {
        known.accepted = next;
        settlement.accepted.push({ topicPartition, offset: next, files });
      }
    }
    return settlement;
  }

  private add(topicPartition: string, start: bigint, end: bigint): Entry {
    const known = this.open.get(topicPartition);
    invariant(known, () => `${topicPartition} is not claimed`);
    invariant(start === known.end && end > start, () => `${topicPartition}: expected a range from ${known.end}, found [${start}, ${end})`);
    known.end = end;
    const entry: Entry = { start, end, durable: null };
    known.entries.push(entry);
    return entry;
  }
}
