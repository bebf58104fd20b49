import http from 'node:http';
import http2 from 'node:http2';
import { Socket } from 'node:net';
import { syncBuiltinESMExports } from 'node:module';
import { fileURLToPath } from 'node:url';

/**
 * Where a process kills itself with SIGKILL: right before it sends its nth matching request, or right after the
 * answer that it took effect has arrived and before anybody in the process has seen that answer.
 */
export interface CrashPoint {
  at: 'before' | 'after';
  /** `put`: an object, by its path; `grpc`: a call of Temporal, by its method; `kafka`: a request, by its API key. */
  call: 'put' | 'grpc' | 'kafka';
  /** A regular expression; for `kafka` the API key as a number. */
  match: string;
  /** From 1; `after` counts the answers. Each worker thread counts its own. */
  nth: number;
}

const crashVariable = 'TIDEMARK_TEST_CRASH_AT';

/**
 * The environment that makes a Node process die there. Nothing of the product knows of it: this file is loaded
 * before the process's own modules, in its worker threads too, and watches what goes over the wire.
 */
export const crashEnvironment = (point: CrashPoint): Record<string, string> => ({
  [crashVariable]: JSON.stringify(point),
  NODE_OPTIONS: `--import=${fileURLToPath(import.meta.url)}`,
});

const watch = ({ at, call, match, nth }: CrashPoint): void => {
  const pattern = new RegExp(call === 'kafka' ? `^${match}$` : match);
  let seen = 0;
  const die = (): void => {
    process.kill(process.pid, 'SIGKILL');
  };
  const isDue = (): boolean => (seen += 1) === nth;
  /** Asked before a request goes out; dies here if it has to before. True: its answer is to be watched. */
  const meets = (what: string): boolean => {
    if (!pattern.test(what)) return false;
    if (at === 'before' && isDue()) die();
    return at === 'after';
  };
  /** Counted by the answers: a request that was refused, or never answered, while others were on their way must not use the point up. */
  const tookEffect = (): void => {
    if (isDue()) die();
  };

  if (call === 'put') {
    const original = http.request;
    http.request = ((...args: Parameters<typeof http.request>) => {
      const request = original(...args);
      if (request.method === 'PUT' && meets(decodeURIComponent(request.path))) {
        request.prependOnceListener('response', ({ statusCode }) => {
          if (statusCode === 200) tookEffect();
        });
      }
      return request;
    }) as typeof http.request;
  } else if (call === 'grpc') {
    const original = http2.connect;
    http2.connect = ((...args: Parameters<typeof http2.connect>) => {
      const session = original(...args);
      const open = session.request.bind(session);
      session.request = (headers, options) => {
        const path = headers === undefined || Array.isArray(headers) ? '' : String((headers as http2.OutgoingHttpHeaders)[':path'] ?? '');
        const isWatched = meets(path);
        const stream = open(headers, options);
        if (isWatched) {
          stream.prependOnceListener('trailers', (trailers: http2.IncomingHttpHeaders) => {
            if (trailers['grpc-status'] === '0') tookEffect();
          });
        }
        return stream;
      };
      return session;
    }) as typeof http2.connect;
  } else {
    const original = Socket.prototype.write;
    const broker = Number(process.env['KAFKA_BROKERS']?.split(',')[0]?.split(':')[1]);
    Socket.prototype.write = function write(this: Socket, ...args: Parameters<typeof original>): boolean {
      const [chunk] = args as unknown as [unknown];
      if (this.remotePort === broker && Buffer.isBuffer(chunk) && chunk.length > 12 && meets(String(chunk.readInt16BE(4)))) {
        const correlationId = chunk.readInt32BE(8);
        const onAnswer = (answer: Buffer): void => {
          if (answer.length < 8 || answer.readInt32BE(4) !== correlationId) return;
          this.removeListener('data', onAnswer);
          tookEffect();
        };
        this.prependListener('data', onAnswer);
      }
      return original.apply(this, args);
    } as typeof original;
  }
  syncBuiltinESMExports();
};

const point = process.env[crashVariable];
if (point !== undefined) watch(JSON.parse(point) as CrashPoint);
