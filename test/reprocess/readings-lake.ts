import { MockActivityEnvironment } from '@temporalio/testing';
import { createBackfillActivities } from '../../activities/backfill.ts';
import type { BackfillArchive } from '../../activities/backfill.ts';
import { createReprocessActivities } from '../../activities/reprocess.ts';
import type { PlannedBackfillRun, ReprocessRange } from '../../src/contracts/backfill.ts';
import type { ReprocessActivities, ReprocessRef } from '../../src/contracts/reprocess.ts';
import type { Dataset } from '../../src/datasets/dataset.ts';
import { defineDataset } from '../../src/datasets/dataset.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { pipelineTables } from '../../src/datasets/pipeline.ts';
import { TidemarkError } from '../../src/domain/errors.ts';
import { Coverage, IntervalSet, topicPartitionKey } from '../../src/domain/offsets.ts';
import type { DataFile } from '../../src/lake/data-file.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import type { ObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import type { TableVersion } from '../../src/lake/table.ts';
import { DecoderCache } from '../../src/refine/decoders.ts';
import { GoldKeyCache } from '../../src/refine/gold-key-cache.ts';
import { bronzeLineage, filesOfOffsets } from '../../src/refine/lineage-files.ts';
import { mergeGold, replaceGold } from '../../src/refine/merge-gold.ts';
import { refineBronze } from '../../src/refine/refine.ts';
import type { RefineTasks, TaskName } from '../../src/refine/refine-tasks.ts';
import type { RefinePool, RunOptions } from '../../src/refine/refine-pool.ts';
import { planBackfill } from '../../src/reprocess/plan-backfill.ts';
import { replaceRows } from '../../src/reprocess/replace-rows.ts';
import { rawSchema, sensorReadings } from '../support/datasets/sensor-readings.ts';
import type { RawReading } from '../support/datasets/sensor-readings.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import { noArchive } from '../support/no-archive.ts';
import { wireEncoder } from '../support/raw-records.ts';
import { rowTexts } from '../support/table-rows.ts';

// A lake in memory that is filled as the pipeline fills it: Bronze, micro-batches, merges, with the product's own code
// where Temporal and threads would only carry it. The model is the sequence of records.

export const topic = 'sensors.raw';
const encode = wireEncoder(rawSchema, 1) as (record: RawReading) => Buffer;
const hourMs = 3_600_000;
export const startMs = 1_700_000_000_000 - (1_700_000_000_000 % hourMs);

/** What a record is about. Equal readings are duplicates, and have one event time. */
export interface Reading {
  partition: number;
  reading: number;
  /** Refused by the rules when false. */
  isValid: boolean;
}

export const takenMs = (reading: number): number => startMs + (reading % 4) * hourMs + (reading * 7_919) % hourMs;

const rawOf = ({ reading, isValid }: Reading): RawReading => ({
  site: ['A', 'Berlin'][reading % 2]!, sensor: isValid ? 's' : '', sequence: reading, taken_ms: takenMs(reading), celsius: '1.25', battery: null, outdoors: true,
});

/** The same dataset with other rules: readings whose number `refuses` are refused, and what had no sensor is accepted as sensor "unknown". */
export const withRules = (ruleVersion: string, refuses: (reading: number) => boolean): Dataset => {
  const changed = defineDataset<RawReading, Record<string, never>>({
    ...sensorReadings, bronzeTable: sensorReadings.bronze.name, silverTable: sensorReadings.silver.name, goldTable: sensorReadings.gold.name, rawSchema, ruleVersion,
    goldBucketBy: ['site'], map: () => ({}), reasons: { ...sensorReadings.reasons, value_validation: ['reading_refused'] },
  });
  return {
    ...changed,
    map: (raw, context) => sensorReadings.map({ ...raw as RawReading, sensor: (raw as RawReading).sensor === '' ? 'unknown' : (raw as RawReading).sensor }, context),
    rules: {
      safeParse: (row: { sequence: number }) => (refuses(row.sequence) ? { success: false, error: { issues: [{ message: 'reading_refused', path: ['sequence'] }] } } : { success: true }),
    } as unknown as Dataset['rules'],
  };
};

export interface ReadingsLakeOptions {
  store?: MemoryObjectStore;
  dataset?: Dataset;
  chunkRowsMax?: number;
  /** Of the merge: small ones split buckets into ranges. */
  budgetBytes?: number;
  isRunning?: (reprocessId: string) => boolean;
  /** Snapshots that a commit keeps. */
  snapshotsKept?: number;
  archive?: BackfillArchive;
}

