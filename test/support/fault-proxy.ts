import http from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import net from 'node:net';
import type { AddressInfo, Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * What befalls one HTTP request:
 * - `lostAnswer`: it takes effect, and the client gets a 500;
 * - `cutAnswer`: it takes effect, and the connection breaks before the answer;
 * - `halfAnswer`: it takes effect, and the connection breaks in the middle of the answer's body;
 * - `cutRequest`: the server gets half of the body, then the connection breaks, to both sides;
 * - `refused`: the server never sees it, the connection breaks;
 * - `full`: the server never sees it, the client gets a 507 as of a store without space;
 * - a number: it waits for so many milliseconds, then goes its way;
 * - `until`: it waits for that, then goes its way, even when its client is dead by then: a request that the network kept.
 */
export type HttpFault = 'lostAnswer' | 'cutAnswer' | 'halfAnswer' | 'cutRequest' | 'refused' | 'full' | number | { until: Promise<unknown> };

export interface HttpCall {
  method: string;
  /** Path and query, decoded. */
  path: string;
}

interface Listening {
  /** Of the proxy: 127.0.0.1 and a free port, the same for its whole life. */
  readonly port: number;
  /** Breaks every connection, and refuses new ones until {@link back}. */
  leave(): void;
  back(): void;
  close(): Promise<void>;
}

export interface HttpFaultProxy extends Listening {
  readonly url: string;
  /** Asked for each request; undefined lets it pass. */
  onRequest: ((call: HttpCall) => HttpFault | undefined) | undefined;
  /** Faults so far, by kind: what waits counts as `delay` or `held`. */
  readonly struck: Readonly<Record<string, number>>;
}

export interface TcpFaultProxy extends Listening {
  readonly address: string;
  /** Until then what the server sends does not arrive, while what the client sends does; then every connection breaks. */
  loseAnswers(until: Promise<unknown>): Promise<void>;
  /** Each piece of data is held back for so long, in both directions. */
  delayMs: number;
}

const listen = async (server: net.Server): Promise<number> => {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
};

/** Sockets of a proxy, and whether it lets anybody in. */
class Door {
  private readonly sockets = new Set<Socket>();
  private isAway = false;

  /** False, and the socket broken, while the proxy is away. */
  admit(socket: Socket): boolean {
    socket.on('error', () => {});
    if (this.isAway) {
      socket.resetAndDestroy();
      return false;
    }
    this.sockets.add(socket);
    socket.once('close', () => this.sockets.delete(socket));
    return true;
  }

  breakAll(): void {
    for (const socket of this.sockets) socket.resetAndDestroy();
  }

  leave(): void {
    this.isAway = true;
    this.breakAll();
  }

  back(): void {
    this.isAway = false;
  }
}

/** A proxy in front of an HTTP server (S3, the schema registry) that breaks what it is told to break. */
export const startHttpFaultProxy = async (target: string): Promise<HttpFaultProxy> => {
  const { hostname, port: targetPort } = new URL(target);
  const door = new Door();
  const struck: Record<string, number> = {};

  const pass = async (call: IncomingMessage, answer: ServerResponse, body: Buffer, fault: HttpFault | undefined): Promise<void> => {
    // Path and headers go on as they are: the Host that the client signed is part of its signature.
    const headers = call.rawHeaders;
    const request = http.request({ host: hostname, port: Number(targetPort), method: call.method, path: call.url, headers, setHost: false, agent: false });
    if (fault === 'cutRequest') {
      request.on('error', () => {});
      request.flushHeaders();
      request.write(body.subarray(0, Math.floor(body.length / 2)), () => {
        request.socket?.resetAndDestroy();
        call.socket.resetAndDestroy();
      });
      return;
    }
    request.end(body);
    const [response] = await once(request, 'response') as [IncomingMessage];
    const content = await buffer(response);
    if (fault === 'cutAnswer') {
      call.socket.resetAndDestroy();
    } else if (fault === 'lostAnswer') {
      answer.writeHead(500, { 'content-type': 'application/xml' });
      answer.end('<?xml version="1.0"?><Error><Code>InternalError</Code><Message>injected fault</Message></Error>');
    } else if (fault === 'halfAnswer' && content.length > 1) {
      answer.writeHead(response.statusCode!, response.rawHeaders);
      answer.write(content.subarray(0, Math.floor(content.length / 2)), () => call.socket.resetAndDestroy());
    } else if (fault === 'halfAnswer') {
      call.socket.resetAndDestroy();
    } else {
      answer.writeHead(response.statusCode!, response.rawHeaders);
      answer.end(content);
    }
  };

  const serve = async (call: IncomingMessage, answer: ServerResponse): Promise<void> => {
    const fault = proxy.onRequest?.({ method: call.method!, path: decodeURIComponent(call.url!) });
    // Counted once it strikes: what is held has been taken from its client by then.
    const count = (kind: string): void => {
      struck[kind] = (struck[kind] ?? 0) + 1;
    };
    if (typeof fault === 'string') count(fault);
    if (fault === 'refused') {
      call.socket.resetAndDestroy();
      return;
    }
    const body = await buffer(call);
    if (fault === 'full') {
      answer.writeHead(507, { 'content-type': 'application/xml' });
      answer.end('<?xml version="1.0"?><Error><Code>InsufficientStorage</Code><Message>injected fault: no space left on device</Message></Error>');
      return;
    }
    if (typeof fault === 'number') {
      count('delay');
      await sleep(fault);
    } else if (typeof fault === 'object') {
      count('held');
      await fault.until;
    }
    await pass(call, answer, body, fault);
  };

  const server = http.createServer({ keepAliveTimeout: 60_000 }, (call, answer) => {
    // The server behind broke off, or the client did: the other side sees the same.
    serve(call, answer).catch(() => call.socket.resetAndDestroy());
  });
  // A client that waits for leave to send its body gets it: the fault strikes later.
  server.on('checkContinue', (call: IncomingMessage, answer: ServerResponse) => {
    answer.writeContinue();
    serve(call, answer).catch(() => call.socket.resetAndDestroy());
  });
  server.on('connection', (socket) => door.admit(socket));
  const port = await listen(server);
  const proxy: HttpFaultProxy = {
    port,
    url: `http://127.0.0.1:${port}${new URL(target).pathname.replace(/\/$/, '')}`,
    onRequest: undefined,
    struck,
    leave: () => door.leave(),
    back: () => door.back(),
    close: async () => {
      door.leave();
      server.close();
      await once(server, 'close');
    },
  };
  return proxy;
};

/** A proxy in front of any TCP server (Temporal, a Kafka broker that advertises the proxy's own port). */
export const startTcpFaultProxy = async (target: string): Promise<TcpFaultProxy> => {
  const [host, targetPort] = target.split(':') as [string, string];
  const door = new Door();
  let losing = false;
  const forward = (from: Socket, to: Socket, isAnswer: boolean): void => {
    // In order, also while the delay changes.
    let sent: Promise<unknown> = Promise.resolve();
    const write = async (data: Buffer, after: Promise<unknown>, dueMs: number): Promise<void> => {
      await after;
      const leftMs = dueMs - performance.now();
      if (leftMs > 1) await sleep(leftMs);
      to.write(data);
    };
    from.on('data', (data: Buffer) => {
      if (!isAnswer || !losing) sent = write(data, sent, performance.now() + proxy.delayMs);
    });
    from.once('close', () => to.destroy());
  };
  const server = net.createServer({ noDelay: true }, (client) => {
    if (!door.admit(client)) return;
    const upstream = net.connect({ host, port: Number(targetPort), noDelay: true });
    upstream.on('error', () => client.resetAndDestroy());
    forward(client, upstream, false);
    forward(upstream, client, true);
  });
  const port = await listen(server);
  const proxy: TcpFaultProxy = {
    port,
    address: `127.0.0.1:${port}`,
    delayMs: 0,
    loseAnswers: async (until) => {
      losing = true;
      await until;
      losing = false;
      door.breakAll();
    },
    leave: () => door.leave(),
    back: () => door.back(),
    close: async () => {
      door.leave();
      server.close();
      await once(server, 'close');
    },
  };
  return proxy;
};
