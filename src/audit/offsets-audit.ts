import type { AuditedSource, AuditedTopicPartition } from '../contracts/audit.ts';
import type { Dataset } from '../datasets/dataset.ts';
import { dlqResolutionsTable, ingestGapsTable } from '../datasets/engine-tables.ts';
import { isTidemarkError } from '../domain/errors.ts';
import type { Interval } from '../domain/offsets.ts';
import { IntervalSet, parseTopicPartitionKey, topicPartitionKey } from '../domain/offsets.ts';
import type { ColumnBatch } from '../lake/columns.ts';
import type { LiveFile } from '../lake/table.ts';
import type { AuditRun } from './audit-run.ts';
import { extentOf, fileBounds, isAsked, markFile, mayHold, namedRange, readFiles } from './audit-run.ts';
import type { FindingKind } from './findings.ts';
import type { LineageColumns } from './lineage.ts';
import { LineageReader, TopicPartitions, bronzeLineage, int64Numbers, noPlace, refinedLineage } from './lineage.ts';
import { OffsetBitmap, chunkBytes, chunkOffsets, intervalsOf, maskOfChunk } from './offset-bitmap.ts';

/** What the broker holds of one topic partition: half-open [logStart, logEnd). */
export interface KafkaBounds {
  logStart: bigint;
  logEnd: bigint;
}

/** Footer keys of Bronze files that say which offsets the file stands for, sparse ones included. */
const rangeFooterKey = 'tidemark.range';
const topicPartitionFooterKey = 'tidemark.topic-partition';

/** Resolutions that close a DLQ row without a Silver row. */
const closingActions: ReadonlySet<string> = new Set(['purged', 'flagged', 'quarantined']);

/** The offsets of one topic partition in one slice of the offset space. */
interface PlaceState {
  start: number;
  end: number;
  bronze: OffsetBitmap;
  silver: OffsetBitmap;
  dlq: OffsetBitmap;
  recovered: OffsetBitmap;
  closed: OffsetBitmap;
}
/** Bitmaps of a place that grow with its rows; resolutions are few. */
const bitmapsOfPlace = 3;

/** One piece of the offset space, small enough for its bits to fit the memory budget. Only the first takes topic partitions that nobody announced. */
interface Slice {
  places: Map<number, { start: number; end: number }>;
  isFirst: boolean;
}

interface PlaceCounts {
  bronze: number;
  silver: number;
  dlq: number;
  dlqOpen: number;
  recovered: number;
  unrefined: number;
}

const kind = (promise: FindingKind['promise'], subject: string, detail: string): FindingKind => ({ promise, subject, detail });

/** Offsets of Kafka, Bronze, covered intervals, gaps, Silver, DLQ and resolutions of one source, compared row by row. */
export class OffsetsAudit {
  private readonly run: AuditRun;
  private readonly dataset: Dataset;
  private readonly topicPartitions = new TopicPartitions();
  private readonly reader = new LineageReader(this.topicPartitions);
  private readonly counts = new Map<number, PlaceCounts>();
  /** Places that the slices name; none if everything is one slice. */
  private readonly announced = new Set<number>();
  /** Offsets that Bronze files stand for, by place. */
  private readonly fileRanges = new Map<number, Interval[]>();
  private readonly kinds: Record<'bronzeTwice' | 'silverTwice' | 'dlqTwice' | 'lost' | 'both' | 'recoveredMissing' | 'silverAlone' | 'dlqAlone' | 'silverUncovered' | 'dlqUncovered'
    | 'bronzeUncovered' | 'bronzeInGap' | 'missing' | 'withoutFile' | 'gapWithoutRow' | 'truncated', FindingKind>;

