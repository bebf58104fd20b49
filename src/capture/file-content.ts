import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { PassThrough } from 'node:stream';
import { crc32, createGunzip, createInflateRaw } from 'node:zlib';
import { TidemarkError } from '../domain/errors.ts';

export type FileForm = 'plain' | 'gzip' | 'zip' | 'parquet';

const readAt = async (file: FileHandle, position: number, length: number): Promise<Buffer> => {
  const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(length), position });
  return buffer.subarray(0, bytesRead);
};

/** Told by its first bytes, whatever it is called. BAD_INPUT when it cannot be opened. */
export const formOfFile = async (path: string): Promise<{ form: FileForm; byteLength: number }> => {
  let file: FileHandle;
  try {
    file = await open(path);
  } catch (error) {
    throw new TidemarkError('BAD_INPUT', `${path}: expected a file that can be read: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  try {
    const { size } = await file.stat();
    const magic = (await readAt(file, 0, 4)).toString('latin1');
    const form = magic.startsWith('\x1f\x8b') ? 'gzip' : magic === 'PK\x03\x04' ? 'zip' : magic === 'PAR1' ? 'parquet' : 'plain';
    return { form, byteLength: size };
  } finally {
    await file.close();
  }
};

// ZIP, "4.3 General Format of a .ZIP file" in PKWARE's APPNOTE: what a file of one entry needs.
const endSignature = 0x06054b50;
const endBytes = 22;
const commentBytesMax = 65_535;
const entrySignature = 0x02014b50;
const localSignature = 0x04034b50;
const stored = 0;
const deflated = 8;

interface ZipEntry { dataStart: number; compressedBytes: number; method: number; crc: number }

const loneEntryOf = async (path: string, byteLength: number): Promise<ZipEntry> => {
  const bad = (found: string): TidemarkError => new TidemarkError('BAD_INPUT', `${path}: expected a ZIP file with one entry, found ${found}`);
  const file = await open(path);
  try {
    const tailStart = Math.max(0, byteLength - endBytes - commentBytesMax);
    const tail = await readAt(file, tailStart, byteLength - tailStart);
    let at = tail.length - endBytes;
    while (at >= 0 && tail.readUInt32LE(at) !== endSignature) at -= 1;
    if (at < 0) throw bad('no end of its directory: it was cut short');
    const count = tail.readUInt16LE(at + 10);
    if (count !== 1) throw bad(`${count}`);
    const entry = await readAt(file, tail.readUInt32LE(at + 16), 46);
    if (entry.length < 46 || entry.readUInt32LE(0) !== entrySignature) throw bad('a directory that leads nowhere, or one in ZIP64 form');
    const local = await readAt(file, entry.readUInt32LE(42), 30);
    if (local.length < 30 || local.readUInt32LE(0) !== localSignature) throw bad('an entry that is not where the directory says');
    const method = entry.readUInt16LE(10);
    if (method !== stored && method !== deflated) throw bad(`one compressed by method ${method}`);
    const compressedBytes = entry.readUInt32LE(20);
    if (compressedBytes === 0xffff_ffff) throw bad('one in ZIP64 form');
    return { dataStart: entry.readUInt32LE(42) + 30 + local.readUInt16LE(26) + local.readUInt16LE(28), compressedBytes, method, crc: entry.readUInt32LE(16) };
  } finally {
    await file.close();
  }
};

/**
 * The bytes of a file, out of its gzip or its ZIP, in pieces of a bounded size. BAD_INPUT when the packing is damaged or
 * cut short: after what came before it.
 */
export async function* contentOf(path: string, { form, byteLength }: { form: FileForm; byteLength: number }): AsyncGenerator<Buffer> {
  const zip = form === 'zip' ? await loneEntryOf(path, byteLength) : null;
  const packed = createReadStream(path, { highWaterMark: 1 << 20, ...(zip ? { start: zip.dataStart, end: zip.dataStart + zip.compressedBytes - 1 } : {}) });
  const unpack = form === 'gzip' ? createGunzip({ chunkSize: 1 << 18 }) : zip?.method === deflated ? createInflateRaw({ chunkSize: 1 << 18 }) : new PassThrough();
  const flow = pipeline(packed, unpack);
  // What ends it comes out of the loop below.
  flow.catch(() => undefined);
  let crc = 0;
  try {
    for await (const chunk of unpack as Readable) {
      if (zip) crc = crc32(chunk as Buffer, crc);
      yield chunk as Buffer;
    }
    await flow;
  } catch (error) {
    throw new TidemarkError('BAD_INPUT', `${path}: cannot be read to its end: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  } finally {
    packed.destroy();
    unpack.destroy();
  }
  if (zip && crc !== zip.crc) throw new TidemarkError('BAD_INPUT', `${path}: expected content with CRC ${zip.crc.toString(16)}, found ${crc.toString(16)}`);
}
