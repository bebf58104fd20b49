import { hash } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { bronzeFileSuffix } from '../../src/contracts/bronze.ts';
import { bronzeTable } from '../../src/datasets/dataset.ts';
import { bytesSource, openParquet } from '../../src/lake/parquet-reader.ts';
import { checksumMetadata, encodeBronzeFile } from '../../src/streaming/bronze-file.ts';
import { ByteBudget } from '../../src/streaming/byte-budget.ts';
import { PartitionBuffer } from '../../src/streaming/partition-buffer.ts';
import { chooseChain, recoverFiles } from '../../src/streaming/recover.ts';
import type { FoundFile, ReadFooter } from '../../src/streaming/recover.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';

interface File { start: bigint; end: bigint; epoch: number }

const files = fc.array(fc.record({ start: fc.nat(14), length: fc.nat(6), epoch: fc.nat(3) }), { maxLength: 16 })
  .map((specs) => specs.map(({ start, length, epoch }): File => ({ start: BigInt(start), end: BigInt(start + length), epoch })));

/** By exhaustion. */
const furthest = (found: readonly File[], from: bigint): bigint =>
  found.filter(({ start, end }) => start === from && end > start).reduce((reach, { end }) => {
    const beyond = furthest(found, end);
    return beyond > reach ? beyond : reach;
  }, from);

test('a chain follows on without hole or overlap and reaches as far as any, in whatever order the files are listed', () => {
  fc.assert(fc.property(files, fc.nat(14), fc.infiniteStream(fc.nat()), (found, start, random) => {
    const from = BigInt(start);
    const chain = chooseChain(found, from);
    let next = from;
    for (const file of chain) {
      expect(file.start).toBe(next);
      expect(file.end > file.start).toBe(true);
      next = file.end;
    }
    expect(next).toBe(furthest(found, from));
    const shuffled = found.map((file) => ({ file, at: random.next().value as number })).sort((a, b) => a.at - b.at).map(({ file }) => file);
    expect(chooseChain(shuffled, from)).toEqual(chain);
  }));
});

test('of chains that reach equally far, the one of fewest files, then of the highest epoch', () => {
  const file = (start: bigint, end: bigint, epoch: number): File => ({ start, end, epoch });
  expect(chooseChain([file(0n, 5n, 9), file(5n, 10n, 9), file(0n, 10n, 1)], 0n)).toEqual([file(0n, 10n, 1)]);
  expect(chooseChain([file(0n, 10n, 1), file(0n, 10n, 2)], 0n)).toEqual([file(0n, 10n, 2)]);
  // Equal in all that: still one choice, in whatever order they are listed.
  const cutTwice = [file(0n, 3n, 1), file(3n, 10n, 1), file(0n, 6n, 1), file(6n, 10n, 1)];
  for (const listed of [cutTwice, cutTwice.toReversed()]) expect(chooseChain(listed, 0n)).toEqual([file(0n, 6n, 1), file(6n, 10n, 1)]);
});

const table = bronzeTable('bronze_test');
const dataLocation = (suffix: string): string => `s3://lake/data/${suffix}`;
const readFooter: ReadFooter = async (bytes) => {
  const { rowCount, keyValueMetadata } = await openParquet(bytesSource(bytes));
  return { rowCount, keyValueMetadata };
};

const lane = () => {
  const store = createMemoryObjectStore('lake');
  const unreadable: string[] = [];
  const put = async (start: bigint, end: bigint, epoch: number, as: Partial<File> = {}): Promise<void> => {
    const buffer = new PartitionBuffer(start, new ByteBudget(1 << 30), {}, { rowsMax: 100, bytesMax: 1 << 20 });
    for (let offset = start; offset < end; offset += 1n) buffer.append(Buffer.from(`v${offset}`), Number(offset - start), 1, -1, 0, 0, 2, -1, 0);
    const file = encodeBronzeFile({ topic: 't', partition: 3, start, end, epoch }, buffer, table.fields, 1_700_000_000_000);
    const key = store.keyOf(dataLocation(bronzeFileSuffix({ topic: 't', partition: 3, start, end, epoch, ...as })));
    await store.put(key, file.bytes, { metadata: { [checksumMetadata]: file.checksum } });
  };
  const recover = (nextOffset: bigint | null, logStart = 0n) => recoverFiles({
    store, dataLocation, readFooter, topic: 't', partition: 3, nextOffset, logStart: () => Promise.resolve(logStart),
    onUnreadable: ({ key }: FoundFile) => void unreadable.push(key), signal: new AbortController().signal,
  });
  return { store, put, recover, unreadable };
};

