import type { CheckpointRange, CheckpointReport, GapRange, LedgerView } from '../contracts/stream.ts';
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
}

export interface Settlement {
  /** Topic partitions whose accepted offset moved. */
  accepted: { topicPartition: string; offset: bigint }[];
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

  /** After a claim: everything known of an earlier epoch is forgotten. */
  claim(topicPartition: string, epoch: number, next: bigint): void {
    this.open.set(topicPartition, { epoch, end: next, entries: [], accepted: null });
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

  /** Files or gaps that the ledger has not accepted yet. */
  waiting(topicPartition: string): number {
    return this.open.get(topicPartition)?.entries.length ?? 0;
  }

  get isEmpty(): boolean {
    return [...this.open.values()].every(({ entries }) => entries.length === 0);
  }

  /** The ledger's next offset, as last read. */
  accepted(topicPartition: string): bigint | null {
    return this.open.get(topicPartition)?.accepted ?? null;
  }

  /** The next report: of each topic partition what is durable without a hole before it, in turns, up to the size limit. */
  collect(owner: string): CheckpointReport | null {
    const report: CheckpointReport = { owner, epochs: {}, ranges: [], gaps: [] };
    let bytes = JSON.stringify(report).length;
    const lines = [...this.open].map(([topicPartition, { epoch, entries }]) => {
      const hole = entries.findIndex(({ durable }) => durable === null);
      return { topicPartition, epoch, entries: hole < 0 ? entries : entries.slice(0, hole) };
    }).filter(({ entries }) => entries.length > 0);
    for (let turn = 0; ; turn += 1) {
      let any = false;
      for (const { topicPartition, epoch, entries } of lines) {
        const durable = entries[turn]?.durable;
        if (!durable) continue;
        const size = JSON.stringify(durable).length + (turn === 0 ? topicPartition.length + 24 : 0);
        // A partition's entries are taken in order: one that does not fit ends the report for all, which is simplest.
        if (bytes + size > reportBytesMax) return report.ranges.length + report.gaps.length > 0 ? report : null;
        bytes += size;
        any = true;
        report.epochs[topicPartition] = epoch;
        if (durable.kind === 'range') report.ranges.push(durable.range);
        else report.gaps.push(durable.gap);
      }
      if (!any) return report.ranges.length + report.gaps.length > 0 ? report : null;
    }
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
      const next = found.nextOffset === null ? null : BigInt(found.nextOffset);
      if (next === null) continue;
      while (known.entries.length > 0 && known.entries[0]!.end <= next) known.entries.shift();
      if (known.entries.length > 0 && known.entries[0]!.start !== next) {
        // The ledger was set back, or took a range that is not ours under our epoch: only a claim can tell.
        settlement.stale.push(topicPartition);
        continue;
      }
      if (next !== known.accepted) {
        known.accepted = next;
        settlement.accepted.push({ topicPartition, offset: next });
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
