import type { AuditedGold } from '../contracts/audit.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { TidemarkError } from '../domain/errors.ts';
import { IntervalSet } from '../domain/offsets.ts';
import type { ColumnBatch } from '../lake/columns.ts';
import type { TableDefinition } from '../lake/schema.ts';
import type { LiveFile } from '../lake/table.ts';
import { hashKeys, keyWords } from '../refine/key-hash.ts';
import type { AuditRun } from './audit-run.ts';
import { fileBounds, isAsked, readFiles } from './audit-run.ts';
import type { FindingKind } from './findings.ts';
import { KeyTable, bytesPerKey } from './key-table.ts';
import { LineageReader, TopicPartitions, int64Numbers, noPlace, refinedLineage } from './lineage.ts';

const microsPerHour = 3_600_000_000;

/** Files of one event hour: keys that are equal agree in the event time, so that each hour can be compared by itself. */
interface Hour {
  hour: number | string | null;
  silver: Map<Dataset, LiveFile[]>;
  gold: LiveFile[];
}

/** Offsets as numbers, asked in nearly ascending order. */
class OffsetLookup {
  private readonly starts: Float64Array;
  private readonly ends: Float64Array;
  private last = 0;

  constructor({ intervals }: IntervalSet) {
    this.starts = Float64Array.from(intervals, ({ start }) => Number(start));
    this.ends = Float64Array.from(intervals, ({ end }) => Number(end));
  }

  has(offset: number): boolean {
    const { starts, ends } = this;
    if (starts.length === 0) return false;
    if (offset < starts[this.last]! || offset >= ends[this.last]!) {
      let low = 0;
      let high = starts.length - 1;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (starts[middle]! <= offset) low = middle;
        else high = middle - 1;
      }
      this.last = low;
    }
    return offset >= starts[this.last]! && offset < ends[this.last]!;
  }
}

const identityColumns = (table: TableDefinition): string[] =>
  table.partitionBy.filter(({ transform }) => transform === 'identity').map(({ sourceId }) => table.fields.find(({ id }) => id === sourceId)!.name);

/**
 * One Gold table against the Silver rows of all datasets that feed it: of each key the least lineage, once. Works hour by
 * hour; an hour whose keys exceed the budget takes several passes, each for a part of the hashes.
 */
export class GoldAudit {
  private readonly run: AuditRun;
  private readonly datasets: readonly Dataset[];
  private readonly gold: TableDefinition;
  private readonly key: readonly string[];
  private readonly eventTime: string;
  private readonly topicPartitions = new TopicPartitions();
  private readonly reader = new LineageReader(this.topicPartitions);
  private readonly merged = new Map<number, OffsetLookup>();
  private readonly taken = new Map<number, OffsetLookup>();
  private readonly kinds: Record<'alone' | 'twice' | 'wrongWinner' | 'missing' | 'goldMisplaced' | 'silverMisplaced' | 'goldWithoutLineage', FindingKind>;
  private eventTimes = new Float64Array(0);

  /** @throws TidemarkError BAD_INPUT if datasets that share the table disagree in its key or event time. */
  constructor(run: AuditRun, datasets: readonly Dataset[]) {
    const [first, ...others] = datasets;
    for (const other of others) {
      if (other.eventTime !== first!.eventTime || other.key.join() !== first!.key.join()) {
        throw new TidemarkError('BAD_INPUT', `${first!.gold.name}: expected one key and event time, found (${first!.key.join()}; ${first!.eventTime}) of ${first!.source} and (${other.key.join()}; ${other.eventTime}) of ${other.source}`);
      }
    }
    this.run = run;
    this.datasets = datasets;
    this.gold = first!.gold;
    this.key = first!.key;
    this.eventTime = first!.eventTime;
    const { name } = this.gold;
    this.kinds = {
      alone: { promise: 'gold-from-silver', subject: name, detail: `expected a Silver row with the key (${this.key.join(', ')}), found none` },
      twice: { promise: 'gold-once', subject: name, detail: `expected the key (${this.key.join(', ')}) once, found it again` },
      wrongWinner: { promise: 'gold-least-wins', subject: name, detail: 'expected the least (topic, partition, offset) of the key, found this one' },
      missing: { promise: 'gold-complete', subject: name, detail: 'Silver rows that were merged: expected their keys, found none' },
      goldMisplaced: { promise: 'rows-in-place', subject: name, detail: 'expected rows of the partition that their file is filed under, found others' },
      silverMisplaced: { promise: 'rows-in-place', subject: datasets.map(({ silver }) => silver.name).join(', '), detail: `expected rows of the hour that their file is filed under, found others` },
      goldWithoutLineage: { promise: 'gold-from-silver', subject: name, detail: 'expected a topic, partition and offset in every row' },
    };
  }

