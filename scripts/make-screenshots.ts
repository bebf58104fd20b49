#!/usr/bin/env node
import '../src/config/require-node.ts';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Browser, Page } from 'playwright-core';
import { produceBadRecords } from '../src/capture/bad-records.ts';
import { loadGeneratedTrades } from '../src/capture/load-generated.ts';
import { auditWorkflowId, auditWorkflowType } from '../src/contracts/audit.ts';
import { microBatchWorkflowId } from '../src/contracts/micro-batch.ts';
import { streamWorkflowId } from '../src/contracts/stream.ts';
import { TidemarkError } from '../src/domain/errors.ts';
import { createRegistryClient } from '../src/schema-registry/registry-client.ts';
import { startStack } from '../src/stack/index.ts';
import { findFreePorts } from '../src/stack/ports.ts';
import { launchBrowser } from '../test/support/browser.ts';
import { whileReprocessIsPaused } from '../test/support/paused-reprocess.ts';
import { startPipelineOn } from '../test/support/pipeline-processes.ts';
import type { RunningPipeline } from '../test/support/pipeline-processes.ts';
import { ProgressLine, command, exitOk, runCommand, stopSignal } from './cli.ts';
import { webUiUrl, webUiWorkflowsUrl } from './wire/web-ui.ts';

const folderDefault = fileURLToPath(new URL('../docs/images', import.meta.url));
const source = 'binance-trades';
const shownMs = 120_000;
const batchesSeen = 4;
const detailsEveryMs = 3_000;
/** Of several chunks one is refined when it is paused. */
const [batchRowsMax, backfillRowsPerSecond] = [4_000, 400];
const desktop = { viewport: { width: 1440, height: 900 } };
const phone = { viewport: { width: 390, height: 844 }, colorScheme: 'dark', deviceScaleFactor: 2 } as const;

const program = command('make-screenshots', 'Run the pipeline on real servers of its own and take the pictures of the docs: the operator\'s page (light, dark, and on a phone) and the Temporal Web UI')
  .option('--folder <path>', 'Where to', folderDefault)
  .option('--seconds <n>', 'How long the trades flow before the pictures are taken', Number, 60)
  .option('--rate <n>', 'Trades a second of each exchange', Number, 200)
  .option('--json', 'Print one JSON object');

/** By the browser's own protocol: Playwright's runs code in every frame first, and did not come back from those of the Web UI. */
const captureWithFrames = async (page: Page, path: string): Promise<void> => {
  const session = await page.context().newCDPSession(page);
  const { data } = await session.send('Page.captureScreenshot', { format: 'png' });
  await writeFile(path, Buffer.from(data, 'base64'));
};

const pictureOf = async (browser: Browser, options: Parameters<Browser['newPage']>[0], url: string, path: string, ready: (page: Page) => Promise<unknown>, fullPage = false): Promise<void> => {
  const page = await browser.newPage(options);
  try {
    await page.goto(url, { timeout: shownMs });
    await ready(page);
    if (page.frames().length > 1) await captureWithFrames(page, path);
    else await page.screenshot({ path, fullPage });
  } finally {
    await page.close();
  }
};

const shown = (page: Page, text: string): Promise<unknown> => page.getByText(text).first().waitFor({ timeout: shownMs });

/** The page of a running Workflow's metadata, once its current details are there: the Web UI asks the Workflow for them. */
const detailsShown = async (page: Page): Promise<void> => {
  const tab = page.getByTestId('user-metadata-tab');
  await tab.waitFor({ timeout: shownMs });
  // Not a click: the tabs move until the whole history has been drawn.
  await page.goto(new URL(await tab.getAttribute('href') ?? '', page.url()).href, { timeout: shownMs });
  const deadline = Date.now() + shownMs;
  // Markdown is drawn in frames that are given it in their address.
  while (!(await page.locator('iframe[src*="Kafka%20to%20Gold"]').count())) {
    if (Date.now() > deadline) throw new Error('the Temporal Web UI: expected the current details of a stream, found none');
    // A query that came while the Workflow was busy leaves the page empty; this asks again.
    await page.keyboard.press('r');
    await sleep(detailsEveryMs);
  }
  await sleep(detailsEveryMs);
};

/** Trades of both exchanges at a rate until the signal, some bad records among them. */
const feed = async ({ config, withSink }: RunningPipeline, rate: number, signal: AbortSignal): Promise<void> => {
  const registry = createRegistryClient({ url: config.schemaRegistry.url });
  await Promise.all((['binance', 'kraken'] as const).map(async (exchange) => {
    const symbols = exchange === 'binance' ? ['BTCUSDT', 'ETHUSDT', 'SOLUSDT'] : ['BTC/USD', 'ETH/USD'];
    const trades = withSink((sink) => loadGeneratedTrades({ sink, exchange, seed: 7, trades: rate * 3_600, rate, symbols, repeatRatio: 0.02, signal }));
    for (let seed = 1; seed <= 3 && !signal.aborted; seed += 1) {
      await produceBadRecords({ brokers: config.kafka.brokers, registry, exchange, topicPrefix: config.kafka.topicPrefix, seed });
    }
    await trades;
  }));
};

