import { expect, test } from 'vitest';
import binance from '../../src/datasets/binance-trades.ts';
import { dlqTable } from '../../src/datasets/engine-tables.ts';
import { bytesSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import type { DivertInput, DivertResult } from '../../src/refine/divert.ts';
import { divertBronze } from '../../src/refine/divert.ts';
import { bronzeIngestionMs, putBronzeFile } from '../support/bronze-file.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';
import type { MemoryObjectStore } from '../support/memory-object-store.ts';

const topic = 'trades';
const key = `${topic}/3`;
const record = (n: number): Uint8Array => Uint8Array.of(0, 0, 0, 0, 42, n);

const divert = (store: MemoryObjectStore, input: Partial<DivertInput> & Pick<DivertInput, 'bronzeFiles' | 'offsets'>): Promise<DivertResult> => divertBronze(
  { store, dataset: binance, dlqTable: 'dlq', dataLocation: (table, suffix) => store.location(`${table}/${suffix}`) },
  { source: binance.source, batchId: 'b-1', reason: 'diverted by hand', silverFiles: [], nowMs: bronzeIngestionMs + 1, ...input },
);

const rowsOf = async (store: MemoryObjectStore, { dlqFiles }: DivertResult) => {
  const rows: { offset: number; raw: number[] | null; reason: string; detail: string; schemaId: number | null; at: number }[] = [];
  for (const { filePath, partition } of dlqFiles) {
    expect(partition).toMatchObject({ bronze_source: binance.source, error_type: 'unknown_error' });
    const { columns, rowCount } = await readColumns(await openParquet(bytesSource((await store.get(store.keyOf(filePath))).body)), { columns: dlqTable('dlq').fields.map(({ name }) => name) });
    for (let i = 0; i < rowCount; i += 1) {
      const raw = columns['raw_record']![i] as Uint8Array | null;
      expect([columns['kafka_topic']![i], columns['kafka_partition']![i]]).toEqual([topic, 3]);
      rows.push({
        offset: Number(columns['kafka_offset']![i]), raw: raw === null ? null : [...raw], reason: columns['error_reason']![i] as string,
        detail: columns['error_detail']![i] as string, schemaId: columns['schema_id']![i] as number | null, at: Number(columns['kafka_timestamp']![i]) / 1000,
      });
    }
  }
  return rows.sort((a, b) => a.offset - b.offset);
};

/** A file and what its manifest says of it. */
const put = async (store: MemoryObjectStore, offsets: readonly number[]) => {
  const file = await putBronzeFile(store, {
    topic, partition: 3, offsets: offsets.map(BigInt), values: offsets.map((n) => (n === 2 ? null : record(n))), kafkaTimestampMs: offsets.map((n) => bronzeIngestionMs + n),
  });
  const bound = (value: bigint | number, bytes: 4 | 8): string => {
    const buffer = Buffer.alloc(bytes);
    if (bytes === 8) buffer.writeBigInt64LE(BigInt(value));
    else buffer.writeInt32LE(Number(value));
    return buffer.toString('base64');
  };
  const micros = (n: number): bigint => BigInt(bronzeIngestionMs + n) * 1000n;
  return {
    ...file,
    lowerBounds: { 3: bound(3, 4), 4: bound(offsets[0]!, 8), 7: bound(micros(offsets[0]!), 8) },
    upperBounds: { 3: bound(3, 4), 4: bound(offsets.at(-1)!, 8), 7: bound(micros(offsets.at(-1)!), 8) },
  };
};

test('every planned record of a diverted micro-batch is in the DLQ with its bytes; tombstones too', async () => {
  const store = createMemoryObjectStore();
  const result = await divert(store, { bronzeFiles: [await put(store, [0, 1, 2, 3]), await put(store, [4, 9])], offsets: { [key]: '1-9' } });
  expect(result).toMatchObject({ bronzeRows: 4, dlqRows: 4, unreadableRows: 0 });
  expect(await rowsOf(store, result)).toEqual([1, 2, 3, 4].map((offset) => ({
    offset, raw: offset === 2 ? null : [...record(offset)], reason: 'diverted_by_operator', detail: 'diverted by hand', schemaId: offset === 2 ? null : 42, at: bronzeIngestionMs + offset,
  })));
});

test('where the bytes of a damaged Bronze file are gone, its records are in the DLQ without them, at their own times', async () => {
  const store = createMemoryObjectStore();
  const file = await put(store, [0, 1, 2, 3]);
  const { body } = await store.get(store.keyOf(file.filePath));
  const { metadata } = await openParquet(bytesSource(body));
  const chunk = metadata.row_groups[0]!.columns.find(({ meta_data }) => meta_data!.path_in_schema[0] === 'raw_bytes')!.meta_data!;
  const damaged = Uint8Array.from(body).fill(0xff, Number(chunk.dictionary_page_offset ?? chunk.data_page_offset), Number(chunk.data_page_offset) + 30);
  await store.put(store.keyOf(file.filePath), damaged);
  const result = await divert(store, { bronzeFiles: [file], offsets: { [key]: '0-4' } });
  expect(result).toMatchObject({ bronzeRows: 4, dlqRows: 4, unreadableRows: 4 });
  const rows = await rowsOf(store, result);
  expect(rows.map(({ offset, raw, reason, at }) => ({ offset, raw, reason, at }))).toEqual([0, 1, 2, 3].map((offset) => ({ offset, raw: null, reason: 'bronze_unreadable', at: bronzeIngestionMs + offset })));
  expect(rows[0]!.detail).toMatch(/^diverted by hand; the bytes cannot be read from the Bronze file \(/);
});

test('a Bronze file that is gone leaves one DLQ row for each of its offsets, where its bounds tell them all', async () => {
  const store = createMemoryObjectStore();
  const file = await put(store, [5, 6, 7]);
  await store.delete([store.keyOf(file.filePath)]);
  const result = await divert(store, { bronzeFiles: [file], offsets: { [key]: '6-100' } });
  expect((await rowsOf(store, result)).map(({ offset, raw, reason, at }) => [offset, raw, reason, at])).toEqual([6, 7].map((offset) => [offset, null, 'bronze_unreadable', bronzeIngestionMs + 5]));
});

test('no row is invented: a lost Bronze file with sparse offsets cannot be diverted', async () => {
  const store = createMemoryObjectStore();
  const file = await put(store, [5, 6, 9]);
  await store.put(store.keyOf(file.filePath), new Uint8Array(file.fileSizeBytes));
  await expect(divert(store, { bronzeFiles: [file], offsets: { [key]: '0-100' } })).rejects.toMatchObject({ code: 'FILE_UNREADABLE', message: expect.stringContaining('Restore the file, then retry') as string });
});
