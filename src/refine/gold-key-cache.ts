import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { ParquetFile } from '../lake/parquet-reader.ts';
import { bytesSource, objectSource, openParquet, readStoredColumns, rowGroupBounds } from '../lake/parquet-reader.ts';
import { releaseColumns } from '../lake/release.ts';
import type { Field } from '../lake/schema.ts';
import { hashKeys } from './key-hash.ts';

export type FileReference = Pick<DataFile, 'filePath' | 'fileSizeBytes'>;

/** A row group of a live Gold file. Event times are µs since the epoch, both inclusive; infinite where the footer does not say. */
export interface KeyedRowGroup {
  rowCount: number;
  eventTimeMin: number;
  eventTimeMax: number;
}

export interface GoldKeyCacheOptions {
  /** Bytes of hashes that are kept; the least recently used go first. */
  bytesMax?: number;
}

interface CachedFile {
  groups: KeyedRowGroup[];
  hashes: (Uint32Array | undefined)[];
  bytes: number;
}

/** A million keys: more than the last ten full micro-batches. */
const cacheBytesDefault = 16 << 20;
const groupBytes = 64;

/** Event time bounds of each row group. Microseconds fit a double exactly until the year 2255. */
export const keyedRowGroups = (file: ParquetFile, eventTime: Field): KeyedRowGroup[] => {
  const bounds = rowGroupBounds(file, eventTime);
  return file.rowGroupRows.map((rowCount, group) => ({
    rowCount,
    eventTimeMin: bounds[group] ? Number(bounds[group].min) : -Infinity,
    eventTimeMax: bounds[group] ? Number(bounds[group].max) : Infinity,
  }));
};

/**
 * Key hashes of Gold's row groups. Data files never change, so an entry is never stale; it only goes to make room. A merge puts the
 * hashes of the files it wrote here, so the next merge into the bucket reads nothing.
 */
export class GoldKeyCache {
  private readonly store: ObjectStore;
  private readonly bytesMax: number;
  /** In the order of use, the least recent first. */
  private readonly files = new Map<string, CachedFile>();
  private bytes = 0;

  constructor(store: ObjectStore, { bytesMax = cacheBytesDefault }: GoldKeyCacheOptions = {}) {
    this.store = store;
    this.bytesMax = bytesMax;
  }

  get byteLength(): number {
    return this.bytes;
  }

  async groups(file: FileReference, eventTime: Field): Promise<readonly KeyedRowGroup[]> {
    const cached = this.touch(file.filePath);
    if (cached) return cached.groups;
    const groups = keyedRowGroups(await this.open(file), eventTime);
    this.keep(file.filePath, { groups, hashes: [], bytes: groups.length * groupBytes });
    return groups;
  }

  /** Hashes of the keys in one row group, row by row. */
  async hashes(file: FileReference, group: number, key: readonly string[]): Promise<Uint32Array> {
    const cached = this.touch(file.filePath)?.hashes[group];
    if (cached) return cached;
    const { columns, rowCount } = await readStoredColumns(await this.open(file), { columns: key, rowGroups: [group] });
    const hashes = hashKeys(key.map((name) => columns[name]!), rowCount);
    releaseColumns(columns);
    const entry = this.touch(file.filePath);
    if (entry) {
      entry.hashes[group] = hashes;
      entry.bytes += hashes.byteLength;
      this.bytes += hashes.byteLength;
      this.makeRoom();
    }
    return hashes;
  }

  /** Keeps what the writer of a file knows of it already; `bytes` is the file. */
  async put(filePath: string, bytes: Uint8Array, eventTime: Field, hashes: readonly Uint32Array[]): Promise<void> {
    const groups = keyedRowGroups(await openParquet(bytesSource(bytes)), eventTime);
    this.keep(filePath, { groups, hashes: [...hashes], bytes: groups.length * groupBytes + hashes.reduce((sum, { byteLength }) => sum + byteLength, 0) });
  }

  private open({ filePath, fileSizeBytes }: FileReference): Promise<ParquetFile> {
    return openParquet(objectSource(this.store, this.store.keyOf(filePath), fileSizeBytes));
  }

  private touch(path: string): CachedFile | undefined {
    const file = this.files.get(path);
    if (file) {
      this.files.delete(path);
      this.files.set(path, file);
    }
    return file;
  }

  private keep(path: string, file: CachedFile): void {
    this.bytes += file.bytes - (this.files.get(path)?.bytes ?? 0);
    this.files.delete(path);
    this.files.set(path, file);
    this.makeRoom();
  }

  private makeRoom(): void {
    for (const [path, file] of this.files) {
      if (this.bytes <= this.bytesMax) return;
      this.files.delete(path);
      this.bytes -= file.bytes;
    }
  }
}
