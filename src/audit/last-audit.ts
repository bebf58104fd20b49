import { auditPromises } from '../contracts/audit.ts';
import type { AuditPromise, AuditReport } from '../contracts/audit.ts';

/** What the table property {@link lastAuditProperty} of `audit_findings` says: true for every process, and after every restart. */
export interface LastAudit {
  auditId: string;
  endedAtMs: number;
  durationMs: number;
  /** Promises that do not hold, with their findings. */
  findingsByPromise: Partial<Record<AuditPromise, number>>;
}

export const lastAuditProperty = 'tidemark.last-audit';

/** Null: none was recorded yet. */
export const lastAuditOf = (properties: Readonly<Record<string, string>>): LastAudit | null => {
  const text = properties[lastAuditProperty];
  return text === undefined ? null : JSON.parse(text) as LastAudit;
};

/**
 * What is known after a report. One that looked at everything says it all; one of some sources or offsets, or without the
 * files' content, may add findings but takes none away: null if it has nothing to say.
 */
export const nextLastAudit = (before: LastAudit | null, report: Pick<AuditReport, 'auditId' | 'startedAtMs' | 'durationMs' | 'findingsByPromise'>, isWhole: boolean): LastAudit | null => {
  const { auditId, startedAtMs, durationMs } = report;
  const findingsByPromise: LastAudit['findingsByPromise'] = {};
  for (const promise of Object.keys(auditPromises) as AuditPromise[]) {
    const findings = Math.max(report.findingsByPromise[promise]?.findings ?? 0, isWhole ? 0 : before?.findingsByPromise[promise] ?? 0);
    if (findings > 0) findingsByPromise[promise] = findings;
  }
  if (!isWhole && Object.keys(report.findingsByPromise).length === 0) return null;
  return { auditId, endedAtMs: startedAtMs + durationMs, durationMs, findingsByPromise };
};
