import { expect, test } from 'vitest';
import { bronzeTable } from '../../src/datasets/dataset.ts';
import { bytesSource, openParquet, readColumns } from '../../src/lake/parquet-reader.ts';
import { checksumMetadata, footerKeys } from '../../src/streaming/bronze-file.ts';
import { BronzeWriter } from '../../src/streaming/bronze-writer.ts';
import type { BronzeFileJob } from '../../src/streaming/bronze-writer.ts';
import { ByteBudget } from '../../src/streaming/byte-budget.ts';
import { PartitionBuffer } from '../../src/streaming/partition-buffer.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';

const { fields } = bronzeTable('bronze_test');
const microsPerDay = 86_400_000_000n;

const setUp = () => {
  const store = createMemoryObjectStore('lake');
  const budget = new ByteBudget(1 << 20);
  const retries: string[] = [];
  const writer = new BronzeWriter({
    store, budget, atStep: () => undefined, onRetry: (_key, error) => void retries.push(error.message),
    clock: { nowMs: () => 1_700_000_000_000, sleep: () => new Promise((resolve) => { setImmediate(resolve); }) },
  });
  const controller = new AbortController();
  const job = (start: bigint, values: (string | null)[], epoch = 7): BronzeFileJob => {
    const buffer = new PartitionBuffer(start, budget, {}, { rowsMax: 1_000, bytesMax: 1 << 20 });
    for (const [i, value] of values.entries()) {
      const bytes = Buffer.from(value ?? '');
      buffer.append(bytes, i, 1_650_000_000_000 + i, -1, 0, value === null ? -1 : 0, bytes.length, -1, 0);
    }
    return {
      identity: { topic: 't', partition: 2, start, end: start + BigInt(values.length), epoch }, buffer, fields, signal: controller.signal,
      dataLocation: (suffix) => `s3://lake/data/${suffix}`,
    };
  };
  return { store, budget, writer, retries, job, controller };
};
const keyOf = 'data/t/2/0000000000000000010-0000000000000000013-7.parquet';

test('a Bronze file holds the records as columns, and its footer says what it is', async () => {
  const { store, writer, job, budget } = setUp();
  const written = await writer.write(job(10n, ['a', null, '']));
  expect(written?.range).toMatchObject({ topicPartition: 't/2', fileEpoch: 7, startOffset: '10', endOffset: '13', rowCount: 3 });
  const { body, metadata } = await store.get(keyOf);
  expect(metadata[checksumMetadata]).toBe(written?.range.checksum);
  const file = await openParquet(bytesSource(body));
  expect(file.keyValueMetadata).toMatchObject({ [footerKeys.topicPartition]: 't/2', [footerKeys.range]: '10-13', [footerKeys.epoch]: '7', [footerKeys.rowCount]: '3' });
  const { columns } = await readColumns(file, { columns: fields.map(({ name }) => name) });
  expect({ ...columns, raw_bytes: (columns['raw_bytes'] as (Uint8Array | null)[]).map((value) => value && Buffer.from(value).toString()) }).toEqual({
    raw_bytes: ['a', null, ''], topic: ['t', 't', 't'], partition: Int32Array.of(2, 2, 2), offset: BigInt64Array.of(10n, 11n, 12n),
    key: [null, null, null], headers: [null, null, null],
    kafka_timestamp: BigInt64Array.of(1_650_000_000_000_000n, 1_650_000_000_001_000n, 1_650_000_000_002_000n),
    ingestion_timestamp: BigInt64Array.of(1_700_000_000_000_000n, 1_700_000_000_000_000n, 1_700_000_000_000_000n),
    ingestion_date: Int32Array.from([1, 1, 1], () => Number(1_700_000_000_000_000n / microsPerDay)),
  });
  expect(budget.usedBytes).toBe(0);
});

test('the same records have the same content checksum, whoever writes them', async () => {
  const { store, writer, job } = setUp();
  await writer.write(job(10n, ['a', 'b', 'c'], 7));
  await writer.write(job(10n, ['a', 'b', 'c'], 8));
  await writer.write(job(10n, ['a', 'bc', ''], 9));
  const checksums = await Promise.all([7, 8, 9].map(async (epoch) => {
    const { body } = await store.get(keyOf.replace('-7', `-${epoch}`));
    return (await openParquet(bytesSource(body))).keyValueMetadata[footerKeys.contentChecksum];
  }));
  expect(checksums[0]).toBe(checksums[1]);
  expect(checksums[0]).not.toBe(checksums[2]);
});

test('S3 away: it tries until S3 is back, and holds no more than it did', async () => {
  const { store, writer, job, retries, budget } = setUp();
  let failures = 5;
  store.onPut = () => ((failures -= 1) >= 0 ? 'failBefore' : undefined);
  expect((await writer.write(job(10n, ['a', 'b', 'c'])))?.range.rowCount).toBe(3);
  expect(retries).toHaveLength(5);
  expect(budget.usedBytes).toBe(0);
});

test('a put whose answer was lost is recognised as ours', async () => {
  const { store, writer, job } = setUp();
  let first = true;
  store.onPut = () => {
    const fault = first ? 'loseAnswer' as const : undefined;
    first = false;
    return fault;
  };
  expect((await writer.write(job(10n, ['a', 'b', 'c'])))?.range.startOffset).toBe('10');
  expect(store.objects.size).toBe(1);
});

test('other content under our key is never taken for ours', async () => {
  const { store, writer, job, budget } = setUp();
  await store.put(keyOf, 'of somebody else', { metadata: { [checksumMetadata]: '00' } });
  await expect(writer.write(job(10n, ['a', 'b', 'c']))).rejects.toMatchObject({ code: 'CHECKSUM_MISMATCH' });
  expect(budget.usedBytes).toBe(0);
});

test('a claim that is gone ends its writes, before and while S3 is away, and gives the bytes back', async () => {
  const { store, writer, job, controller, budget } = setUp();
  store.onPut = () => {
    controller.abort();
    return 'failBefore';
  };
  const [during, before] = await Promise.all([writer.write(job(10n, ['a', 'b', 'c'])), writer.write(job(13n, ['d']))]);
  expect(during).toBe(null);
  expect(before).toBe(null);
  await writer.idle();
  expect(budget.usedBytes).toBe(0);
});
