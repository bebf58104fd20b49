import { createHash, hash } from 'node:crypto';
import type { Hash } from 'node:crypto';
import { crc32, gunzipSync, zstdDecompressSync } from 'node:zlib';
import type { ColumnMetaData, Compressors } from 'hyparquet';
import { parquetHeader } from 'hyparquet/src/column.js';
import { decompressPage } from 'hyparquet/src/datapage.js';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import type { ColumnBatch } from '../lake/columns.ts';
import type { SingleValue } from '../lake/iceberg/single-value.ts';
import { compareSingleValues, decodeSingleValue } from '../lake/iceberg/single-value.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { ByteSource, ParquetFile } from '../lake/parquet-reader.ts';
import { bytesSource, dataFileFromFooter, objectSource, openParquet, readColumns } from '../lake/parquet-reader.ts';
import type { Field, PrimitiveType } from '../lake/schema.ts';
import type { LiveFile } from '../lake/table.ts';

// What is detected of a damaged file, and how:
// - any changed byte, where the object's metadata holds its SHA-256, as its writer computed it;
// - any byte that changed since the object was put, where the store's ETag is an MD5 of the content;
// - a changed byte in a page that has a CRC, as every page of ours has, whatever object it was copied to since; in one without,
//   if it no longer decompresses or decodes, or changes a key column; and a footer that no longer agrees with the manifest;
// - a size, a row count or bounds that differ from what the manifest says, always.

/** Larger files are hashed in pieces, and their key columns are read apart: whole bodies would be most of the audit's memory. */
const wholeFileBytesMax = 4 * 1024 * 1024;
/** Files that are fetched ahead of the one that is decoded, together. */
const aheadBytesMax = 6 * 1024 * 1024;
const aheadFilesMax = 3;
/** Files up to this size are read in one request also when only some columns are wanted. */
const smallFileBytesMax = 1024 * 1024;
const pieceBytes = 2 * 1024 * 1024;
/** Object metadata that holds the SHA-256 of the object, hex. */
const sha256Metadata = 'sha256';

export type Verification = 'content' | 'keys';

/** How sure the content is: what compared it. */
export type ContentProof = 'sha256' | 'md5' | 'page-crc' | 'pages' | 'none';

export interface CheckedFile {
  file: LiveFile;
  /** Rows that were decoded. */
  rows: number;
  proof: ContentProof;
  /** The ETag has the form of an MD5 and differs: damage, if this store's ETags are MD5s. */
  differsFromMd5: boolean;
  footer: Record<string, string>;
  /** What is wrong with the file: one text each. */
  damage: string[];
  /** What is wrong with its manifest entry. */
  misplaced: string[];
}

export interface FileCheckOptions {
  store: ObjectStore;
  fields: readonly Field[];
  columns: readonly string[];
  verification: Verification;
  signal?: AbortSignal;
  /** Each row group's columns. Called in file order. */
  onRows(batch: ColumnBatch, file: LiveFile): void;
}

/** The bytes of a file as far as they can be had before it is checked; `null`: there is no such object. */
export interface FetchedFile {
  file: LiveFile;
  body: { bytes: Uint8Array; head: { etag: string; metadata: Record<string, string> } | null } | 'ranges' | null;
}

/** The first request of a check: separate, so that it can be under way while another file is decoded. */
export const fetchFile = async (store: ObjectStore, file: LiveFile, verification: Verification, signal?: AbortSignal): Promise<FetchedFile> => {
  if (file.fileSizeBytes > (verification === 'keys' ? smallFileBytesMax : wholeFileBytesMax)) return { file, body: 'ranges' };
  const key = store.keyOf(file.filePath);
  try {
    // Without a checksum to compare, what matters is one request in place of several.
    if (verification === 'keys') return { file, body: { bytes: await store.getRange(key, 0, file.fileSizeBytes, signal ? { signal } : {}), head: null } };
    const { body, etag, metadata } = await store.get(key, signal ? { signal } : {});
    return { file, body: { bytes: body, head: { etag, metadata } } };
  } catch (error) {
    if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return { file, body: null };
    throw error;
  }
};

const md5Pattern = /^"?([0-9a-f]{32})"?$/;

/** Whether the object's ETag is the MD5 of its content: stores that encrypt, or take uploads in parts, have other ETags. */
export const hasMd5Etag = async (store: ObjectStore, location: string): Promise<boolean> => {
  const { body, etag } = await store.get(store.keyOf(location));
  return md5Pattern.exec(etag)?.[1] === hash('md5', body, 'hex');
};

interface ContentCheck {
  proof: ContentProof;
  differsFromMd5: boolean;
  damage: string[];
}

