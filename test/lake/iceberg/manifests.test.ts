import avro from 'avsc';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeAvroFile, encodeAvroFile } from '../../../src/lake/iceberg/avro-file.ts';
import { ManifestCache } from '../../../src/lake/iceberg/manifest-cache.ts';
import { decodeManifestList, encodeManifestList } from '../../../src/lake/iceberg/manifest-list.ts';
import { manifestEntrySchema, partitionColumns } from '../../../src/lake/iceberg/manifest-schema.ts';
import { ManifestCodec, entryStatus, type EntryStatus } from '../../../src/lake/iceberg/manifest.ts';
import { planMerge } from '../../../src/lake/merge-plan.ts';
import type { TableMetadata } from '../../../src/lake/iceberg/metadata.ts';
import { createObjectStoreCatalog } from '../../../src/lake/object-store-catalog.ts';
import { createMemoryObjectStore, type MemoryObjectStore } from '../../support/memory-object-store.ts';
import { trades, tradesFile } from './fixtures.ts';

const namespace = 'market_data';
const partition = partitionColumns(trades.fields, trades.partitionBy);
const codec = new ManifestCodec({ partition, partitionSpecId: 0, schemaJson: '{}', schemaId: 0, partitionSpecJson: '[]', sortOrderId: 1 });
const file = (n: number, hour = n) => tradesFile(`file-${n}`, { exchange: 'BINANCE', hour });

interface StoredEntry { status: EntryStatus; snapshot_id: number | null; sequence_number: number | null; file_sequence_number: number | null; data_file: { file_path: string } }
/** What the manifests of the current snapshot hold, by a decoder that knows nothing of ours. */
const storedManifests = (store: MemoryObjectStore, version: number) => {
  const body = (location: string) => store.objects.get(store.keyOf(location))!.body;
  const records = <T>(location: string): T[] => {
    const { schemaText, blocks } = decodeAvroFile(body(location), location);
    const type = avro.Type.forSchema(JSON.parse(schemaText));
    return blocks.flatMap(({ data, count }) => {
      const out: T[] = [];
      for (let i = 0, offset = 0; i < count; i += 1) {
        const decoded = type.decode(data, offset);
        out.push(decoded.value as T);
        offset = decoded.offset;
      }
      return out;
    });
  };
  const metadata = JSON.parse(String(Buffer.from(body(`s3://lake/warehouse/market_data/trades/metadata/v${version}.metadata.json`)))) as TableMetadata;
  const snapshot = metadata.snapshots.at(-1)!;
  return records<{ manifest_path: string; sequence_number: number; min_sequence_number: number; added_files_count: number; existing_files_count: number; deleted_files_count: number }>(snapshot['manifest-list'])
    .map((manifest) => ({
      ...manifest,
      entries: records<StoredEntry>(manifest.manifest_path).map((entry) => ({
        file: /([^/]+)\.parquet$/.exec(entry.data_file.file_path)![1], status: entry.status, snapshot: entry.snapshot_id, sequence: entry.sequence_number, fileSequence: entry.file_sequence_number,
      })),
    }));
};

