import { setTimeout as delay } from 'node:timers/promises';
import type { CapturedTrade } from './frame.ts';
import type { GeneratedTradesOptions } from './generated-trades.ts';
import { generateTrades } from './generated-trades.ts';
import type { TradeSink } from './trade-sink.ts';

export interface LoadOptions extends Omit<GeneratedTradesOptions, 'startMicros' | 'spanMicros'> {
  sink: TradeSink;
  /** Trades a second, bursts included; event time is then now. Default: as fast as the sink takes them. */
  rate?: number;
  /** Without a rate: event time of the first trade and how much time they cover, µs. Default: the last four hours. */
  startMicros?: number;
  spanMicros?: number;
  signal?: AbortSignal;
  /** Called after each write. */
  onProgress?: (written: number) => void;
}

export interface LoadCounts {
  /** All different. */
  trades: number;
  /** Of which this many came a second time. */
  repeated: number;
  durationMs: number;
}

const spanMicrosDefault = 4 * 3_600_000_000;
const writeTrades = 500;
/** With a rate: trades that are due within this time are written together. */
const sliceMs = 5;

/** Writes the market model's trades to the sink without frames and sockets in between, and flushes. */
export const loadGeneratedTrades = async ({ sink, rate, signal, onProgress, startMicros, spanMicros, ...model }: LoadOptions): Promise<LoadCounts> => {
  const startedMs = performance.now();
  const nowMicros = Date.now() * 1_000;
  const span = rate === undefined ? spanMicros ?? spanMicrosDefault : (model.trades / rate) * 1e6;
  const start = rate === undefined ? startMicros ?? nowMicros - span : nowMicros;
  const generator = generateTrades({ ...model, startMicros: start, spanMicros: span });
  let batch: CapturedTrade[] = [];
  let written = 0;

  const write = async (): Promise<void> => {
    if (batch.length === 0) return;
    written += batch.length;
    const full = batch;
    batch = [];
    await sink.write(model.exchange, full);
    onProgress?.(written);
  };

  let next = generator.next();
  for (; !next.done; next = generator.next()) {
    if (signal?.aborted) break;
    const trades = next.value;
    if (rate !== undefined) {
      const waitMs = trades[0]!.ingestion_timestamp / 1_000 - Date.now();
      if (waitMs > sliceMs) {
        await write();
        await delay(waitMs, undefined, signal ? { signal } : {}).catch(() => undefined);
      }
    }
    for (const trade of trades) batch.push(trade);
    if (batch.length >= writeTrades) await write();
  }
  await write();
  await sink.flush();
  const repeated = next.done ? next.value.repeated : 0;
  return { trades: written - repeated, repeated, durationMs: Math.round(performance.now() - startedMs) };
};