test('files past the next offset are found again, with range, rows and checksum', async () => {
  const { store, put, recover } = lane();
  await put(0n, 10n, 1);
  await put(10n, 20n, 1);
  await put(20n, 25n, 2);
  await put(26n, 30n, 2);
  const { ranges, readFrom } = await recover(10n);
  expect(readFrom).toBe(25n);
  expect(ranges.map(({ startOffset, endOffset, fileEpoch, rowCount }) => [startOffset, endOffset, fileEpoch, rowCount])).toEqual([['10', '20', 1, 10], ['20', '25', 2, 5]]);
  const { body } = await store.get(store.keyOf(dataLocation(bronzeFileSuffix({ topic: 't', partition: 3, start: 20n, end: 25n, epoch: 2 }))));
  expect(ranges[1]).toMatchObject({ checksum: hash('sha256', body, 'hex'), byteCount: body.length, topicPartition: 't/3' });
});

test('files of a neighbour whose name starts the same are not taken', async () => {
  const { store, recover, put } = lane();
  await put(0n, 5n, 1);
  const { body, metadata } = await store.get(store.keyOf(dataLocation(bronzeFileSuffix({ topic: 't', partition: 3, start: 0n, end: 5n, epoch: 1 }))));
  await store.put(store.keyOf(dataLocation(bronzeFileSuffix({ topic: 't', partition: 30, start: 5n, end: 9n, epoch: 1 }))), body, { metadata });
  expect((await recover(0n)).readFrom).toBe(5n);
});

test('a file that is not what its key says is passed over, and another chain is chosen', async () => {
  const { put, recover, unreadable } = lane();
  await put(0n, 10n, 1, { end: 90n });
  await put(0n, 6n, 1);
  await put(6n, 8n, 1);
  const { ranges, readFrom } = await recover(0n);
  expect(readFrom).toBe(8n);
  expect(ranges).toHaveLength(2);
  expect(unreadable).toEqual([expect.stringContaining('0000000000000000000-0000000000000000090-1.parquet')]);
});

test('a file whose bytes are not those of its checksum is passed over', async () => {
  const { store, put, recover, unreadable } = lane();
  await put(0n, 10n, 1);
  const key = [...store.objects.keys()][0]!;
  // Readable, and with the footer of that file: only its bytes are not those that were stored.
  const { body } = await store.get(key);
  await store.put(key, body, { metadata: { [checksumMetadata]: '00' } });
  expect(await recover(0n)).toEqual({ ranges: [], readFrom: 0n });
  expect(unreadable).toEqual([key]);
});

test('a file that is refused is passed over, though nothing is wrong with it', async () => {
  const { store, put } = lane();
  await put(0n, 10n, 1);
  await put(0n, 6n, 2);
  const { readFrom } = await recoverFiles({
    store, dataLocation, readFooter, topic: 't', partition: 3, nextOffset: 0n, logStart: () => Promise.resolve(0n),
    isRefused: ({ epoch }) => epoch === 1, onUnreadable: () => undefined, signal: new AbortController().signal,
  });
  expect(readFrom).toBe(6n);
});

test('a topic partition that the ledger has never seen starts at the log start, or where the first owner started before retention', async () => {
  const { put, recover } = lane();
  expect(await recover(null, 7n)).toEqual({ ranges: [], readFrom: 7n });
  await put(5n, 9n, 1);
  expect((await recover(null, 5n)).readFrom).toBe(9n);
  expect((await recover(null, 8n)).readFrom, 'the lake has what the broker lost').toBe(9n);
  expect((await recover(null, 2n)).readFrom, 'the predecessor of the file was never written').toBe(2n);
});
