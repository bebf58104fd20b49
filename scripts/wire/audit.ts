import type { AuditOptions, KafkaBounds } from '../../src/audit/conservation.ts';
import type { Config } from '../../src/config/config.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { Coverage, IntervalSet, parseTopicPartitionKey } from '../../src/domain/offsets.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import { fetchOffsetBounds } from '../../src/kafka/topics.ts';
import type { Catalog } from '../../src/lake/table.ts';

const isUnknownTopic = (error: unknown): boolean => {
  for (let current = error; current instanceof Error; current = current.cause) {
    if ('type' in current && current.type === 'UNKNOWN_TOPIC_OR_PARTITION') return true;
  }
  return false;
};

/** What the audit asks the broker. A topic that was never created has no records. */
export const auditKafka = ({ kafka }: Pick<Config, 'kafka'>): NonNullable<AuditOptions['kafka']> => async (topic) => {
  try {
    const bounds = await fetchOffsetBounds(kafka.brokers, [topic]);
    return new Map(Object.entries(bounds).map(([key, { low, high }]) => [parseTopicPartitionKey(key).partition, { logStart: low, logEnd: high } satisfies KafkaBounds] as const));
  } catch (error) {
    if (isUnknownTopic(error)) return new Map();
    throw error;
  }
};

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
