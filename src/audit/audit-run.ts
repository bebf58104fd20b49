import type { AuditedTable, AuditPromise } from '../contracts/audit.ts';
import type { Coverage } from '../domain/offsets.ts';
import { parseTopicPartitionKey } from '../domain/offsets.ts';
import { bronzeFileExtent } from '../contracts/bronze.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import type { SingleValue } from '../lake/iceberg/single-value.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { Field } from '../lake/schema.ts';
import type { Catalog, LiveFile } from '../lake/table.ts';
import type { ColumnBatch } from '../lake/columns.ts';
import { checkFile, fetchAhead } from './data-file-check.ts';
import type { CheckedFile, Verification } from './data-file-check.ts';
import type { FindingCollector } from './findings.ts';
import type { LakeView } from './lake-view.ts';
import type { LineageColumns } from './lineage.ts';

export interface AuditProgress {
  phase: 'loading' | 'offsets' | 'gold' | 'listing';
  /** The table or source that is worked on. */
  subject: string;
  files: number;
  rows: number;
}

/** What the parts of one audit share. */
export interface AuditRun {
  catalog: Catalog;
  store: ObjectStore;
  pipeline: Pipeline;
  view: LakeView;
  /** Offsets whose rows retention took out of a table, by the archive's manifests. */
  taken(table: string): Coverage;
  /** Recovered by a DLQ replay that is publishing: in some tables already, and not yet in others. */
  recovering: Coverage;
  /** Replaced by a backfill that is publishing: in Silver already, and not yet in the DLQ or Gold. */
  replacing: Coverage;
  findings: FindingCollector;
  verification: Verification;
  memoryBudgetBytes: number;
  /** Only these offsets; undefined: all. */
  range: Coverage | undefined;
  signal: AbortSignal | undefined;
  onProgress: ((progress: AuditProgress) => void) | undefined;
  /** By table name. */
  tables: Map<string, AuditedTable>;
  /** By file path: checked with their whole content in this audit; a further pass reads the key columns only. */
  verified: Set<string>;
  /** Paths of files that are not on S3: found by the listing, and read no more. */
  missing: Set<string>;
  /** Files whose ETag has the form of an MD5 and differs from it; it counts if this store's ETags are MD5s at all. */
  md5Differs: { table: string; file: LiveFile }[];
  hasMd5Etags: boolean;
  /** Files decoded, and rows, since the audit began. */
  done: { files: number; rows: number };
}

const boundOf = (file: LiveFile, field: Field | undefined, side: 'lowerBounds' | 'upperBounds'): SingleValue | undefined => {
  const bound = field && file[side][field.id];
  return bound === undefined || typeof field?.type !== 'string' ? undefined : decodeSingleValue(field.type, Buffer.from(bound, 'base64'));
};

/** Offsets and topic partitions that a file's manifest entry admits. */
export interface FileBounds {
  topicMin: string;
  topicMax: string | undefined;
  partitionMin: number;
  partitionMax: number;
  offsetMin: number;
  offsetMax: number;
}

export const fileBounds = (file: LiveFile, fields: readonly Field[], names: LineageColumns): FileBounds => {
  const bound = (name: string, side: 'lowerBounds' | 'upperBounds') => boundOf(file, fields.find((field) => field.name === name), side);
  const topicMax = bound(names.topic, 'upperBounds');
  return {
    topicMin: String(bound(names.topic, 'lowerBounds') ?? ''),
    topicMax: topicMax === undefined ? undefined : String(topicMax),
    partitionMin: Number(bound(names.partition, 'lowerBounds') ?? 0),
    partitionMax: Number(bound(names.partition, 'upperBounds') ?? Number.MAX_SAFE_INTEGER),
    offsetMin: Number(bound(names.offset, 'lowerBounds') ?? 0),
    offsetMax: Number(bound(names.offset, 'upperBounds') ?? Number.MAX_SAFE_INTEGER),
  };
};

/** Whether a file may hold rows of [start, end) of the topic partition. Topic bounds may be cut texts. */
export const mayHold = (bounds: FileBounds, topic: string, partition: number, start: number, end: number): boolean =>
  topic >= bounds.topicMin && (bounds.topicMax === undefined || topic <= bounds.topicMax)
  && partition >= bounds.partitionMin && partition <= bounds.partitionMax
  && start <= bounds.offsetMax && end > bounds.offsetMin;

