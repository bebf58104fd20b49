import { crc32, gunzipSync, zstdDecompressSync } from 'node:zlib';
import { isAscii } from 'node:buffer';
import type { ColumnMetaData, Compressors, DecodedArray, PageHeader, SchemaElement } from 'hyparquet';
import { parquetHeader } from 'hyparquet/src/column.js';
import { decompressPage } from 'hyparquet/src/datapage.js';
import { deltaBinaryUnpack, deltaByteArray, deltaLengthByteArray } from 'hyparquet/src/delta.js';
import { byteStreamSplit } from 'hyparquet/src/encoding.js';
import { readPlain } from 'hyparquet/src/plain.js';
import { TidemarkError } from '../domain/errors.ts';
import type { CodedColumn, ColumnValues, EncodableColumn, PackedColumn } from './columns.ts';
import { packedPrefixBytes, packedTexts } from './columns.ts';
import type { FileLeaf } from './parquet-schema.ts';
import { release } from './release.ts';

/**
 * Decodes column chunks into the representations of columns.ts. Page headers, codecs and rare encodings are hyparquet's; what our own
 * files hold (PLAIN, dictionaries, levels) is decoded here into typed arrays, and logical types are left as stored.
 */

/** One byte more than a page has: a piece that is filled to its end makes zlib allocate the next one. */
const pieceBytes = (length: number): number => Math.max(64, Math.min(length + 1, 32 << 20));
const compressors: Compressors = {
  ZSTD: (bytes, length) => zstdDecompressSync(bytes, { chunkSize: pieceBytes(length), maxOutputLength: Math.max(1, length) }),
  GZIP: (bytes, length) => gunzipSync(bytes, { maxOutputLength: Math.max(1, length) }),
};

/** What a leaf's values become. */
type Target = 'int64' | 'int32' | 'double' | 'boolean' | 'string' | 'binary';

const isDecimal = (element: SchemaElement): boolean => element.converted_type === 'DECIMAL' || element.logical_type?.type === 'DECIMAL';

const isText = (element: SchemaElement): boolean =>
  element.converted_type === 'UTF8' || element.converted_type === 'JSON' || element.converted_type === 'ENUM'
  || element.logical_type?.type === 'STRING' || element.logical_type?.type === 'JSON' || element.logical_type?.type === 'ENUM';

export const targetOf = (element: SchemaElement): Target => {
  switch (element.type) {
    case 'INT64': return 'int64';
    case 'INT32': return isDecimal(element) ? 'int64' : 'int32';
    case 'FLOAT':
    case 'DOUBLE': return 'double';
    case 'BOOLEAN': return 'boolean';
    case 'BYTE_ARRAY':
    case 'FIXED_LEN_BYTE_ARRAY': return isDecimal(element) ? 'int64' : isText(element) ? 'string' : 'binary';
    default: throw new TidemarkError('FILE_UNREADABLE', `column ${element.name}: Parquet type ${element.type ?? 'of a group'} is not read`);
  }
};

type Values = BigInt64Array | Int32Array | Float64Array | unknown[];
/** Values that stay as they are stored: see columns.ts. Without nulls here; the page's levels have them. */
type StoredValues = PackedColumn | { dictionary: Values; codes: Uint32Array };
/** `stored` leaves texts, binaries and dictionary codes as the page has them. */
export type DecodedForm = 'values' | 'stored';

const isStored = (values: Values | StoredValues): values is StoredValues => !ArrayBuffer.isView(values) && !Array.isArray(values);

/** One page: its levels (undefined: all at the maximum, no lists), and the values that are not null. */
interface DecodedPage {
  levelCount: number;
  definitionLevels: Uint8Array | undefined;
  repetitionLevels: Uint8Array | undefined;
  values: Values | StoredValues;
}

interface Cursor {
  bytes: Uint8Array;
  at: number;
}

const readVarint = (cursor: Cursor): number => {
  let value = 0;
  for (let shift = 0; ; shift += 7) {
    const byte = cursor.bytes[cursor.at++];
    if (byte === undefined) throw new TidemarkError('FILE_UNREADABLE', 'a Parquet page ends inside a run length');
    value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return value >>> 0;
  }
};