describe('a manifest', () => {
  test('says its schema, partition spec and format in its header, and keeps field ids', () => {
    const { metadata, schemaText } = decodeAvroFile(codec.encode([codec.addedEntry(file(1), 7)]), 'manifest');
    expect(metadata).toMatchObject({ 'schema': '{}', 'schema-id': '0', 'partition-spec': '[]', 'partition-spec-id': '0', 'format-version': '2', 'content': 'data' });
    for (const id of [0, 1, 2, 3, 4, 100, 101, 102, 103, 104, 108, 109, 110, 117, 118, 125, 128, 132, 134, 140, 1000, 1001]) expect(schemaText).toContain(`"field-id":${id}`);
    expect(schemaText).toContain('"element-id":133');
  });

  test('keeps no memory but its own while it is cached', () => {
    const entries = [1, 2, 3].map((n) => codec.addedEntry(file(n), 7));
    const { partitions } = codec.describe(entries, 's3://lake/m.avro', 1_000, 7, 12);
    const held = [...entries.map(({ dataFileBytes }) => dataFileBytes), ...partitions!.flatMap(({ lower_bound, upper_bound }) => [lower_bound!, upper_bound!])];
    expect(held.map(({ buffer }) => buffer.byteLength)).toEqual(held.map(({ byteLength }) => byteLength));
  });

  test('gives back its files, metrics included, with what they inherit', () => {
    const entries = [1, 2, 3].map((n) => codec.addedEntry(file(n), 7));
    const bytes = codec.encode(entries);
    const listed = codec.describe(entries, 's3://lake/m.avro', bytes.length, 7, 12);
    expect(listed).toMatchObject({ added_files_count: 3, added_rows_count: 30, existing_files_count: 0, sequence_number: 12, min_sequence_number: 12, added_snapshot_id: 7 });
    const [manifest] = decodeManifestList(encodeManifestList([listed], { snapshotId: 7, parentSnapshotId: null, sequenceNumber: 12 }), 'list');
    expect(manifest!.partitions!.map(({ lower_bound, upper_bound }) => [lower_bound!.toString('hex'), upper_bound!.toString('hex')]))
      .toEqual([[Buffer.from('BINANCE').toString('hex'), Buffer.from('BINANCE').toString('hex')], ['01000000', '03000000']]);
    expect(codec.decode(bytes, manifest!).map((entry) => codec.liveFile(entry))).toEqual([1, 2, 3].map((n) => ({ ...file(n), addedSnapshotId: 7n, dataSequenceNumber: 12n })));
  });

  test('of any file comes back as it was', () => {
    const count = fc.nat({ max: 2 ** 52 });
    const byId = <T>(value: fc.Arbitrary<T>) => fc.dictionary(fc.nat({ max: 1_000 }).map(String), value, { noNullPrototype: true });
    const bound = fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes).toString('base64'));
    const anyFile = fc.record({
      filePath: fc.string({ unit: 'grapheme' }), partition: fc.record({ exchange: fc.option(fc.string({ unit: 'grapheme' })), timestamp: fc.option(fc.integer()) }), recordCount: count, fileSizeBytes: count,
      columnSizes: byId(count), valueCounts: byId(count), nullValueCounts: byId(count), lowerBounds: byId(bound), upperBounds: byId(bound), splitOffsets: fc.array(count, { maxLength: 5 }),
    });
    fc.assert(fc.property(fc.array(anyFile, { minLength: 1, maxLength: 20 }), (files) => {
      const entries = files.map((one) => codec.addedEntry(one, 7));
      const bytes = codec.encode(entries);
      const back = codec.decode(bytes, codec.describe(entries, 's3://lake/m.avro', bytes.length, 7, 12)).map((entry) => codec.liveFile(entry));
      expect(back).toEqual(files.map((one) => ({ ...one, addedSnapshotId: 7n, dataSequenceNumber: 12n })));
    }), { numRuns: 200 });
  });

  test('that another engine wrote, with its fields in another order and more of them, is read the same', () => {
    const schema = manifestEntrySchema(partition) as { fields: { name: string; type: { fields: unknown[] } }[] };
    const dataFile = schema.fields.find(({ name }) => name === 'data_file')!;
    const foreign = {
      ...schema,
      fields: schema.fields.map((field) => (field === dataFile ? { ...field, type: { ...field.type, fields: [{ 'name': 'first_row_id', 'type': ['null', 'long'], 'default': null, 'field-id': 142 }, ...[...field.type.fields].reverse()] } } : field)),
    };
    const entries = [1, 2].map((n) => codec.addedEntry(file(n), 7));
    const own = avro.Type.forSchema(schema as never);
    const foreignType = avro.Type.forSchema(foreign as never);
    const { blocks } = decodeAvroFile(codec.encode(entries), 'own');
    const records: Buffer[] = [];
    for (let i = 0, offset = 0; i < blocks[0]!.count; i += 1) {
      const decoded = own.decode(blocks[0]!.data, offset);
      records.push(foreignType.toBuffer(decoded.value));
      offset = decoded.offset;
    }
    const bytes = encodeAvroFile(foreign, {}, records);
    expect(codec.decode(bytes, codec.describe(entries, 's3://lake/m.avro', bytes.length, 7, 12)).map((entry) => codec.liveFile(entry)))
      .toEqual([1, 2].map((n) => ({ ...file(n), addedSnapshotId: 7n, dataSequenceNumber: 12n })));
  });

  test('cut short, or of other bytes, is refused', () => {
    const entries = [codec.addedEntry(file(1), 7)];
    const bytes = codec.encode(entries);
    const listed = codec.describe(entries, 's3://lake/m.avro', bytes.length, 7, 12);
    for (const broken of [bytes.subarray(0, bytes.length - 20), Buffer.from('no manifest'), Buffer.alloc(0)]) {
      expect(() => codec.decode(broken, listed)).toThrow(expect.objectContaining({ code: 'FILE_UNREADABLE' }));
    }
  });

  test('takes no file whose partition values are not those of the table', () => {
    expect(() => codec.addedEntry({ ...file(1), partition: { exchange: 'BINANCE' } }, 7)).toThrow(expect.objectContaining({ code: 'BAD_INPUT' }));
    expect(() => codec.addedEntry({ ...file(1), partition: { exchange: 'BINANCE', timestamp: 'noon' } }, 7)).toThrow(expect.objectContaining({ code: 'BAD_INPUT' }));
    expect(() => codec.addedEntry({ ...file(1), recordCount: 1.5 }, 7)).toThrow(expect.objectContaining({ code: 'BAD_INPUT' }));
  });
});

