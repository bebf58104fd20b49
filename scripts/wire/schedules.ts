import { ScheduleNotFoundError, ScheduleOverlapPolicy } from '@temporalio/client';
import type { Client, ScheduleDescription, ScheduleOptions } from '@temporalio/client';
import { compactedTables } from '../../src/compaction/tables.ts';
import type { Config } from '../../src/config/config.ts';
import { auditWorkflowId, auditWorkflowType } from '../../src/contracts/audit.ts';
import { compactionWorkflowId, compactionWorkflowType } from '../../src/contracts/compaction.ts';
import { retentionSweepWorkflowId, retentionSweepWorkflowType } from '../../src/contracts/retention.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { pipelineTables } from '../../src/datasets/pipeline.ts';

/** One Schedule as the config wants it. Its Workflow ID is the Schedule's ID; Temporal adds the time. */
export interface WantedSchedule {
  scheduleId: string;
  workflowType: string;
  /** Plain JSON. */
  args: unknown[];
  taskQueue: string;
  everyMs: number;
  /** Into each interval, counted from the epoch: a day's interval with 3 h runs at 03:00 UTC. */
  offsetMs: number;
  summary: string;
}

/** In the memo of each Schedule of ours: which namespace's tables, and which task queue, it belongs to. */
export const scheduleOwnerMemo = 'tidemarkOwner';

const minuteMs = 60_000;
/** Runs that are missed for longer are not made up for: each one does all that is due. */
const catchupWindowMs = 10 * minuteMs;
/** Between the sweeps of two tables: they share the Temporal Workers. */
const staggerMs = 5 * minuteMs;
/** By night, UTC, and the audit after the sweeps. */
const retentionOffsetMs = 2 * 60 * minuteMs;
const auditOffsetMs = 4 * 60 * minuteMs;
/** Past each hour: the last one's files are quiet by then. */
const compactionOffsetMs = 35 * minuteMs;
/** Most tables have little to do. */
const compactionStaggerMs = minuteMs;

const within = (offsetMs: number, everyMs: number): number => offsetMs % everyMs;

/** Whose Schedules these are: two deployments in one Temporal namespace leave each other's alone. */
export const scheduleOwner = ({ temporal: { taskQueue } }: Pick<Config, 'temporal'>, { namespace }: Pick<Pipeline, 'namespace'>): string => `${namespace}@${taskQueue}`;

export const wantedSchedules = ({ schedules, temporal: { taskQueue } }: Pick<Config, 'schedules' | 'temporal'>, pipeline: Pipeline): WantedSchedule[] => {
  const wanted: WantedSchedule[] = [];
  const tables = pipelineTables(pipeline).map(({ name }) => name);
  const add = (minutes: number, offsetMs: number, schedule: Omit<WantedSchedule, 'taskQueue' | 'everyMs' | 'offsetMs'>): void => {
    if (minutes > 0) wanted.push({ ...schedule, taskQueue, everyMs: minutes * minuteMs, offsetMs: within(offsetMs, minutes * minuteMs) });
  };
  for (const [nth, table] of tables.entries()) {
    add(schedules.retentionMinutes, retentionOffsetMs + nth * staggerMs, {
      scheduleId: retentionSweepWorkflowId(table), workflowType: retentionSweepWorkflowType, args: [{ table }], summary: `Retention sweep of ${table}`,
    });
  }
  for (const [nth, table] of compactedTables(pipeline).map(({ definition }) => definition.name).entries()) {
    add(schedules.compactionMinutes, compactionOffsetMs + nth * compactionStaggerMs, {
      scheduleId: compactionWorkflowId(table), workflowType: compactionWorkflowType, args: [{ table }], summary: `Compaction of ${table}`,
    });
  }
  add(schedules.auditMinutes, auditOffsetMs, { scheduleId: auditWorkflowId, workflowType: auditWorkflowType, args: [{}], summary: 'Audit of all sources' });
  return wanted;
};

export interface ScheduleDifference {
  scheduleId: string;
  action: 'create' | 'update' | 'delete' | 'none';
  /** `every: 24 h → 12 h`; empty for a creation or a deletion. */
  changes: string[];
  /** By an operator, in the Web UI: left as it is. */
  paused: boolean;
  nextRunAt: string | null;
}

export const durationText = (ms: number): string => {
  const hours = ms / (60 * minuteMs);
  return Number.isInteger(hours) ? `${hours} h` : `${Math.round(ms / minuteMs)} min`;
};