  async audit(): Promise<AuditedGold> {
    const { run } = this;
    const result: AuditedGold = { table: this.gold.name, rows: 0, silverRows: 0, distinctKeys: 0, duplicates: 0, unmergedRows: 0, hours: 0, passes: 0 };
    const hours = (await this.hours()).map((hour) => ({ ...hour, ...this.passesOf(hour) }));
    const table = new KeyTable(Math.max(0, ...hours.map(({ keys }) => keys)));
    for (const hour of hours) {
      run.signal?.throwIfAborted();
      await this.auditHour(hour, table, result);
      result.hours += 1;
    }
    result.duplicates = result.silverRows - result.distinctKeys;
    return result;
  }

  private async hours(): Promise<Hour[]> {
    const { run, datasets, eventTime } = this;
    const hours = new Map<string, Hour>();
    const wanted = new Set<string>();
    const append = async (table: string, into: (hour: Hour, file: LiveFile) => void): Promise<void> => {
      const fields = run.view.version(table)?.fields ?? [];
      for (const file of await run.view.scan(table)) {
        const value = file.partition[eventTime] ?? null;
        const id = String(value);
        let hour = hours.get(id);
        if (!hour) hours.set(id, hour = { hour: value, silver: new Map(), gold: [] });
        into(hour, file);
        if (isAsked(run, fileBounds(file, fields, refinedLineage))) wanted.add(id);
      }
    };
    for (const dataset of datasets) {
      await append(dataset.silver.name, ({ silver }, file) => {
        const files = silver.get(dataset);
        if (files) files.push(file);
        else silver.set(dataset, [file]);
      });
    }
    await append(this.gold.name, ({ gold }, file) => { gold.push(file); });
    return [...hours].filter(([id]) => wanted.has(id)).map(([, hour]) => hour).sort((a, b) => Number(a.hour) - Number(b.hour));
  }

  /** Whether the Silver row of this lineage is in the archive instead. */
  private isTaken(place: number, offset: number): boolean {
    let lookup = this.taken.get(place);
    if (!lookup) {
      const key = this.topicPartitions.keyOf(place);
      this.taken.set(place, lookup = new OffsetLookup(this.datasets.reduce((sum, { silver }) => sum.union(this.run.taken(silver.name).of(key)), IntervalSet.empty)));
    }
    return lookup.has(offset);
  }

  private isMerged(place: number, offset: number): boolean {
    let lookup = this.merged.get(place);
    if (!lookup) this.merged.set(place, lookup = new OffsetLookup(this.run.view.coverage(this.gold.name).of(this.topicPartitions.keyOf(place))));
    return lookup.has(offset);
  }

  /** The merge of such a Silver row is on its way. */
  private isRecovering(place: number, offset: number): boolean {
    return this.run.recovering.of(this.topicPartitions.keyOf(place)).has(BigInt(offset)) || this.isReplacing(place, offset);
  }

  /** Such a Gold row is about to go, or to come from a Silver row that is not its own any more. */
  private isReplacing(place: number, offset: number): boolean {
    return this.run.replacing.of(this.topicPartitions.keyOf(place)).has(BigInt(offset));
  }

  /** How many passes an hour takes, and the keys to expect in one. */
  private passesOf({ silver }: Hour): { passes: number; keys: number } {
    const rows = [...silver.values()].flat().reduce((sum, { recordCount }) => sum + recordCount, 0);
    const passes = Math.max(1, Math.ceil((rows * bytesPerKey) / (this.run.memoryBudgetBytes * 0.6)));
    // Hashes fall into the passes nearly evenly.
    return { passes, keys: Math.ceil((rows / passes) * (passes === 1 ? 1 : 1.05)) };
  }

