import { bronzeFileExtent, compactedBronzeFileSuffix } from '../contracts/bronze.ts';
import { goldIngestionField } from '../datasets/dataset.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { auditFindingsTable, dlqResolutionsTable, dlqTable, ingestGapsTable } from '../datasets/engine-tables.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { TidemarkError } from '../domain/errors.ts';
import type { Interval } from '../domain/offsets.ts';
import { IntervalSet, parseTopicPartitionKey, topicPartitionKey } from '../domain/offsets.ts';
import type { DataFile } from '../lake/data-file.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { SingleValue } from '../lake/iceberg/single-value.ts';
import type { Field, TableDefinition } from '../lake/schema.ts';
import { footerKeys } from '../streaming/bronze-file.ts';
import type { FilePart, RewriteInput } from './rewrite.ts';

/** Sizes and ages that decide what is compacted. */
export interface CompactionPolicy {
  /** Bytes that a written file aims at. A file from three quarters of it on is left alone. */
  targetBytes: number;
  /** Files of one order of magnitude that become one. */
  filesMin: number;
  /** Age from which on a file is compacted: what is younger may still be replaced by those who wrote it. */
  quietMs: number;
}

/** How the files of one table are compacted. */
export interface CompactedTable {
  definition: TableDefinition;
  kind: 'bronze' | 'silver' | 'gold' | 'engine';
  /** The column that says when a row was written to the table. */
  writtenAt: string | undefined;
  /** A young file keeps its whole partition from being compacted: the partition is open still. */
  waitsForPartition: boolean;
  /** Files of one partition are compacted together if this agrees; null: never. */
  groupOf(file: DataFile): string | null;
  /** The parts of {@link RewriteInput} that depend on the table. `folder` is where the files of the partition lie. */
  rewrite(group: string, location: (suffix: string) => string, folder: string, unique: () => string): Pick<RewriteInput, 'table' | 'onInput' | 'describe'>;
}

const boundOf = ({ id, type }: Field, bounds: Record<number, string>): SingleValue | undefined =>
  (typeof type !== 'string' || bounds[id] === undefined ? undefined : decodeSingleValue(type, Buffer.from(bounds[id], 'base64')));

/** Ms since the epoch; null where the manifest does not tell. */
export const writtenAtMs = ({ definition, writtenAt }: CompactedTable, file: DataFile): number | null => {
  const field = definition.fields.find(({ name }) => name === writtenAt);
  const micros = field && boundOf(field, file.upperBounds);
  return typeof micros === 'bigint' ? Number(micros / 1000n) : null;
};

const plainTable = (definition: TableDefinition, kind: CompactedTable['kind'], writtenAt: string | undefined, alike: readonly string[] = []): CompactedTable => {
  const fields = alike.map((name) => definition.fields.find((field) => field.name === name)!);
  return {
    definition, kind, writtenAt, waitsForPartition: true,
    groupOf(file) {
      const values: string[] = [];
      for (const field of fields) {
        const [lower, upper] = [boundOf(field, file.lowerBounds), boundOf(field, file.upperBounds)];
        // Bounds of texts may be cut: then they differ, and the file stays as it is.
        if (lower === undefined || lower !== upper) return null;
        values.push(String(lower));
      }
      return values.join('/');
    },
    rewrite: (_group, location, folder, unique) => ({
      table: definition,
      describe: () => ({ filePath: location(`${folder}/compacted-${unique()}.parquet`) }),
    }),
  };
};

