import type { ReprocessPlan } from '../contracts/reprocess.ts';
import { TidemarkError } from '../domain/errors.ts';
import { Coverage, IntervalSet } from '../domain/offsets.ts';
import type { CoverageJson } from '../domain/offsets.ts';
import type { Catalog, TableVersion } from '../lake/table.ts';

// A claim says that a reprocess works on offsets, and how far it is. It lies in the table's properties, changes in the same
// commit as the rows, and so tells for ever, to retries, to zombies and to a run without history, what is done. No two
// claims overlap: rows and resolutions of claimed offsets are replaced by nobody else.

const claimPrefix = 'tidemark.reprocess.';
/** A claim on more intervals names their hull: table properties must stay small. */
const intervalsMax = 500;

export interface Claim {
  reprocessId: string;
  planKey: string;
  /** `published`: this table has the new rows; the reprocess can only roll forward. */
  phase: 'staging' | 'published';
  /** The offsets, or a hull of them. */
  offsets: Coverage;
  /** When this table got the new rows, ms since the epoch; null: it has not. */
  publishedAtMs: number | null;
}

interface ClaimJson {
  planKey: string;
  phase: Claim['phase'];
  offsets: CoverageJson;
  publishedAtMs?: number;
}

const propertyOf = (reprocessId: string): string => claimPrefix + reprocessId;

const parseClaim = (property: string, text: string): Claim => {
  const { planKey, phase, offsets, publishedAtMs = null } = JSON.parse(text) as ClaimJson;
  return { reprocessId: property.slice(claimPrefix.length), planKey, phase, offsets: Coverage.fromJson(offsets), publishedAtMs };
};

/** The claims on a table: offsets whose rows, and whose Bronze, running backfills and DLQ replays need. */
export const claimsOf = (version: Pick<TableVersion, 'properties'>): Claim[] =>
  Object.entries(version.properties).filter(([name]) => name.startsWith(claimPrefix)).map(([name, text]) => parseClaim(name, text));

export const claimOf = (version: Pick<TableVersion, 'properties'>, reprocessId: string): Claim | undefined => {
  const text = version.properties[propertyOf(reprocessId)];
  return text === undefined ? undefined : parseClaim(propertyOf(reprocessId), text);
};

const hullOf = (coverage: Coverage): Coverage => {
  const intervals = coverage.entries().reduce((sum, [, set]) => sum + set.intervals.length, 0);
  if (intervals <= intervalsMax) return coverage;
  return Coverage.of(coverage.entries().map(([key, set]) => [key, IntervalSet.of({ start: set.intervals[0]!.start, end: set.intervals.at(-1)!.end })] as const));
};

type PlanName = Pick<ReprocessPlan, 'reprocessId'> & { planKey: string };

const textOf = (planKey: string, offsets: Coverage, published?: { publishedAtMs: number }): string =>
  JSON.stringify({ planKey, phase: published ? 'published' : 'staging', offsets: offsets.toJson(), ...published } satisfies ClaimJson);

/** OFFSETS_CLAIMED while another claim overlaps, and `CLAIM_LOST` if an earlier run of the same name has published: it must be rolled forward. */
export const takeClaim = async (catalog: Catalog, table: string, { reprocessId, planKey }: PlanName, offsets: Coverage, signal?: AbortSignal): Promise<void> => {
  const wanted = hullOf(offsets);
  const own = claimOf(await catalog.load(table), reprocessId);
  if (own?.planKey === planKey) return;
  await catalog.commit(table, {
    commitId: `claim/${planKey}`, add: [], setProperties: { [propertyOf(reprocessId)]: textOf(planKey, wanted) }, ...(signal ? { signal } : {}),
    check: (base) => {
      for (const claim of claimsOf(base)) {
        if (claim.reprocessId === reprocessId) {
          if (claim.phase === 'published') throw new TidemarkError('CLAIM_LOST', `${reprocessId}: expected nothing of it to be published in ${table}, found the rows of ${claim.planKey}: start it again, and it goes on with these`);
        } else if (claim.offsets.overlaps(wanted)) {
          throw new OffsetsClaimedError(table, claim, reprocessId);
        }
      }
    },
  });
};

/** Names who has the offsets. */
export class OffsetsClaimedError extends TidemarkError {
  readonly claim: Claim;

  constructor(table: string, claim: Claim, reprocessId: string) {
    super('OFFSETS_CLAIMED', `${reprocessId}: expected its offsets in ${table} to be free, found that ${claim.reprocessId} works on some of them (${claim.phase}). If that one no longer runs, start it again under the same id`);
    this.claim = claim;
  }
}

/** What a commit that publishes the plan depends on, and changes: the claim goes from `staging` to `published`, once. */
export const publishingClaim = (version: TableVersion, { reprocessId, planKey }: PlanName): { isPublished: boolean; setProperties: Record<string, string>; check: (base: TableVersion) => void } => {
  const claimIn = (base: TableVersion): Claim => {
    const claim = claimOf(base, reprocessId);
    if (claim?.planKey !== planKey) {
      throw new TidemarkError('CLAIM_LOST', `${planKey}: expected its claim on ${base.name}, found ${claim ? `that of ${claim.planKey}` : 'none'}: it was abandoned or has finished`);
    }
    return claim;
  };
  const { phase, offsets } = claimIn(version);
  return {
    isPublished: phase === 'published',
    setProperties: { [propertyOf(reprocessId)]: textOf(planKey, offsets, { publishedAtMs: Date.now() }) },
    check: (base) => {
      if (claimIn(base).phase !== 'staging') throw new TidemarkError('COMMIT_CONFLICT', `${planKey}: published in ${base.name} meanwhile`);
    },
  };
};

/**
 * Gives a claim back. With `unlessPublished` it stays, and false is returned, if this table has the new rows already; then
 * the reprocess is past the point of no return.
 */
export const dropClaim = async (catalog: Catalog, table: string, { reprocessId, planKey }: PlanName, { unlessPublished }: { unlessPublished: boolean }): Promise<boolean> => {
  for (;;) {
    const claim = claimOf(await catalog.load(table), reprocessId);
    if (claim?.planKey !== planKey) return true;
    if (unlessPublished && claim.phase === 'published') return false;
    try {
      await catalog.commit(table, {
        commitId: `unclaim/${planKey}/${claim.phase}`, add: [], setProperties: { [propertyOf(reprocessId)]: null },
        check: (base) => {
          const found = claimOf(base, reprocessId);
          if (found?.planKey === planKey && found.phase !== claim.phase) throw new TidemarkError('COMMIT_CONFLICT', `${planKey}: went on meanwhile`);
        },
      });
      return true;
    } catch (error) {
      if (!(error instanceof TidemarkError && error.code === 'COMMIT_CONFLICT')) throw error;
    }
  }
};
