import { monitorEventLoopDelay } from 'node:perf_hooks';
import type { Metrics } from './metrics.ts';

/** Memory, CPU and the event loop of this process, read at each scrape. Returns how to end that. */
export const collectProcessMetrics = (metrics: Metrics): (() => void) => {
  const delay = monitorEventLoopDelay({ resolution: 20 });
  delay.enable();
  const end = metrics.collect(() => {
    const { rss, heapUsed, external } = process.memoryUsage();
    const { user, system } = process.cpuUsage();
    metrics.set('process_resident_memory_bytes', {}, rss);
    metrics.set('nodejs_heap_used_bytes', {}, heapUsed);
    metrics.set('nodejs_external_memory_bytes', {}, external);
    metrics.setTotal('process_cpu_seconds_total', {}, (user + system) / 1e6);
    metrics.set('process_start_time_seconds', {}, (Date.now() - process.uptime() * 1_000) / 1_000);
    // NaN before its first sample.
    const lateNs = delay.percentile(99);
    metrics.set('nodejs_eventloop_lag_p99_seconds', {}, Number.isFinite(lateNs) ? lateNs / 1e9 : 0);
    delay.reset();
  });
  return () => {
    delay.disable();
    end();
  };
};
