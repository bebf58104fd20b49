/** Sizes that bound the manifests of a table. */
export interface ManifestLimits {
  /** Manifests of one order of magnitude that are merged into one when there are so many. Also the base of the magnitudes. */
  manifestsMergedAt: number;
  /** Live files from which on a manifest is left alone, and at which a written one is split. */
  manifestFilesMax: number;
}

/**
 * Groups manifests as a log-structured merge tree groups its runs: `manifestsMergedAt` of one magnitude become one of the
 * next. So a table has at most (manifestsMergedAt − 1) × magnitudes small manifests, and a file's entry is written once for
 * each magnitude, not once for each commit.
 * @param liveFiles live files of each manifest
 * @returns for each group the indexes of its members; a group of one stays as it is
 */
export function planManifestMerge(liveFiles: readonly number[], { manifestsMergedAt, manifestFilesMax }: ManifestLimits): number[][] {
  const magnitudeOf = (files: number): number => {
    let magnitude = 0;
    for (let bound = manifestsMergedAt; bound <= files; bound *= manifestsMergedAt) magnitude += 1;
    return magnitude;
  };
  const groups: number[][] = [];
  let tiers = new Map<number, { members: number[]; files: number }[]>();
  const place = (group: { members: number[]; files: number }): void => {
    if (group.files >= manifestFilesMax) {
      groups.push(group.members);
      return;
    }
    const magnitude = magnitudeOf(group.files);
    const tier = tiers.get(magnitude);
    if (tier) tier.push(group);
    else tiers.set(magnitude, [group]);
  };
  liveFiles.forEach((files, index) => place({ members: [index], files }));
  for (;;) {
    const full = [...tiers].find(([, tier]) => tier.length >= manifestsMergedAt);
    if (!full) break;
    const [magnitude, tier] = full;
    tiers = new Map([...tiers].filter(([key]) => key !== magnitude));
    place({ members: tier.flatMap(({ members }) => members), files: tier.reduce((sum, { files }) => sum + files, 0) });
  }
  for (const tier of tiers.values()) groups.push(...tier.map(({ members }) => members));
  return groups.sort((a, b) => a[0]! - b[0]!);
}
