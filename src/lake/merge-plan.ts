/** What bounds the number of runs. */
export interface MergeLimits {
  /** Runs of one order of magnitude that are merged into one when there are so many. Also the base of the magnitudes; 2 or more. */
  mergedAt: number;
  /** Size from which on a run is left alone. */
  sizeMax: number;
}

/**
 * Groups runs as a log-structured merge tree does: `mergedAt` of one magnitude become one of the next. So there are at most
 * (mergedAt − 1) × magnitudes small runs, and what is in them is written once for each magnitude, not once for each run that
 * comes. Used for manifests (by their live files) and for data files (by their bytes).
 * @param sizes size of each run, in any unit
 * @returns for each group the indexes of its members; a group of one stays as it is
 */
export function planMerge(sizes: readonly number[], { mergedAt, sizeMax }: MergeLimits): number[][] {
  const magnitudeOf = (size: number): number => {
    let magnitude = 0;
    for (let bound = mergedAt; bound <= size; bound *= mergedAt) magnitude += 1;
    return magnitude;
  };
  const groups: number[][] = [];
  let tiers = new Map<number, { members: number[]; size: number }[]>();
  const place = (group: { members: number[]; size: number }): void => {
    if (group.size >= sizeMax) {
      groups.push(group.members);
      return;
    }
    const magnitude = magnitudeOf(group.size);
    const tier = tiers.get(magnitude);
    if (tier) tier.push(group);
    else tiers.set(magnitude, [group]);
  };
  sizes.forEach((size, index) => place({ members: [index], size }));
  for (;;) {
    const full = [...tiers].find(([, tier]) => tier.length >= mergedAt);
    if (!full) break;
    const [magnitude, tier] = full;
    tiers = new Map([...tiers].filter(([key]) => key !== magnitude));
    place({ members: tier.flatMap(({ members }) => members), size: tier.reduce((sum, { size }) => sum + size, 0) });
  }
  for (const tier of tiers.values()) groups.push(...tier.map(({ members }) => members));
  return groups.sort((a, b) => a[0]! - b[0]!);
}
