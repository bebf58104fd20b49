import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { WebSocket, WebSocketServer } from 'ws';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import { readCaptureFile } from './capture-file.ts';
import type { Dialect } from './exchange-dialects.ts';
import { dialectOf } from './exchange-dialects.ts';
import type { Feed } from './feed.ts';
import { feedOf } from './feed.ts';
import { symbolOf } from './frame.ts';
import type { MarketModelOptions } from './market-model.ts';
import { marketEvents } from './market-model.ts';
import { parseFrame } from './parse-frame.ts';
import type { SymbolTruth } from './trade-truth.ts';
import { TradeTruth } from './trade-truth.ts';

export interface SimulatorOptions extends Pick<MarketModelOptions, 'burstRatio' | 'burstTradesMax'> {
  /** The same seed gives the same trades; each feed has its own. */
  seed: number;
  /** Trades of each feed, all different. */
  trades: number;
  /** Trades a second, in event time and on the socket; event time is then now. Default: as fast as the socket goes. */
  rate?: number;
  /** Without a rate: event time of the first trade, and how much time the trades cover, µs. Default: the last four hours. */
  startMicros?: number;
  spanMicros?: number;
  /** Drops the connection after about this many trades, again and again. Default: never. */
  dropEveryTrades?: number;
  /** Share of the trades that come again after these drops. */
  duplicatesRatio?: number;
  /** Other frames (book updates, tickers, heartbeats) for each trade frame. Default 0.3. */
  otherFramesRatio?: number;
  /** Frames that nobody can read, in each feed. Default 0. */
  rubbishFrames?: number;
  /** Speaks from this capture file instead of the model, on every path, in the exchange's own words. */
  captureFile?: string;
  /** Keeps the connection open at the end, as an exchange would; default: closes with {@link simulationOverCode}. */
  stayOpen?: boolean;
}

/** What a feed sent. */
export interface FeedTruth {
  exchange: string;
  market: string;
  feed: string;
  /** All different. */
  trades: number;
  symbols: Record<string, SymbolTruth>;
  /** Sent once more after a drop. */
  repeated: number;
  rubbish: number;
  drops: number;
  /** All of it was sent, and the client has it. */
  over: boolean;
}

export interface ExchangeSimulator {
  /** Base addresses, for {@link subscriptionOf}. */
  urls: { binance: string; binanceUsdm: string; binanceCoinm: string; binanceUs: string; krakenV1: string; krakenV2: string; krakenFutures: string };
  truth(): Promise<FeedTruth[]>;
  stop(): Promise<void>;
}

/** The close code of a simulation that is over; codes from 4000 on are an application's own. */
export const simulationOverCode = 4000;

const hourMicros = 3_600_000_000;
const spanMicrosDefault = 4 * hourMicros;
const otherFramesRatioDefault = 0.3;
/** The client is asked after this many trade frames whether it has them all. */
const framesPerAck = 256;
/** Trade frames that may be on their way; past it the simulator waits for the client. */
const framesAheadMax = 4_096;
const heartbeatEveryMs = 1_000;

interface SimulatedFrame {
  text: string;
  trades: number;
  /** Frames before the next trade frame; they are not repeated. */
  between: string[];
  /** When it is sent, ms since the epoch; 0: at once. */
  dueMs: number;
}

/** One feed of the simulated exchange: its frames, how far they were sent, and what the client is known to have. */
class SimulatedFeed {
  readonly feed: Feed;
  readonly dialect: Dialect;
  readonly truth = new TradeTruth();
  private readonly options: SimulatorOptions;
  private frames: AsyncIterator<SimulatedFrame> | undefined;
  /** Frames from number `recentFrom` on; older ones are acknowledged, and further back than a repetition goes. */
  private recent: SimulatedFrame[] = [];
  private recentFrom = 0;
  /** Number of the next frame to send, and of the first that the client may not have. */
  private next = 0;
  private acknowledged = 0;
  private tradesSinceDrop = 0;
  private connection: WebSocket | undefined;
  private streaming: Promise<void> = Promise.resolve();
  private readonly repeatTrades: number;
  repeated = 0;
  rubbish = 0;
  drops = 0;
  over = false;

