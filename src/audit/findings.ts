import type { AuditFinding, AuditPromise } from '../contracts/audit.ts';
import { spreadFindings } from '../contracts/audit.ts';
import type { Interval } from '../domain/offsets.ts';
import { IntervalSet, parseTopicPartitionKey } from '../domain/offsets.ts';
import { OffsetBitmap } from './offset-bitmap.ts';

/** What a finding is about; equal kinds share one text and are counted together. */
export interface FindingKind {
  promise: AuditPromise;
  /** The table or topic. */
  subject: string;
  /** What was expected and found, said of each offset of an interval. */
  detail: string;
}

interface Marks {
  kind: FindingKind;
  /** By topic partition key. */
  offsets: Map<string, { bitmap: OffsetBitmap; occurrences: number; samples: Map<number, string> }>;
}

/** Keys named in the text of one kind and topic partition. */
const samplesMax = 100;

/**
 * Collects what the audit finds. Offsets are marked as bits, so that a million lost rows cost what one interval costs,
 * and become intervals at the end. The number that is listed is bounded; what is counted is not.
 */
export class FindingCollector {
  private readonly marks = new Map<string, Marks>();
  /** By promise and subject, at most `listedMax` each. */
  private readonly kept = new Map<string, AuditFinding[]>();
  private readonly totals = new Map<AuditPromise, { findings: number; offsets: bigint }>();
  private readonly listedMax: number;
  private readonly range: ((topicPartition: string) => IntervalSet | undefined) | undefined;

  /** @param range Findings outside of it are dropped: rows there were read by chance. */
  constructor(listedMax: number, range?: (topicPartition: string) => IntervalSet | undefined) {
    this.listedMax = listedMax;
    this.range = range;
  }

  /** Bytes of marks: part of the audit's memory. */
  get byteLength(): number {
    let bytes = 0;
    for (const { offsets } of this.marks.values()) for (const { bitmap } of offsets.values()) bytes += bitmap.byteLength;
    return bytes;
  }

  /** Marks one row. `sample` names it beside its offset, e.g. its key. */
  markOffset(kind: FindingKind, topicPartition: string, offset: number, sample?: () => string): void {
    const id = `${kind.promise}\n${kind.subject}\n${kind.detail}`;
    let marks = this.marks.get(id);
    if (!marks) this.marks.set(id, marks = { kind, offsets: new Map() });
    let entry = marks.offsets.get(topicPartition);
    if (!entry) marks.offsets.set(topicPartition, entry = { bitmap: new OffsetBitmap(), occurrences: 0, samples: new Map() });
    entry.occurrences += 1;
    if (entry.bitmap.add(offset) && sample && entry.samples.size < samplesMax) entry.samples.set(offset, sample());
  }

  markIntervals(kind: FindingKind, topicPartition: string, intervals: Iterable<Interval>): void {
    const range = this.range?.(topicPartition);
    const kept = range ? IntervalSet.of(...intervals).intersect(range).intervals : intervals;
    for (const interval of kept) this.addInterval(kind, topicPartition, interval, '');
  }

  /** A finding that is not about offsets, or whose offsets are bounds only. */
  mark(finding: AuditFinding): void {
    const offsets = finding.startOffset !== null && finding.endOffset !== null ? BigInt(finding.endOffset) - BigInt(finding.startOffset) : 0n;
    this.count(finding.promise, offsets);
    const id = `${finding.promise} ${finding.subject}`;
    const kept = this.kept.get(id);
    if (!kept) this.kept.set(id, [finding]);
    else if (kept.length < this.listedMax) kept.push(finding);
  }

  private count(promise: AuditPromise, offsets: bigint): void {
    const totals = this.totals.get(promise) ?? { findings: 0, offsets: 0n };
    totals.findings += 1;
    totals.offsets += offsets;
    this.totals.set(promise, totals);
  }

  private addInterval(kind: FindingKind, topicPartition: string, { start, end }: Interval, more: string): void {
    const { topic, partition } = parseTopicPartitionKey(topicPartition);
    this.mark({
      promise: kind.promise, subject: kind.subject, topic, partition,
      startOffset: String(start), endOffset: String(end), detail: `${kind.detail}${more}`,
    });
  }

  /** Turns the marks into findings. */
  finish(): { listed: AuditFinding[]; total: number; byPromise: Partial<Record<AuditPromise, { findings: number; offsets: string }>> } {
    for (const { kind, offsets } of this.marks.values()) {
      for (const [topicPartition, { bitmap, occurrences, samples }] of [...offsets].sort(([a], [b]) => (a < b ? -1 : 1))) {
        const range = this.range?.(topicPartition);
        const surplus = occurrences > bitmap.size ? `; ${occurrences} rows in this topic partition` : '';
        const found = range ? bitmap.toIntervalSet().intersect(range).intervals : bitmap.intervals();
        for (const interval of found) {
          const sample = samples.get(Number(interval.start));
          this.addInterval(kind, topicPartition, interval, `${sample === undefined ? '' : `; first: ${sample}`}${surplus}`);
        }
      }
    }
    this.marks.clear();
    const total = [...this.totals.values()].reduce((sum, { findings }) => sum + findings, 0);
    const byPromise = Object.fromEntries([...this.totals].map(([promise, { findings, offsets }]) => [promise, { findings, offsets: String(offsets) }]));
    return { listed: spreadFindings([...this.kept.values()].flat(), this.listedMax), total, byPromise };
  }
}
