import { auditPromises } from '../contracts/audit.ts';
import type { AuditPromise, AuditReport } from '../contracts/audit.ts';
import type { Metrics } from './metrics.ts';

/** For `onReport` of the audit's activities. Every promise has its series, so that one that holds again goes back to 0. */
export const createAuditMetrics = (metrics: Metrics): ((report: AuditReport) => void) => ({ findingsByPromise, startedAtMs, durationMs }) => {
  for (const promise of Object.keys(auditPromises) as AuditPromise[]) {
    metrics.set('audit_findings', { promise }, findingsByPromise[promise]?.findings ?? 0);
  }
  metrics.set('audit_last_timestamp_seconds', {}, (startedAtMs + durationMs) / 1_000);
  metrics.set('audit_duration_seconds', {}, durationMs / 1_000);
};
