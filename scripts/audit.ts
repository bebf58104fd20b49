#!/usr/bin/env node
import '../src/config/require-node.ts';
import { memoryBudgetBytesDefault } from '../src/audit/limits.ts';
import { runAudit } from '../src/audit/run-audit.ts';
import { environmentHelp, loadConfig } from '../src/config/config.ts';
import { auditPromises, auditWorkflowId, auditWorkflowType, spreadFindings } from '../src/contracts/audit.ts';
import type { AuditInput, AuditPromise, AuditReport, AuditSummary } from '../src/contracts/audit.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { ProgressLine, command, exitFailed, exitOk, fileSize, milliseconds, runCommand, stopSignal, table, thousands, wholeNumber } from './cli.ts';
import { loadPipeline } from './wire/pipeline.ts';

interface Options {
  source?: string[];
  range?: string[];
  keysOnly?: boolean;
  kafka: boolean;
  record: boolean;
  memory: number;
  workflow?: boolean;
  json?: boolean;
}

const MiB = 1024 * 1024;
const findingsShown = 50;
const collect = (value: string, values: string[] = []): string[] => [...values, value];

const program = command('audit', 'Check the promises on the data: every offset from Kafka over Bronze, Silver and the DLQ to Gold, every key of Gold, and every file.\nTrusts neither the ledger nor what the tables say they cover; changes nothing but audit_findings.')
  .option('--source <name>', 'Only this source; repeatable. Gold tables that it feeds are audited whole', collect)
  .option('--range <offsets>', 'Only these offsets: <topic>/<partition>:<start>-<end>[,...], or <start>-<end>[,...] of every topic partition; repeatable', collect)
  .option('--keys-only', 'Decode the key columns only, and compare no checksums: faster, and blind to damage elsewhere')
  .option('--no-kafka', 'Leave the broker out')
  .option('--no-record', 'Do not append the findings to audit_findings, nor note there that it was audited')
  .option('--memory <MB>', 'Budget of bits and keys; what does not fit takes more passes', wholeNumber(1), memoryBudgetBytesDefault / MiB)
  .option('--workflow', `Run as the Workflow ${auditWorkflowId} on a Temporal Worker, visible in the Web UI`)
  .option('--json', 'Print one JSON object on stdout')
  .addHelpText('after', `\nExit code: 0 if every promise holds, 1 with findings, 2 for a bad command line.\n\n${environmentHelp()}`);

const offsetsOf = (startOffset: string | null, endOffset: string | null): string => (startOffset === null ? '–' : `[${thousands(BigInt(startOffset))}, ${thousands(BigInt(endOffset ?? startOffset))})`);

const printFigures = ({ sources, gold }: Pick<AuditSummary, 'sources' | 'gold'>): void => {
  process.stdout.write(`${table(['source', 'Bronze', 'Silver', 'DLQ', 'open in DLQ', 'not yet refined', 'sparse', 'gaps', 'Kafka lag'], sources.map((one) => [
    one.source, one.bronzeRows, one.silverRows, one.dlqRows, one.dlqOpenRows, one.unrefinedRows, BigInt(one.sparseOffsets), BigInt(one.gapOffsets), one.kafkaLag === null ? null : BigInt(one.kafkaLag),
  ]))}\n\n`);
  process.stdout.write(`${table(['Gold table', 'rows', 'Silver rows merged', 'duplicates removed', 'not yet merged'], gold.map((one) => [one.table, one.rows, one.silverRows, one.duplicates, one.unmergedRows]))}\n\n`);
};

const printFindings = ({ ok, findings, findingsTotal, findingsByPromise, durationMs }: Pick<AuditSummary, 'ok' | 'findings' | 'findingsTotal' | 'findingsByPromise' | 'durationMs'>): void => {
  if (ok) {
    process.stdout.write(`Every promise holds (${milliseconds(durationMs)}).\n`);
    return;
  }
  for (const [promise, { findings: count, offsets }] of Object.entries(findingsByPromise)) {
    process.stdout.write(`${promise}: ${thousands(count)} findings, ${thousands(BigInt(offsets))} offsets. ${auditPromises[promise as AuditPromise]}.\n`);
  }
  process.stdout.write(`\n${table(['promise', 'subject', 'topic partition', 'offsets', 'expected and found'], spreadFindings(findings, findingsShown).map((one) => [
    one.promise, one.subject, one.topic === null ? null : `${one.topic}/${one.partition ?? '*'}`, offsetsOf(one.startOffset, one.endOffset), one.detail,
  ]))}\n\n`);
  if (findingsTotal > findingsShown) process.stdout.write(`… ${thousands(findingsTotal - findingsShown)} more\n`);
  process.stdout.write(`${thousands(findingsTotal)} findings (${milliseconds(durationMs)}).\n`);
};

