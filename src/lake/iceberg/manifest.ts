import avro, { type Type } from 'avsc';
import { TidemarkError, invariant } from '../../domain/errors.ts';
import type { DataFile } from '../data-file.ts';
import type { PartitionTuple } from '../schema.ts';
import type { LiveFile } from '../table.ts';
import { decodeAvroFile, encodeAvroFile } from './avro-file.ts';
import type { ManifestFile, PartitionSummary } from './manifest-list.ts';
import { entryHeadFields, entryOutlineSchema, manifestEntrySchema, type PartitionColumn } from './manifest-schema.ts';
import { compareSingleValues, encodeSingleValue, type SingleValue } from './single-value.ts';

export const entryStatus = { existing: 0, added: 1, deleted: 2 } as const;
export type EntryStatus = (typeof entryStatus)[keyof typeof entryStatus];

/**
 * One entry of a manifest, held as the bytes it is stored in: a table of 10,000 files with thirty columns takes 10 MB so,
 * and twenty times that as objects. What planning needs first is decoded; metrics are when {@link ManifestCodec.liveFile} asks.
 */
export interface ManifestEntry {
  status: EntryStatus;
  /** Null: inherited from the manifest list. Explicit on all but a manifest's own additions. */
  snapshotId: number | null;
  sequenceNumber: number | null;
  fileSequenceNumber: number | null;
  filePath: string;
  /** By partition field name. */
  partition: Readonly<Record<string, SingleValue | null>>;
  recordCount: number;
  fileSizeBytes: number;
  /** The `data_file` record in Avro's binary form. */
  dataFileBytes: Uint8Array;
}

interface AvroDataFile {
  content: number;
  file_path: string;
  file_format: string;
  partition: Record<string, SingleValue | null>;
  record_count: number;
  file_size_in_bytes: number;
  column_sizes: { key: number; value: number }[] | null;
  value_counts: { key: number; value: number }[] | null;
  null_value_counts: { key: number; value: number }[] | null;
  nan_value_counts: null;
  lower_bounds: { key: number; value: Buffer }[] | null;
  upper_bounds: { key: number; value: Buffer }[] | null;
  key_metadata: null;
  split_offsets: number[] | null;
  equality_ids: null;
  sort_order_id: number | null;
}
interface AvroEntryHead { status: EntryStatus; snapshot_id: number | null; sequence_number: number | null; file_sequence_number: number | null }
type AvroOutline = AvroEntryHead & { data_file: Pick<AvroDataFile, 'file_path' | 'partition' | 'record_count' | 'file_size_in_bytes'> };

const entryHeadType = avro.Type.forSchema({ type: 'record', name: 'entry_head', fields: entryHeadFields } as never, { omitRecordMethods: true });

export interface ManifestContext {
  partition: readonly PartitionColumn[];
  partitionSpecId: number;
  /** The table's schema and spec as JSON text, for the manifest's header. */
  schemaJson: string;
  schemaId: number;
  partitionSpecJson: string;
  sortOrderId: number;
}

/** Encodes and decodes the manifests of one table: the Avro types depend on its partition fields. */
export class ManifestCodec {
  private readonly schema: ReturnType<typeof manifestEntrySchema>;
  private readonly schemaText: string;
  private readonly entryType: Type;
  private readonly dataFileType: Type;
  private readonly outlineType: Type;
  private readonly outlineResolver: ReturnType<Type['createResolver']>;
  private readonly context: ManifestContext;

  constructor(context: ManifestContext) {
    this.context = context;
    this.schema = manifestEntrySchema(context.partition);
    this.schemaText = JSON.stringify(this.schema);
    this.entryType = avro.Type.forSchema(this.schema as never, { omitRecordMethods: true });
    this.dataFileType = (this.entryType as avro.types.RecordType).field('data_file').type;
    this.outlineType = avro.Type.forSchema(entryOutlineSchema(context.partition) as never, { omitRecordMethods: true });
    this.outlineResolver = this.outlineType.createResolver(this.entryType);
  }

