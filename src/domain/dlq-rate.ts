/** The DLQ rate of a source over the last hour, and what is to be thought of it. */
export const dlqRatePercentLimits = { warning: 1, critical: 5 } as const;
/** Below so many records a rate says nothing: one bad record at night is no alarm. */
export const dlqRateRecordsMin = 100;
export const dlqRateWindowMs = 3_600_000;

export type DlqRateLevel = 'ok' | 'warning' | 'critical';
export interface DlqRate {
  records: number;
  dlqRecords: number;
  /** Null without records. */
  percent: number | null;
  level: DlqRateLevel;
}

export const dlqRateOf = (records: number, dlqRecords: number): DlqRate => {
  const percent = records === 0 ? null : (100 * dlqRecords) / records;
  const isCounted = percent !== null && records >= dlqRateRecordsMin;
  const level = !isCounted || percent <= dlqRatePercentLimits.warning ? 'ok' : percent <= dlqRatePercentLimits.critical ? 'warning' : 'critical';
  return { records, dlqRecords, percent, level };
};

/** Rows that were recovered, of all that were ever refused and are not purged; null without any. */
export const recoveryPercentOf = (counts: { recovered: number; open: number; flagged: number; quarantined: number }): number | null => {
  const all = counts.recovered + counts.open + counts.flagged + counts.quarantined;
  return all === 0 ? null : (100 * counts.recovered) / all;
};