const printTables = ({ tables }: AuditReport): void => {
  process.stdout.write(`${table(['table', 'files', 'rows', 'size', 'files with checksum', 'unreferenced files'], tables.map((one) => [
    one.table, one.files, one.rows, fileSize(one.bytes), one.checksummedFiles, one.unreferenced.files,
  ]))}\n\n`);
};

await runCommand<Options>(program, async (options) => {
  const config = loadConfig();
  const pipeline = await loadPipeline(config);
  const signal = stopSignal();
  for (const source of options.source ?? []) {
    if (!pipeline.datasets.some((dataset) => dataset.source === source)) {
      throw new TidemarkError('BAD_INPUT', `--source: expected one of ${pipeline.datasets.map((dataset) => dataset.source).join(', ')}, found ${source}`);
    }
  }
  let input: AuditInput = { ...(options.source ? { sources: options.source } : {}), ...(options.keysOnly ? { keysOnly: true } : {}) };
  // What not every audit needs is loaded where it is needed: the S3 client and Temporal's take 40 MB each, and the audit's thread has its own.
  if (options.range) {
    const [{ parseRanges }, { openLakeReadOnly }] = await Promise.all([import('./wire/audit.ts'), import('./wire/lake.ts')]);
    const { catalog, store } = openLakeReadOnly(config, pipeline);
    input = { ...input, range: (await parseRanges(options.range, catalog, pipeline, options.source)).toJson() };
    store.close();
  }

  if (options.workflow) {
    const [{ Client }, { connectTemporal }] = await Promise.all([import('@temporalio/client'), import('./wire/temporal.ts')]);
    const connection = await connectTemporal(config);
    try {
      const temporal = new Client({ connection, namespace: config.temporal.namespace });
      const handle = await temporal.workflow.start(auditWorkflowType, {
        workflowId: auditWorkflowId, taskQueue: config.temporal.taskQueue, args: [input], workflowIdConflictPolicy: 'FAIL',
        staticSummary: `Audit of ${options.source?.join(', ') ?? 'all sources'}`,
      });
      process.stderr.write(`audit: Workflow ${handle.workflowId} started${config.temporal.uiUrl ? `, Web UI ${config.temporal.uiUrl}` : ''}\n`);
      const summary = await temporal.withAbortSignal(signal, () => handle.result() as Promise<AuditSummary>);
      if (options.json) process.stdout.write(`${JSON.stringify(summary)}\n`);
      else {
        printFigures(summary);
        printFindings(summary);
      }
      return summary.ok ? exitOk : exitFailed;
    } finally {
      await connection.close();
    }
  }

  const progress = new ProgressLine();
  const report = await runAudit(config, {
    ...input, memoryBudgetBytes: options.memory * MiB, withoutKafka: !options.kafka, withoutRecord: !options.record,
  }, {
    signal,
    onProgress: ({ phase, subject, files, rows }) => progress.show(`Auditing ${phase}: ${subject} · ${thousands(files)} files, ${thousands(rows)} rows`),
  });
  progress.done(`Audited ${thousands(report.tables.reduce((sum, { files }) => sum + files, 0))} files in ${milliseconds(report.durationMs)}.`);
  if (options.json) {
    const { maxRSS, userCPUTime, systemCPUTime } = process.resourceUsage();
    process.stdout.write(`${JSON.stringify({ ...report, maxRssBytes: maxRSS * 1024, cpuSeconds: (userCPUTime + systemCPUTime) / 1e6 })}\n`);
  } else {
    printFigures(report);
    printTables(report);
    printFindings(report);
  }
  return report.ok ? exitOk : exitFailed;
});