  constructor(run: AuditRun, dataset: Dataset) {
    this.run = run;
    this.dataset = dataset;
    const { bronze: { name: bronze }, silver: { name: silver } } = dataset;
    const { dlqTable: dlq } = run.pipeline;
    this.kinds = {
      bronzeTwice: kind('bronze-once', bronze, 'expected each offset once, found more than one row'),
      bronzeInGap: kind('bronze-once', bronze, `expected no row at offsets that ${ingestGapsTable.name} says are lost, found rows`),
      bronzeUncovered: kind('bronze-covered', bronze, 'expected rows at covered offsets only, found rows at offsets that the table does not cover'),
      withoutFile: kind('bronze-covered', bronze, 'the table says it covers these offsets, but no file holds them'),
      missing: kind('bronze-complete', bronze, 'expected in Bronze or in a recorded gap, found in neither'),
      gapWithoutRow: kind('bronze-complete', ingestGapsTable.name, 'the table says it covers these offsets, but no row records the gap'),
      truncated: kind('bronze-complete', bronze, 'the lake holds these offsets, but the topic ends before them: it was truncated or created again'),
      lost: kind('refined-once', silver, `refined Bronze rows: expected in ${silver} or ${dlq}, found in neither`),
      both: kind('refined-once', silver, `expected in ${silver} or ${dlq}, found in both without a resolution`),
      recoveredMissing: kind('refined-once', silver, 'resolved as recovered: expected in Silver, found no row'),
      silverTwice: kind('refined-once', silver, 'expected each offset once, found more than one row'),
      dlqTwice: kind('refined-once', dlq, 'expected each offset once, found more than one row'),
      silverAlone: kind('refined-from-bronze', silver, `expected rows of ${bronze}, found no such offset there`),
      dlqAlone: kind('refined-from-bronze', dlq, `expected rows of ${bronze}, found no such offset there`),
      silverUncovered: kind('refined-from-bronze', silver, 'expected rows at covered offsets only, found rows at offsets that the table does not cover'),
      dlqUncovered: kind('refined-from-bronze', dlq, 'expected rows at covered offsets only, found rows at offsets that the table does not cover'),
    };
  }

  async audit(topics: readonly string[], kafka: ReadonlyMap<string, KafkaBounds> | undefined): Promise<AuditedSource> {
    const { dataset, run } = this;
    const { view, pipeline } = run;
    const bySource = { partition: { bronze_source: dataset.source } };
    const [bronzeFiles, silverFiles, dlqFiles, gaps] = [
      await view.scan(dataset.bronze.name), await view.scan(dataset.silver.name), await view.scan(pipeline.dlqTable, bySource), await this.readGaps(bySource),
    ];
    const tables = [
      { table: dataset.bronze.name, files: bronzeFiles, names: bronzeLineage, into: 'bronze' as const },
      { table: dataset.silver.name, files: silverFiles, names: refinedLineage, into: 'silver' as const },
      { table: pipeline.dlqTable, files: dlqFiles, names: refinedLineage, into: 'dlq' as const },
    ].map((entry) => ({ ...entry, bounds: new Map(entry.files.map((file) => [file, extentOf(file, view.version(entry.table)?.fields ?? [], entry.names)])) }));

    for (const { partition, topic } of kafka ? [...kafka.keys()].map(parseTopicPartitionKey) : []) this.topicPartitions.indexOf(topic, partition);
    for (const coverage of [view.coverage(dataset.bronze.name), view.coverage(dataset.silver.name)]) {
      for (const key of coverage.keys()) {
        const { topic, partition } = parseTopicPartitionKey(key);
        this.topicPartitions.indexOf(topic, partition);
      }
    }

    for (const slice of this.slices()) {
      const states = new Map<number, PlaceState>();
      for (const [place, { start, end }] of slice.places) states.set(place, newState(start, end));
      for (const { table, files, names, into, bounds } of tables) {
        const wanted = files.filter((file) => slice.isFirst || [...slice.places].some(([place, { start, end }]) => {
          const { topic, partition } = this.topicPartitions.at(place);
          return mayHold(bounds.get(file)!, topic, partition, start, end);
        }));
        const asked = wanted.filter((file) => isAsked(run, bounds.get(file)!));
        await this.readTable(table, asked, names, into, slice, states);
      }
      await this.readResolutions(bySource, slice, states);
      for (const [place, state] of states) this.compare(place, state, gaps.get(this.topicPartitions.keyOf(place)) ?? IntervalSet.empty);
    }
    return this.conclude(topics, kafka, gaps);
  }

