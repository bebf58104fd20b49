import avro from 'avsc';
import { decodeAvroFile, encodeAvroFile } from './avro-file.ts';
import { manifestFileSchema } from './manifest-schema.ts';

export interface PartitionSummary {
  contains_null: boolean;
  contains_nan: boolean | null;
  lower_bound: Buffer | null;
  upper_bound: Buffer | null;
}

/** One manifest as the manifest list names it; the names are those of the Iceberg spec ("Manifest Lists"). */
export interface ManifestFile {
  manifest_path: string;
  manifest_length: number;
  partition_spec_id: number;
  content: number;
  sequence_number: number;
  min_sequence_number: number;
  added_snapshot_id: number;
  added_files_count: number;
  existing_files_count: number;
  deleted_files_count: number;
  added_rows_count: number;
  existing_rows_count: number;
  deleted_rows_count: number;
  partitions: PartitionSummary[] | null;
  key_metadata: null;
}

const manifestFileType = avro.Type.forSchema(manifestFileSchema as never, { omitRecordMethods: true });
const manifestFileSchemaText = JSON.stringify(manifestFileSchema);

export const liveFilesCount = ({ added_files_count, existing_files_count }: ManifestFile): number => added_files_count + existing_files_count;

export function encodeManifestList(
  manifests: readonly ManifestFile[], snapshot: { snapshotId: number; parentSnapshotId: number | null; sequenceNumber: number },
): Buffer {
  return encodeAvroFile(manifestFileSchema, {
    'snapshot-id': String(snapshot.snapshotId),
    'parent-snapshot-id': String(snapshot.parentSnapshotId),
    'sequence-number': String(snapshot.sequenceNumber),
    'format-version': '2',
  }, manifests.map((manifest) => manifestFileType.toBuffer(manifest)));
}

export function decodeManifestList(bytes: Uint8Array, location: string): ManifestFile[] {
  const file = decodeAvroFile(bytes, `manifest list ${location}`);
  const resolver = file.schemaText === manifestFileSchemaText ? undefined : manifestFileType.createResolver(avro.Type.forSchema(JSON.parse(file.schemaText)));
  const manifests: ManifestFile[] = [];
  for (const { data, count } of file.blocks) {
    for (let i = 0, offset = 0; i < count; i += 1) {
      const decoded = manifestFileType.decode(data, offset, resolver as never) as { value: ManifestFile; offset: number };
      manifests.push(decoded.value);
      offset = decoded.offset;
    }
  }
  return manifests;
}
