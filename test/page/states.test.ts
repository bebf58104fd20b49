import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Page } from 'playwright-core';
import { addPageRoutes } from '../../src/page/routes.ts';
import { attentionOf } from '../../src/page/snapshot.ts';
import type { PageSnapshot } from '../../src/page/snapshot.ts';
import { startHttpServer } from '../../src/telemetry/http-server.ts';
import type { HttpServer } from '../../src/telemetry/http-server.ts';
import { launchBrowser } from '../support/browser.ts';
import { faintTexts, hasText, markPage, namelessElements, overflowPixels, pageMark } from '../support/page-checks.js';
import { pageSnapshot, sourceView } from './page-data.ts';

const launched = await launchBrowser();
// Said where it is seen: a suite that skips this in silence would look complete.
if (!launched.browser) process.stderr.write(`test/page/states.test.ts is skipped: ${launched.cause}\n`);
const minute = 60_000;

/** What somebody who may produce records, or names a source, could try. */
const hostile = '"><img src=x onerror="document.title=\'broken\'"><b>';
const atMs = 1_700_000_000_000;
const troubled = (changes: Partial<PageSnapshot> = {}): PageSnapshot => {
  const batch = { source: 'a-trades', records: 1_200, silverRows: 1_190, dlqRows: 10, goldRows: 1_180, duplicates: 10, cause: null, url: null };
  const snapshot = pageSnapshot({
    atMs,
    sources: [
      sourceView({
        rows: { bronze: 1_000_000, silver: 940_000, dlq: 60_000 }, phase: 'paused',
        topicPartitions: [{ name: 'a-topic-with-a-name-that-is-as-long-as-operators-make-them.and-then-some.raw/17', nextOffset: '123456789012', lagRecords: 5, owner: 'host/1/abcdef', pendingFiles: 2, halted: 'LOG_TRUNCATED' }],
        topicPartitionsTotal: 1, gaps: [{ topicPartition: 'a/0', startOffset: '100', endOffset: '250', detectedAtMs: atMs }],
      }),
      sourceView({ source: hostile, phase: null, problem: hostile }),
    ],
    batches: [
      { ...batch, batch: 3, state: 'running', startedAtMs: atMs - 2_000, durationMs: null },
      { ...batch, batch: 2, state: 'failed', startedAtMs: atMs - 9_000, durationMs: 0, cause: hostile },
      { ...batch, batch: 1, state: 'done', startedAtMs: atMs - 20_000, durationMs: 4_000 },
    ],
    dlq: { reasons: [{ source: 'a-trades', errorType: 'price_validation', reason: 'price_must_be_positive', rows: 60_000 }, { source: hostile, errorType: 'x', reason: hostile, rows: 1 }], unread: 12 },
    reprocesses: [
      { kind: 'backfill', workflowId: 'backfill/b1', source: 'a-trades', phase: 'refining', isPaused: false, rowsTotal: 800, rowsDone: 200, startedAtMs: atMs - 60_000, problem: null, url: null },
      { kind: 'DLQ replay', workflowId: 'dlq-replay/r1', source: 'a-trades', phase: 'staging', isPaused: true, rowsTotal: 0, rowsDone: 0, startedAtMs: atMs - 179_600, problem: null, url: null },
    ],
    processes: [{ name: 'streaming worker', rssBytes: 300 << 20, bufferBytes: 90 << 20, bufferBudgetBytes: 96 << 20, problem: null }],
    audit: { state: 'findings', atMs, findings: 3, promises: ['gold-keys'], url: null },
    ...changes,
  });
  return { ...snapshot, attention: attentionOf(snapshot) };
};

let http: HttpServer;
let page: Page;
let shown = troubled();
const stop = new AbortController();
let done: Promise<void>;
const problems: string[] = [];
beforeAll(async () => {
  if (!launched.browser) return;
  http = await startHttpServer({ host: '127.0.0.1', port: 0, onError: (error) => problems.push(String(error)) });
  ({ done } = addPageRoutes(http, {
    controls: null, signal: stop.signal, watchedEveryMs: 500, onFailure: (error) => problems.push(String(error)),
    collector: { look: () => Promise.resolve(shown), history: () => ({ stepMs: 10_000, points: { 'a-trades': [0, 1, 2].map((i) => ({ atMs: atMs + i * 10_000, lagRecords: i * 100, freshnessP50Ms: i === 1 ? null : 500, freshnessP99Ms: i === 1 ? null : 2_000, rowsPerSecond: 40 })) } }) },
  }));
  page = await launched.browser.newPage({ viewport: { width: 360, height: 740 } });
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') problems.push(message.text());
  });
  await page.goto(http.url);
  await page.waitForSelector('#reprocesses li', { timeout: minute }).catch(async (error: unknown) => { throw new Error(`the page does not draw: ${problems.join('; ')} ${await page.locator('body').innerText()}`, { cause: error }); });
}, 2 * minute);
afterAll(async () => {
  stop.abort();
  await launched.browser?.close();
  await done;
  await http?.close();
}, minute);