  /** Cuts the offset space so that the bits of one slice fit half of the budget; the other half is for files and findings. */
  private slices(): Slice[] {
    const chunksMax = Math.max(1, Math.floor(this.run.memoryBudgetBytes / 2 / (chunkBytes * bitmapsOfPlace)));
    const extents: { place: number; first: number; end: number }[] = [];
    for (let place = 0; place < this.topicPartitions.size; place += 1) {
      const key = this.topicPartitions.keyOf(place);
      const [bronze, silver] = [this.dataset.bronze.name, this.dataset.silver.name].map((table) => this.run.view.coverage(table).of(key));
      const { intervals } = bronze!.union(silver!);
      if (intervals.length === 0) continue;
      extents.push({ place, first: Math.floor(Number(intervals[0]!.start) / chunkOffsets), end: Math.ceil(Number(intervals.at(-1)!.end) / chunkOffsets) });
    }
    const first: Slice = { places: new Map(), isFirst: true };
    if (extents.reduce((sum, extent) => sum + extent.end - extent.first, 0) <= chunksMax) return [first];
    const slices = [first];
    let used = 0;
    for (const { place, first: firstChunk, end } of extents) {
      this.announced.add(place);
      for (let chunk = firstChunk; chunk < end;) {
        if (used >= chunksMax) {
          slices.push({ places: new Map(), isFirst: false });
          used = 0;
        }
        const from = chunk === firstChunk ? 0 : chunk * chunkOffsets;
        const take = Math.min(end - chunk, chunksMax - used);
        chunk += take;
        used += take;
        slices.at(-1)!.places.set(place, { start: from, end: chunk >= end ? Number.MAX_SAFE_INTEGER : chunk * chunkOffsets });
      }
    }
    return slices;
  }

  private stateOf(place: number, slice: Slice, states: Map<number, PlaceState>): PlaceState | undefined {
    let state = states.get(place);
    // Topic partitions that the coverage announces belong to the slices that name them; the first slice takes any other whole.
    if (!state && slice.isFirst && !this.announced.has(place)) states.set(place, state = newState(0, Number.MAX_SAFE_INTEGER));
    return state;
  }

  private async readTable(table: string, files: readonly LiveFile[], names: LineageColumns, into: 'bronze' | 'silver' | 'dlq', slice: Slice, states: Map<number, PlaceState>): Promise<void> {
    const { run, reader, topicPartitions } = this;
    const twice = this.kinds[`${into}Twice`];
    let least = Number.MAX_SAFE_INTEGER;
    let greatest = -1;
    let withoutLineage = 0;
    let places = new Set<number>();
    const onRows = (batch: ColumnBatch): void => {
      const lineage = reader.read(batch, names);
      const { rowCount, offsets } = lineage;
      let lastPlace = noPlace;
      let state: PlaceState | undefined;
      for (let i = 0; i < rowCount; i += 1) {
        const place = lineage.places[i]!;
        const offset = offsets[i]!;
        if (place === noPlace) {
          withoutLineage += 1;
          continue;
        }
        if (place !== lastPlace) {
          lastPlace = place;
          state = this.stateOf(place, slice, states);
          places.add(place);
        }
        if (offset < least) least = offset;
        if (offset > greatest) greatest = offset;
        if (!state || offset < state.start || offset >= state.end) continue;
        if (!state[into].add(offset)) run.findings.markOffset(twice, topicPartitions.keyOf(place), offset);
      }
    };
    await readFiles({
      run, phase: 'offsets', subject: table, table, files, columns: Object.values(names) as string[], lineage: names, onRows,
      onFile: ({ file, footer, rows }) => {
        if (slice.isFirst) {
          const { offsetMin, offsetMax } = fileBounds(file, run.view.version(table)?.fields ?? [], names);
          if (greatest >= 0 && (least < offsetMin || greatest > offsetMax)) {
            markFile(run, 'rows-in-place', table, file, `expected offsets within [${offsetMin}, ${offsetMax}] as the manifest says, found ${least} to ${greatest}`, names);
          }
          if (withoutLineage > 0) markFile(run, 'rows-in-place', table, file, `expected a topic, partition and offset in every row, found ${withoutLineage} without`, names);
          if (into === 'bronze' && (rows > 0 || file.recordCount === 0)) this.addFileRange(table, file, footer, places, least, greatest);
        }
        least = Number.MAX_SAFE_INTEGER;
        greatest = -1;
        withoutLineage = 0;
        places = new Set();
      },
    });
  }

