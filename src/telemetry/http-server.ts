import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { TidemarkError } from '../domain/errors.ts';

export interface HttpExchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly url: URL;
  /** Aborts when the client has gone, or the server closes: the end of a stream of server-sent events. */
  readonly signal: AbortSignal;
}

/** Answers by ending the response, now or later. What it throws becomes a 500 without details; the log has them. */
export type HttpRoute = (exchange: HttpExchange) => void | Promise<void>;

export interface HttpServer {
  /** `http://127.0.0.1:41234`, without a slash at the end. */
  readonly url: string;
  /**
   * Adds a route. `path` is exact, or a prefix that ends in `/*`; an exact path wins, then the longest prefix. A GET route
   * answers HEAD too. Another method on a known path is a 405, an unknown path a 404.
   */
  route(method: 'GET' | 'POST', path: string, handler: HttpRoute): void;
  /** Ends open streams, and waits until the port is free. */
  close(): Promise<void>;
}

export interface HttpServerOptions {
  host: string;
  /** 0: any free port. */
  port: number;
  onError(error: unknown, request: { method: string; path: string }): void;
}

const loopbackNames = /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$/;
const isLoopback = (host: string): boolean => host === 'localhost' || host === '::1' || /^127(\.\d{1,3}){3}$/.test(host);

/** Ends the response with text, unless it has ended. */
export const sendText = (response: ServerResponse, status: number, text: string, contentType = 'text/plain; charset=utf-8'): void => {
  if (response.writableEnded) return;
  if (!response.headersSent) response.writeHead(status, { 'content-type': contentType, 'cache-control': 'no-store', 'x-content-type-options': 'nosniff' });
  response.end(text);
};

export const sendJson = (response: ServerResponse, status: number, value: unknown): void =>
  sendText(response, status, `${JSON.stringify(value)}\n`, 'application/json; charset=utf-8');

/**
 * The HTTP server of one process: metrics, health, and whatever the process adds. Bound to a loopback address it answers
 * only requests that name one as their host, so that no web page can reach it under a name of its own (DNS rebinding).
 *
 * @throws TidemarkError BAD_CONFIG when the address cannot be bound.
 */
export const startHttpServer = async ({ host, port, onError }: HttpServerOptions): Promise<HttpServer> => {
  const exact = new Map<string, Map<string, HttpRoute>>();
  const prefixes = new Map<string, Map<string, HttpRoute>>();
  const closing = new AbortController();
  const guarded = isLoopback(host);

  const routesOf = (path: string): Map<string, HttpRoute> | undefined => {
    const found = exact.get(path);
    if (found) return found;
    const prefix = [...prefixes.keys()].filter((known) => path.startsWith(known)).sort((a, b) => b.length - a.length)[0];
    return prefix === undefined ? undefined : prefixes.get(prefix);
  };

  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const method = request.method ?? 'GET';
    if (guarded && !loopbackNames.test(request.headers.host ?? '')) {
      sendText(response, 421, 'This server answers to localhost only.\n');
      return;
    }
    if (!URL.canParse(request.url ?? '/', 'http://localhost')) {
      sendText(response, 400, 'The address is not one.\n');
      return;
    }
    const url = new URL(request.url ?? '/', 'http://localhost');
    const routes = routesOf(url.pathname);
    if (!routes) {
      sendText(response, 404, 'Nothing here.\n');
      return;
    }
    const route = routes.get(method) ?? (method === 'HEAD' ? routes.get('GET') : undefined);
    if (!route) {
      response.setHeader('allow', [...routes.keys()].join(', '));
      sendText(response, 405, 'This path takes another method.\n');
      return;
    }
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    try {
      await route({ request, response, url, signal: AbortSignal.any([gone.signal, closing.signal]) });
    } catch (error) {
      if (!gone.signal.aborted) onError(error, { method, path: url.pathname });
      sendText(response, 500, 'This could not be answered; the log of the process says why.\n');
    }
  };

  const server = createServer((request, response) => void answer(request, response));
  server.listen({ host, port });
  try {
    await once(server, 'listening');
  } catch (cause) {
    throw new TidemarkError('BAD_CONFIG', `METRICS_HOST, METRICS_PORT: expected a free address, found that ${host}:${port} cannot be bound: ${(cause as Error).message}`, { cause });
  }
  // Serving a page keeps no process alive that has nothing else to do.
  server.unref();
  const { address, family, port: bound } = server.address() as AddressInfo;
  return {
    url: `http://${family === 'IPv6' ? `[${address}]` : address}:${bound}`,
    route: (method, path, handler) => {
      const isPrefix = path.endsWith('/*');
      const table = isPrefix ? prefixes : exact;
      const name = isPrefix ? path.slice(0, -1) : path;
      const routes = table.get(name) ?? new Map<string, HttpRoute>();
      routes.set(method, handler);
      table.set(name, routes);
    },
    close: async () => {
      closing.abort();
      const closed = new Promise<void>((resolve) => { server.close(() => resolve()); });
      server.closeAllConnections();
      await closed;
    },
  };
};
