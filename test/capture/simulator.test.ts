import { writeFile, mkdtemp, rm } from 'node:fs/promises';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { WebSocket, WebSocketServer } from 'ws';
import { describe, expect, onTestFinished, test } from 'vitest';
import { runCapture } from '../../src/capture/capture.ts';
import type { CaptureOptions } from '../../src/capture/capture.ts';
import { simulationOverCode, startExchangeSimulator } from '../../src/capture/exchange-simulator.ts';
import type { ExchangeSimulator, SimulatorOptions } from '../../src/capture/exchange-simulator.ts';
import { startExchangeSimulatorThread } from '../../src/capture/exchange-simulator-thread.ts';
import type { CapturedTrade } from '../../src/capture/frame.ts';
import { symbolOf } from '../../src/capture/frame.ts';
import { loadGeneratedTrades } from '../../src/capture/load-generated.ts';
import { parseFrame } from '../../src/capture/parse-frame.ts';
import { backoffDelayMs, socketSource } from '../../src/capture/socket-source.ts';
import type { SocketOptions } from '../../src/capture/socket-source.ts';
import type { SubscriptionRequest } from '../../src/capture/subscription.ts';
import { subscriptionOf } from '../../src/capture/subscription.ts';
import { memorySink } from './memory-sink.ts';

const simulate = async (options: Partial<SimulatorOptions> = {}): Promise<ExchangeSimulator> => {
  const simulator = await startExchangeSimulator({ seed: 7, trades: 4_000, ...options });
  onTestFinished(() => simulator.stop());
  return simulator;
};

const fast: SocketOptions = { overCode: simulationOverCode, backoffMs: 2, backoffMsMax: 20 };

const captureFrom = async (request: SubscriptionRequest, options: SocketOptions = {}, capture: Partial<CaptureOptions> = {}) => {
  const sink = memorySink();
  const counts = await runCapture({ source: socketSource(subscriptionOf(request), { ...fast, ...options }), sink, ...capture });
  return { counts, trades: sink.trades.map(({ trade }) => trade) };
};

/** What Gold's key is made of: the same for a trade and its repetition, different for any two trades. */
const keyOf = (trade: CapturedTrade): string => ('trade_id' in trade
  ? `${trade.symbol} ${trade.trade_id}`
  : `${trade.pair} ${trade.native_id ?? `${trade.price} ${trade.volume} ${trade.timestamp} ${trade.side} ${trade.order_type} ${trade.extra['frame_ordinal'] ?? '0'}`}`);

const sizeOf = (trade: CapturedTrade): string => ('quantity' in trade ? trade.quantity : trade.volume);
const units = (text: string): bigint => BigInt(text.replace('.', ''));

const speakers: [string, (simulator: ExchangeSimulator) => SubscriptionRequest][] = [
  ['Binance spot', ({ urls }) => ({ exchange: 'binance', symbols: ['btcusdt', 'ethusdt'], baseUrl: urls.binance })],
  ['Binance USD-M aggregate', ({ urls }) => ({ exchange: 'binance', market: 'usdm', feed: 'aggTrade', symbols: ['BTCUSDT'], baseUrl: urls.binanceUsdm })],
  ['Kraken v1', ({ urls }) => ({ exchange: 'kraken', feed: 'v1', symbols: ['XBT/USD', 'ETH/USD'], baseUrl: urls.krakenV1 })],
  ['Kraken v2', ({ urls }) => ({ exchange: 'kraken', feed: 'v2', symbols: ['BTC/USD', 'ETH/USD'], baseUrl: urls.krakenV2 })],
  ['Kraken futures', ({ urls }) => ({ exchange: 'kraken', market: 'futures', symbols: ['PI_XBTUSD'], baseUrl: urls.krakenFutures })],
];