/** Each file is one topic partition's, and its footer says which offsets it stands for: so do the compacted ones. */
const bronzeTable = (definition: TableDefinition): CompactedTable => ({
  definition, kind: 'bronze', writtenAt: 'ingestion_timestamp',
  // A day's partition stays open all day; its files of closed hours do not.
  waitsForPartition: false,
  groupOf({ filePath }) {
    const extent = bronzeFileExtent(filePath.slice(filePath.indexOf('/data/') + '/data/'.length));
    return extent && topicPartitionKey(extent.topic, extent.partition);
  },
  rewrite(group, location, _folder, unique) {
    const ranges: Interval[] = [];
    return {
      table: { fields: definition.fields, sortBy: ['offset'] },
      onInput({ filePath }, footer) {
        const range = footer[footerKeys.range];
        if (footer[footerKeys.topicPartition] !== group || range === undefined) {
          throw new TidemarkError('FILE_UNREADABLE', `${filePath}: expected a footer that names ${group} and its offsets, found ${footer[footerKeys.topicPartition] ?? 'none'}`);
        }
        ranges.push(...IntervalSet.parse(range).intervals);
      },
      describe({ start, end }: FilePart) {
        const declared = IntervalSet.of(...ranges);
        const [first, last] = [declared.intervals[0]!.start, declared.intervals.at(-1)!.end];
        const part = declared.intersect(IntervalSet.of({ start: Number.isFinite(start) ? BigInt(start) : first, end: Number.isFinite(end) ? BigInt(end) : last }));
        if (part.isEmpty) throw new TidemarkError('TABLE_CORRUPT', `${definition.name}: expected the rows of ${group} from offset ${start} on within the ranges ${declared.toString()} of their files, found them outside`);
        const extent = { ...parseTopicPartitionKey(group), start: part.intervals[0]!.start, end: part.intervals.at(-1)!.end };
        return {
          filePath: location(compactedBronzeFileSuffix(extent, unique())),
          keyValueMetadata: { [footerKeys.topicPartition]: group, [footerKeys.range]: part.toString() },
        };
      },
    };
  },
});

const datasetTables = ({ bronze, silver, gold }: Dataset): CompactedTable[] => {
  // A Silver file lies in one Gold bucket, so that a merge can copy its row groups; so does a compacted one.
  const bucketColumns = gold.partitionBy.filter(({ transform }) => transform === 'identity')
    .map(({ sourceId }) => gold.fields.find(({ id }) => id === sourceId)!.name).filter((name) => silver.fields.some((field) => field.name === name));
  return [bronzeTable(bronze), plainTable(silver, 'silver', 'validation_timestamp', bucketColumns), plainTable(gold, 'gold', goldIngestionField.name)];
};

/** Every table of the pipeline that is compacted, each once. */
export const compactedTables = (pipeline: Pipeline): CompactedTable[] => {
  const tables = new Map<string, CompactedTable>();
  for (const table of pipeline.datasets.flatMap(datasetTables)) tables.set(table.definition.name, table);
  const engine: [TableDefinition, string][] = [
    [dlqTable(pipeline.dlqTable), 'error_timestamp'], [dlqResolutionsTable, 'resolved_at'], [ingestGapsTable, 'detected_at'], [auditFindingsTable, 'found_at'],
  ];
  for (const [definition, writtenAt] of engine) tables.set(definition.name, plainTable(definition, 'engine', writtenAt));
  return [...tables.values()];
};

/** BAD_INPUT for a table that the pipeline does not have. */
export const compactedTableOf = (pipeline: Pipeline, name: string): CompactedTable => {
  const tables = compactedTables(pipeline);
  const table = tables.find(({ definition }) => definition.name === name);
  if (!table) throw new TidemarkError('BAD_INPUT', `table: expected one of ${tables.map(({ definition }) => definition.name).join(', ')}, found ${name}`);
  return table;
};

/** As the config has them. */
export interface CompactionPolicies extends Omit<CompactionPolicy, 'targetBytes'> {
  bronzeBytes: number;
  /** Also of the DLQ and the other tables of the engine. */
  silverBytes: number;
  goldBytes: number;
}

export const policyOf = ({ kind }: CompactedTable, { bronzeBytes, silverBytes, goldBytes, filesMin, quietMs }: CompactionPolicies): CompactionPolicy =>
  ({ targetBytes: kind === 'bronze' ? bronzeBytes : kind === 'gold' ? goldBytes : silverBytes, filesMin, quietMs });