await runCommand<{ folder: string; seconds: number; rate: number; json?: boolean }>(program, async ({ folder, seconds, rate, json }) => {
  const progress = new ProgressLine();
  const signal = stopSignal();
  const launched = await launchBrowser();
  if (!launched.browser) throw new TidemarkError('TOOLCHAIN_MISSING', launched.cause);
  const { browser } = launched;
  const stack = await startStack({ signal, onProgress: ({ server, message }) => progress.show(`${server}: ${message}`) });
  try {
    const [pagePort, streamingPort] = await findFreePorts(2);
    const running = await startPipelineOn(stack.endpoints, {
      environment: { TEMPORAL_NAMESPACE: 'market-data', TIDEMARK_TOPIC_PREFIX: '', LOG_LEVEL: 'warn', BATCH_ROWS_MAX: String(batchRowsMax) },
      beforeLife: (name): Record<string, string> => (name === 'temporal-worker'
        ? { METRICS_PORT: String(pagePort), PAGE_PROCESSES: `streaming worker=http://127.0.0.1:${streamingPort}` }
        : { METRICS_PORT: String(streamingPort) }),
    });
    const enough = new AbortController();
    const fed = feed(running, rate, AbortSignal.any([signal, enough.signal]));
    try {
      progress.done(`Trades flow for ${seconds} s …`);
      // On a busy machine the pictures wait until there is something to see.
      const untilBatches = async (wanted: number): Promise<void> => {
        while ((await Promise.all(running.pipeline.datasets.map((dataset) => running.state(dataset.source).then(({ recent }) => recent.length, () => 0)))).some((done) => done < wanted)) {
          await sleep(1_000, undefined, { signal });
        }
      };
      await mkdir(folder, { recursive: true });
      const files: string[] = [];
      const take = async (name: string, options: Parameters<Browser['newPage']>[0], url: string, ready: (page: Page) => Promise<unknown>, fullPage = false): Promise<void> => {
        signal.throwIfAborted();
        progress.done(`Taking ${name}`);
        files.push(join(folder, name));
        await pictureOf(browser, options, url, join(folder, name), ready, fullPage);
      };
      await untilBatches(batchesSeen);
      // While its history is short: the Web UI draws every event, and again with each new one.
      const stream = webUiUrl(running.config, streamWorkflowId(source))!;
      await take('web-ui-stream.png', desktop, stream, (page) => shown(page, `${source} micro-batch`));
      await take('web-ui-details.png', desktop, stream, detailsShown);
      const { batch } = (await running.state(source)).recent.at(-1)!;
      await take('web-ui-micro-batch.png', desktop, webUiUrl(running.config, microBatchWorkflowId(source, batch))!, (page) => shown(page, 'mergeGold'));
      await sleep(seconds * 1_000, undefined, { signal });
      await running.temporal.workflow.execute(auditWorkflowType, { workflowId: auditWorkflowId, taskQueue: running.config.temporal.taskQueue, args: [{}], staticSummary: 'Audit of all sources' });
      await whileReprocessIsPaused(running, { backfillOf: source, replayOf: 'kraken-trades', rowsPerSecond: backfillRowsPerSecond }, async ({ backfillId }) => {
        const drawn = async (page: Page): Promise<void> => {
          await page.waitForSelector('#stream-kraken-trades .spark path', { timeout: shownMs, state: 'attached' });
          await page.getByRole('progressbar', { name: backfillId }).waitFor({ timeout: shownMs });
        };
        await take('operator-page.png', desktop, `http://127.0.0.1:${pagePort}`, drawn, true);
        await take('operator-page-dark.png', { ...desktop, colorScheme: 'dark' }, `http://127.0.0.1:${pagePort}`, drawn, true);
        await take('operator-page-phone.png', phone, `http://127.0.0.1:${pagePort}`, drawn);
        await take('web-ui-workflows.png', desktop, webUiWorkflowsUrl(running.config)!, (page) => shown(page, backfillId));
      });
      if (json) process.stdout.write(`${JSON.stringify({ files })}\n`);
      else process.stdout.write(`${files.join('\n')}\n`);
      return exitOk;
    } finally {
      enough.abort();
      await fed.catch(() => undefined);
      await running.stop();
    }
  } finally {
    await stack.stop();
    await browser.close();
  }
});