  constructor(feed: Feed, options: SimulatorOptions) {
    this.feed = feed;
    this.options = options;
    this.dialect = dialectOf(feed);
    this.repeatTrades = Math.round((options.duplicatesRatio ?? 0) * (options.dropEveryTrades ?? 0));
  }

  private async* modelFrames(symbols: readonly string[]): AsyncGenerator<SimulatedFrame, void, undefined> {
    const { seed, trades, rate, dropEveryTrades: _drop, otherFramesRatio = otherFramesRatioDefault, rubbishFrames = 0, ...rest } = this.options;
    const nowMicros = Date.now() * 1_000;
    const spanMicros = rate === undefined ? rest.spanMicros ?? spanMicrosDefault : (trades / rate) * 1e6;
    const startMicros = rate === undefined ? rest.startMicros ?? nowMicros - spanMicros : nowMicros;
    const rubbishEvery = rubbishFrames > 0 ? Math.max(1, Math.floor(trades / (rubbishFrames + 1))) : Number.POSITIVE_INFINITY;
    let other = 0;
    let otherDue = 0;
    let rubbish = 0;
    for (const event of marketEvents({ ...rest, seed: seedOf(seed, this.feed), trades, symbols, startMicros, spanMicros })) {
      this.truth.add(event.symbol, event.quantities);
      const dueMs = rate === undefined ? 0 : event.timeMicros / 1_000;
      const between: string[] = [];
      for (otherDue += otherFramesRatio; otherDue >= 1; otherDue -= 1) between.push(this.dialect.otherFrame(event, other++));
      while (rubbish < rubbishFrames && this.truth.trades >= (rubbish + 1) * rubbishEvery) between.push(this.dialect.rubbish(rubbish++));
      this.rubbish = rubbish;
      for (const [i, frame] of this.dialect.tradeFrames(event).entries()) yield { ...frame, between: i === 0 ? between : [], dueMs };
    }
  }

  private async* fileFrames(path: string): AsyncGenerator<SimulatedFrame, void, undefined> {
    let between: string[] = [];
    for await (const { feed, frames } of readCaptureFile(path)) {
      for (const frame of frames) {
        const parsed = parseFrame(feed, frame);
        if (parsed.kind !== 'trade') {
          if (parsed.kind === 'unparsable') this.rubbish += 1;
          between.push(frame.text);
          continue;
        }
        for (const trade of parsed.trades) this.truth.add(symbolOf(trade), ['quantity' in trade ? trade.quantity : trade.volume]);
        yield { text: frame.text, trades: parsed.trades.length, between, dueMs: 0 };
        between = [];
      }
    }
    if (between.length > 0) yield { text: between.pop()!, trades: 0, between, dueMs: 0 };
  }

  private start(symbols: readonly string[]): AsyncIterator<SimulatedFrame> {
    return this.options.captureFile === undefined ? this.modelFrames(symbols) : this.fileFrames(this.options.captureFile);
  }

  /** Forgets what the client has and no repetition needs. */
  private onAcknowledged(upTo: number): void {
    this.acknowledged = Math.max(this.acknowledged, upTo);
    let keepFrom = this.acknowledged;
    for (let trades = 0; keepFrom > this.recentFrom && trades < this.repeatTrades; keepFrom -= 1) trades += this.recent[keepFrom - 1 - this.recentFrom]!.trades;
    this.recent.splice(0, keepFrom - this.recentFrom);
    this.recentFrom = keepFrom;
  }

  /** Frames from `from` up to what was sent before: the client may have them already. */
  private async sendRepeated(socket: WebSocket, from: number): Promise<void> {
    const again = this.recent.slice(from - this.recentFrom);
    const known = this.acknowledged - from;
    this.repeated += again.slice(0, known).reduce((sum, { trades }) => sum + trades, 0);
    for (const text of this.dialect.repeat(again.map(({ text }) => text))) await sendFrame(socket, text);
  }

