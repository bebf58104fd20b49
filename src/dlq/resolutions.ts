import type { DlqState } from '../contracts/dlq-replay.ts';
import { dlqResolutionsTable } from '../datasets/engine-tables.ts';
import type { Coverage } from '../domain/offsets.ts';
import { parseTopicPartitionKey, topicPartitionKey } from '../domain/offsets.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Catalog, TableVersion } from '../lake/table.ts';
import type { Resolution } from '../refine/transform.ts';
import { readRows } from './read-rows.ts';

// What was decided about records of the DLQ. Rows of `dlq_resolutions` follow each other; of one offset the last one
// counts, by (resolved_at, attempt).

/** Actions as the table holds them. `refused`: tried again in vain; the record stays open, with one more attempt. */
export const resolutionActions = ['recovered', 'purged', 'flagged', 'quarantined', 'refused'] as const;
export type ResolutionAction = (typeof resolutionActions)[number];

/** One row of `dlq_resolutions`. */
export interface ResolutionRow {
  action: ResolutionAction;
  schemaId: number | null;
  /** Null also where the bytes were not asked for. */
  replacement: Uint8Array | null;
  replayId: string;
  reason: string | null;
  actor: string;
  /** Replays that tried to refine the record, this one included; 0: none did. */
  attempt: number;
  /** µs since the epoch. */
  resolvedAt: bigint;
}

export const stateOf = (last: Pick<ResolutionRow, 'action'> | undefined): DlqState =>
  last === undefined || last.action === 'refused' ? 'open' : last.action;

/** The last resolution of each offset that has one. Offsets are numbers: Kafka's stay below 2^53. */
export class LastResolutions {
  private readonly places = new Map<string, Map<number, ResolutionRow>>();

  get(topic: string, partition: number, offset: number): ResolutionRow | undefined {
    return this.places.get(topicPartitionKey(topic, partition))?.get(offset);
  }

  /** Takes the row if it is later than the one known. */
  append(topic: string, partition: number, offset: number, row: ResolutionRow): void {
    const key = topicPartitionKey(topic, partition);
    let place = this.places.get(key);
    if (!place) this.places.set(key, place = new Map());
    const known = place.get(offset);
    if (!known || row.resolvedAt > known.resolvedAt || (row.resolvedAt === known.resolvedAt && row.attempt >= known.attempt)) place.set(offset, row);
  }

  *entries(): Generator<{ topic: string; partition: number; offset: number; row: ResolutionRow }> {
    for (const [key, place] of this.places) {
      const { topic, partition } = parseTopicPartitionKey(key);
      for (const [offset, row] of place) yield { topic, partition, offset, row };
    }
  }
}

export interface ResolutionDeps {
  store: ObjectStore;
  catalog: Pick<Catalog, 'load'>;
  signal?: AbortSignal;
}

export interface ResolutionOptions {
  /** Only these offsets. */
  coverage?: Coverage;
  /** Reads the replacement bytes too. */
  withReplacements?: boolean;
  /** Told of every row, not the last ones alone. */
  onRow?: (topic: string, partition: number, offset: number, row: ResolutionRow) => void;
  /** A version that is loaded already; default: the current one. */
  version?: TableVersion;
}

/** The last resolutions of a source. Memory: some 150 bytes an offset that was ever resolved, replacements apart. */
export const loadLastResolutions = async (
  { store, catalog, signal }: ResolutionDeps, source: string, { coverage, withReplacements = false, onRow, version }: ResolutionOptions = {},
): Promise<LastResolutions> => {
  const last = new LastResolutions();
  const table = version ?? await catalog.load(dlqResolutionsTable.name);
  const columns = ['topic', 'partition', 'offset', 'action', 'schema_id', 'replay_id', 'reason', 'actor', 'attempt', 'resolved_at', ...(withReplacements ? ['replacement_bytes'] : [])];
  for await (const { batch } of readRows(store, await table.scan({ partition: { bronze_source: source } }), columns, signal)) {
    const column = (name: string) => batch.columns[name]!;
    for (let i = 0; i < batch.rowCount; i += 1) {
      const topic = column('topic')[i] as string;
      const partition = column('partition')[i] as number;
      const offset = column('offset')[i] as bigint;
      if (coverage && !coverage.of(topicPartitionKey(topic, partition)).has(offset)) continue;
      const bytes = withReplacements ? column('replacement_bytes')[i] as Uint8Array | null : null;
      const row: ResolutionRow = {
        action: column('action')[i] as ResolutionAction,
        schemaId: column('schema_id')[i] as number | null,
        // A copy: the view would keep its whole page.
        replacement: bytes === null ? null : Uint8Array.from(bytes),
        replayId: column('replay_id')[i] as string,
        reason: column('reason')[i] as string | null,
        actor: column('actor')[i] as string,
        attempt: column('attempt')[i] as number,
        resolvedAt: column('resolved_at')[i] as bigint,
      };
      onRow?.(topic, partition, Number(offset), row);
      last.append(topic, partition, Number(offset), row);
    }
  }
  return last;
};

/** What refining an offset must be given because of its last resolution; undefined: nothing, its Bronze bytes are refined as they are. */
export const refineResolutionOf = (topic: string, partition: number, offset: number, { action, schemaId, replacement }: ResolutionRow): Resolution | undefined => {
  const place = { topic, partition, offset: String(offset) };
  if (action === 'purged') return { ...place, purged: true };
  if (action !== 'recovered' || (schemaId === null && replacement === null)) return undefined;
  return {
    ...place,
    ...(schemaId === null ? {} : { schemaId }),
    ...(replacement === null ? {} : { replacement: Buffer.from(replacement).toString('base64') }),
  };
};

/**
 * The resolutions that refining these offsets must be given (`RefineInput.resolutions`): with them a backfill gives the rows
 * that the DLQ replays gave. Whoever publishes later than it refined must make sure that `dlq_resolutions` has not changed
 * for its offsets in between: a replay may have been published meanwhile.
 */
export const loadRefineResolutions = async (deps: ResolutionDeps, source: string, coverage: Coverage, version?: TableVersion): Promise<Resolution[]> => {
  const last = await loadLastResolutions(deps, source, { coverage, withReplacements: true, ...(version ? { version } : {}) });
  return [...last.entries()].flatMap(({ topic, partition, offset, row }) => refineResolutionOf(topic, partition, offset, row) ?? []);
};