  /** An entry for a file that a commit adds; sequence numbers are inherited from the manifest list, so that a retry can use it again. */
  addedEntry(file: DataFile, snapshotId: number): ManifestEntry {
    const partition = this.partitionRecord(file);
    const counts = (byId: Record<number, number>) => Object.entries(byId).map(([id, value]) => ({ key: Number(id), value }));
    const bounds = (byId: Record<number, string>) => Object.entries(byId).map(([id, value]) => ({ key: Number(id), value: Buffer.from(value, 'base64') }));
    const record: AvroDataFile = {
      content: 0,
      file_path: file.filePath,
      file_format: 'PARQUET',
      partition,
      record_count: file.recordCount,
      file_size_in_bytes: file.fileSizeBytes,
      column_sizes: counts(file.columnSizes),
      value_counts: counts(file.valueCounts),
      null_value_counts: counts(file.nullValueCounts),
      nan_value_counts: null,
      lower_bounds: bounds(file.lowerBounds),
      upper_bounds: bounds(file.upperBounds),
      key_metadata: null,
      split_offsets: file.splitOffsets.length > 0 ? file.splitOffsets : null,
      equality_ids: null,
      sort_order_id: this.context.sortOrderId,
    };
    let dataFileBytes: Uint8Array;
    try {
      dataFileBytes = this.dataFileType.toBuffer(record);
    } catch (cause) {
      throw new TidemarkError('BAD_INPUT', `data file ${file.filePath}: expected counts, sizes and bounds that a manifest can hold, found ${cause instanceof Error ? cause.message : 'others'}`, { cause });
    }
    return {
      status: entryStatus.added, snapshotId, sequenceNumber: null, fileSequenceNumber: null,
      filePath: file.filePath, partition, recordCount: file.recordCount, fileSizeBytes: file.fileSizeBytes, dataFileBytes,
    };
  }

  encode(entries: readonly ManifestEntry[]): Buffer {
    const stored = entries.map((entry) => Buffer.concat([
      entryHeadType.toBuffer({
        status: entry.status, snapshot_id: entry.snapshotId, sequence_number: entry.sequenceNumber, file_sequence_number: entry.fileSequenceNumber,
      }),
      entry.dataFileBytes,
    ]));
    return encodeAvroFile(this.schema, {
      'schema': this.context.schemaJson,
      'schema-id': String(this.context.schemaId),
      'partition-spec': this.context.partitionSpecJson,
      'partition-spec-id': String(this.context.partitionSpecId),
      'format-version': '2',
      'content': 'data',
    }, stored);
  }

  /** All entries, with what they inherit from the manifest list filled in. */
  decode(bytes: Uint8Array, manifest: ManifestFile): ManifestEntry[] {
    const what = `manifest ${manifest.manifest_path}`;
    const file = decodeAvroFile(bytes, what);
    const foreign = file.schemaText === this.schemaText ? undefined : this.entryType.createResolver(avro.Type.forSchema(JSON.parse(file.schemaText)));
    const entries: ManifestEntry[] = [];
    for (const { data, count } of file.blocks) {
      let offset = 0;
      for (let i = 0; i < count; i += 1) {
        let record = data;
        let start = offset;
        if (foreign) {
          // Another engine's manifest: its records are brought into our schema once, so that all that follows knows one form.
          const decoded = this.entryType.decode(data, offset, foreign as never);
          record = this.entryType.toBuffer(decoded.value);
          start = 0;
          offset = decoded.offset;
        }
        const outline = this.outlineType.decode(record, start, this.outlineResolver as never) as { value: AvroOutline; offset: number };
        if (outline.offset < 0) throw new TidemarkError('FILE_UNREADABLE', `${what}: expected ${count} entries in a block, found ${i}`);
        if (!foreign) offset = outline.offset;
        const head = entryHeadType.decode(record, start);
        entries.push(inherit(outline.value, record.subarray(head.offset, outline.offset), manifest));
      }
    }
    return entries;
  }

  liveFile(entry: ManifestEntry): LiveFile {
    invariant(entry.sequenceNumber !== null, () => `entry of ${entry.filePath} has no sequence number`);
    const file = this.dataFileType.fromBuffer(Buffer.from(entry.dataFileBytes.buffer, entry.dataFileBytes.byteOffset, entry.dataFileBytes.byteLength)) as AvroDataFile;
    const counts = (pairs: { key: number; value: number }[] | null) => Object.fromEntries((pairs ?? []).map(({ key, value }) => [key, value]));
    const bounds = (pairs: { key: number; value: Buffer }[] | null) => Object.fromEntries((pairs ?? []).map(({ key, value }) => [key, value.toString('base64')]));
    return {
      filePath: entry.filePath,
      partition: this.partitionTuple(entry),
      recordCount: entry.recordCount,
      fileSizeBytes: entry.fileSizeBytes,
      columnSizes: counts(file.column_sizes),
      valueCounts: counts(file.value_counts),
      nullValueCounts: counts(file.null_value_counts),
      lowerBounds: bounds(file.lower_bounds),
      upperBounds: bounds(file.upper_bounds),
      splitOffsets: file.split_offsets ?? [],
      addedSnapshotId: entry.snapshotId === null ? null : BigInt(entry.snapshotId),
      dataSequenceNumber: BigInt(entry.sequenceNumber),
    };
  }

