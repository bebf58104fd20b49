import { readFile } from 'node:fs/promises';
import type { Config } from '../../src/config/config.ts';
import { sendJson, sendText, startHttpServer } from '../../src/telemetry/http-server.ts';
import type { HttpServer } from '../../src/telemetry/http-server.ts';
import { Metrics, exposition } from '../../src/telemetry/metrics.ts';
import { collectProcessMetrics } from '../../src/telemetry/process-metrics.ts';
import { createLogger } from '../../src/telemetry/logger.ts';
import type { Logger } from '../../src/telemetry/logger.ts';
import { startTracing } from '../../src/telemetry/tracing.ts';
import type { Tracing } from '../../src/telemetry/tracing.ts';

/** What a process says of itself; `ready` false: it lives, and cannot do its work yet or at the moment. */
export interface Readiness {
  ready: boolean;
  [detail: string]: unknown;
}

export interface Telemetry {
  /** JSON lines; within a span each has its ids. */
  readonly log: Logger;
  /** Null: OTEL_EXPORTER_OTLP_ENDPOINT is not set. */
  readonly tracing: Tracing | null;
  /** Always there; without a server nobody reads them. */
  readonly metrics: Metrics;
  /** Null: METRICS_PORT is not set. Routes may be added at any time. */
  readonly http: HttpServer | null;
  /** What `/readyz` answers from now on. */
  setReadiness(read: () => Readiness | Promise<Readiness>): void;
  /** Text of the exposition format that comes from elsewhere (the Temporal SDK's core), put behind ours. */
  addExposition(load: () => Promise<string>): void;
  close(): Promise<void>;
}

/**
 * Log, metrics and traces of this process, and its HTTP server, if one is configured, with `/metrics`, `/healthz`, `/readyz`, and the runbooks that
 * alerts point to.
 *
 * @param fields what each log line says of where it was written
 */
export const startTelemetry = async ({ metrics: { port, host }, traces, logLevel }: Pick<Config, 'metrics' | 'traces' | 'logLevel'>, service: string, fields: () => Record<string, unknown> = () => ({})): Promise<Telemetry> => {
  const tracing = await startTracing(traces.endpoint, service);
  const log = createLogger(service, logLevel, () => ({ ...fields(), ...tracing?.activeIds() }));
  const metrics = new Metrics();
  let readiness: () => Readiness | Promise<Readiness> = () => ({ ready: false, reason: 'starting' });
  const others: (() => Promise<string>)[] = [];
  const http = port === null ? null : await startHttpServer({
    host, port, onError: (error, request) => log.error({ err: error, ...request }, 'a request could not be answered'),
  });
  const endProcessMetrics = http ? collectProcessMetrics(metrics) : () => undefined;
  http?.route('GET', '/metrics', async ({ response }) => {
    // Ours must not be missed because the other's exporter does not answer.
    const texts = await Promise.all([metrics.text(), ...others.map((load) => load().catch((error: unknown) => {
      log.debug({ err: error }, 'metrics of another exporter could not be loaded');
      return '';
    }))]);
    sendText(response, 200, texts.join(''), exposition);
  });
  http?.route('GET', '/healthz', ({ response }) => sendText(response, 200, 'ok\n'));
  http?.route('GET', '/readyz', async ({ response }) => {
    const state = await readiness();
    sendJson(response, state.ready ? 200 : 503, state);
  });
  http?.route('GET', '/docs/runbooks/*', async ({ response, url }) => {
    const name = /^\/docs\/runbooks\/(\w+\.md)$/.exec(url.pathname)?.[1];
    const page = name && await readFile(new URL(`../../docs/runbooks/${name}`, import.meta.url), 'utf8').catch(() => undefined);
    if (page) sendText(response, 200, page, 'text/plain; charset=utf-8');
    else sendText(response, 404, 'No such runbook.\n');
  });
  return {
    log, tracing, metrics, http,
    setReadiness: (read) => {
      readiness = read;
    },
    addExposition: (load) => void others.push(load),
    close: async () => {
      endProcessMetrics();
      await tracing?.shutdown();
      await http?.close();
    },
  };
};
