import { TidemarkError } from '../domain/errors.ts';
import type { PartitionTuple } from '../lake/schema.ts';
import type { Catalog, TableVersion } from '../lake/table.ts';
import { bucketName } from './gold-candidates.ts';

// A hold keeps merges out of Gold buckets for a short while, so that a replacement that reads whole buckets is not overtaken
// for ever by the live stream. It lies in Gold's table properties, and every merge checks it in its own commit. It only makes
// way: what keeps rows right is that a commit's buckets are unchanged. So one that has expired, its holder killed, does no harm.

const holdPrefix = 'tidemark.hold.';
/** As long as a killed holder keeps others waiting at most. */
const holdMs = 45_000;
/** Clocks of two processes may differ by this: the holder trusts its hold for so much less. */
const clockSkewMs = 10_000;
/** A longer list is a hold on all buckets: table properties must stay small. */
const bucketsMax = 200;

interface HoldJson {
  untilMs: number;
  /** Null: all. */
  buckets: string[] | null;
}

const holdOf = (text: string): HoldJson => JSON.parse(text) as HoldJson;

/** BUCKET_HELD if somebody holds one of the buckets. */
export const throwIfHeld = (gold: TableVersion, partitions: readonly PartitionTuple[], nowMs: number, holder?: string): void => {
  if (partitions.length === 0) return;
  for (const [name, text] of Object.entries(gold.properties)) {
    if (!name.startsWith(holdPrefix) || name === holdPrefix + (holder ?? '')) continue;
    const { untilMs, buckets } = holdOf(text);
    if (untilMs <= nowMs) continue;
    const held = buckets === null ? partitions[0] : partitions.find((partition) => buckets.includes(bucketName(partition)));
    if (held) throw new TidemarkError('BUCKET_HELD', `${gold.name} ${bucketName(held)}: ${name.slice(holdPrefix.length)} holds it until ${new Date(untilMs).toISOString()} to replace rows`);
  }
};

export class GoldHold {
  private readonly catalog: Catalog;
  private readonly table: string;
  private readonly holder: string;
  private readonly now: () => number;
  /** The version that took it: merges after it stay out. */
  private sinceVersion: number | undefined;

  constructor(catalog: Catalog, table: string, holder: string, now: () => number) {
    this.catalog = catalog;
    this.table = table;
    this.holder = holder;
    this.now = now;
  }

  private get property(): string {
    return holdPrefix + this.holder;
  }

  /** Takes or extends it. BUCKET_HELD while another one holds one of the buckets. */
  async take(partitions: readonly PartitionTuple[], signal?: AbortSignal): Promise<void> {
    const hold: HoldJson = { untilMs: this.now() + holdMs, buckets: partitions.length > bucketsMax ? null : partitions.map(bucketName) };
    const { version } = await this.catalog.commit(this.table, {
      commitId: `hold/${this.holder}/${hold.untilMs}`, add: [], setProperties: { [this.property]: JSON.stringify(hold) },
      check: (base) => throwIfHeld(base, partitions, this.now(), this.holder), ...(signal ? { signal } : {}),
    });
    this.sinceVersion = version.version;
  }

  /** Whether what was read of this version and later ones stays true, as far as merges go. */
  covers(version: TableVersion): boolean {
    return this.sinceVersion !== undefined && version.version >= this.sinceVersion && this.isHeldIn(version);
  }

  isHeldIn(version: TableVersion): boolean {
    const text = version.properties[this.property];
    return text !== undefined && holdOf(text).untilMs - clockSkewMs > this.now();
  }

  /** For the commit that ends it. */
  get release(): Record<string, null> {
    return this.sinceVersion === undefined ? {} : { [this.property]: null };
  }

  released(): void {
    this.sinceVersion = undefined;
  }

  /** Gives it back where no commit did; what cannot be given back expires. */
  async giveBack(): Promise<void> {
    if (this.sinceVersion === undefined) return;
    await this.catalog.commit(this.table, { commitId: `release/${this.holder}/${this.now()}`, add: [], setProperties: this.release }).catch(() => {});
    this.released();
  }
}