describe.each(speakers)('the simulator speaking as %s', (_name, request) => {
  test('every trade arrives, after drops some of them twice, and the truth says which', async () => {
    const simulator = await simulate({ dropEveryTrades: 600, duplicatesRatio: 0.1, rubbishFrames: 4 });
    const { counts, trades } = await captureFrom(request(simulator));
    const [truth] = await simulator.truth();
    expect(truth).toMatchObject({ trades: 4_000, over: true, rubbish: 4 });
    expect(truth!.drops).toBeGreaterThan(3);
    expect(truth!.repeated).toBeGreaterThan(200);
    expect(counts).toMatchObject({ trades: 4_000 + truth!.repeated, unparsable: 4, drops: truth!.drops, connections: truth!.drops + 1 });
    const distinct = new Map(trades.map((trade) => [keyOf(trade), trade]));
    expect(distinct.size).toBe(4_000);
    for (const [symbol, { trades: count, quantity }] of Object.entries(truth!.symbols)) {
      const own = [...distinct.values()].filter((trade) => symbolOf(trade) === symbol);
      expect(own).toHaveLength(count);
      expect(own.reduce((sum, trade) => sum + units(sizeOf(trade)), 0n)).toBe(units(quantity));
    }
  });

  test('other frames come between the trades, and none of them is an error', async () => {
    const simulator = await simulate({ otherFramesRatio: 1 });
    const { counts } = await captureFrom(request(simulator));
    expect(counts.trades).toBe(4_000);
    expect(counts.kinds['book']).toBeGreaterThan(100);
    expect(counts.kinds).not.toHaveProperty('other');
    expect(counts.kinds).not.toHaveProperty('error');
    expect(counts.unparsable).toBe(0);
  });

  test('the same seed gives the same trades, another seed others', async () => {
    const keys = async (seed: number): Promise<string[]> => {
      const simulator = await simulate({ seed, trades: 500, startMicros: 1_700_000_000_000_000, spanMicros: 3_600_000_000 });
      return (await captureFrom(request(simulator))).trades.map((trade) => `${keyOf(trade)} ${sizeOf(trade)} ${trade.price}`);
    };
    const first = await keys(1);
    expect(await keys(1)).toEqual(first);
    expect(await keys(2)).not.toEqual(first);
  });
});