  /** Streams to the socket until it closes, is dropped, or all is sent. A second client takes the feed over. */
  stream(socket: WebSocket, symbols: readonly string[]): Promise<void> {
    this.connection?.terminate();
    this.connection = socket;
    // After the one before has ended: it may hold a frame that it took and did not send.
    this.streaming = this.streaming.then(() => this.streamTo(socket, symbols));
    return this.streaming;
  }

  private async streamTo(socket: WebSocket, symbols: readonly string[]): Promise<void> {
    this.frames ??= this.start(symbols);
    const { dropEveryTrades = Number.POSITIVE_INFINITY } = this.options;
    let pong = Promise.withResolvers<void>();
    const onClose = (): void => pong.resolve();
    const isOpen = (): boolean => socket.readyState === WebSocket.OPEN && this.connection === socket;
    socket.on('pong', (data) => {
      this.onAcknowledged(Number(data.toString()) || 0);
      pong.resolve();
    });
    socket.on('close', onClose);
    /** Until the client has frame `number` and all before it; websocket frames are answered in order. */
    const acknowledgedTo = async (number: number): Promise<void> => {
      while (isOpen() && this.acknowledged < number) {
        pong = Promise.withResolvers<void>();
        await pong.promise;
      }
    };

    // What the client may not have, and before that what this exchange repeats.
    if (this.next > 0) {
      const from = this.recentFrom;
      await this.sendRepeated(socket, from);
      if (isOpen()) socket.ping(String(this.next));
    }
    for (;;) {
      if (!isOpen()) return;
      const { value: frame, done } = await this.frames.next();
      if (done) break;
      if (frame.dueMs > 0) {
        const waitMs = frame.dueMs - Date.now();
        if (waitMs > 0) await delay(Math.ceil(waitMs));
      }
      this.recent.push(frame);
      this.next += 1;
      this.tradesSinceDrop += frame.trades;
      for (const text of frame.between) socket.send(text);
      if (this.next % framesPerAck === 0) {
        await sendFrame(socket, frame.text);
        if (isOpen()) socket.ping(String(this.next));
        await acknowledgedTo(this.next - framesAheadMax);
      } else {
        socket.send(frame.text);
      }
      if (this.tradesSinceDrop >= dropEveryTrades && isOpen()) {
        // Dropped without a word, but after the client has all: so the truth says exactly what comes twice.
        this.tradesSinceDrop = 0;
        socket.ping(String(this.next));
        await acknowledgedTo(this.next);
        if (!isOpen()) return;
        this.drops += 1;
        socket.terminate();
        return;
      }
    }
    socket.ping(String(this.next));
    await acknowledgedTo(this.next);
    if (this.acknowledged < this.next) return;
    this.over = true;
    if (!this.options.stayOpen && isOpen()) socket.close(simulationOverCode, 'the simulation is over');
  }
}

/** Sends, and waits until the socket has taken it: that is the backpressure. A closed socket is no error. */
const sendFrame = (socket: WebSocket, text: string): Promise<void> => new Promise((resolve) => { socket.send(text, () => resolve()); });

/** Each feed has a stream of random numbers of its own. */
const seedOf = (seed: number, { exchange, market, feed }: Feed): number => {
  let hash = seed >>> 0;
  for (const char of `${exchange} ${market} ${feed}`) hash = Math.imul(hash ^ char.codePointAt(0)!, 0x0100_0193) >>> 0;
  return hash;
};

const paths = {
  binance: '/binance/spot', binanceUsdm: '/binance/usdm', binanceCoinm: '/binance/coinm', binanceUs: '/binance/us',
  krakenV1: '/kraken/v1', krakenV2: '/kraken/v2', krakenFutures: '/kraken/futures',
} as const;

