import type { CheckpointReport, LedgerView } from '../../src/contracts/stream.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import { CheckpointLedger } from '../../src/domain/ledger.ts';
import type { LedgerRange, PendingFile } from '../../src/domain/ledger.ts';
import type { CheckpointClient } from '../../src/streaming/checkpoint-client.ts';

export type ReportFault =
  /** The Signal never arrives, and nobody is told. */
  | 'lose'
  /** The Signal arrives twice. */
  | 'duplicate'
  /** The Signal arrives, and the worker is told that it did not. */
  | 'loseAnswer'
  /** Temporal is away. */
  | 'refuse'
  /** The Signal arrives only after the one that follows. */
  | 'delay';

/** The stream workflow's ledger without Temporal: the protocol's rules, and faults on the way to it. */
export class FakeCheckpoints implements CheckpointClient {
  readonly reports: CheckpointReport[] = [];
  readonly accepted: LedgerRange[] = [];
  ledgerState = CheckpointLedger.empty();
  onReport: ((report: CheckpointReport) => ReportFault | undefined) | undefined;
  onClaim: (() => void) | undefined;
  onLedger: ((view: LedgerView) => LedgerView) | undefined;
  private delayed: CheckpointReport[] = [];

  /** An empty ledger that knows what the lake holds: what a new run builds when Temporal lost its database. */
  loseState(): void {
    const nextOffsets: Record<string, string> = {};
    for (const { topicPartition, endOffset } of this.accepted) {
      if (BigInt(endOffset) > BigInt(nextOffsets[topicPartition] ?? 0)) nextOffsets[topicPartition] = endOffset;
    }
    this.ledgerState = CheckpointLedger.empty();
    this.ledgerState.reconcile({ nextOffsets, open: {}, epochMax: Math.max(0, ...this.accepted.map(({ fileEpoch }) => fileEpoch)), batchMax: 0 });
  }

  async claim(_source: string, { owner, topicPartitions }: { owner: string; topicPartitions: string[] }) {
    await Promise.resolve();
    this.onClaim?.();
    return { claims: this.ledgerState.claim(owner, topicPartitions, Date.now()) };
  }

  async report(_source: string, report: CheckpointReport): Promise<void> {
    await Promise.resolve();
    // What crosses Temporal is JSON.
    const crossed = JSON.parse(JSON.stringify(report)) as CheckpointReport;
    const fault = this.onReport?.(crossed);
    if (fault === 'refuse') throw new TidemarkError('TEMPORAL_UNAVAILABLE', 'no answer (injected fault)');
    if (fault === 'lose') return;
    if (fault === 'delay') {
      this.delayed.push(crossed);
      return;
    }
    for (const arrived of [crossed, ...(fault === 'duplicate' ? [crossed] : []), ...this.delayed.splice(0)]) this.accept(arrived);
    if (fault === 'loseAnswer') throw new TidemarkError('TEMPORAL_UNAVAILABLE', 'answer lost (injected fault)');
  }

  accept(report: CheckpointReport): void {
    this.reports.push(report);
    const before = this.ledgerState.pendingCount;
    this.ledgerState.accept(report);
    const taken: PendingFile[] = this.ledgerState.pendingFiles(Infinity).slice(before);
    for (const file of taken) {
      this.accepted.push(report.ranges.find((range) => range.topicPartition === file.topicPartition && range.startOffset === file.startOffset && range.fileEpoch === file.fileEpoch)!);
    }
  }

  async ledger(_source: string, { topicPartitions }: { topicPartitions?: string[] }): Promise<LedgerView> {
    await Promise.resolve();
    const view = { ready: true, topicPartitions: this.ledgerState.view(topicPartitions ?? []) };
    return this.onLedger ? this.onLedger(view) : view;
  }

  next(topicPartition: string): bigint | null {
    const offset = this.ledgerState.view([topicPartition])[topicPartition]!.nextOffset;
    return offset === null ? null : BigInt(offset);
  }

  /** Ranges of one topic partition by offset. */
  rangesOf(topicPartition: string): LedgerRange[] {
    return this.accepted.filter((range) => range.topicPartition === topicPartition).sort((a, b) => (BigInt(a.startOffset) < BigInt(b.startOffset) ? -1 : 1));
  }
}
