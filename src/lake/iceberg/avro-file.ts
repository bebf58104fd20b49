import { randomBytes } from 'node:crypto';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import avro from 'avsc';
import { TidemarkError } from '../../domain/errors.ts';

const magic = Buffer.from('Obj\x01', 'latin1');
const syncLength = 16;
const metaType = avro.Type.forSchema({ type: 'map', values: 'bytes' });
const longType = avro.Type.forSchema('long');
/** Records are gathered into blocks of about this size before compression, as Avro's own writer does. */
const blockBytesTarget = 64 * 1024;
/** Merging 1,000 entries takes half the time of the default level, and no more bytes: their bounds hardly repeat. */
const compressionLevel = 1;

/**
 * An Avro object container file (Avro spec, "Object Container Files") with deflate blocks, from records in Avro's binary
 * form. The schema goes into the header as given: an encoder that knows only Avro drops `field-id` and `element-id`.
 */
export function encodeAvroFile(schema: unknown, metadata: Readonly<Record<string, string>>, records: readonly Uint8Array[]): Buffer {
  const sync = randomBytes(syncLength);
  const meta: Record<string, Buffer> = { 'avro.schema': Buffer.from(JSON.stringify(schema)), 'avro.codec': Buffer.from('deflate') };
  for (const [key, value] of Object.entries(metadata)) meta[key] = Buffer.from(value);
  const parts: Buffer[] = [magic, metaType.toBuffer(meta), sync];
  let block: Uint8Array[] = [];
  let blockBytes = 0;
  const flush = (): void => {
    if (block.length === 0) return;
    const data = deflateRawSync(Buffer.concat(block, blockBytes), { level: compressionLevel });
    parts.push(longType.toBuffer(block.length), longType.toBuffer(data.length), data, sync);
    block = [];
    blockBytes = 0;
  };
  for (const record of records) {
    block.push(record);
    blockBytes += record.length;
    if (blockBytes >= blockBytesTarget) flush();
  }
  flush();
  return Buffer.concat(parts);
}

export interface AvroFile {
  /** The writer's schema, as text. */
  schemaText: string;
  metadata: Record<string, string>;
  /** Decompressed blocks: `count` records back to back. */
  blocks: { data: Buffer; count: number }[];
}

/** Opens a container file without decoding its records. FILE_UNREADABLE with `what` when the bytes are none such. */
export function decodeAvroFile(bytes: Uint8Array, what: string): AvroFile {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    if (!buffer.subarray(0, magic.length).equals(magic)) throw new Error('no Avro magic bytes');
    const header = metaType.decode(buffer, magic.length);
    if (header.offset < 0) throw new Error('a header cut short');
    const metadata = Object.fromEntries(Object.entries(header.value as Record<string, Buffer>).map(([key, value]) => [key, value.toString()]));
    const codec = metadata['avro.codec'] ?? 'null';
    if (codec !== 'null' && codec !== 'deflate') throw new Error(`codec ${codec}`);
    let position = header.offset + syncLength;
    const sync = buffer.subarray(header.offset, position);
    const blocks: AvroFile['blocks'] = [];
    while (position < buffer.length) {
      const count = longType.decode(buffer, position);
      const size = longType.decode(buffer, count.offset);
      const end = size.offset + Number(size.value);
      if (!buffer.subarray(end, end + syncLength).equals(sync)) throw new Error('a block without its sync marker');
      const stored = buffer.subarray(size.offset, end);
      blocks.push({ data: codec === 'deflate' ? inflateRawSync(stored) : stored, count: Number(count.value) });
      position = end + syncLength;
    }
    return { schemaText: metadata['avro.schema'] ?? '', metadata, blocks };
  } catch (cause) {
    throw new TidemarkError('FILE_UNREADABLE', `${what}: expected an Avro file (codec null or deflate), found ${cause instanceof Error ? cause.message : 'rubbish'}`, { cause });
  }
}
