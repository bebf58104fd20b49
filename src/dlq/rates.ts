import type { Dataset } from '../datasets/dataset.ts';
import type { DlqState } from '../contracts/dlq-replay.ts';
import { dlqStates } from '../contracts/dlq-replay.ts';
import type { DlqRate } from '../domain/dlq-rate.ts';
import { dlqRateOf, dlqRateWindowMs, recoveryPercentOf } from '../domain/dlq-rate.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { PrimitiveType } from '../lake/schema.ts';
import type { LiveFile, TableVersion } from '../lake/table.ts';
import type { DlqLakeDeps } from './summary.ts';
import { loadLastResolutions } from './resolutions.ts';
import { selectRows } from './select-rows.ts';
import { DlqSelector } from './selection.ts';

/** Rows of files by the time they were refined: the time is one for all rows of a file, so its bounds tell. */
const refinedSince = async (version: TableVersion, column: string, sinceMicros: bigint, files?: readonly LiveFile[]): Promise<number> => {
  const { id, type } = version.fields.find(({ name }) => name === column)!;
  const found = files ?? await version.scan({ bounds: [{ column, min: sinceMicros }] });
  return found.reduce((rows, { recordCount, lowerBounds }) => {
    const lower = lowerBounds[id] === undefined ? undefined : decodeSingleValue(type as PrimitiveType, Buffer.from(lowerBounds[id], 'base64')) as bigint;
    // A compacted file holds several times: it counts if all of them are within the hour.
    return lower !== undefined && lower >= sinceMicros ? rows + recordCount : rows;
  }, 0);
};

/**
 * The share of records refined in the last hour that went to the DLQ. Told from manifests alone, so that it can be asked every
 * minute; what a DLQ replay recovers counts among the records.
 */
export const loadDlqRate = async ({ catalog, pipeline }: Pick<DlqLakeDeps, 'catalog' | 'pipeline'>, { source, silver }: Dataset, nowMs: number): Promise<DlqRate> => {
  const since = BigInt(nowMs - dlqRateWindowMs) * 1_000n;
  const [silverTable, dlq] = await Promise.all([catalog.load(silver.name), catalog.load(pipeline.dlqTable)]);
  const [valid, refused] = await Promise.all([
    refinedSince(silverTable, 'validation_timestamp', since),
    dlq.scan({ partition: { bronze_source: source }, bounds: [{ column: 'error_timestamp', min: since }] }).then((files) => refinedSince(dlq, 'error_timestamp', since, files)),
  ]);
  return dlqRateOf(valid + refused, refused);
};

export interface DlqStates {
  byState: Record<DlqState, number>;
  /** Null without rows. */
  recoveryPercent: number | null;
}

/** Rows by state. Reads narrow columns of the DLQ and of `dlq_resolutions`. */
export const loadDlqStates = async ({ store, catalog, pipeline, signal }: DlqLakeDeps, source: string): Promise<DlqStates> => {
  const options = signal ? { signal } : {};
  const last = await loadLastResolutions({ store, catalog, ...options }, source);
  const byState: Record<DlqState, number> = { open: 0, recovered: 0, purged: 0, flagged: 0, quarantined: 0 };
  for await (const { rows } of selectRows({ store, version: await catalog.load(pipeline.dlqTable), selector: new DlqSelector({ source, states: [...dlqStates] }), last, ...options })) {
    for (const { state } of rows) byState[state] += 1;
  }
  return { byState, recoveryPercent: recoveryPercentOf(byState) };
};
