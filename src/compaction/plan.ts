import type { HeldBackFiles, HeldBackReason, PlannedCompaction } from '../contracts/compaction.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { planMerge } from '../lake/merge-plan.ts';
import type { PartitionTuple } from '../lake/schema.ts';
import type { Catalog, LiveFile, TableVersion } from '../lake/table.ts';
import { partitionPath } from '../refine/partition-rows.ts';
import type { CompactedTable, CompactionPolicies, CompactionPolicy } from './tables.ts';
import { compactedTableOf, policyOf, writtenAtMs } from './tables.ts';

/** Files of one partition that become fewer. */
export interface CompactionGroup {
  partition: PartitionTuple;
  /** The partition as its folder is called, and what tells its groups of files apart: empty where there is one. */
  folder: string;
  group: string;
  files: LiveFile[];
  rows: number;
  bytes: number;
}

export interface CompactionPlan {
  groups: CompactionGroup[];
  /** Small files that are left for later, and why. */
  heldBack: { folder: string; files: number; reason: HeldBackReason }[];
  /** Live files of the table. */
  filesTotal: number;
}

/** Most bytes that one table commit replaces: what a conflict costs, and what a kill repeats. */
const groupTargetsMax = 4;
const groupFilesMax = 2_000;
/** Share of the target from which on a file is left alone. */
const largeFrom = 0.75;
/** A file's footer and its requests cost about this much, however small it is. */
const fileCostBytes = 4_096;

/**
 * What a version of the table leaves to do: in each partition, files of one order of magnitude become one of the next, as often as it
 * takes, up to the target. So a row is rewritten once for each magnitude, and a partition keeps fewer than `filesMin` files of each.
 */
export const planCompaction = async (version: TableVersion, table: CompactedTable, policy: CompactionPolicy, nowMs: number): Promise<CompactionPlan> => {
  const { definition } = table;
  const live = await version.scan();
  const plan: CompactionPlan = { groups: [], heldBack: [], filesTotal: live.length };
  const partitions = new Map<string, { partition: PartitionTuple; files: LiveFile[] }>();
  for (const file of live) {
    const folder = partitionPath(definition, file.partition);
    const known = partitions.get(folder);
    if (known) known.files.push(file);
    else partitions.set(folder, { partition: file.partition, files: [file] });
  }
  for (const [folder, { partition, files }] of [...partitions].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const isSmall = ({ fileSizeBytes }: LiveFile): boolean => fileSizeBytes < policy.targetBytes * largeFrom;
    const isYoung = (file: LiveFile): boolean => (writtenAtMs(table, file) ?? 0) > nowMs - policy.quietMs;
    const holdBack = (held: number, reason: HeldBackReason): void => {
      if (held > 0) plan.heldBack.push({ folder, files: held, reason });
    };
    if (table.waitsForPartition && files.some(isYoung)) {
      holdBack(files.filter(isSmall).length, 'written recently');
      continue;
    }
    const small = files.filter(isSmall);
    holdBack(small.filter(isYoung).length, 'written recently');
    const alike = new Map<string, LiveFile[]>();
    let untold = 0;
    for (const file of small) {
      if (isYoung(file)) continue;
      const group = table.groupOf(file);
      if (group === null) untold += 1;
      else if (alike.has(group)) alike.get(group)!.push(file);
      else alike.set(group, [file]);
    }
    holdBack(untold, 'not told apart');
    let alone = 0;
    for (const [group, candidates] of [...alike].sort(([a], [b]) => (a < b ? -1 : 1))) {
      const merged = planMerge(candidates.map(({ fileSizeBytes }) => fileSizeBytes / fileCostBytes), { mergedAt: policy.filesMin, sizeMax: (policy.targetBytes * largeFrom) / fileCostBytes });
      for (const members of merged) {
        if (members.length === 1) alone += 1;
        else for (const part of bounded(members.map((index) => candidates[index]!), policy.targetBytes * groupTargetsMax)) plan.groups.push(groupOf(partition, folder, group, part));
      }
    }
    holdBack(alone, 'too few');
  }
  return plan;
};

const groupOf = (partition: PartitionTuple, folder: string, group: string, files: LiveFile[]): CompactionGroup => ({
  partition, folder, group, files,
  rows: files.reduce((sum, { recordCount }) => sum + recordCount, 0), bytes: files.reduce((sum, { fileSizeBytes }) => sum + fileSizeBytes, 0),
});

/** Cuts a long list of files, in the order they were committed in, which is about the order of their rows. */
const bounded = (files: readonly LiveFile[], bytesMax: number): LiveFile[][] => {
  const parts: LiveFile[][] = [];
  let bytes = 0;
  for (const file of files) {
    const last = parts.at(-1);
    if (last && last.length < groupFilesMax && bytes + file.fileSizeBytes <= bytesMax) {
      last.push(file);
      bytes += file.fileSizeBytes;
    } else {
      parts.push([file]);
      bytes = file.fileSizeBytes;
    }
  }
  // A remainder of one file waits for others.
  return parts.filter((part) => part.length > 1);
};

export interface PlanDeps {
  catalog: Catalog;
  pipeline: Pipeline;
  policies: CompactionPolicies;
  now?: () => number;
}

/** Of a name of some 200 characters, these stay below a payload's 64 KiB. */
const groupsShown = 100;

/** The plan of one table, as the Workflow and the command line see it. */
export const plannedCompaction = async ({ catalog, pipeline, policies, now = Date.now }: PlanDeps, name: string): Promise<PlannedCompaction> => {
  const table = compactedTableOf(pipeline, name);
  const version = await catalog.load(name);
  const { groups, heldBack, filesTotal } = await planCompaction(version, table, policyOf(table, policies), now());
  const reasons: HeldBackFiles = {};
  for (const { reason, files } of heldBack) reasons[reason] = (reasons[reason] ?? 0) + files;
  const sum = (of: (group: (typeof groups)[number]) => number): number => groups.reduce((total, group) => total + of(group), 0);
  return {
    table: name, filesTotal, groupsTotal: groups.length, files: sum(({ files }) => files.length), rows: sum(({ rows }) => rows), bytes: sum(({ bytes }) => bytes), heldBack: reasons,
    groups: groups.slice(0, groupsShown).map(({ folder, group, files, rows, bytes }) => ({ folder, group, files: files.length, rows, bytes })),
  };
};