test.skipIf(!launched.browser)('every trouble is on the page in words, with what to run', async () => {
  const text = (await page.locator('main').innerText()).replaceAll(' ', ' ');
  for (const words of [
    'a-trades is paused', 'LOG_TRUNCATED', '150 records were gone', '6.0 % of its records were refused', 'npm run retry-batch -- --source a-trades --batch 2', '[100, 250)',
    'backfill/b1', '25.0 %', '200 of 800 rows', 'dlq-replay/r1', '3 min 0 s', 'price_must_be_positive', '60,000', '12 older rows', 'buffers 90 MB of 96 MB', '3 findings', 'gold-keys',
  ]) expect(text).toContain(words);
  expect(await page.getByRole('progressbar', { name: 'backfill/b1' }).getAttribute('aria-valuenow')).toBe('200');
  expect(await page.title()).toMatch(/^\(\d+!\) Tidemark$/);
});

test.skipIf(!launched.browser)('what records, names and errors say stays text', async () => {
  expect(await page.locator('main img, main b:not(.ladder b)').count()).toBe(0);
  expect(await page.title()).not.toContain('broken');
  expect(await page.locator('#dlq').innerText()).toContain('onerror');
});

test.skipIf(!launched.browser)('long names and troubles fit a phone, have names and contrast', async () => {
  await page.locator('details summary').first().click();
  expect(await page.evaluate(overflowPixels)).toBe(0);
  expect(await page.evaluate(namelessElements)).toEqual([]);
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    expect(await page.evaluate(faintTexts), colorScheme).toEqual([]);
  }
});

test.skipIf(!launched.browser)('a source that comes and others that go leave open what was opened', async () => {
  const details = page.locator('#stream-a-trades details');
  if (await details.getAttribute('open') === null) await details.locator('summary').click();
  const own = sourceView({ topicPartitionsTotal: 77 });
  shown = troubled({ sources: [sourceView({ source: 'before-it' }), own], reprocesses: [] });
  await page.waitForFunction(hasText, 'before-it', { timeout: minute });
  expect(await details.getAttribute('open')).not.toBe(null);
  expect(await page.locator('main > section').evaluateAll((sections) => sections.map(({ id }) => id))).toEqual(['attention', 'stream-before-it', 'stream-a-trades', 'batches', 'gold', 'dlq', 'reprocesses', 'memory', 'audit']);
  expect(await page.locator('#reprocesses').innerText()).toContain('None runs.');
  expect(problems).toEqual([]);
}, minute);

test.skipIf(!launched.browser)('a page that a proxy told off while its server restarted comes back by itself, and says until then that it is cut off', async () => {
  const away = await launched.browser!.newPage();
  await away.route('**/events', (route) => route.fulfill({ status: 502, body: 'Bad gateway' }));
  await away.goto(http.url);
  await away.waitForFunction(hasText, 'Connecting', { timeout: minute });
  await away.unroute('**/events');
  await away.waitForSelector('#connection[data-state=live]', { timeout: minute });
  expect(await away.locator('#connection').innerText()).toContain('Live,');
  await away.close();
}, 2 * minute);

test.skipIf(!launched.browser)('a page that another release serves loads itself anew', async () => {
  const old = await launched.browser!.newPage();
  let release = 'old';
  await old.route('**/events', (route) => route.fulfill({ contentType: 'text/event-stream', body: `retry: 100\n\nevent: page\ndata: ${release}\n\nevent: snapshot\ndata: ${JSON.stringify(shown)}\n\n` }));
  await old.goto(http.url);
  await old.waitForSelector('#attention', { timeout: minute });
  await old.evaluate(markPage);
  const loaded = old.waitForEvent('load', { timeout: minute });
  release = 'new';
  await loaded;
  await old.waitForSelector('#attention', { timeout: minute });
  expect(await old.evaluate(pageMark)).not.toBe('as before');
  await old.close();
}, 2 * minute);