  /** What the manifest list says of a manifest with these entries. */
  describe(entries: readonly ManifestEntry[], location: string, length: number, snapshotId: number, sequenceNumber: number): ManifestFile {
    const files = [0, 0, 0] as [number, number, number];
    const rows = [0, 0, 0] as [number, number, number];
    let minSequenceNumber = sequenceNumber;
    for (const entry of entries) {
      files[entry.status] += 1;
      rows[entry.status] += entry.recordCount;
      if (entry.status !== entryStatus.deleted && entry.sequenceNumber !== null && entry.sequenceNumber < minSequenceNumber) minSequenceNumber = entry.sequenceNumber;
    }
    return {
      manifest_path: location,
      manifest_length: length,
      partition_spec_id: this.context.partitionSpecId,
      content: 0,
      sequence_number: sequenceNumber,
      min_sequence_number: minSequenceNumber,
      added_snapshot_id: snapshotId,
      added_files_count: files[entryStatus.added],
      existing_files_count: files[entryStatus.existing],
      deleted_files_count: files[entryStatus.deleted],
      added_rows_count: rows[entryStatus.added],
      existing_rows_count: rows[entryStatus.existing],
      deleted_rows_count: rows[entryStatus.deleted],
      partitions: this.context.partition.map((column) => summarize(column, entries)),
      key_metadata: null,
    };
  }

  /** Partition values by source column name. */
  partitionTuple(entry: ManifestEntry): PartitionTuple {
    return Object.fromEntries(this.context.partition.map(({ name, sourceName }) => [sourceName, entry.partition[name] as PartitionTuple[string] ?? null]));
  }

  private partitionRecord(file: DataFile): Record<string, SingleValue | null> {
    const expected = this.context.partition.map(({ sourceName }) => sourceName);
    const found = Object.keys(file.partition);
    if (found.length !== expected.length || expected.some((name) => !(name in file.partition))) {
      throw new TidemarkError('BAD_INPUT', `data file ${file.filePath}: expected partition values of [${expected.join(', ')}], found [${found.join(', ')}]`);
    }
    return Object.fromEntries(this.context.partition.map(({ name, sourceName }) => [name, file.partition[sourceName] ?? null]));
  }
}

/** Iceberg spec, "Sequence Number Inheritance" and "Snapshot ID Inheritance". */
function inherit(outline: AvroOutline, dataFileBytes: Uint8Array, manifest: ManifestFile): ManifestEntry {
  const inherited = outline.status === entryStatus.added ? manifest.sequence_number : null;
  return {
    status: outline.status,
    snapshotId: outline.snapshot_id ?? manifest.added_snapshot_id,
    sequenceNumber: outline.sequence_number ?? inherited,
    fileSequenceNumber: outline.file_sequence_number ?? inherited,
    filePath: outline.data_file.file_path,
    partition: outline.data_file.partition,
    recordCount: outline.data_file.record_count,
    fileSizeBytes: outline.data_file.file_size_in_bytes,
    dataFileBytes,
  };
}

function summarize(column: PartitionColumn, entries: readonly ManifestEntry[]): PartitionSummary {
  let containsNull = false;
  let lower: SingleValue | null = null;
  let upper: SingleValue | null = null;
  for (const { partition } of entries) {
    const value = partition[column.name] ?? null;
    if (value === null) {
      containsNull = true;
      continue;
    }
    if (lower === null || compareSingleValues(value, lower) < 0) lower = value;
    if (upper === null || compareSingleValues(value, upper) > 0) upper = value;
  }
  // A view, not a copy: a copy of a few bytes lies in Node's pool, and a manifest that is cached would keep all 64 KiB of it.
  const bytes = (value: SingleValue | null): Buffer | null => {
    if (value === null) return null;
    const { buffer, byteOffset, byteLength } = encodeSingleValue(column.type, widen(column, value));
    return Buffer.from(buffer, byteOffset, byteLength);
  };
  return { contains_null: containsNull, contains_nan: null, lower_bound: bytes(lower), upper_bound: bytes(upper) };
}

/** Partition tuples hold longs as numbers; their serialised form wants a bigint. */
export const widen = ({ type }: Pick<PartitionColumn, 'type'>, value: SingleValue): SingleValue =>
  (typeof value === 'number' && (type === 'long' || type === 'timestamp' || type === 'timestamptz') ? BigInt(value) : value);
