import type { ObjectStore } from '../object-store.ts';
import type { ManifestCodec, ManifestEntry } from './manifest.ts';
import { decodeManifestList, type ManifestFile } from './manifest-list.ts';

/** What an entry takes beside the bytes of its data file. */
const entryOverheadBytes = 400;
const manifestFileBytes = 500;

/**
 * Manifests and manifest lists by location. They never change once written, so a cached one is right for ever; the least
 * recently used are dropped past `bytesMax`.
 */
export class ManifestCache {
  private readonly cached = new Map<string, { value: readonly unknown[]; bytes: number }>();
  private readonly loading = new Map<string, Promise<readonly unknown[]>>();
  private bytes = 0;
  private readonly store: ObjectStore;
  private readonly bytesMax: number;

  constructor(store: ObjectStore, bytesMax: number) {
    this.store = store;
    this.bytesMax = bytesMax;
  }

  entries(codec: ManifestCodec, manifest: ManifestFile): Promise<readonly ManifestEntry[]> {
    return this.load(manifest.manifest_path, (body) => codec.decode(body, manifest), entriesBytes);
  }

  list(location: string): Promise<readonly ManifestFile[]> {
    return this.load(location, (body) => decodeManifestList(body, location), listBytes);
  }

  /** Takes in what this process has just written, so that it is not fetched again. */
  addEntries(location: string, entries: readonly ManifestEntry[]): void {
    this.add(location, entries, entriesBytes(entries));
  }

  addList(location: string, manifests: readonly ManifestFile[]): void {
    this.add(location, manifests, listBytes(manifests));
  }

  private async load<T>(location: string, decode: (body: Uint8Array) => readonly T[], sizeOf: (value: readonly T[]) => number): Promise<readonly T[]> {
    const hit = this.cached.get(location);
    if (hit) {
      this.cached.delete(location);
      this.cached.set(location, hit);
      return hit.value as readonly T[];
    }
    let pending = this.loading.get(location) as Promise<readonly T[]> | undefined;
    if (!pending) {
      pending = this.store.get(this.store.keyOf(location)).then(({ body }) => {
        const value = decode(body);
        this.add(location, value, sizeOf(value));
        return value;
      }).finally(() => this.loading.delete(location));
      this.loading.set(location, pending);
    }
    return pending;
  }

  private add(location: string, value: readonly unknown[], bytes: number): void {
    const previous = this.cached.get(location);
    if (previous) this.bytes -= previous.bytes;
    this.cached.delete(location);
    this.cached.set(location, { value, bytes });
    this.bytes += bytes;
    for (const [key, { bytes: freed }] of this.cached) {
      if (this.bytes <= this.bytesMax) break;
      this.cached.delete(key);
      this.bytes -= freed;
    }
  }
}

const entriesBytes = (entries: readonly ManifestEntry[]): number =>
  entries.reduce((sum, { dataFileBytes, filePath }) => sum + dataFileBytes.length + 2 * filePath.length + entryOverheadBytes, 0);
const listBytes = (manifests: readonly ManifestFile[]): number => manifests.length * manifestFileBytes;
