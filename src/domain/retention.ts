// How long rows stay where. Days are whole UTC days: a row is as old as the day it was ingested on (for the DLQ: resolved
// on), so a Bronze file, whose rows share that day, is due as a whole.

/** Days since the epoch. */
export type Day = number;

export interface RetentionPolicy {
  /** Full days that a row stays in the table; null: for ever. */
  readonly hotDays: number | null;
  /** Full days, counted from the same day, after which its copy in the archive goes too; null: never. */
  readonly purgeDays: number | null;
}

export type RetentionTier = 'hot' | 'archived' | 'purged';

/** What a policy counts from: when Bronze took the record, or when a refused record was resolved. */
export type RetentionClock = 'ingestion' | 'resolution';

export const dayMs = 86_400_000;
export const dayOfMs = (ms: number): Day => Math.floor(ms / dayMs);
export const keptForEver: RetentionPolicy = { hotDays: null, purgeDays: null };

/** Rows of days before this one leave the table on `today`: each has then been in it for at least `hotDays` full days. Null: none ever. */
export const archiveBefore = ({ hotDays }: RetentionPolicy, today: Day): Day | null => (hotDays === null ? null : today - hotDays);

/** Archived rows of days before this one are purged on `today`. Null: none ever. */
export const purgeBefore = ({ hotDays, purgeDays }: RetentionPolicy, today: Day): Day | null =>
  (hotDays === null || purgeDays === null ? null : today - purgeDays);

export const tierOf = (policy: RetentionPolicy, day: Day, today: Day): RetentionTier => {
  const purged = purgeBefore(policy, today);
  if (purged !== null && day < purged) return 'purged';
  const archived = archiveBefore(policy, today);
  return archived !== null && day < archived ? 'archived' : 'hot';
};

/** `keep`, or `<hot days>/<purge days>`, or `<hot days>/never`. */
export const describePolicy = ({ hotDays, purgeDays }: RetentionPolicy): string => (hotDays === null ? 'keep' : `${hotDays}/${purgeDays ?? 'never'}`);

/** The inverse of {@link describePolicy}; undefined for any other text. */
export const parsePolicy = (text: string): RetentionPolicy | undefined => {
  if (text === 'keep') return keptForEver;
  const match = /^(\d{1,6})\/(\d{1,6}|never)$/.exec(text);
  return match ? { hotDays: Number(match[1]), purgeDays: match[2] === 'never' ? null : Number(match[2]) } : undefined;
};

const daysMax = 36_500;

/** What is wrong with a policy, each problem on its own; none: []. */
export const policyProblems = ({ hotDays, purgeDays }: RetentionPolicy): string[] => {
  const problems: string[] = [];
  for (const [name, days] of [['hotDays', hotDays], ['purgeDays', purgeDays]] as const) {
    if (days !== null && (!Number.isSafeInteger(days) || days < 1 || days > daysMax)) problems.push(`${name}: expected whole days from 1 to ${daysMax}, or null, found ${days}`);
  }
  if (hotDays === null && purgeDays !== null) problems.push(`purgeDays: expected null for a table whose rows never leave it, found ${purgeDays}`);
  if (hotDays !== null && purgeDays !== null && purgeDays <= hotDays) {
    problems.push(`purgeDays: expected more than the ${hotDays} days that rows stay hot, found ${purgeDays}: nothing is purged that was not archived and verified`);
  }
  return problems;
};