describe('the simulator', () => {
  test('a client that goes away by itself misses nothing when it comes back', async () => {
    const simulator = await simulate({ trades: 6_000 });
    const request: SubscriptionRequest = { exchange: 'binance', symbols: ['btcusdt'], baseUrl: simulator.urls.binance };
    const { url, feed } = subscriptionOf(request);
    const seen = new Set<string>();
    const socket = new WebSocket(url);
    socket.on('message', (data: Buffer) => {
      const frame = parseFrame(feed, { receivedNs: '1680652800004107999', text: data.toString() });
      for (const trade of frame.kind === 'trade' ? frame.trades : []) seen.add(keyOf(trade));
      if (seen.size >= 1_500) socket.terminate();
    });
    await once(socket, 'close');
    const { trades } = await captureFrom(request);
    expect(trades.length).toBeLessThan(6_000);
    for (const trade of trades) seen.add(keyOf(trade));
    expect(seen.size).toBe(6_000);
  });

  test('a second client takes a feed over: no trade goes to neither', async () => {
    const simulator = await simulate({ trades: 2_000, rate: 4_000 });
    const request: SubscriptionRequest = { exchange: 'kraken', symbols: ['BTC/USD'], baseUrl: simulator.urls.krakenV2 };
    const stop = new AbortController();
    const first = captureFrom(request, { backoffMs: 60_000, backoffMsMax: 60_000, random: () => 1 }, { signal: stop.signal });
    await expect.poll(async () => (await simulator.truth())[0]?.trades ?? 0, { timeout: 20_000 }).toBeGreaterThan(300);
    const second = await captureFrom(request);
    stop.abort();
    const seen = new Set([...(await first).trades, ...second.trades].map(keyOf));
    expect(seen.size).toBe(2_000);
  });

  test('with a rate the trades take their time, and their event time is that of sending', async () => {
    const simulator = await simulate({ trades: 600, rate: 1_000, burstRatio: 0 });
    const before = Date.now();
    const { counts, trades } = await captureFrom({ exchange: 'binance', symbols: ['btcusdt'], baseUrl: simulator.urls.binance });
    expect(counts.durationMs).toBeGreaterThan(300);
    for (const trade of trades) {
      const eventMs = (trade as { trade_time_ms: number }).trade_time_ms;
      expect(eventMs).toBeGreaterThanOrEqual(before);
      expect(trade.ingestion_timestamp).toBeGreaterThan((eventMs - 3) * 1_000);
    }
  });

  test('it speaks from a capture file, frame by frame', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'tidemark-simulator-'));
    onTestFinished(() => rm(folder, { recursive: true, force: true }));
    const path = join(folder, 'file.frames');
    const frames = [
      '{"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1","B":"1","a":"1","A":"1"}}',
      '{"stream":"btcusdt@trade","data":{"e":"trade","E":1,"s":"BTCUSDT","t":9007199254740993,"p":"1.10","q":"2.00000000","T":1,"m":false}}',
      'rubbish',
      '{"stream":"btcusdt@trade","data":{"e":"trade","E":1,"s":"BTCUSDT","t":9007199254740994,"p":"1.20","q":"0.50000000","T":1,"m":false}}',
      '{"result":null,"id":1}',
    ];
    await writeFile(path, ['{"capture":1,"exchange":"binance","market":"spot","feed":"trade","source":"test"}', ...frames.map((frame, i) => `16806528000000000${10 + i} ${frame}`)].join('\n'));
    const simulator = await simulate({ captureFile: path });
    const { counts, trades } = await captureFrom({ exchange: 'binance', symbols: ['btcusdt'], baseUrl: simulator.urls.binance });
    expect(counts).toMatchObject({ frames: 5, trades: 2, unparsable: 1, kinds: { quote: 1, trade: 2, subscription: 1 } });
    expect(trades.map(keyOf)).toEqual(['BTCUSDT 9007199254740993', 'BTCUSDT 9007199254740994']);
    expect(await simulator.truth()).toMatchObject([{ trades: 2, symbols: { BTCUSDT: { trades: 2, quantity: '2.50000000' } }, rubbish: 1, over: true }]);
  });

  test('in a thread of its own it does the same', async () => {
    const simulator = await startExchangeSimulatorThread({ seed: 7, trades: 1_000, dropEveryTrades: 300, duplicatesRatio: 0.1 });
    onTestFinished(() => simulator.stop());
    const { counts } = await captureFrom({ exchange: 'binance', symbols: ['btcusdt'], baseUrl: simulator.urls.binance });
    const [truth] = await simulator.truth();
    expect(counts.trades).toBe(1_000 + truth!.repeated);
  });
});

/** An exchange that does as the test says. */
const exchange = async (onConnection: (socket: WebSocket, n: number) => void): Promise<string> => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  await once(server, 'listening');
  onTestFinished(async () => {
    for (const client of server.clients) client.terminate();
    server.close();
    await once(server, 'close');
  });
  let n = 0;
  server.on('connection', (socket) => onConnection(socket, n++));
  return `ws://127.0.0.1:${(server.address() as AddressInfo).port}`;
};

const tradeFrame = (id: number): string => `{"e":"trade","E":1,"s":"A","t":${id},"p":"1","q":"1","T":1,"m":false}`;