/** Fills `out` from Parquet's RLE and bit-packed hybrid. */
const readHybrid = (cursor: Cursor, bitWidth: number, out: Uint8Array | Uint32Array): void => {
  const { bytes } = cursor;
  let seen = 0;
  while (seen < out.length) {
    const header = readVarint(cursor);
    if ((header & 1) === 0) {
      let value = 0;
      for (let b = 0; b < (bitWidth + 7) >> 3; b += 1) value |= bytes[cursor.at++]! << (8 * b);
      const end = Math.min(out.length, seen + (header >>> 1));
      out.fill(value, seen, end);
      if (end === seen) throw new TidemarkError('FILE_UNREADABLE', 'a Parquet page holds an empty run');
      seen = end;
      continue;
    }
    const count = (header >>> 1) * 8;
    const end = Math.min(out.length, seen + count);
    let at = cursor.at;
    let bits = 0;
    let bitCount = 0;
    const mask = bitWidth >= 32 ? -1 : (1 << bitWidth) - 1;
    if (bitWidth <= 24) {
      for (; seen < end; seen += 1) {
        while (bitCount < bitWidth) {
          bits |= bytes[at++]! << bitCount;
          bitCount += 8;
        }
        out[seen] = bits & mask;
        bits >>>= bitWidth;
        bitCount -= bitWidth;
      }
    } else {
      for (let i = 0; seen < end; seen += 1, i += 1) {
        let value = 0;
        for (let bit = 0; bit < bitWidth; bit += 1) {
          const position = i * bitWidth + bit;
          if ((bytes[cursor.at + (position >> 3)]! >> (position & 7)) & 1) value |= 1 << bit;
        }
        out[seen] = value;
      }
    }
    cursor.at += (count * bitWidth) >> 3;
  }
};

const bitWidthOf = (maximum: number): number => 32 - Math.clz32(maximum);

const aligned = (bytes: Uint8Array, at: number, byteCount: number, alignment: number): { buffer: ArrayBufferLike; byteOffset: number } => {
  if (at + byteCount > bytes.length) throw new TidemarkError('FILE_UNREADABLE', `a Parquet page ends early: expected ${byteCount} bytes, found ${bytes.length - at}`);
  if ((bytes.byteOffset + at) % alignment === 0) return { buffer: bytes.buffer, byteOffset: bytes.byteOffset + at };
  // Not bytes.slice: of a Buffer that is a view of the pool, not a copy.
  return { buffer: new Uint8Array(bytes.subarray(at, at + byteCount)).buffer, byteOffset: 0 };
};

/**
 * Texts of a PLAIN page. One native call decodes the page, and each text is a slice of it: a call for each text costs more. So a
 * text that is kept for long keeps its page (about 1 MiB) alive. Overwrites the lengths in `bytes`, so that all of it is ASCII.
 */
const readPlainTexts = (bytes: Uint8Array, from: number, count: number, isOwned: boolean): string[] => {
  const buffer = isOwned ? Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength) : Buffer.from(bytes);
  const lengths = new Uint32Array(count);
  let at = from;
  for (let i = 0; i < count; i += 1) {
    const length = (buffer[at]! | (buffer[at + 1]! << 8) | (buffer[at + 2]! << 16) | (buffer[at + 3]! << 24)) >>> 0;
    if (at + 4 + length > buffer.length) throw new TidemarkError('FILE_UNREADABLE', 'a Parquet page ends inside a text');
    lengths[i] = length;
    buffer[at] = 0;
    buffer[at + 1] = 0;
    buffer[at + 2] = 0;
    buffer[at + 3] = 0;
    at += 4 + length;
  }
  const texts: string[] = [];
  if (isAscii(buffer.subarray(from, at))) {
    const whole = buffer.toString('latin1', from, at);
    let start = 0;
    for (let i = 0; i < count; i += 1) {
      start += 4;
      const end = start + lengths[i]!;
      texts.push(whole.substring(start, end));
      start = end;
    }
  } else {
    let start = from;
    for (let i = 0; i < count; i += 1) {
      start += 4;
      const end = start + lengths[i]!;
      texts.push(buffer.toString('utf8', start, end));
      start = end;
    }
  }
  return texts;
};

