import { randomUUID } from 'node:crypto';
import type { AuditFinding, AuditReport } from '../contracts/audit.ts';
import { auditFindingsTable } from '../datasets/engine-tables.ts';
import { dayOf } from '../lake/iceberg/transforms.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { encodeDataFile } from '../lake/parquet-writer.ts';
import type { Catalog } from '../lake/table.ts';
import { lastAuditOf, lastAuditProperty, nextLastAudit } from './last-audit.ts';

export interface RecordFindings {
  catalog: Catalog;
  store: ObjectStore;
  report: Pick<AuditReport, 'auditId' | 'findings' | 'findingsByPromise' | 'startedAtMs' | 'durationMs'>;
  /** Every source, all offsets, contents too. */
  isWhole: boolean;
  signal?: AbortSignal;
}

/** The listed findings as a data file on the store. */
const storeFindings = async ({ catalog, store, report: { auditId, findings, startedAtMs }, signal }: RecordFindings): Promise<DataFile> => {
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
  return { ...metrics, filePath, partition: { found_at: dayOf(foundAt) } };
};

/**
 * Appends the listed findings of a report to `audit_findings`, once for an audit id, and notes there how the last audit went, with
 * findings or without: see last-audit.ts.
 */
export const recordAudit = async (record: RecordFindings): Promise<void> => {
  const { catalog, report, isWhole, signal } = record;
  const { properties } = await catalog.ensureTable(auditFindingsTable);
  const last = nextLastAudit(lastAuditOf(properties), report, isWhole);
  if (last === null) return;
  await catalog.commit(auditFindingsTable.name, {
    commitId: `audit/${report.auditId}`, add: report.findings.length === 0 ? [] : [await storeFindings(record)],
    setProperties: { [lastAuditProperty]: JSON.stringify(last) }, ...(signal ? { signal } : {}),
  });
};
