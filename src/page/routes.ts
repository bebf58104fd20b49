import { createHash, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { sendJson, sendText } from '../telemetry/http-server.ts';
import type { HttpExchange, HttpServer } from '../telemetry/http-server.ts';
import type { Collector } from './collect.ts';
import type { PageSnapshot } from './snapshot.ts';

export interface StreamControls {
  /** Without it the page only reads. */
  token: string;
  sources: readonly string[];
  /** Resolves once the stream has been told. */
  send(source: string, action: 'pause' | 'resume'): Promise<void>;
}

export interface PageOptions {
  collector: Collector;
  controls: StreamControls | null;
  signal: AbortSignal;
  onFailure(error: unknown): void;
  /** While somebody looks; default 2 s. */
  watchedEveryMs?: number;
  /** While nobody does, so that the curves go on; default 10 s. */
  idleEveryMs?: number;
}

const watchersMax = 32;
/** Proxies cut silent connections. */
const heartbeatMs = 15_000;
/** What a reader that does not keep up may have waiting. */
const unsentBytesMax = 1 << 20;

/** Everything comes from here; nothing inline, nothing framed. */
const contentSecurityPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const pageHeaders = {
  'content-security-policy': contentSecurityPolicy, 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer', 'x-frame-options': 'DENY',
  'cross-origin-opener-policy': 'same-origin', 'cross-origin-resource-policy': 'same-origin', 'cache-control': 'no-cache',
};

const files = [
  { path: '/', file: 'index.html', type: 'text/html; charset=utf-8' },
  { path: '/page.css', file: 'page.css', type: 'text/css; charset=utf-8' },
  { path: '/page.js', file: 'page.js', type: 'text/javascript; charset=utf-8' },
  { path: '/elements.js', file: 'elements.js', type: 'text/javascript; charset=utf-8' },
  { path: '/charts.js', file: 'charts.js', type: 'text/javascript; charset=utf-8' },
  { path: '/icon.svg', file: 'icon.svg', type: 'image/svg+xml' },
];

const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/**
 * Whether a request may change something: it carries the token in a header, which no other site's page can make a browser send
 * without asking this server first, and which lies in no cookie.
 */
const isAllowed = ({ headers }: IncomingMessage, token: string): boolean => {
  const site = headers['sec-fetch-site'];
  if (site !== undefined && site !== 'same-origin') return false;
  const given = /^Bearer (.+)$/.exec(headers.authorization ?? '')?.[1];
  return given !== undefined && timingSafeEqual(digest(given), digest(token));
};

/** Adds the operator's page to the server: `/`, its files, `/api/page`, the live `/events`, and with a token what steers the streams. */
export const addPageRoutes = (server: Pick<HttpServer, 'route'>, { collector, controls, signal, onFailure, watchedEveryMs = 2_000, idleEveryMs = 10_000 }: PageOptions): { done: Promise<void> } => {
  const release = createHash('sha256');
  for (const { path, file, type } of files) {
    const body = readFileSync(new URL(`./client/${file}`, import.meta.url));
    release.update(body);
    server.route('GET', path, ({ response }) => {
      response.writeHead(200, { ...pageHeaders, 'content-type': type, 'content-length': body.length }).end(body);
    });
  }

  const releaseId = release.digest('hex').slice(0, 16);
  let snapshot: PageSnapshot | null = null;
  const watchers = new Set<ServerResponse>();
  let wake = new AbortController();
  const frame = (event: string, value: unknown): string => `event: ${event}\ndata: ${JSON.stringify(value)}\n\n`;
  const send = (watcher: ServerResponse, text: string): void => {
    // A reader that does not keep up misses frames: each one holds everything.
    if (watcher.writableLength < unsentBytesMax) watcher.write(text);
  };
  let pointsSent = '';
  const look = async (): Promise<void> => {
    snapshot = await collector.look();
    const history = collector.history();
    const newest = JSON.stringify(Object.values(history.points).map((points) => points.at(-1)?.atMs));
    for (const watcher of watchers) {
      send(watcher, frame('snapshot', snapshot));
      if (newest !== pointsSent) send(watcher, frame('history', history));
    }
    pointsSent = newest;
  };
  const looking = async (): Promise<void> => {
    while (!signal.aborted) {
      await look().catch((error: unknown) => {
        if (!signal.aborted) onFailure(error);
      });
      // Somebody who comes is not kept waiting for the next slow look.
      await delay(watchers.size > 0 ? watchedEveryMs : idleEveryMs, undefined, { signal: AbortSignal.any([signal, wake.signal]), ref: false }).catch(() => undefined);
      if (wake.signal.aborted) wake = new AbortController();
    }
  };
  const heartbeat = setInterval(() => {
    for (const watcher of watchers) send(watcher, ': still here\n\n');
  }, heartbeatMs);
  heartbeat.unref();

  server.route('GET', '/api/page', async ({ response }) => {
    if (!snapshot) await look();
    sendJson(response, 200, { snapshot, history: collector.history() });
  });

  server.route('GET', '/events', ({ request, response, signal: gone }: HttpExchange) => {
    if (request.method === 'HEAD') {
      sendText(response, 200, '');
      return;
    }
    if (watchers.size >= watchersMax) {
      sendText(response, 503, 'Too many pages are open.\n');
      return;
    }
    response.writeHead(200, { ...pageHeaders, 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-store', 'x-accel-buffering': 'no' });
    response.write(`retry: 2000\n\n${frame('page', releaseId)}`);
    if (snapshot) send(response, frame('snapshot', snapshot) + frame('history', collector.history()));
    watchers.add(response);
    if (watchers.size === 1) wake.abort();
    const leave = (): void => {
      watchers.delete(response);
      response.end();
    };
    // A client that has gone already aborts no more.
    if (gone.aborted) leave();
    else gone.addEventListener('abort', leave, { once: true });
  });

  if (controls) {
    server.route('POST', '/api/streams/*', async ({ request, response, url }) => {
      request.resume();
      if (!isAllowed(request, controls.token)) {
        sendText(response, 403, 'The token is missing, or another one.\n');
        return;
      }
      const match = /^\/api\/streams\/([^/]+)\/(pause|resume)$/.exec(url.pathname);
      const source = controls.sources.find((name) => encodeURIComponent(name) === match?.[1]);
      if (!match || source === undefined) {
        sendText(response, 404, 'No such stream, or no such action.\n');
        return;
      }
      await controls.send(source, match[2] as 'pause' | 'resume');
      wake.abort();
      sendJson(response, 200, { source, action: match[2] });
    });
  }
  const done = looking().finally(() => clearInterval(heartbeat));
  return { done };
};