/** The feed of a request, and what it subscribes by its address alone. Undefined: no such address. */
const requestedFeed = (request: IncomingMessage): { feed: Feed; symbols: string[] } | undefined => {
  const url = new URL(request.url ?? '/', 'ws://simulator');
  const [, exchange = '', name = '', stream] = url.pathname.split('/');
  try {
    if (exchange === 'kraken' && stream === undefined) {
      return name === 'futures' ? { feed: feedOf('kraken', 'futures', 'v1', 'simulator'), symbols: [] } : { feed: feedOf('kraken', 'spot', name, 'simulator'), symbols: [] };
    }
    if (exchange !== 'binance' || stream !== 'stream') return undefined;
    const streams = (url.searchParams.get('streams') ?? '').split('/').map((text) => text.split('@'));
    const feed = streams[0]?.[1] === 'aggTrade' ? 'aggTrade' : 'trade';
    const symbols = streams.filter(([, kind]) => kind === feed).map(([symbol]) => symbol!.toUpperCase());
    return { feed: feedOf('binance', name, feed, 'simulator'), symbols };
  } catch (error) {
    if (isTidemarkError(error, 'BAD_INPUT')) return undefined;
    throw error;
  }
};

/**
 * A websocket server on the loopback interface and a free port that speaks as Binance and Kraken (v1, v2, futures) do,
 * from a seeded market model or from a capture file. Each feed has one subscriber at a time; a client that comes back
 * goes on where it was, and before that gets again what it may not have seen.
 */
export const startExchangeSimulator = async (options: SimulatorOptions): Promise<ExchangeSimulator> => {
  const feeds = new Map<string, SimulatedFeed>();
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0, perMessageDeflate: false, maxPayload: 64 * 1024 });
  await once(server, 'listening');
  server.on('connection', (socket, request) => {
    socket.on('error', () => socket.terminate());
    const requested = requestedFeed(request);
    if (!requested) {
      socket.close(1008, 'no such feed');
      return;
    }
    const { feed, symbols } = requested;
    const key = `${feed.exchange} ${feed.market} ${feed.feed}`;
    const simulated = feeds.get(key) ?? new SimulatedFeed(feed, options);
    feeds.set(key, simulated);
    const { dialect } = simulated;
    let streaming = false;
    const stream = (wanted: readonly string[]): void => {
      if (streaming || wanted.length === 0) return;
      streaming = true;
      simulated.stream(socket, wanted).catch((error: unknown) => {
        socket.close(1011, 'the simulator failed');
        server.emit('error', error);
      });
    };
    if (dialect.greeting !== undefined) socket.send(dialect.greeting);
    if (dialect.heartbeat !== undefined) {
      const { heartbeat } = dialect;
      const timer = setInterval(() => socket.send(heartbeat), heartbeatEveryMs);
      socket.on('close', () => clearInterval(timer));
    }
    socket.on('message', (data: Buffer) => {
      let asked: unknown;
      try {
        asked = JSON.parse(data.toString('utf8'));
      } catch {
        asked = undefined;
      }
      const { frames, symbols: subscribed } = dialect.answer(asked);
      for (const frame of frames) socket.send(frame);
      stream(subscribed);
    });
    stream(symbols);
  });
  let failure: unknown;
  server.on('error', (error) => { failure ??= error; });

  const { port } = server.address() as AddressInfo;
  const urls = Object.fromEntries(Object.entries(paths).map(([name, path]) => [name, `ws://127.0.0.1:${port}${path}`])) as ExchangeSimulator['urls'];
  return {
    urls,
    truth: () => {
      if (failure) return Promise.reject(failure instanceof Error ? failure : new TidemarkError('EXCHANGE_UNAVAILABLE', 'the simulator failed', { cause: failure }));
      return Promise.resolve([...feeds.values()].map(({ feed, truth, repeated, rubbish, drops, over }) => ({
        exchange: feed.exchange, market: feed.market, feed: feed.feed, trades: truth.trades, symbols: truth.bySymbol(), repeated, rubbish, drops, over,
      })));
    },
    stop: async () => {
      for (const client of server.clients) client.terminate();
      server.close();
      await once(server, 'close');
    },
  };
};