  /** The range that a Bronze file stands for: from its footer, else its name, else its rows. Rows outside of it are misplaced. */
  private addFileRange(table: string, file: LiveFile, footer: Record<string, string>, places: ReadonlySet<number>, least: number, greatest: number): void {
    const { run, topicPartitions, fileRanges } = this;
    let declared: { place: number; intervals: readonly Interval[] } | undefined;
    try {
      const key = footer[topicPartitionFooterKey];
      const range = footer[rangeFooterKey];
      if (key !== undefined && range !== undefined) {
        const { topic, partition } = parseTopicPartitionKey(key);
        declared = { place: topicPartitions.indexOf(topic, partition), intervals: IntervalSet.parse(range).intervals };
      } else {
        const named = namedRange(file);
        if (named) declared = { place: topicPartitions.indexOf(named.topic, named.partition), intervals: [named] };
      }
    } catch (error) {
      if (!isTidemarkError(error, 'BAD_INPUT')) throw error;
    }
    const append = (place: number, intervals: readonly Interval[]): void => {
      const known = fileRanges.get(place);
      if (known) known.push(...intervals);
      else fileRanges.set(place, [...intervals]);
    };
    if (!declared) {
      // A file that says nothing of itself stands for its rows and what lies between them, if they are of one topic partition.
      if (places.size === 1) append([...places][0]!, [{ start: BigInt(least), end: BigInt(greatest) + 1n }]);
      return;
    }
    append(declared.place, declared.intervals);
    const [first, last] = [declared.intervals[0], declared.intervals.at(-1)];
    const isOutside = greatest >= 0 && (!first || !last || BigInt(least) < first.start || BigInt(greatest) >= last.end);
    if (isOutside || [...places].some((place) => place !== declared.place)) {
      markFile(run, 'rows-in-place', table, file, `expected rows of ${topicPartitions.keyOf(declared.place)} within its range, found offsets ${least} to ${greatest} of ${[...places].map((place) => topicPartitions.keyOf(place)).join(', ')}`, bronzeLineage);
    }
  }

  private async readGaps(options: { partition: { bronze_source: string } }): Promise<Map<string, IntervalSet>> {
    const { run } = this;
    const { name } = ingestGapsTable;
    const gaps = new Map<string, Interval[]>();
    await readFiles({
      run, phase: 'offsets', subject: name, table: name, files: await run.view.scan(name, options), columns: ['topic', 'partition', 'start_offset', 'end_offset'],
      onRows: ({ rowCount, columns }) => {
        for (let i = 0; i < rowCount; i += 1) {
          const key = topicPartitionKey(String(columns['topic']![i]), Number(columns['partition']![i]));
          const interval = { start: BigInt(columns['start_offset']![i] as bigint), end: BigInt(columns['end_offset']![i] as bigint) };
          const known = gaps.get(key);
          if (known) known.push(interval);
          else gaps.set(key, [interval]);
        }
      },
    });
    return new Map([...gaps].map(([key, intervals]) => [key, IntervalSet.of(...intervals)]));
  }

