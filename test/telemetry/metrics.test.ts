import { expect, test } from 'vitest';
import { InvariantError } from '../../src/domain/errors.ts';
import { metricTable } from '../../src/telemetry/metric-table.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';

test('a histogram counts a value as often as its weight says, cumulated in its buckets', async () => {
  const metrics = new Metrics();
  metrics.observe('freshness_seconds', { source: 's' }, 1.5, 1_000);
  metrics.observe('freshness_seconds', { source: 's' }, 61, 10);
  metrics.observe('freshness_seconds', { source: 's' }, 1e9, 1);
  const lines = (await metrics.text()).split('\n');
  const of = (suffix: string): number => Number(lines.find((line) => line.startsWith(`freshness_seconds${suffix} `))?.split(' ').at(-1));
  expect([of('_bucket{source="s",le="1"}'), of('_bucket{source="s",le="2"}'), of('_bucket{source="s",le="60"}'), of('_bucket{source="s",le="90"}'), of('_bucket{source="s",le="+Inf"}')])
    .toEqual([0, 1_000, 1_000, 1_010, 1_011]);
  expect(of('_count{source="s"}')).toBe(1_011);
  expect(of('_sum{source="s"}')).toBe(1_500 + 610 + 1e9);
});

test('label values are escaped', async () => {
  const metrics = new Metrics();
  metrics.add('silver_records_valid_total', { source: 'a"b\\c\nd' }, 2);
  expect(await metrics.text()).toContain('silver_records_valid_total{source="a\\"b\\\\c\\nd"} 2');
});

test('a metric stops taking label sets before they can fill the memory, and says so', async () => {
  const metrics = new Metrics();
  for (let n = 0; n < 5_000; n += 1) metrics.add('silver_records_valid_total', { source: `source-${n}` });
  const lines = (await metrics.text()).split('\n').filter((line) => line.startsWith('silver_records_valid_total{'));
  expect(lines.length).toBeLessThanOrEqual(1_000);
  expect(metrics.value('metric_series_refused_total', { metric: 'silver_records_valid_total' })).toBe(5_000 - lines.length);
});

test('a counter never goes back', () => {
  const metrics = new Metrics();
  expect(() => metrics.add('claims_lost_total', { source: 's' }, -1)).toThrow(InvariantError);
});

test('collectors run before each scrape, until they are taken away', async () => {
  const metrics = new Metrics();
  let level = 0;
  const end = metrics.collect(() => metrics.set('buffer_bytes', {}, level += 1));
  expect(await metrics.text()).toContain('buffer_bytes 1');
  expect(await metrics.text()).toContain('buffer_bytes 2');
  end();
  expect(await metrics.text()).toContain('buffer_bytes 2');
});

test('every metric has help, a name of its kind, and ascending buckets if it is a histogram', () => {
  for (const [name, definition] of Object.entries(metricTable)) {
    expect(definition.help.length, name).toBeGreaterThan(10);
    expect(name.endsWith('_total'), name).toBe(definition.type === 'counter');
    const buckets: readonly number[] = 'buckets' in definition ? definition.buckets : [];
    expect(buckets.length > 0, name).toBe(definition.type === 'histogram');
    expect([...buckets].sort((a, b) => a - b), name).toEqual(buckets);
  }
});
