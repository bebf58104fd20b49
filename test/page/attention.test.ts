import { expect, test } from 'vitest';
import { attentionOf } from '../../src/page/snapshot.ts';
import { pageSnapshot, sourceView } from './page-data.ts';

test('a healthy page asks for nothing', () => {
  expect(attentionOf(pageSnapshot())).toEqual([]);
});

test('whatever waits for a person is named with what to run, the worst first', () => {
  const batch = { source: 'a-trades', batch: 7, startedAtMs: 0, durationMs: 0, records: 1_200, silverRows: 0, dlqRows: 0, goldRows: 0, duplicates: 0, url: 'http://ui/7' };
  const found = attentionOf(pageSnapshot({
    sources: [
      sourceView({ source: 'paused-one', phase: 'paused' }),
      sourceView({ source: 'lost-one', phase: null, problem: 'no such Workflow' }),
      sourceView({ source: 'halted-one', topicPartitions: [{ name: 't/3', nextOffset: '5', lagRecords: 1, owner: null, pendingFiles: 0, halted: 'LOG_TRUNCATED' }] }),
      sourceView({ source: 'gap-one', gaps: [{ topicPartition: 't/0', startOffset: '100', endOffset: '1350', detectedAtMs: 0 }] }),
      sourceView({ source: 'refused-one', rows: { bronze: 100, silver: 94, dlq: 6 } }),
      sourceView({ source: 'late-one', freshnessMs: { p50: 1, p99: 61_000 } }),
    ],
    batches: [{ ...batch, state: 'failed', cause: 'FILE_UNREADABLE' }, { ...batch, batch: 8, state: 'done', cause: null }],
    processes: [
      { name: 'full', rssBytes: 1, bufferBytes: 81, bufferBudgetBytes: 100, problem: null },
      { name: 'gone', rssBytes: null, bufferBytes: null, bufferBudgetBytes: null, problem: 'refused' },
    ],
    audit: { state: 'findings', atMs: 0, findings: 2, promises: ['gold-keys'], url: null },
    problems: ['the broker could not be read: away'],
  }));
  const texts = found.map(({ level, text }) => `${level} ${text}`);
  const says = (...words: string[]): boolean => texts.some((text) => words.every((word) => text.includes(word)));
  expect(says('warning', 'paused-one', 'paused')).toBe(true);
  expect(says('critical', 'lost-one', 'no such Workflow')).toBe(true);
  expect(says('critical', 'halted-one', 't/3', 'LOG_TRUNCATED')).toBe(true);
  expect(says('critical', 'gap-one', '1,250 records')).toBe(true);
  expect(says('critical', 'refused-one', '6.0 %')).toBe(true);
  expect(says('warning', 'late-one', '61 s')).toBe(true);
  expect(says('critical', 'micro-batch 7', '1,200', 'FILE_UNREADABLE')).toBe(true);
  expect(says('micro-batch 8')).toBe(false);
  expect(says('warning', 'full', '81.0 %')).toBe(true);
  expect(says('critical', 'gone')).toBe(true);
  expect(says('critical', 'audit', 'gold-keys')).toBe(true);
  expect(says('warning', 'the broker')).toBe(true);
  expect(found.find(({ text }) => text.includes('micro-batch 7'))).toMatchObject({ command: 'npm run retry-batch -- --source a-trades --batch 7', url: 'http://ui/7' });
  const levels = found.map(({ level }) => level);
  expect(levels).toEqual(levels.toSorted());
});
