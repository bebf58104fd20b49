import { megabytes } from '../scripts/cli.ts';

/** Resident set of one process over a run. */
export interface MemorySeries {
  name: string;
  /** ms since its start, bytes; ascending. */
  samples: readonly (readonly [elapsedMs: number, bytes: number])[];
  /** What the kernel saw between the samples too. */
  peakBytes: number;
}

const bars = '▁▂▃▄▅▆▇█';
const columnsDefault = 60;

/** The greatest sample of each of `columns` equal spans of the run; null where a span has none. */
const columnsOf = (samples: MemorySeries['samples'], endMs: number, columns: number): (number | null)[] => {
  const greatest = Array.from({ length: columns }, (): number | null => null);
  for (const [ms, bytes] of samples) {
    const column = Math.min(columns - 1, Math.floor((ms / endMs) * columns));
    greatest[column] = Math.max(greatest[column] ?? 0, bytes);
  }
  return greatest;
};

const meanOf = (samples: MemorySeries['samples'], fromMs: number, toMs: number): number | null => {
  const within = samples.filter(([ms]) => ms >= fromMs && ms < toMs);
  return within.length === 0 ? null : within.reduce((sum, [, bytes]) => sum + bytes, 0) / within.length;
};

/**
 * A line of bars for each process, all to one scale, with its peak, and how much more it held in the run's last quarter than in its
 * second: memory that is bounded does not grow with the load.
 */
export const memoryChart = (series: readonly MemorySeries[], columns = columnsDefault): string => {
  const endMs = Math.max(1, ...series.map(({ samples }) => (samples.at(-1)?.[0] ?? 0) + 1));
  const most = Math.max(1, ...series.map(({ peakBytes }) => peakBytes), ...series.flatMap(({ samples }) => samples.map(([, bytes]) => bytes)));
  const width = Math.max(0, ...series.map(({ name }) => name.length));
  const lines = series.map(({ name, samples, peakBytes }) => {
    const chart = columnsOf(samples, endMs, columns).map((bytes) => (bytes === null ? ' ' : bars[Math.min(bars.length - 1, Math.floor((bytes / most) * bars.length))]!)).join('');
    const [second, last] = [meanOf(samples, endMs / 4, endMs / 2), meanOf(samples, endMs * 0.75, endMs)];
    const growth = second === null || last === null ? '' : `, last quarter ${last >= second ? '+' : '−'}${megabytes(Math.abs(last - second))} on the second`;
    return `${name.padEnd(width)}  ${chart}  peak ${megabytes(peakBytes)}${growth}`;
  });
  return [`resident set over ${(endMs / 1000).toFixed(0)} s, █ is ${megabytes(most)}`, ...lines].join('\n');
};