describe('a live socket', () => {
  test('subscribes again after each drop', async () => {
    const requests: string[] = [];
    const baseUrl = await exchange((socket, n) => socket.on('message', (data: Buffer) => {
      requests.push(data.toString());
      if (n < 3) socket.terminate();
      else socket.close(simulationOverCode);
    }));
    const { counts } = await captureFrom({ exchange: 'kraken', feed: 'v1', symbols: ['XBT/USD'], baseUrl });
    expect(requests).toEqual(Array.from({ length: 4 }, () => '{"event":"subscribe","pair":["XBT/USD"],"subscription":{"name":"trade"}}'));
    expect(counts).toMatchObject({ connections: 4, drops: 3 });
  });

  test('answers pings of the application and of the protocol', async () => {
    const answers: string[] = [];
    const baseUrl = await exchange((socket) => {
      socket.on('message', (data: Buffer) => {
        answers.push(data.toString());
        if (answers.length === 4) socket.close(simulationOverCode);
      });
      socket.on('pong', (data) => answers.push(`pong ${data.toString()}`));
      socket.ping('1');
      socket.send('{"event":"ping","reqid":42}');
      socket.send('{"method":"ping","req_id":43}');
    });
    await captureFrom({ exchange: 'kraken', feed: 'v2', symbols: ['BTC/USD'], baseUrl });
    expect(answers.sort()).toEqual([
      'pong 1', '{"event":"pong","reqid":42}', '{"method":"pong","req_id":43}',
      '{"method":"subscribe","params":{"channel":"trade","symbol":["BTC/USD"],"snapshot":true}}',
    ].sort());
  });

  test('a connection that says nothing is given up and made again', async () => {
    const baseUrl = await exchange((socket, n) => {
      if (n === 0) socket.pause();
      else socket.close(simulationOverCode);
    });
    // Longer than a busy machine is silent by itself: the second connection, and the handshakes, must not be given up.
    const { counts } = await captureFrom({ exchange: 'binance', symbols: ['a'], baseUrl }, { silenceMsMax: 1_500 });
    expect(counts).toMatchObject({ connections: 2, drops: 1 });
  });

  test('an exchange that was never there is an error, not a wait for ever', async () => {
    const capture = captureFrom({ exchange: 'binance', symbols: ['a'], baseUrl: 'ws://127.0.0.1:1' }, { firstAttemptsMax: 3 });
    await expect(capture).rejects.toMatchObject({ code: 'EXCHANGE_UNAVAILABLE' });
  });

  test('a reader that is slow stops the socket from being read, and loses nothing', async () => {
    // More than the buffers of two sockets hold.
    const frames = 10_000;
    const padding = `{"pad":"${'x'.repeat(4_000)}",`;
    let sent = 0;
    const baseUrl = await exchange((socket) => {
      const send = (): void => {
        for (let i = 0; i < 100 && sent < frames; i += 1) socket.send(padding + tradeFrame(sent++).slice(1));
        if (sent < frames) socket.send('{"result":null,"id":1}', send);
        else socket.close(simulationOverCode);
      };
      send();
    });
    let release = Promise.withResolvers<void>();
    const sink = memorySink();
    const framesWaitingMax = 500;
    const capture = runCapture({
      source: socketSource(subscriptionOf({ exchange: 'binance', symbols: ['a'], baseUrl }), { ...fast, framesWaitingMax }),
      sink: { ...sink, write: async (name, trades) => { await release.promise; await sink.write(name, trades); } },
    });
    // The exchange comes to a halt far before its end: the buffers of the sockets are full, ours holds no more than it may.
    let before = -1;
    await expect.poll(() => { const same = sent === before; before = sent; return same && sent > 0; }, { interval: 100, timeout: 20_000 }).toBe(true);
    expect(sent).toBeLessThan(frames);
    release.resolve();
    release = Promise.withResolvers<void>();
    release.resolve();
    expect((await capture).trades).toBe(frames);
    expect(sink.trades.map(({ trade }) => ('trade_id' in trade ? trade.trade_id : -1))).toEqual(Array.from({ length: frames }, (_, id) => id));
  });

  test('a stop still delivers what was received by then', async () => {
    const stop = new AbortController();
    const received = Promise.withResolvers<void>();
    const baseUrl = await exchange((socket) => {
      for (let id = 0; id < 300; id += 1) socket.send(tradeFrame(id));
      socket.on('pong', () => received.resolve());
      socket.ping();
    });
    const sink = memorySink();
    // The sink is slow with the first frames; the rest comes meanwhile.
    const capture = runCapture({
      source: socketSource(subscriptionOf({ exchange: 'binance', symbols: ['a'], baseUrl }), fast), signal: stop.signal,
      sink: { ...sink, write: async (name, trades) => { await received.promise; stop.abort(); await sink.write(name, trades); } },
    });
    expect((await capture).trades).toBe(300);
    expect(sink.trades).toHaveLength(300);
  });

  test('receive times never run backwards', async () => {
    const baseUrl = await exchange((socket) => {
      for (let id = 0; id < 1_000; id += 1) socket.send(tradeFrame(id));
      socket.close(simulationOverCode);
    });
    const before = Date.now();
    const { trades } = await captureFrom({ exchange: 'binance', symbols: ['a'], baseUrl });
    const times = trades.map(({ ingestion_timestamp: time }) => time);
    expect(times).toEqual(times.toSorted((a, b) => a - b));
    expect(times[0]).toBeGreaterThanOrEqual(before * 1_000);
    expect(times.at(-1)).toBeLessThanOrEqual((Date.now() + 1) * 1_000);
  });

  test('waits between attempts double up to a bound, and are spread', () => {
    const bounds = { backoffMs: 250, backoffMsMax: 30_000 };
    expect([0, 1, 2, 20, 1_000].map((failures) => backoffDelayMs(failures, { ...bounds, random: () => 1 }))).toEqual([250, 500, 1_000, 30_000, 30_000]);
    expect(backoffDelayMs(3, { ...bounds, random: () => 0.25 })).toBe(500);
  });
});

