import type { DlqSelection, DlqState } from '../contracts/dlq-replay.ts';
import { dlqStates, selectedRecordsMax } from '../contracts/dlq-replay.ts';
import { TidemarkError } from '../domain/errors.ts';
import { parseTopicPartitionKey, topicPartitionKey } from '../domain/offsets.ts';
import { utcMs } from '../domain/utc-time.ts';
import type { ColumnBatch } from '../lake/columns.ts';
import type { ScanOptions } from '../lake/table.ts';

/** Columns that a selection looks at. */
export const selectionColumns = ['error_reason', 'error_type', 'kafka_topic', 'kafka_partition', 'kafka_offset', 'kafka_timestamp', 'schema_id'] as const;

export interface RecordPlace {
  topic: string;
  partition: number;
  offset: number;
}

/** `<topic>/<partition>/<offset>`. */
export const parseRecordPlace = (text: string): RecordPlace => {
  const slash = text.lastIndexOf('/');
  const digits = text.slice(slash + 1);
  if (slash < 1 || !/^\d{1,15}$/.test(digits)) throw new TidemarkError('BAD_INPUT', `record: expected <topic>/<partition>/<offset>, found ${JSON.stringify(text)}`);
  return { ...parseTopicPartitionKey(text.slice(0, slash)), offset: Number(digits) };
};
export const recordPlaceText = ({ topic, partition, offset }: RecordPlace): string => `${topicPartitionKey(topic, partition)}/${offset}`;

const microsOf = (name: string, text: string): bigint => {
  const ms = utcMs(text);
  if (ms === undefined) throw new TidemarkError('BAD_INPUT', `${name}: expected a date or time as ISO 8601 has it, found ${JSON.stringify(text)}`);
  return BigInt(ms) * 1_000n;
};
const microsPerDay = 86_400_000_000n;

/** A selection made ready to be asked of many rows. Throws BAD_INPUT for what no selection can mean. */
export class DlqSelector {
  readonly source: string;
  /** States that are taken; of named records every one but `recovered`. */
  readonly states: ReadonlySet<DlqState>;
  private readonly from: bigint | undefined;
  private readonly until: bigint | undefined;
  private readonly errorTypes: ReadonlySet<string> | undefined;
  private readonly reasons: ReadonlySet<string> | undefined;
  private readonly schemaIds: ReadonlySet<number> | undefined;
  private readonly records: ReadonlyMap<string, ReadonlySet<number>> | undefined;

  constructor({ source, from, until, errorTypes, reasons, schemaIds, records, states }: DlqSelection) {
    this.source = source;
    this.from = from === undefined ? undefined : microsOf('from', from);
    this.until = until === undefined ? undefined : microsOf('until', until);
    if (this.from !== undefined && this.until !== undefined && this.from >= this.until) {
      throw new TidemarkError('BAD_INPUT', `from and until: expected a half-open range of time, found [${from}, ${until})`);
    }
    this.errorTypes = errorTypes && new Set(errorTypes);
    this.reasons = reasons && new Set(reasons);
    this.schemaIds = schemaIds && new Set(schemaIds);
    for (const state of states ?? []) {
      if (!dlqStates.includes(state)) throw new TidemarkError('BAD_INPUT', `state: expected one of ${dlqStates.join(', ')}, found ${state}`);
    }
    if (records) {
      if (records.length > selectedRecordsMax) throw new TidemarkError('BAD_INPUT', `records: expected at most ${selectedRecordsMax} that are named, found ${records.length}; select them by reason or time`);
      const byPlace = new Map<string, Set<number>>();
      for (const { topic, partition, offset } of records.map(parseRecordPlace)) {
        const key = topicPartitionKey(topic, partition);
        byPlace.set(key, (byPlace.get(key) ?? new Set()).add(offset));
      }
      this.records = byPlace;
    }
    this.states = new Set(states ?? (records ? dlqStates.filter((state) => state !== 'recovered') : ['open']));
  }

  /** The DLQ files that may hold such rows. */
  get scan(): ScanOptions {
    const { from, until } = this;
    return {
      partition: { bronze_source: this.source, ...(this.errorTypes?.size === 1 ? { error_type: [...this.errorTypes][0]! } : {}) },
      bounds: from === undefined && until === undefined ? [] : [
        { column: 'kafka_timestamp', ...(from === undefined ? {} : { min: from }), ...(until === undefined ? {} : { max: until - 1n }) },
        // The table is partitioned by this day.
        { column: 'dlq_date', ...(from === undefined ? {} : { min: Number(from / microsPerDay) }), ...(until === undefined ? {} : { max: Number((until - 1n) / microsPerDay) }) },
      ],
    };
  }

  /** Whether the row fits, its state apart. The batch has {@link selectionColumns}. */
  takes({ columns }: ColumnBatch, row: number): boolean {
    const time = columns['kafka_timestamp']![row] as bigint;
    if ((this.from !== undefined && time < this.from) || (this.until !== undefined && time >= this.until)) return false;
    if (this.errorTypes && !this.errorTypes.has(columns['error_type']![row] as string)) return false;
    if (this.reasons && !(columns['error_reason']![row] as string).split(',').some((reason) => this.reasons!.has(reason))) return false;
    if (this.schemaIds) {
      const id = columns['schema_id']![row] as number | null;
      if (id === null || !this.schemaIds.has(id)) return false;
    }
    if (!this.records) return true;
    const key = topicPartitionKey(columns['kafka_topic']![row] as string, columns['kafka_partition']![row] as number);
    return this.records.get(key)?.has(Number(columns['kafka_offset']![row] as bigint)) ?? false;
  }
}
