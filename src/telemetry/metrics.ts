import { InvariantError, invariant } from '../domain/errors.ts';
import { metricTable } from './metric-table.ts';
import type { CounterName, GaugeName, HistogramName, LabelsOf, MetricName } from './metric-table.ts';

/** Content type of the text format (prometheus.io, "Exposition formats"). */
export const exposition = 'text/plain; version=0.0.4; charset=utf-8';

/** Past so many label sets a metric takes no new ones: a mistake must not become memory without end. */
const seriesMax = 1_000;

interface Series {
  /** `source="binance-trades"`; empty without labels. */
  readonly labels: string;
  value: number;
  /** Of a histogram: observations by bucket, not cumulated. */
  readonly buckets: Float64Array | null;
  count: number;
}

const escaped = (text: string): string => text.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('"', '\\"');

/**
 * The metrics of one process, all declared in the table. A histogram takes a value with a weight: records are counted by
 * the batch, never one by one.
 */
export class Metrics {
  private readonly series = new Map<MetricName, Map<string, Series>>();
  private readonly collectors = new Set<() => void | Promise<void>>();

  /** Adds to a counter; 0 makes the series visible, so that its first increase can be seen. */
  add<Name extends CounterName>(name: Name, labels: LabelsOf<Name>, value = 1): void {
    invariant(value >= 0, () => `counter ${name}: expected an increase, found ${value}`);
    const series = this.seriesOf(name, labels);
    if (series) series.value += value;
  }

  /** For counters that somebody else keeps: what they stand at now. */
  setTotal<Name extends CounterName>(name: Name, labels: LabelsOf<Name>, total: number): void {
    const series = this.seriesOf(name, labels);
    if (series) series.value = Math.max(series.value, total);
  }

  set<Name extends GaugeName>(name: Name, labels: LabelsOf<Name>, value: number): void {
    const series = this.seriesOf(name, labels);
    if (series) series.value = value;
  }

  /** @param weight how many records have this value. */
  observe<Name extends HistogramName>(name: Name, labels: LabelsOf<Name>, value: number, weight = 1): void {
    const series = this.seriesOf(name, labels);
    if (!series?.buckets) return;
    const bounds: readonly number[] = metricTable[name].buckets;
    const bucket = bounds.findIndex((bound) => value <= bound);
    if (bucket >= 0) series.buckets[bucket]! += weight;
    series.value += value * weight;
    series.count += weight;
  }

  /** Takes series away: a gauge that is no longer known must not keep its last value. Without labels: all of the metric. */
  remove<Name extends GaugeName>(name: Name, labels?: LabelsOf<Name>): void {
    if (labels) this.series.get(name)?.delete(labelText(name, labels));
    else this.series.delete(name);
  }

  /** Runs before each scrape, to set what is read from a state. Its failure fails the scrape. Returns how to end that. */
  collect(collector: () => void | Promise<void>): () => void {
    this.collectors.add(collector);
    return () => void this.collectors.delete(collector);
  }

  /** A single value, for tests and for figures that others show; of a histogram its count. Undefined: no such series. */
  value<Name extends MetricName>(name: Name, labels: LabelsOf<Name>): number | undefined {
    const series = this.series.get(name)?.get(labelText(name, labels));
    return series?.buckets ? series.count : series?.value;
  }

  /** All series in the text format. */
  async text(): Promise<string> {
    await Promise.all([...this.collectors].map(async (collector) => collector()));
    const lines: string[] = [];
    for (const name of Object.keys(metricTable) as MetricName[]) {
      const all = this.series.get(name);
      if (!all || all.size === 0) continue;
      lines.push(`# HELP ${name} ${metricTable[name].help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}`, `# TYPE ${name} ${metricTable[name].type}`);
      for (const series of all.values()) lines.push(...linesOf(name, series));
    }
    return `${lines.join('\n')}\n`;
  }

  private seriesOf<Name extends MetricName>(name: Name, labels: LabelsOf<Name>): Series | null {
    let all = this.series.get(name);
    if (!all) {
      all = new Map();
      this.series.set(name, all);
    }
    const key = labelText(name, labels);
    const known = all.get(key);
    if (known) return known;
    if (all.size >= seriesMax) {
      this.add('metric_series_refused_total', { metric: name });
      return null;
    }
    const definition = metricTable[name];
    const series: Series = { labels: key, value: 0, buckets: 'buckets' in definition ? new Float64Array(definition.buckets.length) : null, count: 0 };
    all.set(key, series);
    return series;
  }
}

const labelText = <Name extends MetricName>(name: Name, labels: LabelsOf<Name>): string => {
  const names: readonly string[] = metricTable[name].labels;
  const values = labels as Readonly<Record<string, string>>;
  return names.map((label) => {
    const value = values[label];
    if (value === undefined) throw new InvariantError(`metric ${name}: expected a value of the label ${label}, found none`);
    return `${label}="${escaped(value)}"`;
  }).join(',');
};

const linesOf = (name: MetricName, { labels, value, buckets, count }: Series): string[] => {
  const braces = labels === '' ? '' : `{${labels}}`;
  if (!buckets) return [`${name}${braces} ${value}`];
  const definition = metricTable[name];
  const bounds: readonly number[] = 'buckets' in definition ? definition.buckets : [];
  const before = labels === '' ? '' : `${labels},`;
  let below = 0;
  return [
    ...bounds.map((bound, at) => {
      below += buckets[at]!;
      return `${name}_bucket{${before}le="${bound}"} ${below}`;
    }),
    `${name}_bucket{${before}le="+Inf"} ${count}`, `${name}_sum${braces} ${value}`, `${name}_count${braces} ${count}`,
  ];
};
