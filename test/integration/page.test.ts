import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Browser, Page } from 'playwright-core';
import { runAudit } from '../../src/audit/run-audit.ts';
import { produceBadRecords } from '../../src/capture/bad-records.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { findFreePorts } from '../../src/stack/ports.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { launchBrowser } from '../support/browser.ts';
import { faintTexts, hasText, markPage, namelessElements, overflowPixels, pageMark } from '../support/page-checks.js';
import { whileReprocessIsPaused } from '../support/paused-reprocess.ts';
import { startPipeline } from '../support/running-pipeline.ts';
import type { RunningPipeline } from '../support/running-pipeline.ts';

const minutes = 60_000;
const token = 'a-token-of-sixteen-characters';
const launched = await launchBrowser();
// Said where it is seen: a suite that skips this in silence would look complete.
if (!launched.browser) process.stderr.write(`test/integration/page.test.ts is skipped: ${launched.cause}\n`);

let running: RunningPipeline;
let browser: Browser;
let url: string;
const trades = (seed: number, count: number) =>
  running.withSink((sink) => loadGeneratedTrades({ sink, exchange: 'kraken', seed, trades: count, symbols: ['BTC/USD', 'ETH/USD'], repeatRatio: 0.05 }));
const thousands = (value: number): string => value.toLocaleString('en');

beforeAll(async () => {
  if (!launched.browser) return;
  browser = launched.browser;
  const [workerPort, streamingPort] = await findFreePorts(2);
  url = `http://127.0.0.1:${workerPort}`;
  running = await startPipeline({ PAGE_TOKEN: token, BATCH_ROWS_MAX: '500' }, {
    'temporal-worker': { METRICS_PORT: String(workerPort), PAGE_PROCESSES: `streaming worker=http://127.0.0.1:${streamingPort}` },
    'streaming-worker': { METRICS_PORT: String(streamingPort) },
  });
  const { brokers, topicPrefix } = running.config.kafka;
  await trades(1, 1_500);
  await produceBadRecords({ brokers, registry: createRegistryClient({ url: running.config.schemaRegistry.url }), exchange: 'kraken', topicPrefix });
  await running.untilMerged();
}, 3 * minutes);
afterAll(async () => {
  await browser?.close();
  await running?.stop();
}, minutes);

const open = async (options: Parameters<Browser['newPage']>[0] = {}): Promise<{ page: Page; problems: string[] }> => {
  const page = await browser.newPage(options);
  const problems: string[] = [];
  page.on('pageerror', (error) => problems.push(error.message));
  page.on('console', (message) => {
    if (message.type() === 'error') problems.push(message.text());
  });
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== url) problems.push(`asked for ${request.url()}`);
  });
  await page.goto(url);
  await page.waitForSelector('#attention', { timeout: minutes });
  return { page, problems };
};
const until = (page: Page, text: string): Promise<unknown> => page.waitForFunction(hasText, text, { timeout: minutes });

test.skipIf(!launched.browser)('the page shows what the lake holds and goes on without a reload, with nothing from outside', async () => {
  const { page, problems } = await open();
  const ladder = page.locator('#stream-kraken-trades .ladder');
  // What the server had read last may be of a moment before the last merge.
  await ladder.filter({ hasText: thousands(await running.rows('bronze_kraken_trades')) }).filter({ hasText: thousands(await running.rows('silver_kraken_trades')) }).waitFor({ timeout: minutes });
  await page.locator('#gold').filter({ hasText: thousands(await running.rows('gold_crypto_trades')) }).waitFor({ timeout: minutes });
  await page.waitForSelector('#dlq code', { timeout: minutes });
  expect(await page.locator('#dlq').innerText()).toContain('price_must_be_positive');
  expect(await page.locator('#memory').innerText()).toMatch(/streaming worker\s+\d+ MB[^]*buffers \d+ MB of \d+ MB/);
  const batch = page.locator('#batches svg a').first();
  expect(await batch.getAttribute('href')).toContain(`/namespaces/${running.config.temporal.namespace}/workflows/micro-batch%2Fkraken-trades%2F`);

  await page.locator('#stream-kraken-trades details summary').click();
  await page.evaluate(markPage);
  await trades(2, 700);
  await running.untilMerged();
  await until(page, thousands(await running.rows('gold_crypto_trades')));
  expect(await page.evaluate(pageMark)).toBe('as before');
  expect(await page.locator('#stream-kraken-trades details').getAttribute('open')).not.toBe(null);
  expect(problems).toEqual([]);
  await page.close();
}, 3 * minutes);

