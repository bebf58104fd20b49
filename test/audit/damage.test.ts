import { randomBytes } from 'node:crypto';
import { crc32 } from 'node:zlib';
import * as fc from 'fast-check';
import type { ColumnMetaData } from 'hyparquet';
import { ByteWriter } from 'hyparquet-writer';
import { writePageHeader } from 'hyparquet-writer/src/datapage.js';
import { expect, test } from 'vitest';
import { verifyPages } from '../../src/audit/data-file-check.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';
import { coverageOfReadings, createSmallLake, datasetOf, plainReadings, winnersOf } from './small-lake.ts';

const { bronze, silver, gold } = datasetOf('north');

const createLake = async (options: { metadata?: Record<string, string> } = {}) => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 60);
  const file = await lake.ingest('north', 0, 0, 60, rows, options);
  await lake.refine('north', rows, coverageOfReadings(rows));
  await lake.merge(winnersOf(rows), coverageOfReadings(rows));
  return { ...lake, file };
};

/** Damage below the store: neither ETag nor metadata know of it. */
const flip = (store: MemoryObjectStore, key: string, at: number, bit: number): void => {
  const { body } = store.objects.get(key)!;
  body[at]! ^= 1 << bit;
};

test('one flipped bit anywhere in any data file is found, and names the file', async () => {
  const lake = await createLake();
  const files = (await Promise.all([bronze, silver, gold].map(async ({ name }) => (await lake.catalog.load(name)).scan()))).flat();
  expect((await lake.audit()).findings).toEqual([]);
  await fc.assert(fc.asyncProperty(fc.nat({ max: files.length - 1 }), fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }), fc.nat({ max: 7 }), async (which, where, bit) => {
    const file = files[which]!;
    const key = lake.store.keyOf(file.filePath);
    const at = Math.floor(where * file.fileSizeBytes);
    flip(lake.store, key, at, bit);
    try {
      const { findings } = await lake.audit();
      expect(findings.some(({ promise, detail }) => promise === 'files-intact' && detail.includes(file.filePath))).toBe(true);
    } finally {
      flip(lake.store, key, at, bit);
    }
  }), { numRuns: 60 });
  expect((await lake.audit()).findings).toEqual([]);
});

test('a file whose metadata holds its SHA-256 is compared with that', async () => {
  const lake = await createLake({ metadata: { sha256: 'f'.repeat(64) } });
  const { findings } = await lake.audit();
  expect(findings).toEqual([expect.objectContaining({ promise: 'files-intact', subject: bronze.name, topic: 'north.raw', partition: 0, startOffset: '0', endOffset: '60' })]);
  expect(findings[0]!.detail).toContain(`expected SHA-256 ${'f'.repeat(64)}`);
});

test('a page that no longer decompresses is found where the file was put again, so that its ETag is right', async () => {
  const lake = await createLake();
  const key = lake.store.keyOf(lake.file.filePath);
  const { body } = await lake.store.get(key);
  const changed = Buffer.from(body);
  const zstdMagic = changed.indexOf(Buffer.from([0x28, 0xb5, 0x2f, 0xfd]));
  expect(zstdMagic).toBeGreaterThan(0);
  changed[zstdMagic]! ^= 0x10;
  await lake.store.put(key, changed);
  const { findings } = await lake.audit();
  expect(findings.map(({ promise, detail }) => ({ promise, names: detail.includes(lake.file.filePath) }))).toContainEqual({ promise: 'files-intact', names: true });
});

