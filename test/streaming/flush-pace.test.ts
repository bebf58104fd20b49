import { expect, test } from 'vitest';
import { FlushPace } from '../../src/streaming/flush-pace.ts';

const bounds = { intervalMinMs: 500, intervalMaxMs: 8_000 };

/** Each second the same number of records on each topic partition. */
const feed = (pace: FlushPace, fromMs: number, secondsCount: number, partitions: number, records: number): number => {
  for (let second = 1; second <= secondsCount; second += 1) {
    const nowMs = fromMs + second * 1_000;
    for (let partition = 0; partition < partitions; partition += 1) if (records > 0) pace.taken(`trades/${partition}`, records, nowMs);
    pace.look(nowMs);
  }
  return fromMs + secondsCount * 1_000;
};

test('many quiet topic partitions wait longer together; a burst on them is flushed at the shortest interval from its first second on', () => {
  const pace = new FlushPace(bounds, 0);
  expect(pace.intervalMs).toBe(500);
  let now = feed(pace, 0, 20, 24, 3);
  expect(pace.current).toMatchObject({ intervalMs: 6_000, topicPartitions: 24, reason: '72 records/s over 24 topic partitions: at most 4 files/s' });
  now = feed(pace, now, 1, 24, 5_000);
  expect(pace.intervalMs).toBe(500);
  now = feed(pace, now, 60, 24, 3);
  expect(pace.intervalMs).toBe(6_000);
  // Those that fell silent do not keep the others waiting.
  feed(pace, now, 30, 1, 3);
  expect(pace.current).toMatchObject({ intervalMs: 500, topicPartitions: 1 });
});