  /** Resolutions of an offset follow each other; the last one counts. */
  private async readResolutions(options: { partition: { bronze_source: string } }, slice: Slice, states: Map<number, PlaceState>): Promise<void> {
    const { run, reader } = this;
    const { name } = dlqResolutionsTable;
    const resolved: { place: number; offset: number; at: number; attempt: number; action: string }[] = [];
    let times = new Float64Array(0);
    await readFiles({
      run, phase: 'offsets', subject: name, table: name, files: await run.view.scan(name, options),
      columns: [...Object.values(bronzeLineage) as string[], 'action', 'attempt', 'resolved_at'],
      onRows: (batch) => {
        const { rowCount, places, offsets } = reader.read(batch, bronzeLineage);
        if (times.length < rowCount) times = new Float64Array(rowCount);
        int64Numbers(batch.columns['resolved_at']!, rowCount, times);
        for (let i = 0; i < rowCount; i += 1) {
          const state = places[i] === noPlace ? undefined : this.stateOf(places[i]!, slice, states);
          if (!state || offsets[i]! < state.start || offsets[i]! >= state.end) continue;
          resolved.push({ place: places[i]!, offset: offsets[i]!, at: times[i]!, attempt: Number(batch.columns['attempt']![i]), action: String(batch.columns['action']![i]) });
        }
      },
    });
    resolved.sort((a, b) => a.place - b.place || a.offset - b.offset || a.at - b.at || a.attempt - b.attempt);
    for (const [i, entry] of resolved.entries()) {
      const next = resolved[i + 1];
      if (next && next.place === entry.place && next.offset === entry.offset) continue;
      const state = states.get(entry.place)!;
      if (entry.action === 'recovered') state.recovered.add(entry.offset);
      else if (closingActions.has(entry.action)) state.closed.add(entry.offset);
    }
  }

  private compare(place: number, state: PlaceState, gaps: IntervalSet): void {
    const { run, dataset, kinds } = this;
    const key = this.topicPartitions.keyOf(place);
    const { bronze, silver, dlq, recovered, closed } = state;
    const coverage = (table: string): IntervalSet => run.view.coverage(table).of(key);
    const bronzeCovered = coverage(dataset.bronze.name);
    const silverCovered = coverage(dataset.silver.name);
    const dlqCovered = coverage(run.pipeline.dlqTable);
    const refined = silverCovered.intersect(dlqCovered);
    const replacing = run.replacing.of(key);
    const recovering = run.recovering.of(key).union(replacing);
    const takenBronze = run.taken(dataset.bronze.name).of(key);
    const takenSilver = run.taken(dataset.silver.name).of(key);
    const takenRefined = takenSilver.union(run.taken(run.pipeline.dlqTable).of(key));
    const range = run.range?.of(key);
    const counts = this.countsOf(place);
    const rowSets = {
      lost: new Map<number, Uint32Array>(), both: new Map<number, Uint32Array>(), recoveredMissing: new Map<number, Uint32Array>(),
      silverAlone: new Map<number, Uint32Array>(), dlqAlone: new Map<number, Uint32Array>(), silverUncovered: new Map<number, Uint32Array>(),
      dlqUncovered: new Map<number, Uint32Array>(), bronzeUncovered: new Map<number, Uint32Array>(), bronzeInGap: new Map<number, Uint32Array>(),
    };
    const chunks = new Set([bronze, silver, dlq, recovered].flatMap((bitmap) => [...bitmap.chunkIndexes()]));
    for (const index of chunks) {
      const b = bronze.chunk(index) ?? emptyChunk;
      const s = silver.chunk(index) ?? emptyChunk;
      const d = dlq.chunk(index) ?? emptyChunk;
      const r = recovered.chunk(index) ?? emptyChunk;
      const c = closed.chunk(index) ?? emptyChunk;
      const inBronze = maskOfChunk(bronzeCovered, index) ?? emptyChunk;
      const inSilver = maskOfChunk(silverCovered, index) ?? emptyChunk;
      const inDlq = maskOfChunk(dlqCovered, index) ?? emptyChunk;
      const isRefined = maskOfChunk(refined, index) ?? emptyChunk;
      const inGap = maskOfChunk(gaps, index) ?? emptyChunk;
      const goneBronze = maskOfChunk(takenBronze, index) ?? emptyChunk;
      const goneSilver = maskOfChunk(takenSilver, index) ?? emptyChunk;
      const goneRefined = maskOfChunk(takenRefined, index) ?? emptyChunk;
      const isRecovering = maskOfChunk(recovering, index) ?? emptyChunk;
      const isReplacing = maskOfChunk(replacing, index) ?? emptyChunk;
      const asked = range ? maskOfChunk(range, index) ?? emptyChunk : fullChunk;
      const mark = (name: keyof typeof rowSets, word: number, bits: number): void => {
        if (bits === 0) return;
        let chunk = rowSets[name].get(index);
        if (!chunk) rowSets[name].set(index, chunk = new Uint32Array(emptyChunk.length));
        chunk[word] = bits;
      };
      for (let word = 0; word < emptyChunk.length; word += 1) {
        const mask = asked[word]!;
        const bw = b[word]! & mask;
        const sw = s[word]! & mask;
        const dw = d[word]! & mask;
        const rw = r[word]! & mask;
        if ((bw | sw | dw | rw) === 0) continue;
        const done = isRefined[word]!;
        counts.bronze += bitCount(bw);
        counts.silver += bitCount(sw);
        counts.dlq += bitCount(dw);
        counts.unrefined += bitCount(bw & ~done);
        if (dw !== 0 || rw !== 0) {
          counts.dlqOpen += bitCount(dw & ~rw & ~c[word]!);
          counts.recovered += bitCount(rw & sw);
          mark('both', word, sw & dw & ~rw & ~isReplacing[word]!);
          mark('recoveredMissing', word, rw & ~sw & done & ~goneSilver[word]! & ~isRecovering[word]!);
          mark('dlqAlone', word, dw & ~bw & ~goneBronze[word]!);
          mark('dlqUncovered', word, dw & ~inDlq[word]!);
        }
        mark('lost', word, bw & done & ~sw & ~dw & ~c[word]! & ~rw & ~goneRefined[word]! & ~isReplacing[word]!);
        mark('silverAlone', word, sw & ~bw & ~goneBronze[word]!);
        mark('silverUncovered', word, sw & ~inSilver[word]!);
        mark('bronzeUncovered', word, bw & ~inBronze[word]!);
        mark('bronzeInGap', word, bw & inGap[word]!);
      }
    }
    for (const [name, found] of Object.entries(rowSets) as [keyof typeof rowSets, Map<number, Uint32Array>][]) {
      if (found.size > 0) run.findings.markIntervals(kinds[name], key, intervalsOf(found.keys(), (index) => found.get(index)));
    }
  }

