import { proxyActivities, setCurrentDetails, upsertSearchAttributes } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { AuditActivities, AuditInput, AuditSummary } from '../src/contracts/audit.ts';
import { spreadFindings } from '../src/contracts/audit.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';

const { auditConservation } = proxyActivities<AuditActivities>({
  startToCloseTimeout: '12 hours',
  heartbeatTimeout: '60 seconds',
  retry: { initialInterval: '1 second', backoffCoefficient: 2, maximumInterval: '1 minute', maximumAttempts: 20 },
});

const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);
const rowsKey = defineSearchAttributeKey(searchAttributes.rows.name, searchAttributes.rows.type);

/**
 * Checks the promises on the data. It completes whether they hold or not, since the audit did its work: `ok` and the state
 * attribute (`audited`, `findings`) tell. All findings are in the table `audit_findings`.
 */
export async function auditWorkflow(input: AuditInput): Promise<AuditSummary> {
  const scope = `${input.sources?.join(', ') ?? 'all sources'}${input.range ? `, ${Object.keys(input.range).length} ranges` : ''}${input.keysOnly ? ', key columns only' : ''}`;
  setCurrentDetails(`Auditing ${scope}. Progress is in the activity's heartbeat.`);
  const summary = await auditConservation(input);
  setCurrentDetails(auditDetails(scope, summary));
  upsertSearchAttributes([
    { key: stateKey, value: summary.ok ? 'audited' : 'findings' },
    { key: rowsKey, value: summary.sources.reduce((sum, { bronzeRows }) => sum + bronzeRows, 0) },
  ]);
  return summary;
}

const findingsShown = 20;
const number = (value: number | string): string => String(value).replace(/\B(?=(\d{3})+(?!\d))/g, ',');

/** Markdown for the Temporal Web UI. */
const auditDetails = (scope: string, { auditId, ok, durationMs, sources, gold, findingsTotal, findings }: AuditSummary): string => {
  const lines = [
    `Audited ${scope} in ${(durationMs / 1000).toFixed(1)} s: ${ok ? '**every promise holds**' : `**${number(findingsTotal)} findings**, audit id ${auditId}`}.`, '',
    '| source | Bronze | Silver | DLQ | open in DLQ | not yet refined | gaps | Kafka lag |', '| --- | --- | --- | --- | --- | --- | --- | --- |',
    ...sources.map((source) => `| ${source.source} | ${number(source.bronzeRows)} | ${number(source.silverRows)} | ${number(source.dlqRows)} | ${number(source.dlqOpenRows)} | ${number(source.unrefinedRows)} | ${number(source.gapOffsets)} | ${source.kafkaLag === null ? '–' : number(source.kafkaLag)} |`),
    '', ...gold.map(({ table, rows, duplicates, unmergedRows }) => `${table}: ${number(rows)} rows, ${number(duplicates)} duplicates removed, ${number(unmergedRows)} rows wait for the merge.`),
  ];
  for (const { promise, subject, topic, partition, startOffset, endOffset, detail } of spreadFindings(findings, findingsShown)) {
    lines.push(`- **${promise}** ${subject} ${topic === null ? '' : `${topic}/${partition}`} ${startOffset === null ? '' : `[${startOffset}, ${endOffset})`}: ${detail}`);
  }
  if (findingsTotal > findingsShown) lines.push(`- … ${number(findingsTotal - findingsShown)} more`);
  return lines.join('\n');
};
