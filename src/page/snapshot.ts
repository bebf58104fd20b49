import type { StreamState } from '../contracts/stream.ts';

// What the operator's page shows, as plain JSON: made by collect.ts, drawn by client/page.js. Times are ms since the epoch.

export interface SourceView {
  source: string;
  /** Null: its stream Workflow does not answer; `problem` says why. */
  phase: StreamState['phase'] | null;
  problem: string | null;
  url: string | null;
  /** Records at the broker that Bronze has not got; null while the broker is not reached. */
  lagRecords: number | null;
  /** Kafka to Gold over the last minutes; null without a record in that time. */
  freshnessMs: { p50: number | null; p99: number | null };
  /** Records that reached Gold, a second, over the last minute. */
  rowsPerSecond: number;
  rows: { bronze: number; silver: number; dlq: number };
  /** Since the ledger began. */
  duplicates: number;
  openRecords: number;
  pendingFiles: number;
  batchLimit: { recordsMax: number; reason: string } | null;
  topicPartitions: { name: string; nextOffset: string | null; lagRecords: number | null; owner: string | null; pendingFiles: number; halted: string | null }[];
  /** Of more topic partitions than are listed. */
  topicPartitionsTotal: number;
  gaps: { topicPartition: string; startOffset: string; endOffset: string; detectedAtMs: number }[];
}

export interface BatchView {
  source: string;
  batch: number;
  state: 'running' | 'done' | 'failed';
  startedAtMs: number;
  /** Null while it runs. */
  durationMs: number | null;
  records: number;
  silverRows: number;
  dlqRows: number;
  goldRows: number;
  duplicates: number;
  cause: string | null;
  url: string | null;
}

export interface DlqReasonView {
  source: string;
  errorType: string;
  /** The deciding one. */
  reason: string;
  rows: number;
}

export interface ReprocessView {
  kind: 'backfill' | 'DLQ replay';
  workflowId: string;
  source: string | null;
  phase: string;
  isPaused: boolean;
  rowsTotal: number;
  rowsDone: number;
  startedAtMs: number;
  /** Why its progress could not be asked. */
  problem: string | null;
  url: string | null;
}

export interface ProcessView {
  name: string;
  rssBytes: number | null;
  /** Of a streaming worker. */
  bufferBytes: number | null;
  bufferBudgetBytes: number | null;
  problem: string | null;
}

export interface AuditView {
  state: 'running' | 'clean' | 'findings' | 'failed';
  atMs: number;
  findings: number;
  promises: string[];
  /** Null where it was no Workflow, or not the last one. */
  url: string | null;
}

/** What somebody should look at now, the worst first. */
export interface Attention {
  level: 'critical' | 'warning';
  text: string;
  /** What to run. */
  command: string | null;
  url: string | null;
}

export interface PageSnapshot {
  atMs: number;
  namespace: string;
  /** The Web UI's list of Workflows; null without TEMPORAL_UI_URL. */
  webUiUrl: string | null;
  /** Streams may be paused and resumed here, with the token. */
  hasControls: boolean;
  attention: Attention[];
  sources: SourceView[];
  gold: { table: string; rows: number }[];
  batches: BatchView[];
  dlq: { reasons: DlqReasonView[]; /** Rows whose reason was not read yet. */ unread: number };
  reprocesses: ReprocessView[];
  processes: ProcessView[];
  /** Null: never audited. */
  audit: AuditView | null;
  /** Parts that could not be read just now. */
  problems: string[];
}

/** One point of a source's curves. Null where nothing is known. */
export interface HistoryPoint {
  atMs: number;
  lagRecords: number | null;
  freshnessP50Ms: number | null;
  freshnessP99Ms: number | null;
  rowsPerSecond: number;
}
export interface PageHistory {
  stepMs: number;
  points: Record<string, HistoryPoint[]>;
}

/** Limits of the alerts, for the eye: shipped rules say the same to Prometheus. */
export const attentionLimits = { lagRecords: 500_000, bufferShare: 0.8, dlqWarning: 0.01, dlqCritical: 0.05, freshnessP99Ms: 60_000 } as const;

const count = (value: number): string => String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, ',');
const percent = (share: number): string => `${(share * 100).toFixed(1)} %`;

/** What a person should look at. Pure: the snapshot says all. */
export const attentionOf = (snapshot: Omit<PageSnapshot, 'attention'>): Attention[] => {
  const found: Attention[] = [];
  const add = (level: Attention['level'], text: string, command: string | null = null, url: string | null = null): void => void found.push({ level, text, command, url });
  for (const { source, phase, problem, url, topicPartitions, gaps, lagRecords, rows, freshnessMs } of snapshot.sources) {
    if (phase === null) add('critical', `${source}: its stream Workflow does not answer${problem === null ? '' : `: ${problem}`}`, 'npm run status', url);
    if (phase === 'paused') add('warning', `${source} is paused: no micro-batch starts`, null, url);
    for (const { name, halted } of topicPartitions) if (halted !== null) add('critical', `${source}: ${name} is halted: ${halted}`, `npm run status -- --source ${source}`, url);
    if (gaps.length > 0) {
      const lost = gaps.reduce((sum, { startOffset, endOffset }) => sum + Number(BigInt(endOffset) - BigInt(startOffset)), 0);
      add('critical', `${source}: ${count(lost)} records were gone from the broker before they were read`, `npm run status -- --source ${source}`, url);
    }
    if (lagRecords !== null && lagRecords > attentionLimits.lagRecords) add('warning', `${source} is ${count(lagRecords)} records behind the broker`, `npm run status -- --source ${source}`, url);
    if (freshnessMs.p99 !== null && freshnessMs.p99 > attentionLimits.freshnessP99Ms) add('warning', `${source}: Kafka to Gold takes ${count(freshnessMs.p99 / 1000)} s (p99)`, null, url);
    const share = rows.silver + rows.dlq === 0 ? 0 : rows.dlq / (rows.silver + rows.dlq);
    if (share > attentionLimits.dlqWarning) add(share > attentionLimits.dlqCritical ? 'critical' : 'warning', `${source}: ${percent(share)} of its records were refused`, `npm run status -- --source ${source}`, url);
  }
  for (const { state, source, batch, cause, records, url } of snapshot.batches) {
    if (state === 'failed') add('critical', `${source}: micro-batch ${batch} failed, ${count(records)} records wait${cause === null ? '' : `: ${cause}`}`, `npm run retry-batch -- --source ${source} --batch ${batch}`, url);
  }
  for (const { workflowId, problem, url } of snapshot.reprocesses) if (problem !== null) add('warning', `${workflowId}: ${problem}`, null, url);
  for (const { name, bufferBytes, bufferBudgetBytes, problem } of snapshot.processes) {
    if (problem !== null) add('critical', `${name} does not answer: ${problem}`);
    if (bufferBytes !== null && bufferBudgetBytes !== null && bufferBytes > attentionLimits.bufferShare * bufferBudgetBytes) {
      add('warning', `${name}: ${percent(bufferBytes / bufferBudgetBytes)} of its buffer budget is in use; at the budget it pauses reading`);
    }
  }
  const { audit } = snapshot;
  if (audit?.state === 'findings') add('critical', `The last audit has ${count(audit.findings)} findings: ${audit.promises.join(', ')}`, 'npm run audit', audit.url);
  if (audit?.state === 'failed') add('warning', 'The last audit failed', 'npm run audit', audit.url);
  for (const problem of snapshot.problems) add('warning', problem);
  return found.sort((a, b) => Number(b.level === 'critical') - Number(a.level === 'critical'));
};
