import type { RunAuditOptions } from '../src/audit/run-audit.ts';
import type { AuditActivities, AuditInput, AuditReport } from '../src/contracts/audit.ts';
import { summaryOf } from '../src/contracts/audit.ts';
import { asActivity } from './edge.ts';

export interface AuditDeps {
  /** One whole audit, its findings recorded: see src/audit/run-audit.ts. */
  audit(input: AuditInput, options: RunAuditOptions): Promise<AuditReport>;
  /** Told of each report: the place for a metric. */
  onReport?: (report: AuditReport) => void;
}

/** An attempt that is repeated audits again from the start: nothing remains of it but findings under another audit id. */
export const createAuditActivities = ({ audit, onReport }: AuditDeps): AuditActivities => ({
  auditConservation: (input) => asActivity(async ({ report: heartbeat, signal }) => {
    const report = await audit(input, { signal, onProgress: ({ phase, subject, files, rows }) => heartbeat({ phase, subject, files, rows }) });
    onReport?.(report);
    return summaryOf(report);
  }),
});
