import { TidemarkError } from '../../domain/errors.ts';
import type { Coverage } from '../../domain/offsets.ts';
import type { Field } from '../schema.ts';
import type { LiveFile, ScanOptions, SnapshotInfo, TableVersion } from '../table.ts';
import type { ManifestCache } from './manifest-cache.ts';
import { liveFilesCount, type ManifestFile } from './manifest-list.ts';
import { partitionColumns, type PartitionColumn } from './manifest-schema.ts';
import { ManifestCodec, entryStatus } from './manifest.ts';
import {
  attemptProperty, coverageFromProperties, currentSchema, currentSnapshotOf, currentSpec, fieldsOf, partitionFieldsOf, snapshotInfo, type SnapshotJson, type TableMetadata,
} from './metadata.ts';
import { ScanFilter } from './scan.ts';

/** Manifests fetched at once by one scan. */
const manifestsAtOnce = 16;

export class LoadedTable implements TableVersion {
  readonly name: string;
  readonly version: number;
  readonly metadataLocation: string;
  readonly metadata: TableMetadata;
  readonly fields: readonly Field[];
  readonly partition: readonly PartitionColumn[];
  readonly currentSnapshot: SnapshotInfo | null;
  readonly snapshots: readonly SnapshotInfo[];
  readonly coverage: Coverage;
  readonly codec: ManifestCodec;
  readonly cache: ManifestCache;

  /** `previous`: an earlier version of the same table, whose compiled codec is taken over while schema and partitioning are the same. */
  constructor(name: string, version: number, metadataLocation: string, metadata: TableMetadata, cache: ManifestCache, previous?: LoadedTable) {
    this.name = name;
    this.version = version;
    this.metadataLocation = metadataLocation;
    this.metadata = metadata;
    this.cache = cache;
    const snapshot = currentSnapshotOf(metadata);
    this.currentSnapshot = snapshot && snapshotInfo(snapshot);
    this.snapshots = metadata.snapshots.map(snapshotInfo);
    this.coverage = coverageFromProperties(metadata.properties, name);
    const same = previous && previous.metadata['table-uuid'] === metadata['table-uuid']
      && previous.metadata['current-schema-id'] === metadata['current-schema-id'] && previous.metadata['default-spec-id'] === metadata['default-spec-id'];
    if (same) {
      this.fields = previous.fields;
      this.partition = previous.partition;
      this.codec = previous.codec;
    } else {
      const spec = currentSpec(metadata);
      this.fields = fieldsOf(metadata);
      this.partition = partitionColumns(this.fields, partitionFieldsOf(metadata));
      this.codec = new ManifestCodec({
        partition: this.partition,
        partitionSpecId: spec['spec-id'],
        schemaJson: JSON.stringify(currentSchema(metadata)),
        schemaId: metadata['current-schema-id'],
        partitionSpecJson: JSON.stringify(spec.fields),
        sortOrderId: metadata['default-sort-order-id'],
      });
    }
  }

  get location(): string {
    return this.metadata.location;
  }

  get properties(): Readonly<Record<string, string>> {
    return this.metadata.properties;
  }

  /** Which commit call wrote this version. */
  get attempt(): string | undefined {
    return this.metadata.properties[attemptProperty];
  }

  get tags(): Readonly<Record<string, bigint>> {
    return Object.fromEntries(Object.entries(this.metadata.refs).filter(([, { type }]) => type === 'tag').map(([tag, ref]) => [tag, BigInt(ref['snapshot-id'])]));
  }

  snapshotJson(snapshotId?: bigint): SnapshotJson | null {
    if (snapshotId === undefined) return currentSnapshotOf(this.metadata);
    const snapshot = this.metadata.snapshots.find((candidate) => BigInt(candidate['snapshot-id']) === snapshotId);
    if (!snapshot) {
      throw new TidemarkError('SNAPSHOT_NOT_FOUND', `table ${this.name}: expected snapshot ${snapshotId} in version ${this.version}, found ${this.metadata.snapshots.length} others`);
    }
    return snapshot;
  }

  /** The manifests of a snapshot that hold live files. */
  async manifests(snapshotId?: bigint): Promise<ManifestFile[]> {
    const snapshot = this.snapshotJson(snapshotId);
    if (!snapshot) return [];
    return (await this.cache.list(snapshot['manifest-list'])).filter((manifest) => liveFilesCount(manifest) > 0);
  }

  /** Live files by ascending sequence number: in the order of the commits that added them. */
  async scan(options: ScanOptions = {}): Promise<LiveFile[]> {
    const filter = new ScanFilter(this.name, this.fields, this.partition, options);
    const manifests = await this.manifests(options.snapshotId);
    const files = await this.filesOf(manifests.filter((manifest) => filter.mayMatchManifest(manifest)), filter);
    return files.sort((a, b) => Number(a.dataSequenceNumber - b.dataSequenceNumber));
  }

  /** The live files of the given manifests that the filter cannot rule out. */
  async filesOf(manifests: readonly ManifestFile[], filter: ScanFilter): Promise<LiveFile[]> {
    const files: LiveFile[] = [];
    for (let from = 0; from < manifests.length; from += manifestsAtOnce) {
      const entries = await Promise.all(manifests.slice(from, from + manifestsAtOnce).map((manifest) => this.cache.entries(this.codec, manifest)));
      for (const entry of entries.flat()) {
        if (entry.status === entryStatus.deleted || !filter.mayMatchPartition(entry)) continue;
        const file = this.codec.liveFile(entry);
        if (filter.mayMatchMetrics(file)) files.push(file);
      }
    }
    return files;
  }
}
