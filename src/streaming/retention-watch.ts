import { isTidemarkError } from '../domain/errors.ts';
import type { TopicPartition } from '../domain/offsets.ts';
import { RetentionForecast, lossShownMs, lossWarningMs } from '../domain/retention-forecast.ts';
import type { TopicRetention } from '../kafka/topics.ts';
import { workerLossesMax } from '../contracts/stream.ts';
import type { Clock } from './clock.ts';
import type { StreamingLog } from './source-reader.ts';

export interface WatchedPartition extends TopicPartition {
  key: string;
  /** The first offset that is not durable in the lake. */
  position: bigint;
}

/** What Kafka is asked; KAFKA_UNAVAILABLE when it does not answer. */
export interface LogFacts {
  logBounds(topicPartition: TopicPartition): Promise<{ start: bigint; end: bigint }>;
  timestampAt(topicPartition: TopicPartition, offset: bigint): Promise<number | null>;
  retention(topics: readonly string[]): Promise<Record<string, TopicRetention>>;
}

export interface RetentionWatchOptions {
  source: string;
  log: StreamingLog;
  clock: Clock;
  facts: LogFacts;
  /** Asked at each look. */
  partitions(): WatchedPartition[];
  intervalMs: number;
  /** A topic partition came within {@link lossWarningMs}, or out of it; and at each look while one is within. */
  onWarning(): void;
}

/** Looked at in one round; the others have their turn in the next ones. */
const partitionsAtOnceMax = 50;
/** A reader is only slow once it was seen to be so again: a first look cannot tell, and takes it to stand still. */
const nearLooksMin = 2;

/** Forecasts for the topic partitions of one source when the broker's retention will overtake their reader. */
export class RetentionWatch {
  private readonly options: RetentionWatchOptions;
  private readonly forecasts = new Map<string, { forecast: RetentionForecast; lookedAtMs: number; lossInMs: number | null; nearLooks: number }>();
  private readonly warned = new Set<string>();
  private readonly stopped = new AbortController();
  private running: Promise<void> | null = null;

  constructor(options: RetentionWatchOptions) {
    this.options = options;
  }

  start(): void {
    this.running ??= this.run();
  }

  async stop(): Promise<void> {
    this.stopped.abort();
    await this.running;
  }

  /** Milliseconds from now until the broker may delete what was not read; null: not as things go. */
  lossInMs(key: string): number | null {
    const known = this.forecasts.get(key);
    return known?.lossInMs == null ? null : Math.max(0, known.lossInMs - (this.options.clock.nowMs() - known.lookedAtMs));
  }

  /** Losses within a day, the soonest first. */
  losses(): { topicPartition: string; lossAtMs: number }[] {
    return [...this.forecasts].flatMap(([topicPartition, { lookedAtMs, lossInMs }]) =>
      (lossInMs === null || lossInMs > lossShownMs ? [] : [{ topicPartition, lossAtMs: lookedAtMs + lossInMs }]))
      .sort((a, b) => a.lossAtMs - b.lossAtMs).slice(0, workerLossesMax);
  }

  private async run(): Promise<void> {
    const { clock, intervalMs, log, source } = this.options;
    while (!this.stopped.signal.aborted) {
      await clock.sleep(intervalMs, this.stopped.signal);
      if (this.stopped.signal.aborted) return;
      try {
        await this.look();
      } catch (error) {
        // No forecast is worth stopping a reader for.
        log[isTidemarkError(error, 'KAFKA_UNAVAILABLE') ? 'info' : 'warn']({ source, error: error instanceof Error ? error.message : String(error) }, 'no retention forecast this time');
      }
    }
  }

  private async look(): Promise<void> {
    const { partitions, facts, clock, log, source, onWarning } = this.options;
    const all = partitions();
    const keys = new Set(all.map(({ key }) => key));
    for (const key of this.forecasts.keys()) if (!keys.has(key)) this.forecasts.delete(key);
    const lookedAt = ({ key }: WatchedPartition): number => this.forecasts.get(key)?.lookedAtMs ?? -Infinity;
    const turn = all.toSorted((a, b) => lookedAt(a) - lookedAt(b)).slice(0, partitionsAtOnceMax);
    if (turn.length === 0) return;
    const retention = await facts.retention([...new Set(turn.map(({ topic }) => topic))]);
    for (const one of turn) {
      if (this.stopped.signal.aborted) return;
      const { start, end } = await facts.logBounds(one);
      const lags = one.position < end;
      const known = this.forecasts.get(one.key) ?? { forecast: new RetentionForecast(), lookedAtMs: 0, lossInMs: null, nearLooks: 0 };
      known.lookedAtMs = clock.nowMs();
      known.forecast.observe({
        atMs: known.lookedAtMs, logStart: start, logEnd: end, position: one.position, retentionMs: retention[one.topic]?.retentionMs ?? null,
        positionTimestampMs: lags ? await facts.timestampAt(one, one.position < start ? start : one.position) : null,
        logStartTimestampMs: lags ? await facts.timestampAt(one, start) : null,
      });
      known.lossInMs = known.forecast.lossInMs;
      known.nearLooks = known.lossInMs !== null && known.lossInMs <= lossWarningMs ? known.nearLooks + 1 : 0;
      this.forecasts.set(one.key, known);
    }
    let tells = false;
    for (const key of keys) {
      const lossInMs = this.lossInMs(key);
      const isNear = lossInMs !== null && (this.forecasts.get(key)?.nearLooks ?? 0) >= nearLooksMin;
      tells ||= isNear || this.warned.has(key);
      if (isNear && !this.warned.has(key)) {
        this.warned.add(key);
        log.warn({ source, topicPartition: key, lossInSeconds: Math.round(lossInMs / 1_000) }, 'retention is about to overtake the reader: npm run extend-retention keeps the records longer');
      } else if (!isNear && this.warned.delete(key)) {
        log.info({ source, topicPartition: key }, 'retention no longer threatens to overtake the reader');
      }
    }
    for (const key of this.warned) if (!keys.has(key)) this.warned.delete(key);
    if (tells) onWarning();
  }
}