  private async auditHour({ hour, silver, gold, passes, keys }: Hour & { passes: number; keys: number }, table: KeyTable, result: AuditedGold): Promise<void> {
    const { run, topicPartitions, reader, kinds } = this;
    const columns = [...new Set([...this.key, this.eventTime, ...Object.values(refinedLineage) as string[]])];
    result.passes += passes;
    for (let pass = 0; pass < passes; pass += 1) {
      table.reset(keys);
      const isFirst = pass === 0;
      for (const [dataset, files] of silver) {
        await readFiles({
          run, phase: 'gold', subject: dataset.silver.name, table: dataset.silver.name, files, columns, lineage: refinedLineage,
          onRows: (batch, file) => {
            const { rowCount, places, offsets } = reader.read(batch, refinedLineage);
            const hashes = this.hashesOf(batch);
            if (isFirst) this.checkPlace(batch, file, hour, [], kinds.silverMisplaced, places, offsets);
            for (let i = 0; i < rowCount; i += 1) {
              const at = i * keyWords;
              const place = places[i]!;
              if (place === noPlace || (passes > 1 && hashes[at + 3]! % passes !== pass)) continue;
              const offset = offsets[i]!;
              if (!this.isMerged(place, offset)) {
                result.unmergedRows += 1;
                continue;
              }
              result.silverRows += 1;
              const slot = table.add(hashes, at, place, offset);
              if (slot >= 0 && topicPartitions.compare(place, offset, table.place(slot), table.offset(slot)) < 0) table.setLineage(slot, place, offset);
            }
          },
        });
      }
      await readFiles({
        run, phase: 'gold', subject: this.gold.name, table: this.gold.name, files: gold, columns, lineage: refinedLineage,
        onRows: (batch, file) => {
          const { rowCount, places, offsets } = reader.read(batch, refinedLineage);
          const hashes = this.hashesOf(batch);
          if (isFirst) this.checkPlace(batch, file, hour, identityColumns(this.gold), kinds.goldMisplaced, places, offsets);
          const keyOf = (i: number): string => this.key.map((column) => String(batch.columns[column]![i])).join(' ');
          for (let i = 0; i < rowCount; i += 1) {
            const at = i * keyWords;
            if (passes > 1 && hashes[at + 3]! % passes !== pass) continue;
            const place = places[i]!;
            const offset = offsets[i]!;
            result.rows += 1;
            if (place === noPlace) {
              run.findings.mark({ ...kinds.goldWithoutLineage, topic: null, partition: null, startOffset: null, endOffset: null, detail: `${kinds.goldWithoutLineage.detail}, found none at ${keyOf(i)}` });
              continue;
            }
            const slot = table.find(hashes, at);
            if (slot < 0) {
              if (this.isTaken(place, offset) || this.isReplacing(place, offset)) continue;
              run.findings.markOffset(kinds.alone, topicPartitions.keyOf(place), offset, () => keyOf(i));
              continue;
            }
            if (table.visit(slot)) {
              run.findings.markOffset(kinds.twice, topicPartitions.keyOf(place), offset, () => keyOf(i));
            } else if ((table.place(slot) !== place || table.offset(slot) !== offset) && !this.isRecovering(table.place(slot), table.offset(slot)) && !this.isReplacing(place, offset)) {
              // The least of a key may be in the archive, and its duplicates not yet.
              if (this.isTaken(place, offset) && topicPartitions.compare(place, offset, table.place(slot), table.offset(slot)) < 0) continue;
              const least = { ...topicPartitions.at(table.place(slot)), offset: table.offset(slot) };
              run.findings.markOffset(kinds.wrongWinner, topicPartitions.keyOf(place), offset, () => `${keyOf(i)}, whose least is ${least.key} offset ${least.offset}`);
            }
          }
        },
      });
      result.distinctKeys += table.size;
      for (const { place, offset } of table.unvisited()) if (!this.isRecovering(place, offset)) run.findings.markOffset(kinds.missing, topicPartitions.keyOf(place), offset);
    }
  }

  private hashesOf({ columns, rowCount }: ColumnBatch): Uint32Array {
    return hashKeys(this.key.map((column) => columns[column]!), rowCount);
  }

  /** A row outside of its file's partition is hidden from every reader that prunes by it. */
  private checkPlace({ columns, rowCount }: ColumnBatch, file: LiveFile, hour: Hour['hour'], identities: readonly string[], kind: FindingKind, places: Int32Array, offsets: Float64Array): void {
    if (this.eventTimes.length < rowCount) this.eventTimes = new Float64Array(rowCount);
    const times = this.eventTimes;
    int64Numbers(columns[this.eventTime]!, rowCount, times);
    const expected = identities.map((name) => [columns[name], file.partition[name]] as const);
    for (let i = 0; i < rowCount; i += 1) {
      if (places[i] === noPlace) continue;
      const isInPlace = Math.floor(times[i]! / microsPerHour) === hour && expected.every(([values, value]) => !values || values[i] === value);
      if (!isInPlace) this.run.findings.markOffset(kind, this.topicPartitions.keyOf(places[i]!), offsets[i]!);
    }
  }
}