/** What a Bronze file's name says: its topic partition, and the offsets that it stands for. Other files have no such name. */
export const namedRange = ({ filePath }: LiveFile): { topic: string; partition: number; start: bigint; end: bigint } | undefined =>
  bronzeFileExtent(filePath.slice(filePath.indexOf('/data/') + '/data/'.length)) ?? undefined;

/** The offsets that a file stands for reach beyond its rows where the ends are sparse; a Bronze file's name tells. */
export const extentOf = (file: LiveFile, fields: readonly Field[], names: LineageColumns): FileBounds => {
  const bounds = fileBounds(file, fields, names);
  const named = namedRange(file);
  return named ? { ...bounds, offsetMin: Math.min(bounds.offsetMin, Number(named.start)), offsetMax: Math.max(bounds.offsetMax, Number(named.end) - 1) } : bounds;
};

/** Whether a file with these bounds may hold offsets that the audit was asked for. */
export const isAsked = ({ range }: AuditRun, bounds: FileBounds): boolean => !range || range.entries().some(([key, set]) => {
  const { topic, partition } = parseTopicPartitionKey(key);
  return set.intervals.some(({ start, end }) => mayHold(bounds, topic, partition, Number(start), Number(end)));
});

/** Where a finding about a whole file points: its topic partition and offsets, as far as its name or its bounds tell. */
const placeOfFile = (file: LiveFile, fields: readonly Field[], names: LineageColumns | undefined) => {
  const named = namedRange(file);
  if (named) return { topic: named.topic, partition: named.partition, startOffset: String(named.start), endOffset: String(named.end) };
  const nowhere = { topic: null, partition: null, startOffset: null, endOffset: null };
  if (!names) return nowhere;
  const { partitionMin, partitionMax, offsetMin, offsetMax } = fileBounds(file, fields, names);
  // Texts are cut in bounds, so the topic stays open; offsets of several topic partitions would mislead.
  return partitionMin === partitionMax && offsetMax < Number.MAX_SAFE_INTEGER
    ? { ...nowhere, partition: partitionMin, startOffset: String(offsetMin), endOffset: String(offsetMax + 1) } : nowhere;
};

export const markFile = (run: AuditRun, promise: AuditPromise, table: string, file: LiveFile, text: string, names?: LineageColumns): void => {
  const fields = run.view.version(table)?.fields ?? [];
  run.findings.mark({ promise, subject: table, ...placeOfFile(file, fields, names), detail: `${file.filePath} (${file.recordCount} rows): ${text}` });
};

export interface ReadFilesOptions {
  run: AuditRun;
  phase: AuditProgress['phase'];
  subject: string;
  table: string;
  files: readonly LiveFile[];
  columns: readonly string[];
  lineage?: LineageColumns;
  onRows(batch: ColumnBatch, file: LiveFile): void;
  onFile?(checked: CheckedFile): void;
}

/** Reads the key columns of files; the first time in an audit with the whole content checked, and damage marked. */
export const readFiles = async ({ run, phase, subject, table, files, columns, lineage, onRows, onFile }: ReadFilesOptions): Promise<void> => {
  const fields = run.view.version(table)?.fields ?? [];
  const audited = run.tables.get(table);
  // A further pass over a file reads no more than its key columns.
  const present = files.filter(({ filePath }) => !run.missing.has(filePath));
  const known = present.filter(({ filePath }) => run.verified.has(filePath));
  const fresh = present.filter(({ filePath }) => !run.verified.has(filePath));
  for (const [group, verification] of [[fresh, run.verification], [known, 'keys']] as const) {
    for await (const fetched of fetchAhead(run.store, group, verification, run.signal)) {
      run.signal?.throwIfAborted();
      const { file } = fetched;
      const checked = await checkFile(fetched, { store: run.store, fields, columns, verification, onRows, ...(run.signal ? { signal: run.signal } : {}) });
      if (group === fresh && !run.verified.has(file.filePath)) {
        run.verified.add(file.filePath);
        for (const text of checked.damage) markFile(run, 'files-intact', table, file, text, lineage);
        for (const text of checked.misplaced) markFile(run, 'rows-in-place', table, file, text, lineage);
        if (checked.differsFromMd5) run.md5Differs.push({ table, file });
        if (checked.proof === 'md5') run.hasMd5Etags = true;
        if (audited && (checked.proof === 'sha256' || checked.proof === 'md5' || checked.proof === 'page-crc')) audited.checksummedFiles += 1;
      }
      onFile?.(checked);
      run.done.files += 1;
      run.done.rows += checked.rows;
      run.onProgress?.({ phase, subject, ...run.done });
    }
  }
};
