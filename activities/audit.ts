import type { RunAuditOptions } from '../src/audit/run-audit.ts';
import type { AuditActivities, AuditInput, AuditReport } from '../src/contracts/audit.ts';
import { summaryOf } from '../src/contracts/audit.ts';
import { asActivity } from './edge.ts';

export interface AuditDeps {
  /** One whole audit, its findings recorded: see src/audit/run-audit.ts. */
  audit(input: AuditInput, options: RunAuditOptions): Promise<AuditReport>;
}

/** An attempt that is repeated audits again from the start: nothing remains of it but findings under another audit id. */
export const createAuditActivities = ({ audit }: AuditDeps): AuditActivities => ({
  auditConservation: (input) => asActivity(async ({ report: heartbeat, signal }) =>
    summaryOf(await audit(input, { signal, onProgress: ({ phase, subject, files, rows }) => heartbeat({ phase, subject, files, rows }) }))),
});