const compareDigest = (etag: string, metadata: Record<string, string>, digest: (algorithm: 'sha256' | 'md5') => string): ContentCheck => {
  const expected = metadata[sha256Metadata];
  if (expected !== undefined) {
    const found = digest('sha256');
    return { proof: 'sha256', differsFromMd5: false, damage: found === expected ? [] : [`content changed: expected SHA-256 ${expected}, found ${found}`] };
  }
  const md5 = md5Pattern.exec(etag)?.[1];
  if (md5 === undefined) return { proof: 'none', differsFromMd5: false, damage: [] };
  return digest('md5') === md5 ? { proof: 'md5', differsFromMd5: false, damage: [] } : { proof: 'none', differsFromMd5: true, damage: [] };
};

const verifyInPieces = async (store: ObjectStore, file: LiveFile, signal?: AbortSignal): Promise<ContentCheck> => {
  const key = store.keyOf(file.filePath);
  const { etag, metadata } = await store.head(key);
  const algorithm = metadata[sha256Metadata] === undefined ? 'md5' : 'sha256';
  if (algorithm === 'md5' && !md5Pattern.test(etag)) return { proof: 'none', differsFromMd5: false, damage: [] };
  const running: Hash = createHash(algorithm);
  const fetchPiece = (at: number): Promise<Uint8Array> => {
    const piece = store.getRange(key, at, Math.min(file.fileSizeBytes, at + pieceBytes), signal ? { signal } : {});
    piece.catch(() => {});
    return piece;
  };
  let next = fetchPiece(0);
  for (let at = 0; at < file.fileSizeBytes; at += pieceBytes) {
    const piece = await next;
    if (at + pieceBytes < file.fileSizeBytes) next = fetchPiece(at + pieceBytes);
    running.update(piece);
  }
  const digest = running.digest('hex');
  return compareDigest(etag, metadata, () => digest);
};

const compressors: Compressors = { ZSTD: (bytes) => zstdDecompressSync(bytes), GZIP: (bytes) => gunzipSync(bytes) };

const chunkRange = (metadata: ColumnMetaData): { start: number; end: number } => {
  const dictionary = metadata.dictionary_page_offset;
  const start = Number(dictionary && dictionary < metadata.data_page_offset ? dictionary : metadata.data_page_offset);
  return { start, end: start + Number(metadata.total_compressed_size) };
};

/** Compares the pages of one column chunk with their CRCs; those without one are decompressed at least. True if all have one. */
export const verifyPages = (column: string, bytes: Uint8Array, metadata: ColumnMetaData): boolean => {
  let isProven = true;
  const reader = { view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), offset: 0 };
  while (reader.offset < bytes.length) {
    const header = parquetHeader(reader);
    const page = bytes.subarray(reader.offset, reader.offset + header.compressed_page_size);
    if (page.length !== header.compressed_page_size) throw new TidemarkError('FILE_UNREADABLE', `column ${column}: the file ends inside a page`);
    reader.offset += header.compressed_page_size;
    if (header.crc !== undefined) {
      if (crc32(page) !== header.crc >>> 0) throw new TidemarkError('CHECKSUM_MISMATCH', `column ${column}: a page differs from its CRC`);
      continue;
    }
    isProven = false;
    const version2 = header.data_page_header_v2;
    const levels = version2 ? version2.repetition_levels_byte_length + version2.definition_levels_byte_length : 0;
    if (page.length > levels && version2?.is_compressed !== false) decompressPage(page.subarray(levels), header.uncompressed_page_size - levels, metadata.codec, compressors);
  }
  return isProven;
};

const verifyAllPages = async (file: ParquetFile): Promise<boolean> => {
  let isProven = true;
  for (const [group] of file.rowGroupRows.entries()) {
    for (const leaf of file.leaves) {
      const { meta_data: metadata } = file.chunk(group, leaf);
      const [bytes] = await file.fetch([chunkRange(metadata)]);
      isProven = verifyPages(leaf.name, bytes!, metadata) && isProven;
    }
  }
  return isProven;
};

/** Types whose bounds are exact in a footer and in a manifest. */
const hasExactBounds = (type: Field['type']): type is PrimitiveType =>
  type === 'int' || type === 'long' || type === 'date' || type === 'timestamp' || type === 'timestamptz' || (typeof type === 'string' && type.startsWith('decimal'));

const decodeBound = (type: PrimitiveType, base64: string): SingleValue => decodeSingleValue(type, Buffer.from(base64, 'base64'));

