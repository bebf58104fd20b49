import type { ReprocessRange } from '../contracts/backfill.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { dlqTable } from '../datasets/engine-tables.ts';
import { eachAtOnce } from '../domain/at-once.ts';
import { TidemarkError } from '../domain/errors.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../domain/offsets.ts';
import type { Interval } from '../domain/offsets.ts';
import type { ColumnValues } from '../lake/columns.ts';
import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { objectSource, openParquet, readColumns } from '../lake/parquet-reader.ts';
import type { BoundsFilter, Catalog } from '../lake/table.ts';
import type { LineageColumns } from '../refine/lineage-files.ts';
import { bronzeLineage, rowLineage } from '../refine/lineage-files.ts';

export interface SelectDeps {
  store: ObjectStore;
  catalog: Pick<Catalog, 'load'>;
  dataset: Dataset;
  /** The pipeline's DLQ table. */
  dlqTable: string;
  signal?: AbortSignal;
  onProgress?: (progress: { files: number; filesTotal: number }) => void;
}

const filesAtOnce = 6;

/** Which rows of a file are meant; `columns` are those that it asks for. */
export interface RowTest {
  columns: readonly string[];
  of(columns: Readonly<Record<string, ColumnValues>>): (row: number) => boolean;
}

/** Runs of consecutive offsets, each topic partition's rows in any order. */
const runsOf = (topics: readonly string[], partitions: Int32Array, offsets: BigInt64Array, isMeant: (row: number) => boolean): Map<string, Interval[]> => {
  const places = new Map<string, number[]>();
  let key = '';
  let topic = '';
  let partition = -1;
  let place: number[] = [];
  for (let row = 0; row < offsets.length; row += 1) {
    if (!isMeant(row)) continue;
    if (topics[row] !== topic || partitions[row] !== partition || key === '') {
      topic = topics[row]!;
      partition = partitions[row]!;
      key = topicPartitionKey(topic, partition);
      place = places.get(key) ?? [];
      places.set(key, place);
    }
    place.push(Number(offsets[row]));
  }
  return new Map([...places].map(([name, list]) => {
    const sorted = Float64Array.from(list).sort();
    const runs: Interval[] = [];
    for (let at = 0; at < sorted.length;) {
      const start = sorted[at]!;
      let end = start + 1;
      at += 1;
      // Twice the same offset is a fault of the table that the run still covers.
      while (at < sorted.length && sorted[at]! <= end) {
        end = sorted[at]! + 1;
        at += 1;
      }
      runs.push({ start: BigInt(start), end: BigInt(end) });
    }
    return [name, runs] as const;
  }));
};

/** The offsets of the files' rows that are meant, exact to the row. Reads the lineage columns, and those that the test asks for. */
export const offsetsOfFiles = async (
  { store, signal, onProgress }: Pick<SelectDeps, 'store' | 'signal' | 'onProgress'>, files: readonly Pick<DataFile, 'filePath' | 'fileSizeBytes'>[], lineage: LineageColumns,
  test: RowTest = { columns: [], of: () => () => true },
): Promise<Coverage> => {
  const runs = new Map<string, Interval[]>();
  let done = 0;
  await eachAtOnce(files, filesAtOnce, async ({ filePath, fileSizeBytes }) => {
    signal?.throwIfAborted();
    const source = await openParquet(objectSource(store, store.keyOf(filePath), fileSizeBytes, signal ? { signal } : {}));
    const { columns } = await readColumns(source, { columns: [...new Set([lineage.topic, lineage.partition, lineage.offset, ...test.columns])] });
    const found = runsOf(columns[lineage.topic] as string[], columns[lineage.partition] as Int32Array, columns[lineage.offset] as BigInt64Array, test.of(columns));
    for (const [key, some] of found) {
      const known = runs.get(key) ?? [];
      runs.set(key, known);
      for (const run of some) known.push(run);
    }
    done += 1;
    onProgress?.({ files: done, filesTotal: files.length });
  });
  return Coverage.of([...runs].map(([key, some]) => [key, IntervalSet.of(...some)] as const));
};

