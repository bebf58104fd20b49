import { randomUUID } from 'node:crypto';
import type { AuditFinding, AuditReport } from '../contracts/audit.ts';
import { auditFindingsTable } from '../datasets/engine-tables.ts';
import { dayOf } from '../lake/iceberg/transforms.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { encodeDataFile } from '../lake/parquet-writer.ts';
import type { Catalog } from '../lake/table.ts';

/** Appends the listed findings of a report to `audit_findings`, once for an audit id. Nothing is written without findings. */
export const recordFindings = async ({ catalog, store, report, signal }: {
  catalog: Catalog; store: ObjectStore; report: Pick<AuditReport, 'auditId' | 'findings' | 'startedAtMs'>; signal?: AbortSignal;
}): Promise<void> => {
  const { auditId, findings, startedAtMs } = report;
  if (findings.length === 0) return;
  await catalog.ensureTable(auditFindingsTable);
  const foundAt = BigInt(startedAtMs) * 1_000n;
  const offsets = (side: 'startOffset' | 'endOffset') => findings.map((finding: AuditFinding) => (finding[side] === null ? null : BigInt(finding[side])));
  const { bytes, metrics } = encodeDataFile({
    fields: auditFindingsTable.fields,
    batch: {
      rowCount: findings.length,
      columns: {
        audit_id: { constant: auditId },
        found_at: { constant: foundAt },
        promise: findings.map(({ promise }) => promise),
        subject: findings.map(({ subject }) => subject),
        topic: findings.map(({ topic }) => topic),
        partition: findings.map(({ partition }) => partition),
        start_offset: offsets('startOffset'),
        end_offset: offsets('endOffset'),
        detail: findings.map(({ detail }) => detail),
      },
    },
  });
  const filePath = catalog.dataLocation(auditFindingsTable.name, `${auditId}-${randomUUID()}.parquet`);
  await store.put(store.keyOf(filePath), bytes, { condition: 'absent', ...(signal ? { signal } : {}) });
  await catalog.commit(auditFindingsTable.name, {
    commitId: `audit/${auditId}`, add: [{ ...metrics, filePath, partition: { found_at: dayOf(foundAt) } }], ...(signal ? { signal } : {}),
  });
};
