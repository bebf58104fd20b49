import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import type { Claim } from '../../../src/contracts/stream.ts';
import { topicPartitionsAtOnceMax } from '../../../src/contracts/stream.ts';
import { jsonBytes, payloadBytesMax } from '../../../src/domain/payload.ts';
import { CheckpointOutbox } from '../../../src/streaming/checkpoint-outbox.ts';
import { FakeLake } from '../../support/fake-lake.ts';
import type { Environment } from '../environment.ts';
import { StreamUnderTest, connectEnvironment, largestPayloadBytes, range } from '../environment.ts';

let environment: Environment;
beforeAll(async () => {
  environment = await connectEnvironment(inject('stack').temporal.address);
}, 180_000);
afterAll(() => environment.temporal.teardown());

test('no payload of a stream with 500 topic partitions reaches 64 KiB: claims, reports, commits, micro-batches, the next run\'s input', async () => {
  const lake = new FakeLake({ batchRecordsMax: 5_000, runningMax: 3, historyEventsMax: 120 });
  // A name of usual length; the pure tests take the longest one that Kafka knows.
  const keys = Array.from({ length: 500 }, (_, i) => `prod.eu-west-1.market.crypto.trades.binance.raw/${i}`);
  const owner = 'streaming-worker-host-7-0b9d4c2e-7c55-4c8e-9d0e-3c1f6f0f2a11';
  await StreamUnderTest.run(environment, lake, async (stream) => {
    const claims: Claim[] = [];
    for (let at = 0; at < keys.length; at += topicPartitionsAtOnceMax) claims.push(...await stream.claim(owner, ...keys.slice(at, at + topicPartitionsAtOnceMax)));
    // Reports as the streaming worker cuts them.
    const outbox = new CheckpointOutbox();
    for (const { topicPartition, epoch } of claims) outbox.claim(topicPartition, epoch, 0n);
    for (let round = 0; round < 2; round += 1) {
      for (const key of keys) outbox.addFile(key, BigInt(round * 10), BigInt(round * 10 + 10))(range(key, round * 10, round * 10 + 10));
    }
    let reports = 0;
    for (let report = outbox.collect(owner); report !== null; report = outbox.collect(owner)) {
      expect(jsonBytes(report)).toBeLessThan(payloadBytesMax);
      await stream.report(owner, claims.filter(({ topicPartition }) => topicPartition in report!.epochs), ...report.ranges);
      const names = Object.keys(report.epochs);
      for (let at = 0; at < names.length; at += topicPartitionsAtOnceMax) {
        const view = await stream.ledger(...names.slice(at, at + topicPartitionsAtOnceMax));
        expect(jsonBytes(view)).toBeLessThan(payloadBytesMax);
        outbox.settle(owner, report.epochs, view);
      }
      reports += 1;
      expect(reports).toBeLessThan(200);
    }
    const state = await stream.until(({ totals, runningTotal }) => totals.goldRows === 10_000 && runningTotal === 0, 60_000);
    expect(jsonBytes(state)).toBeLessThan(payloadBytesMax);
    expect(state).toMatchObject({ topicPartitionsTotal: 500, openRecords: 0, failedTotal: 0, pendingFilesTotal: 0 });

    const runs = await stream.histories();
    expect(runs.length).toBeGreaterThanOrEqual(2);
    const largest = runs.map(({ events }) => largestPayloadBytes(events));
    expect(Math.max(...largest)).toBeLessThan(payloadBytesMax);
    expect(Math.max(...largest)).toBeGreaterThan(payloadBytesMax / 4); // the measure sees them
    for (let batch = 1; batch <= state.totals.batches; batch += 1) {
      expect(largestPayloadBytes((await stream.microBatchHistory(batch)).events)).toBeLessThan(payloadBytesMax);
    }
  });
}, 180_000);