export class ReadingsLake {
  readonly store: MemoryObjectStore;
  readonly catalog: ObjectStoreCatalog;
  dataset: Dataset;
  readonly options: ReadingsLakeOptions;
  private next = new Map<number, number>();
  private readonly cache: GoldKeyCache;
  private batches = 0;
  nowMs = startMs + 30 * 86_400_000;

  private constructor(store: MemoryObjectStore, options: ReadingsLakeOptions) {
    this.store = store;
    this.options = options;
    this.dataset = options.dataset ?? sensorReadings;
    this.catalog = createObjectStoreCatalog({ store, namespace: 'tests', ...(options.snapshotsKept === undefined ? {} : { snapshotsKept: options.snapshotsKept }) });
    this.cache = new GoldKeyCache(store);
  }

  static async open(options: ReadingsLakeOptions = {}): Promise<ReadingsLake> {
    const lake = new ReadingsLake(options.store ?? createMemoryObjectStore(), options);
    for (const table of pipelineTables(lake.pipeline)) await lake.catalog.ensureTable(table);
    return lake;
  }

  /** The same lake as another process has it; its records go on where this one's ended. */
  another(): ReadingsLake {
    const other = new ReadingsLake(this.store, this.options);
    other.dataset = this.dataset;
    other.next = this.next;
    other.nowMs = this.nowMs + 500_000;
    return other;
  }

  get pipeline(): Pipeline {
    return { namespace: 'tests', dlqTable: 'silver_dlq', datasets: [this.dataset] };
  }

  /** Commits one Bronze file for each topic partition of the records; their offsets go on where the last ones ended. Returns what it holds. */
  async ingest(records: readonly Reading[]): Promise<Coverage> {
    const { bronze } = this.dataset;
    let covered = Coverage.empty;
    for (const [partition, some] of Map.groupBy(records, (record) => record.partition)) {
      const start = this.next.get(partition) ?? 0;
      this.next.set(partition, start + some.length);
      const ingestion = BigInt(startMs + 30 * 86_400_000) * 1_000n;
      const { bytes, metrics } = encodeDataFile({
        fields: bronze.fields,
        batch: {
          rowCount: some.length,
          columns: {
            raw_bytes: some.map((record) => encode(rawOf(record))), topic: { constant: topic }, partition: { constant: partition }, offset: BigInt64Array.from(some, (_, i) => BigInt(start + i)),
            key: { constant: null }, headers: { constant: null }, kafka_timestamp: BigInt64Array.from(some, ({ reading }) => BigInt(takenMs(reading)) * 1_000n + 5n),
            ingestion_timestamp: { constant: ingestion }, ingestion_date: { constant: Number(ingestion / 86_400_000_000n) },
          },
        },
      });
      const filePath = this.catalog.dataLocation(bronze.name, `${topic}/${partition}/${start}.parquet`);
      await this.store.put(this.store.keyOf(filePath), bytes);
      const cover = Coverage.of([[topicPartitionKey(topic, partition), IntervalSet.of({ start: BigInt(start), end: BigInt(start + some.length) })]]);
      await this.catalog.commit(bronze.name, { commitId: `bronze-${partition}-${start}`, add: [{ ...metrics, filePath, partition: { ingestion_timestamp: Number(ingestion / 86_400_000_000n) } }], cover, coverageAbsent: cover });
      covered = covered.union(cover);
    }
    return covered;
  }

  /** A micro-batch over the offsets; `until` stops before a step. */
  async refine(offsets: Coverage, until: 'silver' | 'gold' | 'end' = 'end'): Promise<void> {
    this.batches += 1;
    this.nowMs += 1_000;
    const batchId = `batch-${this.batches}-${this.nowMs}`;
    const bronzeFiles = await filesOfOffsets(await this.catalog.load(this.dataset.bronze.name), offsets, bronzeLineage);
    const refined = await this.run('refine', { source: this.dataset.source, batchId, bronzeFiles, silver: offsets.toJson(), dlq: offsets.toJson(), nowMs: this.nowMs });
    if (until === 'silver') return;
    await this.catalog.commit(this.dataset.silver.name, { commitId: batchId, add: refined.silverFiles, cover: offsets, coverageAbsent: offsets });
    await this.catalog.commit(this.pipeline.dlqTable, { commitId: batchId, add: refined.dlqFiles, cover: offsets, coverageAbsent: offsets });
    if (until === 'gold') return;
    await this.merge(batchId, offsets, refined.silverFiles);
  }

  async merge(commitId: string, offsets: Coverage, silverFiles: readonly DataFile[]): Promise<void> {
    await this.run('mergeGold', { source: this.dataset.source, commitId, coverage: offsets.toJson(), silverFiles, nowMs: this.nowMs });
  }

