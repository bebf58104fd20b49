import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import { Coverage, IntervalSet, parseTopicPartitionKey } from '../../src/domain/offsets.ts';
import type { Catalog } from '../../src/lake/table.ts';

/**
 * Ranges as the command line gives them: `<topic>/<partition>:<start>-<end>[,…]`, or `<start>-<end>[,…]` for every topic
 * partition that the sources' Bronze tables cover.
 */
export const parseRanges = async (texts: readonly string[], catalog: Pick<Catalog, 'load'>, pipeline: Pipeline, sources: readonly string[] | undefined): Promise<Coverage> => {
  let range = Coverage.empty;
  for (const text of texts) {
    const colon = text.lastIndexOf(':');
    const intervals = IntervalSet.parse(text.slice(colon + 1));
    if (intervals.isEmpty) throw new TidemarkError('BAD_INPUT', `--range: expected offsets, found none in ${JSON.stringify(text)}`);
    let keys: string[];
    if (colon >= 0) {
      const key = text.slice(0, colon);
      parseTopicPartitionKey(key);
      keys = [key];
    } else {
      const chosen = pipeline.datasets.filter(({ source }) => sources?.includes(source) ?? true);
      keys = (await Promise.all(chosen.map(async ({ bronze }) => (await catalog.load(bronze.name)).coverage.keys()))).flat();
    }
    range = range.union(Coverage.of(keys.map((key) => [key, intervals] as const)));
  }
  return range;
};