const described = ({ spec, action }: ScheduleDescription): Record<string, string> => ({
  'every': spec.intervals?.map(({ every }) => durationText(every)).join(', ') || '–',
  'at': spec.intervals?.map(({ offset }) => durationText(offset ?? 0)).join(', ') || '–',
  'other times': String((spec.calendars?.length ?? 0)),
  'Workflow Type': action.workflowType,
  'Workflow ID': action.workflowId,
  'task queue': action.taskQueue,
  'input': JSON.stringify(action.args ?? []),
});
const wantedAs = ({ everyMs, offsetMs, workflowType, scheduleId, taskQueue, args }: WantedSchedule): Record<string, string> => ({
  'every': durationText(everyMs), 'at': durationText(offsetMs), 'other times': '0', 'Workflow Type': workflowType, 'Workflow ID': scheduleId, 'task queue': taskQueue, 'input': JSON.stringify(args),
});

export const nextRunOf = (schedule: ScheduleDescription | undefined): string | null => schedule?.info.nextActionTimes[0]?.toISOString() ?? null;

/** What applying would change, by what the server has now, and not by what was applied last: changes made by hand are seen. */
export const scheduleDifferences = (wanted: readonly WantedSchedule[], found: readonly ScheduleDescription[]): ScheduleDifference[] => {
  const differences = wanted.map((schedule): ScheduleDifference => {
    const current = found.find(({ scheduleId }) => scheduleId === schedule.scheduleId);
    if (!current) return { scheduleId: schedule.scheduleId, action: 'create', changes: [], paused: false, nextRunAt: null };
    const [before, after] = [described(current), wantedAs(schedule)];
    const changes = Object.keys(after).filter((name) => before[name] !== after[name]).map((name) => `${name}: ${before[name]} → ${after[name]}`);
    return { scheduleId: schedule.scheduleId, action: changes.length > 0 ? 'update' : 'none', changes, paused: current.state.paused, nextRunAt: nextRunOf(current) };
  });
  for (const current of found) {
    if (!wanted.some(({ scheduleId }) => scheduleId === current.scheduleId)) {
      differences.push({ scheduleId: current.scheduleId, action: 'delete', changes: [], paused: current.state.paused, nextRunAt: nextRunOf(current) });
    }
  }
  return differences;
};

/** The wanted ones that are there, whoever made them, and all others of this owner. */
export const findSchedules = async (temporal: Client, owner: string, wanted: readonly WantedSchedule[]): Promise<ScheduleDescription[]> => {
  const found = new Map<string, ScheduleDescription>();
  const ids = new Set(wanted.map(({ scheduleId }) => scheduleId));
  // The list may lag behind: whether a wanted one is there is asked by its name.
  for await (const { scheduleId, memo } of temporal.schedule.list()) if (memo?.[scheduleOwnerMemo] === owner) ids.add(scheduleId);
  for (const scheduleId of ids) {
    try {
      found.set(scheduleId, await temporal.schedule.getHandle(scheduleId).describe());
    } catch (error) {
      if (!(error instanceof ScheduleNotFoundError)) throw error;
    }
  }
  return [...found.values()];
};

const optionsOf = ({ scheduleId, workflowType, args, taskQueue, everyMs, offsetMs, summary }: WantedSchedule, owner: string): ScheduleOptions => ({
  scheduleId,
  spec: { intervals: [{ every: everyMs, offset: offsetMs }] },
  action: { type: 'startWorkflow', workflowType, workflowId: scheduleId, args, taskQueue, staticSummary: summary },
  policies: { overlap: ScheduleOverlapPolicy.SKIP, catchupWindow: catchupWindowMs },
  memo: { [scheduleOwnerMemo]: owner },
});

/** Makes the server's Schedules the wanted ones. What an operator paused stays paused. */
export const applySchedules = async (temporal: Client, owner: string, wanted: readonly WantedSchedule[], differences: readonly ScheduleDifference[]): Promise<void> => {
  for (const { scheduleId, action } of differences) {
    const schedule = wanted.find((one) => one.scheduleId === scheduleId);
    if (action === 'create') await temporal.schedule.create(optionsOf(schedule!, owner));
    else if (action === 'update') {
      const { spec, action: start, policies } = optionsOf(schedule!, owner);
      await temporal.schedule.getHandle(scheduleId).update(({ state }) => ({ spec, action: start, state, ...(policies ? { policies } : {}) }));
    } else if (action === 'delete') await temporal.schedule.getHandle(scheduleId).delete();
  }
};
