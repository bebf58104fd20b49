export interface FlushLimits {
  /** A buffer closes at so many rows, */
  rowsMax: number;
  /** or at so many bytes of keys, values and headers, */
  bytesMax: number;
  /** or when its first record has waited so long (wall clock); */
  intervalMs: number;
  /** with many topic partitions at a low rate, up to so long: see src/domain/adaptive-limits.ts. Default: no longer than `intervalMs`. */
  intervalMaxMs?: number;
}

export const flushDefaults: FlushLimits = { rowsMax: 150_000, bytesMax: 32 * 1024 * 1024, intervalMs: 1_000 };

export interface BufferFacts {
  rows: number;
  payloadBytes: number;
  /** Since its first record came. */
  ageMs: number;
  /** Files of the same topic partition that are not yet accepted by the ledger. */
  unacceptedFiles: number;
}

/** Files of a topic partition on their way that are no reason to slow down. */
const unacceptedFilesFree = 4;
const stretchMax = 60;
/** Of the interval: enough for a buffer to close when another one of its source does. */
const companyShare = 0.5;

/**
 * Size first, time second. While the ledger does not answer, files pile up; then the interval stretches with them, so
 * that an hour without Temporal leaves a few hundred larger files and not thousands of small ones.
 *
 * @param inCompany another buffer of the source closes now: files that close together travel in one report.
 */
export const flushReason = (facts: BufferFacts, limits: FlushLimits, inCompany = false): 'size' | 'time' | null => {
  if (facts.rows === 0) return null;
  if (facts.rows >= limits.rowsMax || facts.payloadBytes >= limits.bytesMax) return 'size';
  const stretch = Math.min(stretchMax, Math.max(1, facts.unacceptedFiles - unacceptedFilesFree + 1));
  const intervalMs = limits.intervalMs * stretch * (inCompany ? companyShare : 1);
  return facts.ageMs >= intervalMs ? 'time' : null;
};