  /** A task of the threads, here. */
  async run<Name extends TaskName>(name: Name, input: RefineTasks[Name]['input'], { signal }: RunOptions = {}): Promise<RefineTasks[Name]['result']> {
    const { store, catalog, dataset } = this;
    const deps = { store, catalog, dataset, dlqTable: this.pipeline.dlqTable, ...(signal ? { signal } : {}) };
    const gold = { ...deps, cache: this.cache, ...(this.options.budgetBytes === undefined ? {} : { budgetBytes: this.options.budgetBytes }) };
    const decoders = new DecoderCache(dataset, {
      load: (id) => (id === 1 ? Promise.resolve({ id, schema: JSON.stringify(rawSchema), fingerprint: '' }) : Promise.reject(new TidemarkError('SCHEMA_NOT_FOUND', `schema id ${id}`))),
      keep: () => Promise.reject(new Error('refining keeps no schemas')),
    });
    const runners: { [Task in TaskName]?: (given: never) => Promise<unknown> } = {
      refine: (given: RefineTasks['refine']['input']) => refineBronze({ ...deps, decoders, dataLocation: (table, suffix) => catalog.dataLocation(table, suffix) }, given),
      mergeGold: (given: RefineTasks['mergeGold']['input']) => mergeGold(gold, given),
      replaceGold: (given: RefineTasks['replaceGold']['input']) => replaceGold(gold, given),
      replaceRows: (given: RefineTasks['replaceRows']['input']) => replaceRows(deps, given),
      planBackfill: (given: RefineTasks['planBackfill']['input']) => planBackfill(deps, given),
    };
    return runners[name]!(input as never) as Promise<RefineTasks[Name]['result']>;
  }

  /** The activities as a Temporal Worker has them. */
  activities() {
    const { catalog, store, pipeline } = this;
    const pool = { run: this.run.bind(this) as RefinePool['run'] };
    const activities = {
      ...createReprocessActivities({ catalog, store, pipeline, pool, isRunning: (id) => Promise.resolve(this.options.isRunning?.(id) ?? true), now: () => (this.nowMs += 1) }),
      ...createBackfillActivities({ catalog, store, pipeline, pool, chunkRowsMax: this.options.chunkRowsMax ?? 40, offsetsOfMicroBatch: () => Promise.resolve(undefined), archive: this.options.archive ?? noArchive }),
    };
    const environment = new MockActivityEnvironment();
    return Object.fromEntries(Object.entries(activities).map(([name, activity]) => [name, (input: never) => environment.run(activity as (given: never) => Promise<unknown>, input)])) as typeof activities;
  }

  plan(range: ReprocessRange, id = 'test'): Promise<PlannedBackfillRun> {
    return this.activities().planBackfill({ id, reprocessId: `backfill/${id}`, source: this.dataset.source, range, rowsPerSecond: null, parallelism: 1 });
  }

  /** The steps of the Workflow, one after the other; `between` runs before each. */
  async backfill(range: ReprocessRange, { id = 'test', between = () => Promise.resolve() }: { id?: string; between?: (step: keyof ReprocessActivities) => Promise<void> } = {}): Promise<PlannedBackfillRun> {
    const planned = await this.plan(range, id);
    await this.roll(planned, between);
    return planned;
  }

  async roll(planned: PlannedBackfillRun, between: (step: keyof ReprocessActivities) => Promise<void> = () => Promise.resolve()): Promise<void> {
    const ref: ReprocessRef = { reprocessId: planned.reprocessId, planKey: planned.planKey };
    const activities = this.activities();
    if (!planned.isPublished) {
      await between('claimOffsets');
      await activities.claimOffsets(ref);
      for (let chunk = 0; chunk < planned.chunks; chunk += 1) {
        await between('refineChunk');
        await activities.refineChunk({ ...ref, chunk });
      }
    }
    for (const step of ['replaceSilver', 'replaceDlq', 'replaceGold', 'finishReprocess'] as const) {
      await between(step);
      await activities[step](ref);
    }
  }

  load(table: 'bronze' | 'silver' | 'gold' | 'dlq'): Promise<TableVersion> {
    return this.catalog.load(table === 'dlq' ? this.pipeline.dlqTable : this.dataset[table].name);
  }

  async rows(): Promise<{ silver: string[]; dlq: string[]; gold: string[] }> {
    const [silver, dlq, gold] = await Promise.all((['silver', 'dlq', 'gold'] as const).map(async (table) => rowTexts(this.store, await this.load(table))));
    return { silver: silver!, dlq: dlq!, gold: gold! };
  }
}