const readPlainBinaries = (bytes: Uint8Array, from: number, count: number): Uint8Array[] => {
  const values: Uint8Array[] = [];
  let at = from;
  for (let i = 0; i < count; i += 1) {
    const length = (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
    at += 4;
    if (at + length > bytes.length) throw new TidemarkError('FILE_UNREADABLE', 'a Parquet page ends inside a binary');
    values.push(new Uint8Array(bytes.buffer, bytes.byteOffset + at, length));
    at += length;
  }
  return values;
};

/** A PLAIN page as it is, once its lengths are known to add up. */
const readPacked = (bytes: Uint8Array, from: number, count: number): PackedColumn => {
  const positions = new Uint32Array(count + 1);
  const end = bytes.length;
  let at = from;
  for (let i = 0; i < count; i += 1) {
    positions[i] = at - from;
    const length = (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0;
    at += packedPrefixBytes + length;
    if (at > end) throw new TidemarkError('FILE_UNREADABLE', 'a Parquet page ends inside a value');
  }
  positions[count] = at - from;
  return { packed: bytes.subarray(from, at), positions };
};

const bigEndian = (bytes: Uint8Array): bigint => {
  let value = 0n;
  for (const byte of bytes) value = (value << 8n) | BigInt(byte);
  return BigInt.asIntN(bytes.length * 8, value);
};

/** Values as hyparquet decodes them → the target's representation. */
const retarget = (decoded: DecodedArray, target: Target, column: string): Values => {
  switch (target) {
    case 'int64': {
      if (decoded instanceof BigInt64Array) return decoded;
      const out = new BigInt64Array(decoded.length);
      for (let i = 0; i < decoded.length; i += 1) {
        const value: unknown = decoded[i];
        const integer = typeof value === 'bigint' ? value : typeof value === 'number' ? BigInt(value) : value instanceof Uint8Array ? bigEndian(value) : undefined;
        if (integer === undefined || BigInt.asIntN(64, integer) !== integer) throw new TidemarkError('FILE_UNREADABLE', `column ${column}: a value does not fit 64 bits`);
        out[i] = integer;
      }
      return out;
    }
    case 'int32': return decoded instanceof Int32Array ? decoded : Int32Array.from(decoded as Iterable<number>);
    case 'double': return decoded instanceof Float64Array ? decoded : Float64Array.from(decoded as Iterable<number>);
    case 'string': {
      const texts: string[] = [];
      for (const value of decoded as Iterable<Uint8Array>) texts.push(Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('utf8'));
      return texts;
    }
    case 'boolean': return Array.from(decoded as Iterable<unknown>, Boolean);
    case 'binary': return Array.from(decoded as Iterable<unknown>);
  }
};

const readPlainValues = (bytes: Uint8Array, from: number, count: number, element: SchemaElement, target: Target, isOwned: boolean): Values => {
  if (element.type === 'INT64') {
    const { buffer, byteOffset } = aligned(bytes, from, count * 8, 8);
    return new BigInt64Array(buffer, byteOffset, count);
  }
  if (element.type === 'INT32' && target === 'int32') {
    const { buffer, byteOffset } = aligned(bytes, from, count * 4, 4);
    return new Int32Array(buffer, byteOffset, count);
  }
  if (element.type === 'BYTE_ARRAY' && target === 'string') return readPlainTexts(bytes, from, count, isOwned);
  if (element.type === 'BYTE_ARRAY' && target === 'binary') return readPlainBinaries(bytes, from, count);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return retarget(readPlain({ view, offset: from }, element.type!, count, element.type_length), target, element.name);
};

const emptyOf = (target: Target, length: number): Values => {
  switch (target) {
    case 'int64': return new BigInt64Array(length);
    case 'int32': return new Int32Array(length);
    case 'double': return new Float64Array(length);
    case 'boolean':
    case 'string':
    case 'binary': return [];
  }
};

const lookUp = (dictionary: Values, codes: Uint32Array, target: Target): Values => {
  if (dictionary instanceof BigInt64Array) {
    const source = new Int32Array(dictionary.buffer, dictionary.byteOffset, dictionary.length * 2);
    const out = new Int32Array(codes.length * 2);
    for (let i = 0; i < codes.length; i += 1) {
      out[2 * i] = source[codes[i]! * 2]!;
      out[2 * i + 1] = source[codes[i]! * 2 + 1]!;
    }
    return new BigInt64Array(out.buffer);
  }
  if (dictionary instanceof Int32Array || dictionary instanceof Float64Array) {
    const out = emptyOf(target, codes.length) as Int32Array | Float64Array;
    for (let i = 0; i < codes.length; i += 1) out[i] = dictionary[codes[i]!]!;
    return out;
  }
  const out: unknown[] = [];
  for (let i = 0; i < codes.length; i += 1) out.push(dictionary[codes[i]!]);
  return out;
};

const readPage = (header: PageHeader, stored: Uint8Array, leaf: FileLeaf, codec: ColumnMetaData['codec'], dictionary: Values | undefined, target: Target, form: DecodedForm): DecodedPage => {
  const { element } = leaf;
  const version2 = header.data_page_header_v2;
  const version1 = header.data_page_header;
  const repetitionMax = leaf.isList ? 1 : 0;
  let levelCount: number;
  let encoding: string;
  let definitionLevels: Uint8Array | undefined;
  let repetitionLevels: Uint8Array | undefined;
  let body: Uint8Array;
  let at = 0;
  let isOwned = true;
  if (version2) {
    levelCount = version2.num_values;
    encoding = version2.encoding;
    const { repetition_levels_byte_length: repetitionBytes, definition_levels_byte_length: definitionBytes } = version2;
    if (repetitionMax > 0) {
      repetitionLevels = new Uint8Array(levelCount);
      readHybrid({ bytes: stored, at: 0 }, 1, repetitionLevels);
    }
    if (leaf.maxDefinitionLevel > 0 && (version2.num_nulls > 0 || leaf.isList)) {
      definitionLevels = new Uint8Array(levelCount);
      readHybrid({ bytes: stored, at: repetitionBytes }, bitWidthOf(leaf.maxDefinitionLevel), definitionLevels);
    }
    const values = stored.subarray(repetitionBytes + definitionBytes);
    const isCompressed = version2.is_compressed !== false && codec !== 'UNCOMPRESSED' && values.length > 0;
    body = isCompressed ? decompressPage(values, header.uncompressed_page_size - repetitionBytes - definitionBytes, codec, compressors) : values;
    isOwned = isCompressed;
  } else if (version1) {
    levelCount = version1.num_values;
    encoding = version1.encoding;
    body = decompressPage(stored, header.uncompressed_page_size, codec, compressors);
    isOwned = codec !== 'UNCOMPRESSED';
    const levels = (maximum: number): Uint8Array => {
      const length = new DataView(body.buffer, body.byteOffset + at, 4).getUint32(0, true);
      const out = new Uint8Array(levelCount);
      readHybrid({ bytes: body, at: at + 4 }, bitWidthOf(maximum), out);
      at += 4 + length;
      return out;
    };
    if (repetitionMax > 0) repetitionLevels = levels(repetitionMax);
    if (leaf.maxDefinitionLevel > 0) definitionLevels = levels(leaf.maxDefinitionLevel);
  } else {
    throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: page type ${header.type} is not read`);
  }
  let valueCount = levelCount;
  if (definitionLevels) {
    valueCount = 0;
    for (let i = 0; i < levelCount; i += 1) if (definitionLevels[i] === leaf.maxDefinitionLevel) valueCount += 1;
    if (valueCount === levelCount && !leaf.isList) definitionLevels = undefined;
  }
  return { levelCount, definitionLevels, repetitionLevels, values: readValues(encoding, body, at, valueCount, leaf, dictionary, target, isOwned, element, form) };
};

const readValues = (
  encoding: string, body: Uint8Array, at: number, count: number, leaf: FileLeaf, dictionary: Values | undefined, target: Target, isOwned: boolean, element: SchemaElement, form: DecodedForm,
): Values | StoredValues => {
  if (count === 0) return emptyOf(target, 0);
  const reader = { view: new DataView(body.buffer, body.byteOffset, body.byteLength), offset: at };
  switch (encoding) {
    case 'PLAIN': {
      if (form === 'stored' && element.type === 'BYTE_ARRAY' && (target === 'string' || target === 'binary') && !leaf.isList) return readPacked(body, at, count);
      return readPlainValues(body, at, count, element, target, isOwned);
    }
    case 'RLE_DICTIONARY':
    case 'PLAIN_DICTIONARY': {
      if (!dictionary) throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: a page refers to a dictionary that is not there`);
      const codes = new Uint32Array(count);
      const width = body[at]!;
      if (width > 0) readHybrid({ bytes: body, at: at + 1 }, width, codes);
      if (form === 'stored') {
        for (let i = 0; i < count; i += 1) if (codes[i]! >= dictionary.length) throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: a page names an entry that its dictionary does not have`);
        return { dictionary, codes };
      }
      return lookUp(dictionary, codes, target);
    }
    case 'RLE': {
      // Booleans; the run lengths follow a four-byte length.
      const bits = new Uint8Array(count);
      readHybrid({ bytes: body, at: at + 4 }, 1, bits);
      return Array.from(bits, Boolean);
    }
    case 'DELTA_BINARY_PACKED': {
      const out = element.type === 'INT32' ? new Int32Array(count) : new BigInt64Array(count);
      deltaBinaryUnpack(reader, count, out);
      return retarget(out, target, leaf.name);
    }
    case 'DELTA_LENGTH_BYTE_ARRAY':
    case 'DELTA_BYTE_ARRAY': {
      const out = Array.from({ length: count }, () => new Uint8Array());
      if (encoding === 'DELTA_BYTE_ARRAY') deltaByteArray(reader, count, out);
      else deltaLengthByteArray(reader, count, out);
      return retarget(out, target, leaf.name);
    }
    case 'BYTE_STREAM_SPLIT': return retarget(byteStreamSplit(reader, count, element.type!, element.type_length), target, leaf.name);
    default: throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: encoding ${encoding} is not read`);
  }
};

/** Some writers (parquetjs-lite) leave headers or levels out of a chunk's uncompressed size. */
const pageSlackBytes = 1 << 20;

/** The pages of one column chunk. `bytes` starts at the chunk's first page. */
export const decodeColumnChunk = (bytes: Uint8Array, leaf: FileLeaf, metadata: ColumnMetaData, form: DecodedForm = 'values'): DecodedPage[] => {
  const target = targetOf(leaf.element);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const reader = { view, offset: 0 };
  const pages: DecodedPage[] = [];
  const levelsExpected = Number(metadata.num_values);
  let dictionary: Values | undefined;
  let levels = 0;
  while (levels < levelsExpected) {
    const header = parquetHeader(reader);
    // A flipped byte must not make us allocate gigabytes, or turn back and read for ever.
    const valueCount = (header.data_page_header_v2 ?? header.data_page_header ?? header.dictionary_page_header)?.num_values ?? 0;
    if (header.compressed_page_size < 0 || header.uncompressed_page_size < 0 || header.uncompressed_page_size > Number(metadata.total_uncompressed_size) * 4 + pageSlackBytes
      || valueCount < 0 || (header.type !== 'DICTIONARY_PAGE' && valueCount > levelsExpected - levels)) {
      throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: a page header contradicts the footer`);
    }
    const stored = bytes.subarray(reader.offset, reader.offset + header.compressed_page_size);
    reader.offset += header.compressed_page_size;
    if (stored.length !== header.compressed_page_size) throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: the file ends inside a page`);
    if (header.crc !== undefined && crc32(stored) !== header.crc >>> 0) throw new TidemarkError('FILE_UNREADABLE', `column ${leaf.name}: a page differs from its CRC`);
    if (header.type === 'DICTIONARY_PAGE') {
      const page = decompressPage(stored, header.uncompressed_page_size, metadata.codec, compressors);
      const count = header.dictionary_page_header!.num_values;
      dictionary = readPlainValues(page, 0, count, leaf.element, target, metadata.codec !== 'UNCOMPRESSED');
    } else if (header.type !== 'INDEX_PAGE') {
      const page = readPage(header, stored, leaf, metadata.codec, dictionary, target, form);
      pages.push(page);
      levels += page.levelCount;
    }
  }
  return pages;
};

/** Binaries of a packed column, as views of it; without nulls. */
const packedBinaries = ({ packed, positions }: PackedColumn): Uint8Array[] => {
  const values: Uint8Array[] = [];
  for (let i = 0; i + 1 < positions.length; i += 1) values.push(packed.subarray(positions[i]! + packedPrefixBytes, positions[i + 1]));
  return values;
};

const valuesOf = (values: Values | StoredValues, target: Target): Values => {
  if (!isStored(values)) return values;
  if ('codes' in values) return lookUp(values.dictionary, values.codes, target);
  return target === 'string' ? packedTexts(values) : packedBinaries(values);
};

const scaleToMicros = (values: Values, element: SchemaElement): Values => {
  const logical = element.logical_type;
  const unit = element.converted_type === 'TIMESTAMP_MILLIS' ? 'MILLIS' : logical?.type === 'TIMESTAMP' ? logical.unit : 'MICROS';
  if (unit === 'MICROS' || !(values instanceof BigInt64Array)) return values;
  return values.map((value) => (unit === 'MILLIS' ? value * 1_000n : value / 1_000n));
};

interface ValuePage extends DecodedPage {
  values: Values;
}

const assembleLists = (pages: readonly ValuePage[], leaf: FileLeaf): (unknown[] | null)[] => {
  const rows: (unknown[] | null)[] = [];
  let current: unknown[] = [];
  for (const page of pages) {
    let value = 0;
    for (let i = 0; i < page.levelCount; i += 1) {
      const definition = page.definitionLevels ? page.definitionLevels[i]! : leaf.maxDefinitionLevel;
      if (page.repetitionLevels![i] === 0) {
        if (definition < leaf.listDefinitionLevel - 1) {
          rows.push(null);
          continue;
        }
        current = [];
        rows.push(current);
        if (definition < leaf.listDefinitionLevel) continue;
      }
      current.push(definition === leaf.maxDefinitionLevel ? page.values[value++] : null);
    }
  }
  return rows;
};

/** All pages of a column as one array. */
export const assembleColumn = (pages: readonly DecodedPage[], leaf: FileLeaf): ColumnValues => {
  const target = targetOf(leaf.element);
  const scaled = pages.map((page): ValuePage => ({ ...page, values: scaleToMicros(valuesOf(page.values, target), leaf.element) }));
  if (leaf.isList) return assembleLists(scaled, leaf) as ColumnValues;
  const rowCount = scaled.reduce((sum, page) => sum + page.levelCount, 0);
  if (scaled.every((page) => page.definitionLevels === undefined)) {
    const only = scaled[0];
    if (only && scaled.length === 1) return only.values as ColumnValues;
    const out = emptyOf(target, rowCount);
    let at = 0;
    for (const { values } of scaled) {
      if (out instanceof BigInt64Array) out.set(values as BigInt64Array, at);
      else if (Array.isArray(out)) for (const value of values) out.push(value);
      else out.set(values as Int32Array, at);
      at += values.length;
    }
    return out as ColumnValues;
  }
  const out: unknown[] = [];
  for (const { levelCount, definitionLevels, values } of scaled) {
    let value = 0;
    for (let i = 0; i < levelCount; i += 1) {
      out.push(definitionLevels && definitionLevels[i] !== leaf.maxDefinitionLevel ? null : values[value++]);
    }
  }
  return out as ColumnValues;
};

/** Lists of one text each, or of none, as codes of them; undefined for others. */
const assembleCodedLists = (pages: readonly DecodedPage[], leaf: FileLeaf): CodedColumn | undefined => {
  const rowCount = pages.reduce((sum, { levelCount }) => sum + levelCount, 0);
  const entries: string[][] = [[]];
  const codes = new Uint32Array(rowCount);
  let row = 0;
  for (const { levelCount, definitionLevels, repetitionLevels, values } of pages) {
    const isCoded = isStored(values) && 'codes' in values;
    const first = entries.length;
    if (isCoded) for (const text of values.dictionary as string[]) entries.push([text]);
    let value = 0;
    for (let i = 0; i < levelCount; i += 1) {
      const definition = definitionLevels ? definitionLevels[i]! : leaf.maxDefinitionLevel;
      if (repetitionLevels![i] !== 0 || definition < leaf.listDefinitionLevel - 1) return undefined;
      if (definition >= leaf.listDefinitionLevel) {
        if (!isCoded || definition !== leaf.maxDefinitionLevel) return undefined;
        codes[row] = first + values.codes[value]!;
        value += 1;
      }
      row += 1;
    }
  }
  return { entries, codes };
};

/** Packed pages as one column; the nulls between them take no bytes. */
const joinPacked = (pages: readonly { levelCount: number; definitionLevels: Uint8Array | undefined; values: PackedColumn }[], leaf: FileLeaf): PackedColumn => {
  const only = pages[0]!;
  if (pages.length === 1 && !only.definitionLevels) return only.values;
  const packed = Buffer.allocUnsafeSlow(pages.reduce((sum, { values }) => sum + values.packed.length, 0));
  const positions = new Uint32Array(pages.reduce((sum, { levelCount }) => sum + levelCount, 0) + 1);
  let row = 0;
  let at = 0;
  for (const { levelCount, definitionLevels, values } of pages) {
    packed.set(values.packed, at);
    let value = 0;
    for (let i = 0; i < levelCount; i += 1) {
      if (!definitionLevels || definitionLevels[i] === leaf.maxDefinitionLevel) value += 1;
      positions[row + 1] = at + values.positions[value]!;
      row += 1;
    }
    at += values.packed.length;
    release(values.packed);
    release(values.positions);
  }
  return { packed, positions };
};

/** All pages of a column, decoded in the form `stored`, in the cheapest representation that they allow. */
export const assembleStored = (pages: readonly DecodedPage[], leaf: FileLeaf): EncodableColumn => {
  const [first] = pages;
  if (!first) return assembleColumn(pages, leaf);
  if (leaf.isList) return (targetOf(leaf.element) === 'string' ? assembleCodedLists(pages, leaf) : undefined) ?? assembleColumn(pages, leaf);
  const packed: { levelCount: number; definitionLevels: Uint8Array | undefined; values: PackedColumn }[] = [];
  let nulls = 0;
  for (const { levelCount, definitionLevels, repetitionLevels, values } of pages) {
    if (isStored(values) && 'packed' in values) packed.push({ levelCount, definitionLevels, values });
    else if (!isStored(values) && values.length === 0 && levelCount > 0 && !repetitionLevels) nulls += 1;
  }
  if (nulls === pages.length) return { constant: null };
  if (packed.length === pages.length) return joinPacked(packed, leaf);
  const { values } = first;
  if (isStored(values) && 'codes' in values && pages.every((page) => !page.definitionLevels && isStored(page.values) && 'codes' in page.values && page.values.dictionary === values.dictionary)) {
    if (values.dictionary.length === 1) {
      const [constant] = scaleToMicros(values.dictionary, leaf.element);
      return { constant: constant as string | bigint | number | boolean | Uint8Array };
    }
    if (targetOf(leaf.element) === 'string') {
      const codes = pages.length === 1 ? values.codes : new Uint32Array(pages.reduce((sum, { levelCount }) => sum + levelCount, 0));
      if (pages.length > 1) {
        let at = 0;
        for (const page of pages) {
          codes.set((page.values as { codes: Uint32Array }).codes, at);
          at += page.levelCount;
        }
      }
      return { entries: values.dictionary as string[], codes };
    }
  }
  return assembleColumn(pages, leaf);
};