describe('rewritten manifests', () => {
  const table = async (options = {}) => {
    const store = createMemoryObjectStore();
    const catalog = createObjectStoreCatalog({ store, namespace, ...options });
    await catalog.ensureTable(trades);
    return { store, catalog };
  };

  test('keep the snapshot id and both sequence numbers of what they carry over, and inherit only for what is new', async () => {
    const { store, catalog } = await table({ manifestsMergedAt: 3 });
    const snapshots: number[] = [];
    for (const n of [1, 2, 3]) snapshots.push(Number((await catalog.commit('trades', { commitId: `c${n}`, add: [file(n)] })).snapshotId));
    const [merged, ...others] = storedManifests(store, 4);
    expect(others).toEqual([]);
    expect(merged).toMatchObject({ sequence_number: 3, min_sequence_number: 1, added_files_count: 1, existing_files_count: 2, deleted_files_count: 0 });
    expect(merged!.entries.sort((a, b) => (a.file! < b.file! ? -1 : 1))).toEqual([
      { file: 'file-1', status: entryStatus.existing, snapshot: snapshots[0], sequence: 1, fileSequence: 1 },
      { file: 'file-2', status: entryStatus.existing, snapshot: snapshots[1], sequence: 2, fileSequence: 2 },
      { file: 'file-3', status: entryStatus.added, snapshot: snapshots[2], sequence: null, fileSequence: null },
    ]);
  });

  test('name a removed file as DELETED in the snapshot that removed it, and never again', async () => {
    const { store, catalog } = await table();
    const first = await catalog.commit('trades', { commitId: 'add', add: [file(1), file(2)] });
    const removal = await catalog.commit('trades', { commitId: 'remove', add: [], remove: [file(1).filePath] });
    const [rewritten] = storedManifests(store, 3);
    expect(rewritten).toMatchObject({ added_files_count: 0, existing_files_count: 1, deleted_files_count: 1 });
    expect(rewritten!.entries).toEqual([
      { file: 'file-1', status: entryStatus.deleted, snapshot: Number(removal.snapshotId), sequence: 1, fileSequence: 1 },
      { file: 'file-2', status: entryStatus.existing, snapshot: Number(first.snapshotId), sequence: 1, fileSequence: 1 },
    ]);
    await catalog.commit('trades', { commitId: 'remove-2', add: [], remove: [file(2).filePath] });
    expect(storedManifests(store, 4).map(({ entries }) => entries.map(({ file: name, status }) => [name, status]))).toEqual([[['file-2', entryStatus.deleted]]]);
    await catalog.commit('trades', { commitId: 'add-3', add: [file(3)] });
    expect(storedManifests(store, 5).map(({ entries }) => entries.map(({ file: name }) => name))).toEqual([['file-3']]);
  });

  test('of a retried attempt give its files the sequence number of the version that they landed in', async () => {
    const { store, catalog } = await table();
    const rival = createObjectStoreCatalog({ store, namespace });
    let raced = false;
    store.onPut = (key) => {
      if (raced || !key.includes('snap-')) return undefined;
      raced = true;
      return async () => { await rival.commit('trades', { commitId: 'rival', add: [file(9)] }); };
    };
    const { attempts, version } = await catalog.commit('trades', { commitId: 'slow', add: [file(1)] });
    expect(attempts).toBe(2);
    const expected = [['file-9', 1n], ['file-1', 2n]];
    for (const reader of [version, await createObjectStoreCatalog({ store, namespace }).load('trades')]) {
      expect((await reader.scan()).map(({ filePath, dataSequenceNumber }) => [/([^/]+)\.parquet$/.exec(filePath)![1], dataSequenceNumber])).toEqual(expected);
    }
  });
});

describe('the merge plan', () => {
  test('bounds the small manifests, keeps every manifest in exactly one group, and writes an entry once for each magnitude', () => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 30 }), { minLength: 1, maxLength: 300 }), (commits) => {
      const limits = { mergedAt: 4, sizeMax: 256 };
      let manifests: number[] = [];
      let written = 0;
      let files = 0;
      for (const commit of commits) {
        manifests = [commit, ...manifests];
        files += commit;
        const groups = planMerge(manifests, limits);
        expect(groups.flat().sort((a, b) => a - b)).toEqual(manifests.map((_, index) => index));
        manifests = groups.map((group) => {
          const size = group.reduce((sum, index) => sum + manifests[index]!, 0);
          if (group.length > 1 || group[0] === 0) written += size;
          return size;
        });
        // Magnitudes 1, 4, 16, 64, and one more for what is still below the maximum.
        expect(manifests.filter((size) => size < limits.sizeMax).length).toBeLessThanOrEqual(3 * 5);
      }
      expect(written).toBeLessThanOrEqual(files * 6);
    }), { numRuns: 50 });
  });
});

test('the manifest cache stays within its bound and drops what was used least recently', async () => {
  const store = createMemoryObjectStore();
  const entries = [codec.addedEntry(file(1), 7)];
  const bytes = codec.encode(entries);
  for (const n of [1, 2, 3]) await store.put(`m${n}`, bytes);
  const manifest = (n: number) => codec.describe(entries, `s3://lake/m${n}`, bytes.length, 7, 12);
  const cache = new ManifestCache(store, 2_000);
  const load = async (n: number) => {
    const before = store.requests.get;
    await Promise.all([cache.entries(codec, manifest(n)), cache.entries(codec, manifest(n))]);
    return store.requests.get - before;
  };
  expect([await load(1), await load(2), await load(1), await load(3), await load(1), await load(2)]).toEqual([1, 1, 0, 1, 0, 1]);
});
