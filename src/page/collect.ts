import type { Client, WorkflowExecutionInfo } from '@temporalio/client';
import { lastAuditOf } from '../audit/last-audit.ts';
import { auditWorkflowType } from '../contracts/audit.ts';
import { microBatchWorkflowId } from '../contracts/micro-batch.ts';
import { stateQuery, streamWorkflowId } from '../contracts/stream.ts';
import type { StreamState } from '../contracts/stream.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { auditFindingsTable } from '../datasets/engine-tables.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { readRows } from '../dlq/read-rows.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog } from '../lake/table.ts';
import { sampleValue } from './exposition.ts';
import { SourceHistory, historyJson } from './history.ts';
import { attentionOf } from './snapshot.ts';
import type { AuditView, BatchView, DlqReasonView, PageHistory, PageSnapshot, ProcessView, ReprocessView, SourceView } from './snapshot.ts';

export interface CollectDeps {
  client: Pick<Client, 'workflow'>;
  /** Gives each call of the client a deadline of its own: one that hangs must not use up the others' time. */
  bounded: <T>(call: () => Promise<T>) => Promise<T>;
  catalog: Pick<Catalog, 'load'>;
  store: ObjectStore;
  pipeline: Pipeline;
  namespace: string;
  topicPrefix: string;
  hasControls: boolean;
  /** Half-open offsets at the broker by topic partition. */
  offsetBounds: (topics: readonly string[]) => Promise<Record<string, { low: bigint; high: bigint }>>;
  workflowUrl: (workflowId: string) => string | null;
  webUiUrl: string | null;
  /** Pages of the other processes' metrics: name → the text. Their own first. */
  processes: readonly { name: string; load: (signal: AbortSignal) => Promise<string> }[];
  signal: AbortSignal;
  now?: () => number;
}

const topicPartitionsShown = 64;
const batchesKept = 60;
const reprocessesShown = 20;
const reasonFilesAtOnce = 200;
const freshnessWindowMs = 5 * 60_000;
const rateWindowMs = 60_000;
/** The broker is asked, and the lists of Workflows read, this often: each costs connections or a search. */
const slowEveryMs = 6_000;
const processTimeoutMs = 2_000;
/** A query that fails once is no news: a busy Temporal Worker answers the next one. */
const silenceMaxMs = 60_000;

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error)).split('\n')[0]!.slice(0, 200);

/** Remembers the answer of a load for a while; while a newer one cannot be had, the last one stays, and the problem is said. */
class SlowValue<T> {
  private value: T;
  private readMs = Number.NEGATIVE_INFINITY;
  private readonly load: () => Promise<T>;
  problem: string | null = null;

  constructor(first: T, load: () => Promise<T>) {
    this.value = first;
    this.load = load;
  }

  async read(nowMs: number): Promise<T> {
    if (nowMs - this.readMs >= slowEveryMs) {
      this.readMs = nowMs;
      try {
        this.value = await this.load();
        this.problem = null;
      } catch (error) {
        this.problem = messageOf(error);
      }
    }
    return this.value;
  }
}

export interface Collector {
  /** One look at everything. What cannot be read is said in the snapshot; it does not throw. */
  look(): Promise<PageSnapshot>;
  history(): PageHistory;
}

interface ReprocessState {
  source?: string;
  phase?: string;
  paused?: boolean;
  rowsTotal?: number;
  rowsRefined?: number;
}