test.skipIf(!launched.browser)('a backfill and a DLQ replay that run are there with their progress, and go when they have ended; the last audit is there whoever ran it', async () => {
  const { page, problems } = await open();
  await runAudit(running.config, {});
  await whileReprocessIsPaused(running, { backfillOf: 'kraken-trades', replayOf: 'binance-trades', rowsPerSecond: 300 }, async ({ backfillId, replayId, progress: { rowsTotal, rowsRefined } }) => {
    await until(page, `${thousands(rowsRefined)} of ${thousands(rowsTotal)} rows`);
    await until(page, replayId);
    const bar = page.getByRole('progressbar', { name: backfillId });
    expect(await bar.getAttribute('aria-valuenow')).toBe(String(rowsRefined));
    expect(await bar.getAttribute('aria-valuemax')).toBe(String(rowsTotal));
    // The same figures are there before the pause is.
    await expect.poll(() => page.locator('#reprocesses .badge.warn').count(), { timeout: minutes }).toBe(2);
  });
  await until(page, 'None runs.');
  await until(page, 'every promise holds');
  expect(problems).toEqual([]);
  await page.close();
}, 4 * minutes);

test.skipIf(!launched.browser)('a phone in the dark scrolls in one direction, and everything on it has a name', async () => {
  const { page, problems } = await open({ viewport: { width: 360, height: 740 }, colorScheme: 'dark' });
  await page.waitForSelector('#batches svg', { timeout: minutes });
  expect(await page.evaluate(overflowPixels)).toBe(0);
  expect(await page.evaluate(namelessElements)).toEqual([]);
  expect(await page.evaluate(faintTexts)).toEqual([]);
  expect(problems).toEqual([]);
  await page.close();
}, 2 * minutes);

test.skipIf(!launched.browser)('with the token a stream is paused and resumed from the page; a wrong one changes nothing', async () => {
  const { page } = await open();
  const stream = page.locator('#stream-kraken-trades');
  await stream.locator('input[name=token]').fill('a-wrong-token-of-sixteen');
  await stream.getByRole('button', { name: 'Pause' }).click();
  await until(page, 'The token is missing, or another one.');
  expect((await running.state('kraken-trades')).phase).toBe('running');
  await stream.locator('input[name=token]').fill(token);
  await stream.getByRole('button', { name: 'Pause' }).click();
  await page.waitForSelector('#stream-kraken-trades .badge.warn', { timeout: minutes });
  expect((await running.state('kraken-trades')).phase).toBe('paused');
  expect(await page.locator('#attention').innerText()).toContain('kraken-trades is paused');
  await stream.getByRole('button', { name: 'Resume' }).click();
  await page.waitForSelector('#stream-kraken-trades .badge.good', { timeout: minutes });
  expect((await running.state('kraken-trades')).phase).toBe('running');
  await page.close();
}, 2 * minutes);

test.skipIf(!launched.browser)('a server that goes away is said, not hidden; when it is there again, started anew or not, so is the page', async () => {
  const { page } = await open();
  await until(page, 'Live,');
  const { pid } = running.temporalWorker;
  process.kill(pid!, 'SIGSTOP');
  try {
    await page.waitForSelector('#connection[data-state=lost]', { timeout: minutes });
  } finally {
    process.kill(pid!, 'SIGCONT');
  }
  await page.waitForSelector('#connection[data-state=live]', { timeout: minutes });
  expect(await page.locator('#connection').innerText()).toContain('Live,');
  await page.evaluate(markPage);
  process.kill(pid!, 'SIGKILL');
  await page.waitForSelector('#connection[data-state=lost]', { timeout: minutes });
  expect(await page.title()).toBe('No connection: Tidemark');
  await page.waitForSelector('#connection[data-state=live]', { timeout: minutes });
  expect(await page.evaluate(pageMark)).toBe('as before');
  await page.close();
}, 3 * minutes);
