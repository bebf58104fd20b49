/** Where one topic partition's log and its reader stand. */
export interface RetentionSample {
  atMs: number;
  /** First offset that the broker has. */
  logStart: bigint;
  /** The next offset that will be written. */
  logEnd: bigint;
  /** The first offset that would be missing if the broker lost it now. */
  position: bigint;
  /** Kafka timestamp of the record at the position; null: not known. */
  positionTimestampMs: number | null;
  /** Kafka timestamp of the oldest record; null: not known. */
  logStartTimestampMs: number | null;
  /** The topic's `retention.ms`; null: age alone deletes nothing. */
  retentionMs: number | null;
}

interface Step { atMs: number; logStart: bigint }

/** The reader's speed is that of the last minutes: one that stands still is seen to within so long. */
const speedWindowMs = 3 * 60_000;
const samplesMax = 64;
const stepsMax = 8;

/**
 * When the broker's retention overtakes the reader of one topic partition. Two ways lead there, and the sooner one counts:
 *
 * - by age: the record at the position is deleted once it is as old as `retention.ms`, or as old as the oldest record was
 *   each time the log start had moved (size limits delete by age, too, as long as the rate is what it was);
 * - by offsets: the log start moves faster than the reader. It moves by whole segments, so its rate is that between steps.
 *
 * Brokers delete whole segments, and later than they might: what is forecast is the earliest time.
 */
export class RetentionForecast {
  private samples: RetentionSample[] = [];
  private steps: Step[] = [];
  /** The least age of an oldest record right after the log start had moved. */
  private survivedMs: number | null = null;

  observe(sample: RetentionSample): void {
    const last = this.samples.at(-1);
    // A claim took the reader back, the topic partition is another one, or the clock was set back: speeds begin anew.
    if (last && (sample.atMs < last.atMs || sample.position < last.position || sample.logStart < last.logStart)) this.samples = [];
    if (last && (sample.atMs < last.atMs || sample.logStart < last.logStart)) {
      this.steps = [];
      this.survivedMs = null;
    } else if (last && sample.logStart > last.logStart) {
      this.steps = [...this.steps, { atMs: sample.atMs, logStart: sample.logStart }].slice(-stepsMax);
      if (sample.logStartTimestampMs !== null) {
        const ageMs = Math.max(0, sample.atMs - sample.logStartTimestampMs);
        this.survivedMs = this.survivedMs === null ? ageMs : Math.min(this.survivedMs, ageMs);
      }
    }
    // At the log's end the reader is as far as time is.
    this.samples.push(sample.position >= sample.logEnd ? { ...sample, positionTimestampMs: sample.atMs } : sample);
    while (this.samples.length > samplesMax || sample.atMs - this.samples[0]!.atMs > speedWindowMs) this.samples.shift();
  }

  /** Milliseconds from the last sample on; 0: it may happen any moment; null: it will not, as things go now. */
  get lossInMs(): number | null {
    const latest = this.samples.at(-1);
    if (!latest || latest.position >= latest.logEnd) return null;
    if (latest.position <= latest.logStart && latest.logStart > 0n) return 0;
    const soonest = Math.min(this.byAgeMs(latest), this.byOffsetsMs(latest));
    return Number.isFinite(soonest) ? Math.max(0, Math.round(soonest)) : null;
  }

  private byAgeMs(latest: RetentionSample): number {
    const livesMs = Math.min(latest.retentionMs ?? Infinity, this.survivedMs ?? Infinity);
    if (latest.positionTimestampMs === null || livesMs === Infinity) return Infinity;
    const leftMs = latest.positionTimestampMs + livesMs - latest.atMs;
    if (leftMs <= 0) return 0;
    // How much of the records' time the reader covers in a unit of its own.
    const first = this.samples.find(({ positionTimestampMs }) => positionTimestampMs !== null)!;
    const passedMs = latest.atMs - first.atMs;
    const speed = passedMs > 0 ? Math.max(0, latest.positionTimestampMs - first.positionTimestampMs!) / passedMs : 0;
    return speed >= 1 ? Infinity : leftMs / (1 - speed);
  }

  private byOffsetsMs(latest: RetentionSample): number {
    const [firstStep] = this.steps;
    const lastStep = this.steps.at(-1);
    const first = this.samples[0]!;
    if (!firstStep || !lastStep || lastStep.atMs <= firstStep.atMs || latest.atMs <= first.atMs) return Infinity;
    const startPerMs = Number(lastStep.logStart - firstStep.logStart) / (lastStep.atMs - firstStep.atMs);
    const readPerMs = Number(latest.position - first.position) / (latest.atMs - first.atMs);
    if (startPerMs <= readPerMs) return Infinity;
    // From the last step on: until the next one the log start stands still, and its rate does not.
    return Number(latest.position - lastStep.logStart) / (startPerMs - readPerMs) - (latest.atMs - lastStep.atMs) * startPerMs / (startPerMs - readPerMs);
  }
}

/** Ahead of a loss by so much, it is a warning. */
export const lossWarningMs = 2 * 3_600_000;
/** Forecasts further away are nobody's business yet. */
export const lossShownMs = 24 * 3_600_000;
