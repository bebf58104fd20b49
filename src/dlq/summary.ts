import type { DlqState } from '../contracts/dlq-replay.ts';
import { dlqStates } from '../contracts/dlq-replay.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog } from '../lake/table.ts';
import { DlqSelector } from './selection.ts';
import { loadLastResolutions } from './resolutions.ts';
import { selectRows } from './select-rows.ts';

export interface DlqLakeDeps {
  store: ObjectStore;
  catalog: Pick<Catalog, 'load'>;
  pipeline: Pipeline;
  signal?: AbortSignal;
}

/** Counts of DLQ rows; `open` are those that wait for somebody. */
export interface DlqGroup {
  source: string;
  rows: number;
  open: number;
}
export interface DlqSummary {
  rows: number;
  byState: Record<DlqState, number>;
  /** Recovered rows of all, in percent; null without rows. */
  recoveredPercent: number | null;
  byType: (DlqGroup & { errorType: string })[];
  /** By the deciding reason, the most frequent first. */
  byReason: (DlqGroup & { errorType: string; reason: string })[];
  /** UTC day of the Kafka timestamp, ascending. */
  byDay: (DlqGroup & { day: string })[];
  /** Rows refused in each of the last 24 hours, the oldest first: by the time of refusing. */
  hourly: { hour: string; rows: number }[];
}

const hourMs = 3_600_000;
const hoursShown = 24;
const dayText = (days: number): string => new Date(days * 86_400_000).toISOString().slice(0, 10);

const append = <Group extends DlqGroup>(groups: Map<string, Group>, key: string, create: () => Group, isOpen: boolean): void => {
  let group = groups.get(key);
  if (!group) groups.set(key, group = create());
  group.rows += 1;
  if (isOpen) group.open += 1;
};
const byRows = <Group extends DlqGroup>(groups: Map<string, Group>): Group[] => [...groups.values()].sort((a, b) => b.rows - a.rows);

/** The DLQ by type, reason, source and day, with the state of its rows. Reads a few narrow columns of every row. */
export const summarizeDlq = async (
  { store, catalog, pipeline, signal }: DlqLakeDeps, { sources, from, until, nowMs }: { sources: readonly string[]; from?: string; until?: string; nowMs: number },
): Promise<DlqSummary> => {
  const byState: Record<DlqState, number> = { open: 0, recovered: 0, purged: 0, flagged: 0, quarantined: 0 };
  const byType = new Map<string, DlqSummary['byType'][number]>();
  const byReason = new Map<string, DlqSummary['byReason'][number]>();
  const byDay = new Map<string, DlqSummary['byDay'][number]>();
  const thisHour = Math.floor(nowMs / hourMs);
  const hours = Array.from({ length: hoursShown }, () => 0);
  let rows = 0;
  const version = await catalog.load(pipeline.dlqTable);
  for (const source of sources) {
    const last = await loadLastResolutions({ store, catalog, ...(signal ? { signal } : {}) }, source);
    const selector = new DlqSelector({ source, states: [...dlqStates], ...(from === undefined ? {} : { from }), ...(until === undefined ? {} : { until }) });
    for await (const { batch, rows: selected } of selectRows({ store, version, selector, last, columns: ['error_timestamp', 'dlq_date'], ...(signal ? { signal } : {}) })) {
      for (const { row, state } of selected) {
        rows += 1;
        byState[state] += 1;
        const isOpen = state === 'open';
        const errorType = batch.columns['error_type']![row] as string;
        const reason = (batch.columns['error_reason']![row] as string).split(',')[0]!;
        const day = dayText(batch.columns['dlq_date']![row] as number);
        append(byType, `${source} ${errorType}`, () => ({ source, errorType, rows: 0, open: 0 }), isOpen);
        append(byReason, `${source} ${errorType} ${reason}`, () => ({ source, errorType, reason, rows: 0, open: 0 }), isOpen);
        append(byDay, `${source} ${day}`, () => ({ source, day, rows: 0, open: 0 }), isOpen);
        const age = thisHour - Math.floor(Number(batch.columns['error_timestamp']![row] as bigint) / 1_000 / hourMs);
        if (age >= 0 && age < hoursShown) hours[hoursShown - 1 - age]! += 1;
      }
    }
  }
  return {
    rows, byState, recoveredPercent: rows === 0 ? null : (100 * byState.recovered) / rows,
    byType: byRows(byType), byReason: byRows(byReason), byDay: [...byDay.values()].sort((a, b) => (a.day === b.day ? (a.source < b.source ? -1 : 1) : a.day < b.day ? -1 : 1)),
    hourly: hours.map((count, i) => ({ hour: new Date((thisHour - hoursShown + 1 + i) * hourMs).toISOString(), rows: count })),
  };
};

export interface DlqEntry {
  topic: string;
  partition: number;
  offset: number;
  source: string;
  state: DlqState;
  errorType: string;
  /** Comma separated, the deciding one first. */
  reason: string;
  detail: string | null;
  schemaId: number | null;
  ruleVersion: string;
  /** ISO 8601. */
  kafkaTimestamp: string;
  errorTimestamp: string;
  attempts: number;
}

const timeText = (micros: bigint): string => new Date(Number(micros) / 1_000).toISOString();

/** Rows that fit, the first ones up to a limit. */
export const listDlq = async ({ store, catalog, pipeline, signal }: DlqLakeDeps, selector: DlqSelector, limit: number): Promise<{ entries: DlqEntry[]; more: boolean }> => {
  const last = await loadLastResolutions({ store, catalog, ...(signal ? { signal } : {}) }, selector.source);
  const version = await catalog.load(pipeline.dlqTable);
  const entries: DlqEntry[] = [];
  for await (const { batch: { columns }, rows } of selectRows({ store, version, selector, last, columns: ['error_detail', 'error_timestamp', 'rule_version'], ...(signal ? { signal } : {}) })) {
    for (const { row, topic, partition, offset, state, last: resolution } of rows) {
      if (entries.length === limit) return { entries, more: true };
      entries.push({
        topic, partition, offset, source: selector.source, state,
        errorType: columns['error_type']![row] as string, reason: columns['error_reason']![row] as string, detail: columns['error_detail']![row] as string | null,
        schemaId: columns['schema_id']![row] as number | null, ruleVersion: columns['rule_version']![row] as string,
        kafkaTimestamp: timeText(columns['kafka_timestamp']![row] as bigint), errorTimestamp: timeText(columns['error_timestamp']![row] as bigint), attempts: resolution?.attempt ?? 0,
      });
    }
  }
  return { entries, more: false };
};
