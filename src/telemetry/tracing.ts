import type { Attributes, Span } from '@opentelemetry/api';
import type { Resource } from '@opentelemetry/resources';
import type { SpanProcessor } from '@opentelemetry/sdk-trace-base';

/** The name of W3C Trace Context's header: in Kafka records, and in the metadata of Bronze objects. */
export const traceparentName = 'traceparent';

export interface SpanOptions {
  /** Traceparent of the span that this one goes on. Default: the active span, else a trace of its own. */
  parent?: string | undefined;
  /** Traceparents of further spans whose work is in this one. */
  links?: readonly string[];
  attributes?: Attributes;
}

export interface TraceSpan {
  /** For those that go on from here; empty where the span is not sampled. */
  readonly traceparent: string;
  set(attributes: Attributes): void;
  end(error?: unknown): void;
}

/** Traces of batches: a capture batch, a Bronze file, a micro-batch, a table commit; never of a record. */
export interface Tracing {
  start(name: string, options?: SpanOptions): TraceSpan;
  /** Runs the work inside of a span, which is the active one meanwhile. */
  within<T>(name: string, options: SpanOptions, work: (span: TraceSpan) => Promise<T>): Promise<T>;
  /** Links spans to the active one, if there is one. */
  linkToActive(traceparents: readonly string[]): void;
  /** Of the active span, for log lines; empty without one. */
  activeIds(): { trace_id?: string; span_id?: string };
  /** What Temporal's interceptors for traces want. */
  readonly processor: SpanProcessor;
  readonly resource: Resource;
  /** Sends what waits, as far as the time goes. */
  shutdown(): Promise<void>;
}

/** A trace that does not arrive must not hold a process up. */
const shutdownMsMax = 3_000;
const exportTimeoutMs = 5_000;

/**
 * Traces to an OTLP/HTTP endpoint; null without one, and then nothing of OpenTelemetry is even loaded. Sampling and headers
 * follow OpenTelemetry's own variables (OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG, OTEL_EXPORTER_OTLP_HEADERS).
 */
export const startTracing = async (endpoint: string | null, service: string): Promise<Tracing | null> => {
  if (endpoint === null) return null;
  const [{ AsyncLocalStorage }, api, core, { Resource }, trace, { OTLPTraceExporter }] = await Promise.all([
    import('node:async_hooks'), import('@opentelemetry/api'), import('@opentelemetry/core'), import('@opentelemetry/resources'),
    import('@opentelemetry/sdk-trace-base'), import('@opentelemetry/exporter-trace-otlp-http'),
  ]);
  const storage = new AsyncLocalStorage<ReturnType<typeof api.context.active>>();
  const contextManager: Parameters<typeof api.context.setGlobalContextManager>[0] = {
    active: () => storage.getStore() ?? api.ROOT_CONTEXT,
    with: (context, work, self, ...args) => storage.run(context, () => work.call(self as never, ...args)),
    bind: (context, target) => (typeof target === 'function' ? ((...args: unknown[]) => storage.run(context, () => (target as (...all: unknown[]) => unknown)(...args))) as never : target),
    enable: () => contextManager,
    disable: () => contextManager,
  };
  const resource = new Resource({ 'service.name': `tidemark-${service}`, 'service.instance.id': String(process.pid) });
  const url = `${endpoint.replace(/\/$/, '')}/v1/traces`;
  const processor = new trace.BatchSpanProcessor(new OTLPTraceExporter({ url, timeoutMillis: exportTimeoutMs }));
  const provider = new trace.BasicTracerProvider({ resource, spanProcessors: [processor] });
  const propagator = new core.W3CTraceContextPropagator();
  provider.register({ contextManager, propagator });
  const tracer = provider.getTracer('tidemark');

  const contextOf = (traceparent: string | undefined) => (traceparent === undefined
    ? api.context.active()
    : propagator.extract(api.ROOT_CONTEXT, { [traceparentName]: traceparent }, api.defaultTextMapGetter));
  const linksOf = (traceparents: readonly string[]) => traceparents.flatMap((text) => {
    const context = api.trace.getSpanContext(contextOf(text));
    return context ? [{ context }] : [];
  });
  const spanOf = (span: Span): TraceSpan => {
    const carrier: Record<string, string> = {};
    propagator.inject(api.trace.setSpan(api.ROOT_CONTEXT, span), carrier, api.defaultTextMapSetter);
    return {
      traceparent: span.isRecording() ? carrier[traceparentName] ?? '' : '',
      set: (attributes) => void span.setAttributes(attributes),
      end: (error) => {
        if (error !== undefined) {
          span.recordException(error instanceof Error ? error : String(error));
          span.setStatus({ code: api.SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) });
        }
        span.end();
      },
    };
  };
  const open = (name: string, { parent, links = [], attributes = {} }: SpanOptions): Span =>
    tracer.startSpan(name, { links: linksOf(links), attributes }, contextOf(parent));

  return {
    processor,
    resource,
    start: (name, options = {}) => spanOf(open(name, options)),
    within: async (name, options, work) => {
      const span = open(name, options);
      const handed = spanOf(span);
      try {
        const result = await api.context.with(api.trace.setSpan(contextOf(options.parent), span), () => work(handed));
        handed.end();
        return result;
      } catch (error) {
        handed.end(error);
        throw error;
      }
    },
    linkToActive: (traceparents) => void api.trace.getActiveSpan()?.addLinks(linksOf(traceparents)),
    activeIds: () => {
      const context = api.trace.getActiveSpan()?.spanContext();
      return context && api.isSpanContextValid(context) ? { trace_id: context.traceId, span_id: context.spanId } : {};
    },
    shutdown: async () => {
      await Promise.race([provider.shutdown().catch(() => undefined), new Promise((resolve) => { setTimeout(resolve, shutdownMsMax).unref(); })]);
    },
  };
};