/** A manifest entry whose bounds leave out rows hides them from every engine that prunes. */
const compareBounds = (parquet: ParquetFile, { lowerBounds, upperBounds }: LiveFile, fields: readonly Field[]): string[] => {
  const footer = dataFileFromFooter(parquet, fields);
  const wrong: string[] = [];
  for (const { id, name, type } of fields) {
    if (!hasExactBounds(type)) continue;
    for (const [side, manifest, own] of [['lower', lowerBounds[id], footer.lowerBounds[id]], ['upper', upperBounds[id], footer.upperBounds[id]]] as const) {
      if (manifest === undefined || own === undefined || manifest === own) continue;
      const [said, is] = [decodeBound(type, manifest), decodeBound(type, own)];
      const order = compareSingleValues(said, is);
      if (side === 'lower' ? order > 0 : order < 0) wrong.push(`${side} bound of ${name}: the manifest says ${String(said)}, the file ${String(is)}`);
    }
  }
  return wrong;
};

const textOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
/** The store's failures are not the file's. */
const isStoreFailure = (error: unknown): boolean =>
  isTidemarkError(error) && error.code !== 'FILE_UNREADABLE' && error.code !== 'CHECKSUM_MISMATCH' && error.code !== 'OBJECT_NOT_FOUND' && error.code !== 'TABLE_CORRUPT';

/** Verifies one data file and gives its columns to `onRows`. Damage is told, never thrown; what throws is the store. */
export const checkFile = async ({ file, body }: FetchedFile, options: FileCheckOptions): Promise<CheckedFile> => {
  const { store, signal, verification } = options;
  const checked: CheckedFile = { file, rows: 0, proof: 'none', differsFromMd5: false, footer: {}, damage: [], misplaced: [] };
  if (body === null) {
    checked.damage.push('the file is not on S3');
    return checked;
  }
  let source: ByteSource;
  try {
    if (body === 'ranges') {
      if (verification === 'content') Object.assign(checked, await verifyInPieces(store, file, signal));
      source = objectSource(store, store.keyOf(file.filePath), file.fileSizeBytes, signal ? { signal } : {});
    } else {
      const { bytes, head } = body;
      if (head) Object.assign(checked, compareDigest(head.etag, head.metadata, (algorithm) => hash(algorithm, bytes, 'hex')));
      source = bytesSource(bytes);
    }
    const parquet = await openParquet(source);
    checked.footer = parquet.keyValueMetadata;
    if (parquet.rowCount !== file.recordCount) checked.damage.push(`expected ${file.recordCount} rows as the manifest says, found ${parquet.rowCount}`);
    checked.misplaced.push(...compareBounds(parquet, file, options.fields));
    for (const [group] of parquet.rowGroupRows.entries()) {
      signal?.throwIfAborted();
      const batch = await readColumns(parquet, { columns: options.columns, rowGroups: [group] });
      options.onRows(batch, file);
      checked.rows += batch.rowCount;
    }
    if (verification === 'content' && checked.proof !== 'sha256') {
      // An ETag proves only that the store kept what somebody put there last.
      const isProven = await verifyAllPages(parquet);
      if (checked.proof === 'none') checked.proof = isProven ? 'page-crc' : 'pages';
    }
  } catch (error) {
    signal?.throwIfAborted();
    if (isStoreFailure(error)) throw error;
    checked.damage.push(isTidemarkError(error, 'OBJECT_NOT_FOUND') ? 'the file is not on S3' : `cannot be read: ${textOf(error)}`);
  }
  return checked;
};

/** Fetches a few files ahead of the one that is worked on, within a bound of bytes. */
export async function* fetchAhead(store: ObjectStore, files: readonly LiveFile[], verification: Verification, signal?: AbortSignal): AsyncGenerator<FetchedFile> {
  const ahead: { bytes: number; fetched: Promise<FetchedFile> }[] = [];
  let bytesAhead = 0;
  let next = 0;
  try {
    while (next < files.length || ahead.length > 0) {
      while (next < files.length && ahead.length < aheadFilesMax && (ahead.length === 0 || bytesAhead + files[next]!.fileSizeBytes <= aheadBytesMax)) {
        const file = files[next++]!;
        const bytes = Math.min(file.fileSizeBytes, wholeFileBytesMax);
        bytesAhead += bytes;
        const fetched = fetchFile(store, file, verification, signal);
        // It may fail while another file is worked on; whoever awaits it is told then.
        fetched.catch(() => {});
        ahead.push({ bytes, fetched });
      }
      const { bytes, fetched } = ahead.shift()!;
      yield await fetched;
      bytesAhead -= bytes;
    }
  } finally {
    // A caller that stops early must leave no rejection behind.
    await Promise.allSettled(ahead.map(({ fetched }) => fetched));
  }
}
