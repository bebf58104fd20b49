import type { PageSnapshot, SourceView } from '../../src/page/snapshot.ts';

export const sourceView = (changes: Partial<SourceView> = {}): SourceView => ({
  source: 'a-trades', phase: 'running', problem: null, url: null, lagRecords: 0, freshnessMs: { p50: 800, p99: 2_000 }, rowsPerSecond: 10, rows: { bronze: 1_000, silver: 999, dlq: 1 },
  duplicates: 3, openRecords: 0, pendingFiles: 0, batchLimit: null, topicPartitions: [], topicPartitionsTotal: 0, gaps: [], ...changes,
});

export const pageSnapshot = (changes: Partial<PageSnapshot> = {}): PageSnapshot => ({
  atMs: 1_700_000_000_000, namespace: 'n', webUiUrl: null, hasControls: false, attention: [], sources: [sourceView()], gold: [{ table: 'gold', rows: 996 }], batches: [],
  dlq: { reasons: [], unread: 0 }, reprocesses: [], processes: [], audit: null, problems: [], ...changes,
});