  private countsOf(place: number): PlaceCounts {
    let counts = this.counts.get(place);
    if (!counts) this.counts.set(place, counts = { bronze: 0, silver: 0, dlq: 0, dlqOpen: 0, recovered: 0, unrefined: 0 });
    return counts;
  }

  /** What holds for whole intervals, once every row has been seen; and the source's figures. */
  private conclude(topics: readonly string[], kafka: ReadonlyMap<string, KafkaBounds> | undefined, gaps: ReadonlyMap<string, IntervalSet>): AuditedSource {
    const { run, dataset, kinds, topicPartitions } = this;
    const result: AuditedSource = {
      source: dataset.source, bronzeRows: 0, silverRows: 0, dlqRows: 0, dlqOpenRows: 0, recoveredRows: 0, sparseOffsets: '0', gapOffsets: '0', takenOffsets: '0', unrefinedRows: 0, kafkaLag: null, topicPartitions: [],
    };
    let sparse = 0n;
    let gapOffsets = 0n;
    let lag = 0n;
    let taken = 0n;
    let records = 0n;
    for (const key of gaps.keys()) {
      const { topic, partition } = parseTopicPartitionKey(key);
      topicPartitions.indexOf(topic, partition);
    }
    const order = Array.from({ length: topicPartitions.size }, (_, place) => place).sort((a, b) => topicPartitions.compare(a, 0, b, 0));
    for (const place of order) {
      const { topic, partition, key } = topicPartitions.at(place);
      const counts = this.countsOf(place);
      const range = run.range?.of(key);
      const clip = (set: IntervalSet): IntervalSet => (range ? set.intersect(range) : set);
      const ranges = IntervalSet.of(...this.fileRanges.get(place) ?? []);
      const covered = run.view.coverage(dataset.bronze.name).of(key);
      const gap = gaps.get(key) ?? IntervalSet.empty;
      const known = ranges.union(covered).union(gap);
      const first = known.intervals[0]?.start;
      const next = known.intervals.at(-1)?.end;
      const bounds = kafka?.get(key);
      run.findings.markIntervals(kinds.withoutFile, key, clip(covered.subtract(ranges).subtract(run.taken(dataset.bronze.name).of(key))).intervals);
      run.findings.markIntervals(kinds.bronzeUncovered, key, clip(ranges.subtract(covered)).intervals);
      run.findings.markIntervals(kinds.gapWithoutRow, key, clip(run.view.coverage(ingestGapsTable.name).of(key).subtract(gap)).intervals);
      if (first !== undefined && next !== undefined) {
        // What the broker still holds below the first offset was never read.
        const start = bounds && bounds.logStart < first ? bounds.logStart : first;
        run.findings.markIntervals(kinds.missing, key, clip(IntervalSet.of({ start, end: next }).subtract(known)).intervals);
      }
      if (bounds) {
        records += bounds.logEnd - bounds.logStart;
        if (next !== undefined && bounds.logEnd < next) {
          run.findings.markIntervals(kinds.truncated, key, clip(IntervalSet.of({ start: bounds.logEnd, end: next })).intervals);
        }
        const from = next !== undefined && next > bounds.logStart ? next : bounds.logStart;
        if (bounds.logEnd > from) lag += bounds.logEnd - from;
      }
      taken += clip(run.taken(dataset.bronze.name).of(key)).size;
      sparse += clip(ranges).size - BigInt(counts.bronze);
      gapOffsets += clip(gap).size;
      result.bronzeRows += counts.bronze;
      result.silverRows += counts.silver;
      result.dlqRows += counts.dlq;
      result.dlqOpenRows += counts.dlqOpen;
      result.recoveredRows += counts.recovered;
      result.unrefinedRows += counts.unrefined;
      if (range?.isEmpty) continue;
      result.topicPartitions.push({
        topic, partition, firstOffset: first === undefined ? null : String(first), nextOffset: next === undefined ? null : String(next),
        logStart: bounds ? String(bounds.logStart) : null, logEnd: bounds ? String(bounds.logEnd) : null,
        bronzeRows: counts.bronze, silverRows: counts.silver, dlqRows: counts.dlq, unrefinedRows: counts.unrefined,
      } satisfies AuditedTopicPartition);
    }
    if (!run.range && result.bronzeRows === 0 && records > 0n && taken === 0n) {
      run.findings.mark({
        promise: 'source-has-rows', subject: dataset.source, topic: topics[0] ?? null, partition: null, startOffset: null, endOffset: null,
        detail: `${topics.join(', ')} has ${records} offsets with records, ${dataset.bronze.name} has no row`,
      });
    }
    // Rows outside of every file's range are findings of their own, and no negative sparse offsets.
    result.sparseOffsets = String(sparse > 0n ? sparse : 0n);
    result.gapOffsets = String(gapOffsets);
    result.takenOffsets = String(taken);
    result.kafkaLag = kafka ? String(lag) : null;
    return result;
  }
}

const emptyChunk = new Uint32Array(chunkOffsets / 32);
const fullChunk = new Uint32Array(chunkOffsets / 32).fill(0xff_ff_ff_ff);

const newState = (start: number, end: number): PlaceState => ({
  start, end, bronze: new OffsetBitmap(), silver: new OffsetBitmap(), dlq: new OffsetBitmap(), recovered: new OffsetBitmap(), closed: new OffsetBitmap(),
});

/** Number of set bits of a 32-bit word. */
const bitCount = (word: number): number => {
  let bits = word - ((word >>> 1) & 0x55_55_55_55);
  bits = (bits & 0x33_33_33_33) + ((bits >>> 2) & 0x33_33_33_33);
  return Math.imul((bits + (bits >>> 4)) & 0x0f_0f_0f_0f, 0x01_01_01_01) >>> 24;
};
