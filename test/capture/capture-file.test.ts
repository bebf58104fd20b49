import { readFileSync, readdirSync } from 'node:fs';
import { appendFile, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { runCapture } from '../../src/capture/capture.ts';
import type { UnparsableFrame } from '../../src/capture/capture.ts';
import { captureFileSource, recordCaptureFile } from '../../src/capture/capture-file.ts';
import { feedOf } from '../../src/capture/feed.ts';
import { symbolOf } from '../../src/capture/frame.ts';
import { equal, exact, plus, times } from './exact-decimal.ts';
import { exchangeData, unlessAbsent } from './exchange-data.ts';
import { memorySink } from './memory-sink.ts';

interface Truth {
  frames: number;
  unparsable: number;
  trades: number;
  symbols: Record<string, { trades: number; distinct_ids: number | null; quantity: string; notional: string; min_id?: number; max_id?: number }>;
}

const zero = exact('0');
const files = exchangeData ? readdirSync(exchangeData).filter((name) => name.endsWith('.frames.gz')) : [];
const truths = (exchangeData ? JSON.parse(readFileSync(join(exchangeData, 'TRUTH.json'), 'utf8')) : {}) as Record<string, Truth>;

describe.runIf(exchangeData)(`real captures${unlessAbsent}`, () => {
  test('every capture file has its truth', () => {
    expect(files.sort()).toEqual(Object.keys(truths).sort());
  });

  test.each(files)('%s: frames, trades, ids and exact sums are those worked out apart from the project', async (name) => {
    const truth = truths[name]!;
    const sink = memorySink();
    const counts = await runCapture({ source: captureFileSource([join(exchangeData!, name)]), sink });
    expect(counts).toMatchObject({ frames: truth.frames, trades: truth.trades, unparsable: truth.unparsable });
    expect(Object.values(counts.kinds).reduce((sum, count) => sum + count, 0)).toBe(truth.frames);
    expect(counts.kinds['other'] ?? 0).toBe(0);
    const symbols = Object.groupBy(sink.trades.map(({ trade }) => trade), symbolOf);
    expect(Object.keys(symbols).sort()).toEqual(Object.keys(truth.symbols).sort());
    for (const [symbol, expected] of Object.entries(truth.symbols)) {
      const trades = symbols[symbol]!;
      const sizeOf = (trade: typeof trades[number]) => exact('quantity' in trade ? trade.quantity : trade.volume);
      const ids = trades.map((trade) => ('trade_id' in trade ? String(trade.trade_id) : trade.native_id));
      const quantity = trades.reduce((sum, trade) => plus(sum, sizeOf(trade)), zero);
      const notional = trades.reduce((sum, trade) => plus(sum, times(sizeOf(trade), exact(trade.price))), zero);
      const numbers = ids.map(Number);
      expect({
        symbol,
        trades: trades.length,
        distinct: ids[0] === null ? null : new Set(ids).size,
        quantity: equal(quantity, exact(expected.quantity)),
        notional: equal(notional, exact(expected.notional)),
        range: expected.min_id === undefined ? [] : [Math.min(...numbers), Math.max(...numbers)],
      }).toEqual({
        symbol, trades: expected.trades, distinct: expected.distinct_ids, quantity: true, notional: true,
        range: expected.min_id === undefined ? [] : [expected.min_id, expected.max_id],
      });
    }
  });
});

describe('capture files', () => {
  let folder: string;
  beforeEach(async () => { folder = await mkdtemp(join(tmpdir(), 'tidemark-capture-')); });
  afterEach(() => rm(folder, { recursive: true, force: true }));

  const header = '{"capture":1,"exchange":"binance","market":"spot","feed":"trade","source":"test"}';
  const tradeLine = (id: number): string => `1680652800004107999 {"e":"trade","E":1,"s":"A","t":${id},"p":"1.10","q":"2","T":1,"m":false}`;
  const capture = async (path: string, options: Partial<Parameters<typeof runCapture>[0]> = {}) => {
    const sink = memorySink();
    const kept: UnparsableFrame[] = [];
    const counts = await runCapture({ source: captureFileSource([path]), sink, keepUnparsable: (frame) => kept.push(frame), ...options });
    return { counts, kept, trades: sink.trades.map(({ trade }) => trade) };
  };

  test('a plain file with Windows line ends and empty lines reads as a gzip one does', async () => {
    const path = join(folder, 'plain.frames');
    await writeFile(path, `${header}\r\n${tradeLine(1)}\r\n\n${tradeLine(2)}`);
    expect((await capture(path)).counts).toMatchObject({ frames: 2, trades: 2, unparsable: 0 });
  });

  test('a frame that cannot be parsed, and a line that is no frame, are counted and kept with their text', async () => {
    const path = join(folder, 'bad.frames');
    await writeFile(path, [header, tradeLine(1), '1680652800004107999 <html>502 Bad Gateway</html>', 'no receive time', tradeLine(2)].join('\n'));
    const { counts, kept, trades } = await capture(path);
    expect(counts).toMatchObject({ frames: 3, trades: 2, unparsable: 2 });
    expect(trades).toHaveLength(2);
    expect(kept.map(({ receivedNs, text }) => ({ receivedNs, text }))).toEqual(expect.arrayContaining([
      { receivedNs: '1680652800004107999', text: '<html>502 Bad Gateway</html>' },
      { receivedNs: null, text: 'no receive time' },
    ]));
  });

  test('a recording gives the frames back as they came', async () => {
    const from = join(folder, 'from.frames');
    const to = join(folder, 'to.frames.gz');
    const text = `${header}\n${tradeLine(1)}\n1680652800004107999 <html>é\u{1F600}\n${tradeLine(2)}\n`;
    await writeFile(from, text);
    await capture(from, { recordTo: to });
    expect(gunzipSync(await readFile(to)).toString()).toBe(text);
    expect((await capture(to)).counts).toMatchObject({ frames: 3, trades: 2, unparsable: 1 });
  });

  test('a recording never overwrites a file', async () => {
    const from = join(folder, 'from.frames');
    await writeFile(from, `${header}\n${tradeLine(1)}\n`);
    await expect(capture(from, { recordTo: from })).rejects.toMatchObject({ code: 'BAD_INPUT' });
    expect(await readFile(from, 'utf8')).toContain(tradeLine(1));
  });

  test('a recording cut short gives every whole line before the cut, and the cut is counted', async () => {
    const path = join(folder, 'cut.frames.gz');
    const recorder = await recordCaptureFile(path, feedOf('binance', 'spot', 'trade', 'test'));
    for (let id = 0; id < 5_000; id += 1) {
      await recorder.write([{ receivedNs: `16806528000${String(id * 7919 % 100_000_000).padStart(8, '0')}`, text: tradeLine(id).slice(20) }]);
    }
    await recorder.close();
    const { length } = await readFile(path);
    await truncate(path, Math.floor(length / 2));
    const { counts, trades } = await capture(path);
    expect(counts.unparsable).toBe(1);
    expect(trades.length).toBeGreaterThan(1_000);
    expect(trades.map((trade) => ('trade_id' in trade ? trade.trade_id : -1))).toEqual(trades.map((_, id) => id));
  });

  test.each([
    ['no header', `${tradeLine(1)}\n`, 'BAD_INPUT'],
    ['an exchange that capture does not know', `${header.replace('binance', 'mtgox')}\n`, 'BAD_INPUT'],
    ['a market that the exchange does not have', `${header.replace('spot', 'moon')}\n`, 'BAD_INPUT'],
    ['nothing', '', 'BAD_INPUT'],
  ])('a file with %s is refused', async (_what, text, code) => {
    const path = join(folder, 'refused.frames');
    await writeFile(path, text);
    await expect(capture(path)).rejects.toMatchObject({ code });
  });

  test('a file that is not there is an error of its own', async () => {
    await expect(capture(join(folder, 'missing.frames'))).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
  });

  test('with loop the files come again until the most that is wanted', async () => {
    const path = join(folder, 'loop.frames');
    await writeFile(path, `${header}\n${tradeLine(1)}\n${tradeLine(2)}\n`);
    const sink = memorySink();
    const counts = await runCapture({ source: captureFileSource([path], { loop: true }), sink, tradesMax: 7 });
    expect(counts.trades).toBe(7);
    expect(sink.trades).toHaveLength(7);
  });

  test('a rate is kept', async () => {
    const path = join(folder, 'rate.frames');
    await writeFile(path, `${header}\n`);
    await appendFile(path, Array.from({ length: 600 }, (_, id) => tradeLine(id)).join('\n'));
    const { counts } = await capture(path, { rate: 1_000 });
    expect(counts.trades).toBe(600);
    expect(counts.durationMs).toBeGreaterThan(500);
  });

  test('a stop ends the capture, and what was taken is flushed', async () => {
    const path = join(folder, 'stop.frames');
    await writeFile(path, `${header}\n${Array.from({ length: 1_000 }, (_, id) => tradeLine(id)).join('\n')}`);
    const stop = new AbortController();
    const sink = memorySink();
    let flushed = 0;
    const counts = await runCapture({
      source: captureFileSource([path], { loop: true }),
      rate: 10_000,
      signal: stop.signal,
      sink: { ...sink, write: (exchange, trades) => { if (sink.trades.length > 2_000) stop.abort(); return sink.write(exchange, trades); }, flush: () => { flushed = sink.trades.length; return Promise.resolve(); } },
    });
    expect(flushed).toBe(counts.trades);
    expect(counts.trades).toBe(sink.trades.length);
    expect(counts.trades).toBeLessThan(5_000);
  });
});
