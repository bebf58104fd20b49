import { auditConservation } from '../src/audit/conservation.ts';
import type { AuditOptions, KafkaBounds } from '../src/audit/conservation.ts';
import { recordFindings } from '../src/audit/finding-rows.ts';
import type { AuditActivities, AuditReport } from '../src/contracts/audit.ts';
import { summaryOf } from '../src/contracts/audit.ts';
import { Coverage } from '../src/domain/offsets.ts';
import { asActivity } from './edge.ts';

export interface AuditDeps extends Pick<AuditOptions, 'catalog' | 'store' | 'pipeline' | 'topicPrefix' | 'memoryBudgetBytes'> {
  /** See {@link AuditOptions.kafka}. */
  kafka: (topic: string) => Promise<ReadonlyMap<number, KafkaBounds>>;
  /** Told of each report: the place for a metric. */
  onReport?: (report: AuditReport) => void;
}

/** An attempt that is repeated audits again from the start: nothing of it remains but findings under another audit id. */
export const createAuditActivities = ({ onReport, ...deps }: AuditDeps): AuditActivities => ({
  auditConservation: ({ sources, range, keysOnly }) => asActivity(async ({ report: heartbeat, signal }) => {
    const report = await auditConservation({
      ...deps, signal,
      ...(sources ? { sources } : {}),
      ...(range ? { range: Coverage.fromJson(range) } : {}),
      verification: keysOnly ? 'keys' : 'content',
      onProgress: ({ phase, subject, files, rows }) => heartbeat({ phase, subject, files, rows }),
    });
    await recordFindings({ catalog: deps.catalog, store: deps.store, report, signal });
    onReport?.(report);
    return summaryOf(report);
  }),
});