test('a page that differs from its CRC is found, and one that agrees is not', () => {
  const page = Buffer.from('sixteen bytes...');
  const chunkOf = (stored: Uint8Array): Uint8Array => {
    const out = new ByteWriter();
    writePageHeader(out, {
      type: 'DATA_PAGE_V2', uncompressed_page_size: page.length, compressed_page_size: page.length, crc: crc32(page) | 0,
      data_page_header_v2: { num_values: 2, num_nulls: 0, num_rows: 2, encoding: 'PLAIN', definition_levels_byte_length: 0, repetition_levels_byte_length: 0, is_compressed: false },
    });
    out.appendBytes(stored);
    return out.getBytes();
  };
  const metadata = { codec: 'ZSTD' } as ColumnMetaData;
  verifyPages('value', chunkOf(page), metadata);
  const changed = Buffer.from(page);
  changed[3]! ^= 1;
  expect(() => verifyPages('value', chunkOf(changed), metadata)).toThrow('column value: a page differs from its CRC');
});

test('a file that is too large to be held whole is compared piece by piece', async () => {
  const lake = await createSmallLake();
  const rows = plainReadings('north', 0, 0, 60);
  const file = await lake.writeFile(bronze, rows.map((row) => ({ ...lake.rows.bronzeRow(row), raw_bytes: randomBytes(100_000) })), { ingestion_timestamp: 20_370 });
  expect(file.fileSizeBytes).toBeGreaterThan(5_000_000);
  await lake.append(bronze.name, [file], coverageOfReadings(rows));
  const key = lake.store.keyOf(file.filePath);
  const { get } = lake.store;
  lake.store.get = (asked, options) => { if (asked === key) throw new Error('held whole'); return get(asked, options); };
  const healthy = await lake.audit();
  expect(healthy.findings).toEqual([]);
  expect(healthy.tables.find(({ table }) => table === bronze.name)!.checksummedFiles).toBe(1);
  for (const at of [5, 2_500_000, file.fileSizeBytes - 5_000]) {
    flip(lake.store, key, at, 3);
    expect((await lake.audit()).findings.some(({ promise, detail }) => promise === 'files-intact' && detail.includes(file.filePath))).toBe(true);
    flip(lake.store, key, at, 3);
  }
});

test('a file that was cut short or replaced by rubbish is found', async () => {
  const lake = await createLake();
  const key = lake.store.keyOf(lake.file.filePath);
  const { body } = await lake.store.get(key);
  await lake.store.put(key, body.subarray(0, body.length - 100));
  const cut = await lake.audit();
  expect(cut.findings.filter(({ promise }) => promise === 'files-intact').map(({ detail }) => detail)).toEqual([
    expect.stringContaining(`expected ${body.length} bytes, found ${body.length - 100}`), expect.stringContaining('cannot be read'),
  ]);
  await lake.store.put(key, Buffer.alloc(body.length, 7));
  expect((await lake.audit()).findings.filter(({ promise }) => promise === 'files-intact')).toEqual([expect.objectContaining({ startOffset: '0', endOffset: '60' })]);
});

test('an ETag that is no MD5 is not taken for damage, and the CRCs of the pages prove the files all the same', async () => {
  const lake = await createLake();
  for (const object of lake.store.objects.values()) object.etag = `"${'0'.repeat(32)}"`;
  const report = await lake.audit();
  expect(report.findings).toEqual([]);
  expect(report.tables.map(({ checksummedFiles }) => checksummedFiles)).toEqual(report.tables.map(({ files }) => files));
});

test('with keys only, no file is read whole', async () => {
  const lake = await createLake();
  const asked: string[] = [];
  lake.store.onGet = (key) => { asked.push(key); };
  const { get } = lake.store;
  lake.store.get = (key, options) => { if (key.includes('/data/')) throw new Error(`read whole: ${key}`); return get(key, options); };
  const report = await lake.audit({ verification: 'keys' });
  expect(report.findings).toEqual([]);
  expect(report.tables.every(({ checksummedFiles }) => checksummedFiles === 0)).toBe(true);
  expect(asked.some((key) => key.includes('/data/'))).toBe(true);
});

test('a store that is away fails the audit, and is no finding', async () => {
  const lake = await createLake();
  lake.store.onGet = (key) => { if (key.includes('/data/')) throw new Error('no route to the store'); };
  await expect(lake.audit()).rejects.toThrow('no route to the store');
});
