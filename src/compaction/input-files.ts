import type { DataFile } from '../lake/data-file.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { ByteSource, ParquetFile } from '../lake/parquet-reader.ts';
import { bytesSource, objectSource, openParquet } from '../lake/parquet-reader.ts';

export type FileReference = Pick<DataFile, 'filePath' | 'fileSizeBytes'>;

/** Files up to this size are fetched whole: they are read almost whole. */
const wholeFileBytesMax = 8 << 20;

interface OpenFile {
  file: ParquetFile;
  window: WindowedSource | undefined;
  bytes: number;
}

/** A large file, of which one range is held: its columns are asked for one after the other. */
class WindowedSource implements ByteSource {
  readonly byteLength: number;
  private readonly source: ByteSource;
  private held: { start: number; end: number; bytes: Uint8Array } | undefined;

  constructor(source: ByteSource) {
    this.source = source;
    this.byteLength = source.byteLength;
  }

  get heldBytes(): number {
    return this.held?.bytes.length ?? 0;
  }

  async hold(start: number, end: number): Promise<void> {
    if (this.held?.start === start && this.held.end === end) return;
    this.held = undefined;
    this.held = { start, end, bytes: await this.source.slice(start, end) };
  }

  slice(start: number, end: number): Promise<Uint8Array> {
    const { held } = this;
    return held && start >= held.start && end <= held.end ? Promise.resolve(held.bytes.subarray(start - held.start, end - held.start)) : this.source.slice(start, end);
  }
}

/** The files of a compaction, opened when they are needed; past `bytesMax` the least recently used are closed. */
export class InputFiles {
  private readonly store: ObjectStore;
  private readonly bytesMax: number;
  private readonly signal: AbortSignal | undefined;
  private readonly open = new Map<string, OpenFile>();

  constructor(store: ObjectStore, bytesMax: number, signal: AbortSignal | undefined) {
    this.store = store;
    this.bytesMax = bytesMax;
    this.signal = signal;
  }

  async get(reference: FileReference): Promise<ParquetFile> {
    return (await this.opened(reference)).file;
  }

  /** The file, with one row group's bytes at hand. */
  async withRowGroup(reference: FileReference, rowGroup: number): Promise<ParquetFile> {
    const opened = await this.opened(reference);
    if (opened.window) {
      const { start, end } = rowGroupRange(opened.file, rowGroup);
      await opened.window.hold(start, end);
      opened.bytes = footerBytes + opened.window.heldBytes;
      this.makeRoom(reference.filePath);
    }
    return opened.file;
  }

  private async opened({ filePath, fileSizeBytes }: FileReference): Promise<OpenFile> {
    const known = this.open.get(filePath);
    if (known) {
      this.open.delete(filePath);
      this.open.set(filePath, known);
      return known;
    }
    const key = this.store.keyOf(filePath);
    const options = this.signal ? { signal: this.signal } : {};
    const isWhole = fileSizeBytes <= wholeFileBytesMax;
    const window = isWhole ? undefined : new WindowedSource(objectSource(this.store, key, fileSizeBytes, options));
    const file = await openParquet(window ?? bytesSource((await this.store.get(key, options)).body));
    const opened = { file, window, bytes: isWhole ? fileSizeBytes : footerBytes };
    this.open.set(filePath, opened);
    this.makeRoom(filePath);
    return opened;
  }

  private makeRoom(keep: string): void {
    let bytes = [...this.open.values()].reduce((sum, one) => sum + one.bytes, 0);
    for (const [path, one] of this.open) {
      if (bytes <= this.bytesMax) return;
      if (path === keep) continue;
      this.open.delete(path);
      bytes -= one.bytes;
    }
  }
}

/** A guess of what an open file holds beside its row groups. */
const footerBytes = 128 * 1024;

const rowGroupRange = (file: ParquetFile, rowGroup: number): { start: number; end: number } => {
  let start = Infinity;
  let end = 0;
  for (const { meta_data: metadata } of file.metadata.row_groups[rowGroup]!.columns) {
    if (!metadata) continue;
    const dictionary = metadata.dictionary_page_offset;
    const first = Number(dictionary && dictionary < metadata.data_page_offset ? dictionary : metadata.data_page_offset);
    start = Math.min(start, first);
    end = Math.max(end, first + Number(metadata.total_compressed_size));
  }
  return { start, end };
};
