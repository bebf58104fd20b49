import { dlqReplayWorkflowId } from '../contracts/dlq-replay.ts';
import { dlqResolutionsTable } from '../datasets/engine-tables.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { loadLastResolutions } from '../dlq/resolutions.ts';
import { isTidemarkError } from '../domain/errors.ts';
import type { Interval } from '../domain/offsets.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog } from '../lake/table.ts';
import { claimsOf } from '../reprocess/claims.ts';
import { loadPlan } from '../reprocess/staging.ts';
import type { LakeView } from './lake-view.ts';

/** Names of the DLQ replays and backfills that work on a source now, by their claims. */
export const loadClaimants = async (catalog: Catalog, datasets: readonly Dataset[]): Promise<Set<string>> => {
  const claimants = new Set<string>();
  for (const { silver } of datasets) {
    try {
      for (const { reprocessId } of claimsOf(await catalog.load(silver.name))) claimants.add(reprocessId);
    } catch (error) {
      if (!isTidemarkError(error, 'TABLE_NOT_FOUND')) throw error;
    }
  }
  return claimants;
};

/**
 * Offsets that a DLQ replay has resolved as recovered, and that it is about to put into Silver and Gold: it publishes in that order, and
 * holds its claim until all is done. Until then their rows may be in some of the tables and not in others.
 */
export const loadRecovering = async (deps: { catalog: Catalog; store: ObjectStore; signal?: AbortSignal }, view: LakeView, datasets: readonly Dataset[], claimants: ReadonlySet<string>): Promise<Coverage> => {
  const version = view.version(dlqResolutionsTable.name);
  if (!version || ![...claimants].some((claimant) => claimant.startsWith(dlqReplayWorkflowId('')))) return Coverage.empty;
  const intervals = new Map<string, Interval[]>();
  for (const { source } of datasets) {
    await loadLastResolutions(deps, source, {
      version,
      onRow: (topic, partition, offset, { action, replayId }) => {
        if (action !== 'recovered' || !claimants.has(dlqReplayWorkflowId(replayId))) return;
        const key = topicPartitionKey(topic, partition);
        const known = intervals.get(key) ?? [];
        intervals.set(key, known);
        known.push({ start: BigInt(offset), end: BigInt(offset) + 1n });
      },
    });
  }
  return Coverage.of([...intervals].map(([key, list]) => [key, IntervalSet.of(...list)] as const));
};

/** How long a replacement may take from Silver's commit to Gold's: after that nobody seems to finish it, and its rows are findings again. */
const replacingMsMax = 3_600_000;

/**
 * Offsets whose rows a backfill has replaced in Silver, and is about to replace in the DLQ and Gold: its claim says so in the very
 * version of Silver that is looked at, and goes when all is done. Until then the tables may disagree about them.
 */
export const loadReplacing = async ({ store, now }: { store: ObjectStore; now: () => number }, view: LakeView, datasets: readonly Dataset[]): Promise<Coverage> => {
  let replacing = Coverage.empty;
  for (const { silver } of datasets) {
    const version = view.version(silver.name);
    for (const { phase, planKey, publishedAtMs, offsets } of version ? claimsOf(version) : []) {
      if (phase !== 'published' || (publishedAtMs !== null && now() - publishedAtMs > replacingMsMax)) continue;
      try {
        replacing = replacing.union(Coverage.fromJson((await loadPlan(store, planKey)).offsets));
      } catch (error) {
        // Finished meanwhile. A claim of many intervals names their hull only.
        if (!isTidemarkError(error, 'OBJECT_NOT_FOUND')) throw error;
        replacing = replacing.union(offsets);
      }
    }
  }
  return replacing;
};
