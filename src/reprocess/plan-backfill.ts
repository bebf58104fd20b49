import type { BackfillFigures, ReprocessRange } from '../contracts/backfill.ts';
import type { ReprocessPlan } from '../contracts/reprocess.ts';
import { Coverage, IntervalSet } from '../domain/offsets.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import { bucketName } from '../refine/gold-candidates.ts';
import { filesOfOffsets, rowLineage } from '../refine/lineage-files.ts';
import { partitionPath } from '../refine/partition-rows.ts';
import type { PlanDeps } from './plan.ts';
import { planChunks, writePlan } from './plan.ts';
import type { SelectDeps } from './select-offsets.ts';
import { selectOffsets } from './select-offsets.ts';

/** Rows a second that a plan's estimate reckons with, refining and publishing together, on one thread of a machine like the benchmark's. */
const estimatedRowsPerSecond = 60_000;

export const estimateSeconds = (rows: number, rowsPerSecond: number | null): number => Math.ceil(rows / Math.min(estimatedRowsPerSecond, rowsPerSecond ?? Infinity));

const intervalsShown = 20;
const bucketsShown = 50;

export interface PlanBackfillInput {
  source: string;
  range: ReprocessRange;
  /** Offsets of the range that only the archive knows to be in it. */
  archived?: CoverageJson;
  chunkRowsMax: number;
  rowsPerSecond: number | null;
  /** Null: a dry run, which changes nothing. */
  write: { reprocessId: string; planKey: string } | null;
}

export interface PlannedBackfill {
  plan: ReprocessPlan | null;
  figures: Omit<BackfillFigures, 'offsetsArchived' | 'offsetsRefinedArchived'>;
  /** Offsets that are planned. */
  offsets: CoverageJson;
  /** Offsets of the range without a live Bronze row: the archive may have some. */
  withoutBronze: CoverageJson;
}

/** Resolves a range to offsets that are refined and have Bronze rows, and, unless it is a dry run, writes the plan. */
export const planBackfill = async (deps: PlanDeps & SelectDeps, { range, archived = {}, chunkRowsMax, rowsPerSecond, write }: PlanBackfillInput): Promise<PlannedBackfill> => {
  const { catalog, dataset } = deps;
  const selected = (await selectOffsets(deps, range)).union(Coverage.fromJson(archived));
  const [bronze, silver, dlq, gold] = await Promise.all([dataset.bronze.name, dataset.silver.name, deps.dlqTable, dataset.gold.name].map((name) => catalog.load(name)));
  const wanted = selected.intersect(bronze!.coverage);
  const refined = wanted.intersect(silver!.coverage).intersect(dlq!.coverage).intersect(gold!.coverage);
  const written = write ? await writePlan(deps, { ...write, offsets: refined, dlq: 'replace', chunkRowsMax }) : null;
  const planned = written?.planned ?? await planChunks(deps, bronze!, refined, chunkRowsMax);
  const buckets = new Map((await filesOfOffsets(gold!, planned.offsets, rowLineage)).map(({ partition }) => [bucketName(partition), partition]));
  return {
    plan: written?.plan ?? null,
    offsets: planned.offsets.toJson(),
    withoutBronze: refined.subtract(planned.offsets).toJson(),
    figures: {
      source: dataset.source,
      offsets: shownOffsets(planned.offsets).toJson(),
      offsetsTotal: String(planned.offsets.size),
      intervals: planned.offsets.entries().reduce((sum, [, set]) => sum + set.intervals.length, 0),
      offsetsWithoutBronze: String(refined.size - planned.offsets.size),
      offsetsNotRefined: String(wanted.size - refined.size),
      bronzeFiles: planned.bronzeFiles,
      bronzeRows: planned.rows,
      bronzeBytes: planned.bronzeBytes,
      goldBuckets: buckets.size,
      goldBucketNames: [...buckets.values()].slice(0, bucketsShown).map((partition) => partitionPath(dataset.gold, partition)).sort(),
      chunks: planned.chunks.length,
      estimatedSeconds: estimateSeconds(planned.rows, rowsPerSecond),
    },
  };
};

/** The first intervals of the first topic partitions. */
const shownOffsets = (offsets: Coverage): Coverage =>
  Coverage.of(offsets.entries().slice(0, intervalsShown).map(([key, set]) => [key, IntervalSet.of(...set.intervals.slice(0, intervalsShown))] as const));
