import fc from 'fast-check';
import { expect, test } from 'vitest';
import { findRows } from '../../src/explain/find-rows.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import { encodeDataFile } from '../../src/lake/parquet-writer.ts';
import type { TableDefinition } from '../../src/lake/schema.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';

const definition: TableDefinition = {
  name: 'rows',
  fields: [
    { id: 1, name: 'text', type: 'string', required: false },
    { id: 2, name: 'number', type: 'long', required: true },
    { id: 3, name: 'at', type: 'timestamptz', required: true },
    { id: 4, name: 'bytes', type: 'binary', required: false },
  ],
  partitionBy: [],
};

const text = fc.oneof(
  fc.constantFrom('BINANCE-1', 'holds another \t\0\0\0BINANCE-1', 'BINANCE-11', 'BINANCE-111', 'ß', '', 'a text that is longer than a bound of sixteen bytes 1', 'a text that is longer than a bound of sixteen bytes 2'),
  fc.string({ maxLength: 40 }),
  fc.constant(null),
);

const bytesOf = (value: string | null): Uint8Array | null => (value === null ? null : Uint8Array.from(Buffer.from(value)));

test('exactly the rows with the values are found, and whole, over files, row groups, dictionaries and nulls', async () => {
  await fc.assert(fc.asyncProperty(
    fc.array(fc.array(fc.record({ text, number: fc.bigInt({ min: -3n, max: 3n }) }), { minLength: 1, maxLength: 60 }).chain((rows) => fc.constantFrom(1, 40).map((times) => Array.from({ length: times }, () => rows).flat())), { minLength: 1, maxLength: 4 }),
    text.filter((value) => value !== null), fc.bigInt({ min: -3n, max: 3n }),
    async (files, wantedText, wantedNumber) => {
      const store = createMemoryObjectStore();
      const catalog = createObjectStoreCatalog({ store, namespace: 'n' });
      await catalog.ensureTable(definition);
      for (const [nth, rows] of files.entries()) {
        const { bytes, metrics } = encodeDataFile({
          fields: definition.fields, rowGroupRows: nth % 2 === 0 ? 17 : 100_000,
          batch: { rowCount: rows.length, columns: { text: rows.map((row) => row.text), number: BigInt64Array.from(rows, (row) => row.number), at: BigInt64Array.from(rows, (_, i) => BigInt(nth * 10_000 + i)), bytes: rows.map((row) => bytesOf(row.text)) } },
        });
        const filePath = catalog.dataLocation('rows', `${nth}.parquet`);
        await store.put(store.keyOf(filePath), bytes);
        await catalog.commit('rows', { commitId: String(nth), add: [{ filePath, partition: {}, ...metrics }] });
      }
      const version = await catalog.load('rows');
      const all = files.flatMap((rows, nth) => rows.map((row, i) => ({ ...row, at: BigInt(nth * 10_000 + i), bytes: bytesOf(row.text) })));
      const found = async (where: Record<string, string | bigint>): Promise<unknown[]> =>
        (await findRows(store, version, { where })).map(({ values }) => values).sort((a, b) => Number((a['at'] as bigint) - (b['at'] as bigint)));
      expect(await found({ text: wantedText })).toEqual(all.filter((row) => row.text === wantedText));
      expect(await found({ number: wantedNumber })).toEqual(all.filter((row) => row.number === wantedNumber));
      expect(await found({ text: wantedText, number: wantedNumber })).toEqual(all.filter((row) => row.text === wantedText && row.number === wantedNumber));
    },
  ), { numRuns: 60 });
}, 60_000);
