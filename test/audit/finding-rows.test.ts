import { expect, test } from 'vitest';
import { recordAudit } from '../../src/audit/finding-rows.ts';
import { lastAuditOf } from '../../src/audit/last-audit.ts';
import { summaryOf } from '../../src/contracts/audit.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import { auditFindingsTable } from '../../src/datasets/engine-tables.ts';
import { objectSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { createHealthyLake, createSmallLake, datasetOf } from './small-lake.ts';
import type { SmallLake } from './small-lake.ts';

const readFindings = async ({ catalog, store }: SmallLake) => {
  const rows: unknown[][] = [];
  for (const file of await (await catalog.load(auditFindingsTable.name)).scan()) {
    const { rowCount, columns } = await readColumns(await openParquet(objectSource(store, store.keyOf(file.filePath), file.fileSizeBytes)), { columns: auditFindingsTable.fields.map(({ name }) => name) });
    for (let i = 0; i < rowCount; i += 1) rows.push(['audit_id', 'promise', 'subject', 'topic', 'partition', 'start_offset', 'end_offset'].map((name) => columns[name]![i]));
  }
  return rows;
};

test('the findings of an audit are rows of audit_findings, once, with their exact offsets', async () => {
  const lake = await createHealthyLake();
  await lake.store.delete([lake.store.keyOf(lake.bronzeFiles[0]!.filePath)]);
  const report = await lake.audit();
  const { catalog, store } = lake;
  await recordAudit({ catalog, store, report, isWhole: true });
  await recordAudit({ catalog, store, report, isWhole: true });
  const rows = await readFindings(lake);
  expect(rows).toHaveLength(report.findings.length);
  expect(rows).toContainEqual([report.auditId, 'bronze-covered', datasetOf('north').bronze.name, 'north.raw', 0, 0n, 150n]);
});

test('a whole audit without findings writes no row, only that it was; one of a part writes nothing', async () => {
  const lake = await createSmallLake();
  const { catalog, store } = lake;
  const report = await lake.audit();
  await catalog.ensureTable(auditFindingsTable);
  const before = store.requests.put;
  await recordAudit({ catalog, store, report, isWhole: false });
  expect(store.requests.put).toBe(before);
  await recordAudit({ catalog, store, report, isWhole: true });
  const { currentSnapshot, properties } = await catalog.load(auditFindingsTable.name);
  expect(currentSnapshot).toBe(null);
  expect(lastAuditOf(properties)).toEqual({ auditId: report.auditId, endedAtMs: report.startedAtMs + report.durationMs, durationMs: report.durationMs, findingsByPromise: {} });
});

test('a summary stays within a payload, whatever was found', () => {
  const report: AuditReport = {
    auditId: 'a'.repeat(36), ok: false, startedAtMs: 0, durationMs: 1, findingsTotal: 1e9, durationsMs: {}, tables: [],
    gold: [{ table: 'g'.repeat(60), rows: 1e9, silverRows: 1e9, distinctKeys: 1e9, duplicates: 1e9, unmergedRows: 1e9, hours: 1e6, passes: 1e6 }],
    findingsByPromise: { 'bronze-once': { findings: 1e9, offsets: '1'.repeat(19) } },
    sources: Array.from({ length: 500 }, () => ({
      source: 's'.repeat(60), bronzeRows: 1e12, silverRows: 1e12, dlqRows: 1e12, dlqOpenRows: 1e12, recoveredRows: 1e12, unrefinedRows: 1e12,
      sparseOffsets: '9'.repeat(19), takenOffsets: '0', gapOffsets: '9'.repeat(19), kafkaLag: '9'.repeat(19), topicPartitions: [],
    })),
    findings: Array.from({ length: 1_000 }, () => ({
      promise: 'refined-from-bronze' as const, subject: 't'.repeat(60), topic: 't'.repeat(249), partition: 999_999, startOffset: '9'.repeat(19), endOffset: '9'.repeat(19), detail: 'd'.repeat(5_000),
    })),
  };
  expect(JSON.stringify(summaryOf(report)).length).toBeLessThan(64 * 1024);
});
