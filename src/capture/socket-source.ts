import { WebSocket } from 'ws';
import { TidemarkError } from '../domain/errors.ts';
import type { Frame } from './frame.ts';
import type { ConnectionCounts, FrameBatch, FrameSource } from './frame-source.ts';
import type { Subscription } from './subscription.ts';
import { answerTo } from './subscription.ts';

export interface SocketOptions {
  /** Wait before the first reconnect; doubles up to the most, with full jitter. */
  backoffMs?: number;
  backoffMsMax?: number;
  /** A connection that says nothing for this long, not even a ping or a pong, is dead. */
  silenceMsMax?: number;
  /** How often this end pings, which some exchanges ask for. */
  pingEveryMs?: number;
  /** Gives up when the first connection fails this often; once there was one, it tries for ever. */
  firstAttemptsMax?: number;
  /** Most frames that wait to be read; past it the socket is not read, and the exchange feels it. */
  framesWaitingMax?: number;
  /** The close code that says that the source is over; an exchange has none. */
  overCode?: number;
  /** In [0, 1), for the jitter. */
  random?: () => number;
}

/** Microseconds since the epoch that never run backwards, and follow the wall clock within a second. */
const createMicroClock = (): (() => number) => {
  let wallMicros = Date.now() * 1_000;
  let monotonicMs = performance.now();
  let last = 0;
  return () => {
    const elapsedMs = performance.now() - monotonicMs;
    if (elapsedMs > 1_000) {
      wallMicros = Date.now() * 1_000;
      monotonicMs += elapsedMs;
      last = Math.max(last, wallMicros);
      return last;
    }
    last = Math.max(last, wallMicros + Math.floor(elapsedMs * 1_000));
    return last;
  };
};

/** A capped exponential with full jitter: many readers that were dropped together do not come back together. */
export const backoffDelayMs = (failures: number, { backoffMs, backoffMsMax, random }: { backoffMs: number; backoffMsMax: number; random: () => number }): number =>
  Math.ceil(random() * Math.min(backoffMsMax, backoffMs * 2 ** Math.min(failures, 30)));

const frameCharsMax = 64 * 1024 * 1024;

/**
 * Frames of a live websocket. Drops and silences are reconnected, with all subscriptions, for ever. What the exchange sent
 * in between is not seen: a feed that repeats its last trades closes that gap, and the ids show the rest.
 *
 * @throws TidemarkError EXCHANGE_UNAVAILABLE when not even a first connection was made.
 */
export const socketSource = (subscription: Subscription, options: SocketOptions = {}): FrameSource => {
  const {
    backoffMs = 250, backoffMsMax = 30_000, silenceMsMax = 60_000, pingEveryMs = 20_000, firstAttemptsMax = 5,
    framesWaitingMax = 20_000, overCode, random = Math.random,
  } = options;
  const counts: ConnectionCounts = { connections: 0, drops: 0 };
  const micros = createMicroClock();

  const batches = async function* batches(signal?: AbortSignal): AsyncGenerator<FrameBatch, void, undefined> {
    let waiting: Frame[] = [];
    let wake = Promise.withResolvers<void>();
    let failures = 0;
    let failure: TidemarkError | undefined;
    let over = signal?.aborted ?? false;
    let socket: WebSocket | undefined;
    let reconnect: NodeJS.Timeout | undefined;

    const stop = (): void => {
      over = true;
      clearTimeout(reconnect);
      socket?.terminate();
      wake.resolve();
    };

    const onEnd = (connected: boolean, why: string): void => {
      if (over) return;
      if (connected) counts.drops += 1;
      if (counts.connections === 0 && failures + 1 >= firstAttemptsMax) {
        failure = new TidemarkError('EXCHANGE_UNAVAILABLE', `${subscription.feed.exchange} at ${subscription.url}: no connection after ${firstAttemptsMax} attempts: ${why}`);
        stop();
        return;
      }
      reconnect = setTimeout(connect, backoffDelayMs(failures, { backoffMs, backoffMsMax, random }));
      failures += 1;
    };

    const connect = (): void => {
      if (over) return;
      const current = new WebSocket(subscription.url, { perMessageDeflate: false, handshakeTimeout: 10_000, maxPayload: frameCharsMax, skipUTF8Validation: true });
      socket = current;
      let connected = false;
      let why = 'closed';
      let heardAtMs = performance.now();
      const heard = (): void => { heardAtMs = performance.now(); };
      const watch = setInterval(() => {
        if (current.isPaused) heard();
        else if (performance.now() - heardAtMs > silenceMsMax) current.terminate();
        else if (connected) current.ping();
      }, Math.min(pingEveryMs, silenceMsMax / 2));
      current.on('open', () => {
        connected = true;
        counts.connections += 1;
        heard();
        for (const request of subscription.requests) current.send(request);
      });
      current.on('message', (data: Buffer) => {
        heard();
        // An exchange that accepts connections and drops them at once is not back yet.
        failures = 0;
        const text = data.toString('utf8');
        const answer = answerTo(text);
        if (answer !== undefined) current.send(answer);
        waiting.push({ receivedNs: `${micros()}000`, text });
        if (waiting.length >= framesWaitingMax) current.pause();
        wake.resolve();
      });
      current.on('ping', heard);
      current.on('pong', heard);
      current.on('error', (error) => { why = error.message; });
      current.on('close', (code) => {
        clearInterval(watch);
        if (overCode !== undefined && code === overCode) stop();
        else onEnd(connected, why);
      });
    };

    signal?.addEventListener('abort', stop, { once: true });
    try {
      connect();
      for (;;) {
        if (waiting.length === 0) {
          if (over) break;
          await wake.promise;
        }
        wake = Promise.withResolvers<void>();
        if (waiting.length === 0) continue;
        const frames = waiting;
        waiting = [];
        if (socket?.isPaused) socket.resume();
        yield { feed: subscription.feed, frames, damaged: [] };
      }
      if (failure) throw failure;
    } finally {
      signal?.removeEventListener('abort', stop);
      stop();
    }
  };

  return { name: subscription.url, batches, connectionCounts: () => ({ ...counts }) };
};