/** Rows with start <= column < end; µs since the epoch. */
const within = (column: string, start: bigint, end: bigint): { bounds: BoundsFilter[]; test: RowTest } => ({
  bounds: [{ column, min: start, max: end - 1n }],
  test: {
    columns: [column],
    of: (columns) => {
      const values = columns[column] as BigInt64Array;
      return (row) => values[row]! >= start && values[row]! < end;
    },
  },
});

const both = (a: RowTest, b: RowTest): RowTest => ({
  columns: [...a.columns, ...b.columns],
  of: (columns) => {
    const [first, second] = [a.of(columns), b.of(columns)];
    return (row) => first(row) && second(row);
  },
});

const withRuleVersion = (ruleVersion: string): { bounds: BoundsFilter[]; test: RowTest } => ({
  bounds: [{ column: 'rule_version', min: ruleVersion, max: ruleVersion }],
  test: {
    columns: ['rule_version'],
    of: (columns) => {
      const values = columns['rule_version'] as string[];
      return (row) => values[row] === ruleVersion;
    },
  },
});

/** Rows of one table that a range is about. */
export interface MeantRows {
  table: 'bronze' | 'silver' | 'dlq';
  lineage: LineageColumns;
  bounds: BoundsFilter[];
  test: RowTest;
}

/**
 * Where a range looks for its rows; empty if it names offsets. Bronze knows Kafka's timestamps; when a record was refined, under which
 * rules, and its event time, are looked up in Silver and the DLQ. A rejected record has no event time: there its Kafka timestamp counts.
 */
export const rowsOfRange = (range: ReprocessRange, { eventTime }: Pick<Dataset, 'eventTime'>): MeantRows[] => {
  const inBronze = { table: 'bronze', lineage: bronzeLineage } as const;
  const inSilver = { table: 'silver', lineage: rowLineage } as const;
  const inDlq = { table: 'dlq', lineage: rowLineage } as const;
  switch (range.by) {
    case 'offsets':
    case 'all':
      return [];
    case 'kafka-timestamp':
      return [{ ...inBronze, ...within('kafka_timestamp', BigInt(range.startMicros), BigInt(range.endMicros)) }];
    case 'event-time': {
      const [start, end] = [BigInt(range.startMicros), BigInt(range.endMicros)];
      return [{ ...inSilver, ...within(eventTime, start, end) }, { ...inDlq, ...within('kafka_timestamp', start, end) }];
    }
    case 'refined': {
      const rules = range.ruleVersion === undefined ? undefined : withRuleVersion(range.ruleVersion);
      const time = range.startMicros === undefined || range.endMicros === undefined ? undefined : { start: BigInt(range.startMicros), end: BigInt(range.endMicros) };
      const conditions = (column: string): { bounds: BoundsFilter[]; test: RowTest } => {
        const when = time && within(column, time.start, time.end);
        if (!when) return rules ?? { bounds: [], test: { columns: [], of: () => () => true } };
        return rules ? { bounds: [...when.bounds, ...rules.bounds], test: both(when.test, rules.test) } : when;
      };
      return [{ ...inSilver, ...conditions('validation_timestamp') }, { ...inDlq, ...conditions('error_timestamp') }];
    }
    case 'micro-batches':
      throw new TidemarkError('BAD_INPUT', 'micro-batches: expected their offsets, which their Workflow Executions tell');
  }
};

/** The offsets that a range means, exact to the row, as far as the tables have their rows: those in the archive are found by src/retention/backfill-archive.ts. */
export const selectOffsets = async (deps: SelectDeps, range: ReprocessRange): Promise<Coverage> => {
  const { catalog, dataset } = deps;
  if (range.by === 'offsets') return Coverage.fromJson(range.offsets);
  if (range.by === 'all') return (await catalog.load(dataset.bronze.name)).coverage;
  let selected = Coverage.empty;
  for (const { table, lineage, bounds, test } of rowsOfRange(range, dataset)) {
    const version = await catalog.load(table === 'dlq' ? dlqTable(deps.dlqTable).name : dataset[table].name);
    const files = await version.scan({ ...(table === 'dlq' ? { partition: { bronze_source: dataset.source } } : {}), bounds });
    selected = selected.union(await offsetsOfFiles(deps, files, lineage, test));
  }
  return selected;
};