/** Reads what the page shows. It keeps an hour of curves, the last micro-batches, and the DLQ's counts by file. */
export const createCollector = (deps: CollectDeps): Collector => {
  const { client, catalog, store, pipeline, workflowUrl, signal, now = Date.now } = deps;
  const histories = new Map(pipeline.datasets.map(({ source }) => [source, new SourceHistory()]));
  const batches = new Map<string, BatchView>();
  /** DLQ files never change: each is read once. */
  const reasonsOfFile = new Map<string, DlqReasonView[]>();
  const problems: string[] = [];
  const topics = pipeline.datasets.map(({ topic }) => `${deps.topicPrefix}${topic}`);

  const answers = new Map<string, { state: StreamState; atMs: number }>();
  const stateOf = async (source: string, nowMs: number): Promise<{ state: StreamState | null; isNew: boolean; problem: string | null }> => {
    try {
      const state = await deps.bounded(() => client.workflow.getHandle(streamWorkflowId(source)).query<StreamState>(stateQuery));
      answers.set(source, { state, atMs: nowMs });
      return { state, isNew: true, problem: null };
    } catch (error) {
      const last = answers.get(source);
      const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
      return { state: last && nowMs - last.atMs < silenceMaxMs ? last.state : null, isNew: false, problem: messageOf(cause) };
    }
  };

  const rowsOf = async (name: string): Promise<number> => Number((await catalog.load(name)).currentSnapshot?.summary['total-records'] ?? 0);

  const noteBatches = (source: string, state: StreamState): void => {
    const note = (view: Omit<BatchView, 'source' | 'url'>): void => {
      const workflowId = microBatchWorkflowId(source, view.batch);
      batches.delete(workflowId);
      batches.set(workflowId, { source, ...view, url: workflowUrl(workflowId) });
    };
    const empty = { silverRows: 0, dlqRows: 0, goldRows: 0, duplicates: 0, cause: null };
    for (const { batch, records, startedAtMs } of state.running) note({ ...empty, batch, state: 'running', startedAtMs, durationMs: null, records });
    for (const { batch, records, cause, failedAtMs } of state.failed) note({ ...empty, batch, state: 'failed', startedAtMs: batches.get(microBatchWorkflowId(source, batch))?.startedAtMs ?? failedAtMs, durationMs: 0, records, cause });
    for (const one of state.recent) {
      note({ batch: one.batch, state: 'done', startedAtMs: one.startedAtMs, durationMs: one.durationMs, records: one.bronzeRows, silverRows: one.silverRows, dlqRows: one.dlqRows, goldRows: one.goldRows, duplicates: one.duplicates, cause: null });
    }
    // What no list names any more has ended: failed ones were retried under another number, running ones left the list of recent ones.
    const listed = new Set([...state.running, ...state.failed, ...state.recent].map(({ batch }) => microBatchWorkflowId(source, batch)));
    for (const [id, one] of batches) if (one.source === source && one.state !== 'done' && !listed.has(id)) batches.delete(id);
  };

  const sourceView = async (dataset: Dataset, nowMs: number, bounds: Record<string, { low: bigint; high: bigint }> | null, dlqRows: Map<string, number>): Promise<SourceView> => {
    const { source } = dataset;
    const [{ state, isNew, problem }, bronze, silver] = await Promise.all([stateOf(source, nowMs), catalog.load(dataset.bronze.name), rowsOf(dataset.silver.name)]);
    const topic = `${deps.topicPrefix}${dataset.topic}`;
    const ofBroker = Object.entries(bounds ?? {}).filter(([key]) => key.slice(0, key.lastIndexOf('/')) === topic);
    const lags = new Map(ofBroker.map(([key, { low, high }]) => {
      const next = state?.topicPartitions[key]?.nextOffset ?? bronze.coverage.of(key).intervals.at(-1)?.end ?? low;
      return [key, Math.max(0, Number(high - (BigInt(next) > low ? BigInt(next) : low)))] as const;
    }));
    const lagRecords = bounds === null ? null : [...lags.values()].reduce((sum, lag) => sum + lag, 0);
    const history = histories.get(source)!;
    const sample = state && { atMs: nowMs, lagRecords, refinedRows: state.totals.refinedRows, freshness: state.totals.freshness };
    if (sample && isNew) history.add(sample);
    if (state && isNew) noteBatches(source, state);
    const recent = sample ? history.over(freshnessWindowMs, sample) : null;
    const names = [...new Set([...Object.keys(state?.topicPartitions ?? {}), ...lags.keys()])].sort();
    return {
      source, phase: state?.phase ?? null, problem: state ? null : problem, url: workflowUrl(streamWorkflowId(source)), lagRecords,
      freshnessMs: { p50: recent?.freshnessP50Ms ?? null, p99: recent?.freshnessP99Ms ?? null },
      rowsPerSecond: sample ? history.over(rateWindowMs, sample).rowsPerSecond : 0,
      rows: { bronze: Number(bronze.currentSnapshot?.summary['total-records'] ?? 0), silver, dlq: dlqRows.get(source) ?? 0 },
      duplicates: state?.totals.duplicates ?? 0,
      openRecords: state?.openRecords ?? 0,
      pendingFiles: state?.pendingFilesTotal ?? 0,
      batchLimit: state?.batchLimit ? { recordsMax: state.batchLimit.recordsMax, reason: state.batchLimit.reason } : null,
      topicPartitions: names.slice(0, topicPartitionsShown).map((name) => {
        const known = state?.topicPartitions[name];
        return { name, nextOffset: known?.nextOffset ?? null, lagRecords: lags.get(name) ?? null, owner: known?.owner ?? null, pendingFiles: known?.pendingFiles ?? 0, halted: known?.halted ?? null };
      }),
      topicPartitionsTotal: Math.max(names.length, state?.topicPartitionsTotal ?? 0),
      gaps: state?.gaps ?? [],
    };
  };

  /** Counts by deciding reason; a look reads at most so many files that are new to it, the newest first. */
  const loadDlq = async (): Promise<{ bySource: Map<string, number>; dlq: PageSnapshot['dlq'] }> => {
    const files = (await (await catalog.load(pipeline.dlqTable)).scan()).reverse();
    const live = new Set(files.map(({ filePath }) => filePath));
    for (const path of reasonsOfFile.keys()) if (!live.has(path)) reasonsOfFile.delete(path);
    const missing = files.filter(({ filePath }) => !reasonsOfFile.has(filePath)).slice(0, reasonFilesAtOnce);
    for await (const { file, batch } of readRows(store, missing, ['error_reason'], signal)) {
      const counts = new Map<string, number>();
      for (let row = 0; row < batch.rowCount; row += 1) {
        const reason = String(batch.columns['error_reason']![row]).split(',')[0]!.trim();
        counts.set(reason, (counts.get(reason) ?? 0) + 1);
      }
      const { bronze_source: source, error_type: errorType } = file.partition;
      reasonsOfFile.set(file.filePath, [...counts].map(([reason, rows]) => ({ source: String(source), errorType: String(errorType), reason, rows })));
    }
    const bySource = new Map<string, number>();
    const reasons = new Map<string, DlqReasonView>();
    let unread = 0;
    for (const { filePath, partition, recordCount } of files) {
      const source = String(partition['bronze_source']);
      bySource.set(source, (bySource.get(source) ?? 0) + recordCount);
      const known = reasonsOfFile.get(filePath);
      if (!known) unread += recordCount;
      for (const one of known ?? []) {
        const id = `${one.source} ${one.errorType} ${one.reason}`;
        const sum = reasons.get(id);
        if (sum) sum.rows += one.rows;
        else reasons.set(id, { ...one });
      }
    }
    return { bySource, dlq: { reasons: [...reasons.values()].sort((a, b) => b.rows - a.rows), unread } };
  };

  const listed = (query: string, max: number): Promise<WorkflowExecutionInfo[]> => deps.bounded(async () => {
    const found: WorkflowExecutionInfo[] = [];
    for await (const one of client.workflow.list({ query, pageSize: max })) {
      found.push(one);
      if (found.length >= max) break;
    }
    return found;
  });

  const loadReprocesses = async (): Promise<ReprocessView[]> => {
    const running = await listed(`(WorkflowType = 'backfillWorkflow' OR WorkflowType = 'dlqReplayWorkflow') AND ExecutionStatus = 'Running'`, reprocessesShown);
    return Promise.all(running.map(async ({ workflowId, runId, type, startTime }): Promise<ReprocessView> => {
      const view = { kind: type === 'backfillWorkflow' ? 'backfill' as const : 'DLQ replay' as const, workflowId, startedAtMs: startTime.getTime(), url: workflowUrl(workflowId) };
      try {
        const state = await deps.bounded(() => client.workflow.getHandle(workflowId, runId).query<ReprocessState>('progress'));
        return {
          ...view, source: state.source ?? null, phase: state.phase ?? 'running', isPaused: state.paused === true || state.phase === 'paused',
          rowsTotal: state.rowsTotal ?? 0, rowsDone: state.rowsRefined ?? 0, problem: null,
        };
      } catch (error) {
        return { ...view, source: null, phase: 'running', isPaused: false, rowsTotal: 0, rowsDone: 0, problem: `its progress could not be asked: ${messageOf(error)}` };
      }
    }));
  };

  /** What the last audit came to is in its table, whoever ran it; that one runs, or failed since, only Temporal knows. */
  const loadAudit = async (): Promise<AuditView | null> => {
    const [{ properties }, [run]] = await Promise.all([catalog.load(auditFindingsTable.name), listed(`WorkflowType = '${auditWorkflowType}'`, 1)]);
    const last = lastAuditOf(properties);
    const ofRun = run && { findings: 0, promises: [], url: workflowUrl(run.workflowId) };
    const isOver = run?.status.name === 'COMPLETED';
    if (run && ofRun && run.status.name === 'RUNNING') return { ...ofRun, state: 'running', atMs: run.startTime.getTime() };
    if (run?.closeTime && ofRun && !isOver && run.closeTime.getTime() > (last?.endedAtMs ?? 0)) return { ...ofRun, state: 'failed', atMs: run.closeTime.getTime() };
    if (last === null) return null;
    const promises = Object.keys(last.findingsByPromise);
    return {
      state: promises.length === 0 ? 'clean' : 'findings', atMs: last.endedAtMs, promises,
      findings: Object.values(last.findingsByPromise).reduce((sum, findings) => sum + findings, 0),
      url: isOver && run.startTime.getTime() <= last.endedAtMs && last.endedAtMs <= (run.closeTime?.getTime() ?? 0) ? workflowUrl(run.workflowId) : null,
    };
  };

  const processView = async ({ name, load }: CollectDeps['processes'][number]): Promise<ProcessView> => {
    try {
      const text = await load(AbortSignal.any([signal, AbortSignal.timeout(processTimeoutMs)]));
      return {
        name, rssBytes: sampleValue(text, 'process_resident_memory_bytes'), bufferBytes: sampleValue(text, 'buffer_bytes'),
        bufferBudgetBytes: sampleValue(text, 'buffer_budget_bytes'), problem: null,
      };
    } catch (error) {
      return { name, rssBytes: null, bufferBytes: null, bufferBudgetBytes: null, problem: messageOf(error) };
    }
  };

  const slow = {
    'the broker': new SlowValue<Record<string, { low: bigint; high: bigint }> | null>(null, () => deps.offsetBounds(topics)),
    'the DLQ': new SlowValue<Awaited<ReturnType<typeof loadDlq>>>({ bySource: new Map(), dlq: { reasons: [], unread: 0 } }, loadDlq),
    'the list of backfills and DLQ replays': new SlowValue<ReprocessView[]>([], loadReprocesses),
    'the last audit': new SlowValue<AuditView | null>(null, loadAudit),
  };

  return {
    history: () => historyJson(histories),
    look: async () => {
      const nowMs = now();
      problems.length = 0;
      const [bounds, { bySource, dlq }, reprocesses, audit, processes] = await Promise.all([
        slow['the broker'].read(nowMs), slow['the DLQ'].read(nowMs), slow['the list of backfills and DLQ replays'].read(nowMs), slow['the last audit'].read(nowMs),
        Promise.all(deps.processes.map(processView)),
      ]);
      for (const [what, { problem }] of Object.entries(slow)) if (problem !== null) problems.push(`${what} could not be read: ${problem}`);
      const gold = new Map<string, number>();
      const views = await Promise.all(pipeline.datasets.map(async (dataset) => {
        try {
          const view = await sourceView(dataset, nowMs, slow['the broker'].problem === null ? bounds : null, bySource);
          gold.set(dataset.gold.name, await rowsOf(dataset.gold.name));
          return view;
        } catch (error) {
          problems.push(`the tables of ${dataset.source} could not be read: ${messageOf(error)}`);
          return null;
        }
      }));
      const sources = views.filter((view) => view !== null);
      while (batches.size > batchesKept) batches.delete(batches.keys().next().value!);
      const snapshot: Omit<PageSnapshot, 'attention'> = {
        atMs: nowMs, namespace: deps.namespace, webUiUrl: deps.webUiUrl, hasControls: deps.hasControls, sources,
        gold: [...gold].map(([table, rows]) => ({ table, rows })),
        batches: [...batches.values()].sort((a, b) => b.startedAtMs - a.startedAtMs || b.batch - a.batch),
        dlq, reprocesses, processes, audit, problems: [...problems],
      };
      return { ...snapshot, attention: attentionOf(snapshot) };
    },
  };
};