describe('subscriptions', () => {
  test('each market of Binance has its address, and a stream for each symbol', () => {
    const urlOf = (market: string) => subscriptionOf({ exchange: 'binance', market, feed: 'aggTrade', symbols: ['BTCUSDT', 'ethusdt'] }).url;
    expect(urlOf('spot')).toBe('wss://stream.binance.com:9443/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade');
    expect(urlOf('usdm')).toBe('wss://fstream.binance.com/market/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade');
    expect(urlOf('coinm')).toMatch(/^wss:\/\/dstream\.binance\.com\//);
    expect(urlOf('us')).toMatch(/^wss:\/\/stream\.binance\.us:9443\//);
  });

  test.each([
    [{ exchange: 'mtgox', symbols: ['a'] }],
    [{ exchange: 'binance', symbols: [] }],
    [{ exchange: 'binance', market: 'futures', symbols: ['a'] }],
    [{ exchange: 'binance', feed: 'depth', symbols: ['a'] }],
    [{ exchange: 'kraken', feed: 'v3', symbols: ['a'] }],
    [{ exchange: 'kraken', market: 'futures', feed: 'v2', symbols: ['a'] }],
  ])('what an exchange does not have is refused: %j', (request) => {
    expect(() => subscriptionOf(request)).toThrow(expect.objectContaining({ code: 'BAD_INPUT' }));
  });
});

test('generated trades are all different, repeated ones come on top, and both are counted', async () => {
  const sink = memorySink();
  const counts = await loadGeneratedTrades({ sink, exchange: 'kraken', seed: 3, trades: 20_000, symbols: ['BTC/USD', 'ETH/USD'], repeatRatio: 0.02 });
  expect(counts.trades).toBe(20_000);
  expect(counts.repeated).toBeGreaterThan(300);
  expect(sink.trades).toHaveLength(20_000 + counts.repeated);
  expect(new Set(sink.trades.map(({ trade }) => keyOf(trade))).size).toBe(20_000);
});
