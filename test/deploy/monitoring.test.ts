import { execFile } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { parse } from 'yaml';
import { describe, expect, test } from 'vitest';
import { findOnPath } from '../../src/stack/install.ts';
import { metricTable } from '../../src/telemetry/metric-table.ts';
import { promqlUse } from '../support/promql.ts';

const root = new URL('../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), 'utf8');
const pathOf = (path: string): string => fileURLToPath(new URL(path, root));

interface Rule { alert: string; expr: string; for?: string; labels: { severity: string }; annotations: Record<string, string> }
const rules = (parse(read('deploy/prometheus/tidemark.rules.yml')) as { groups: { rules: Rule[] }[] }).groups.flatMap((group) => group.rules);

interface Panel { title: string; type: string; targets?: { expr: string }[] }
const dashboards = readdirSync(new URL('deploy/grafana/dashboards/', root)).map((file) => {
  const dashboard = JSON.parse(read(`deploy/grafana/dashboards/${file}`)) as { uid: string; title: string; panels: Panel[] };
  return { file, ...dashboard };
});

/** Series of Prometheus itself. */
const ofPrometheus = new Set(['up']);
const ofScraping = ['job', 'instance', 'le'];
const definitionOf = (series: string): { type: string; labels: readonly string[] } | undefined => {
  const definitions: Readonly<Record<string, { type: string; labels: readonly string[] }>> = metricTable;
  const histogram = definitions[series.replace(/_(bucket|sum|count)$/, '')];
  return definitions[series]?.type === 'histogram' ? undefined : definitions[series] ?? (histogram?.type === 'histogram' ? histogram : undefined);
};

/** What is wrong with a query; empty if nothing is. */
const faultsOf = (expression: string): string[] => {
  const { metrics, labels, errorAt } = promqlUse(expression);
  const faults = errorAt === null ? [] : [`no PromQL from ${expression.slice(errorAt, errorAt + 20)}`];
  if (metrics.length === 0) faults.push('names no metric');
  const definitions = metrics.filter((name) => !ofPrometheus.has(name)).map((name) => ({ name, definition: definitionOf(name) }));
  for (const { name, definition } of definitions) if (!definition) faults.push(`no such metric: ${name}`);
  const known = new Set([...ofScraping, ...definitions.flatMap(({ definition }) => definition?.labels ?? [])]);
  for (const label of labels) if (!known.has(label)) faults.push(`no such label: ${label}`);
  return faults;
};

test.each([
  ['a metric that does not exist', 'rate(bronze_record_ingested_total[5m])', 'no such metric: bronze_record_ingested_total'],
  ['a histogram without its suffix', 'sum(freshness_seconds)', 'no such metric: freshness_seconds'],
  ['a label that the metric does not have', 'sum by (sauce) (bronze_kafka_lag_seconds)', 'no such label: sauce'],
  ['a matcher of such a label', 'audit_findings{source="x"}', 'no such label: source'],
  ['a text that is no PromQL', 'sum(rate(bronze_kafka_lag_seconds[5m])', 'no PromQL'],
])('the check finds %s', (_, expression, fault) => {
  expect(faultsOf(expression).join('\n')).toContain(fault);
});

test.each(rules.map((rule) => [rule.alert, rule] as const))('alert %s queries metrics that exist, has a severity that is routed, and a runbook', (name, { expr, labels, annotations }) => {
  expect(faultsOf(expr)).toEqual([]);
  expect(['page', 'ticket']).toContain(labels.severity);
  expect(annotations['summary']).toBeTruthy();
  expect(annotations['description']).toBeTruthy();
  expect(new URL(annotations['runbook_url']!).pathname).toBe(`/docs/runbooks/${name}.md`);
  const runbook = read(`docs/runbooks/${name}.md`);
  expect(runbook).toContain(labels.severity === 'page' ? '(page)' : '(ticket)');
  for (const part of ['What it means', 'What to look at', 'What to do', 'When it is over']) expect(runbook).toContain(`## ${part}`);
});

test('every alert is fired by a test, and every runbook belongs to an alert', () => {
  const tests = read('deploy/prometheus/tests/alerts.test.yml');
  expect(rules.filter(({ alert }) => !tests.includes(`alertname="${alert}"`))).toEqual([]);
  expect(readdirSync(new URL('docs/runbooks/', root)).toSorted()).toEqual(rules.map(({ alert }) => `${alert}.md`).toSorted());
});

/** A script, and what it takes its options from. */
const optionsText = (file: string): string => {
  const script = read(file);
  return [script, ...[...script.matchAll(/from '\.\/(wire\/[\w-]*options\.ts)'/g)].map(([, name = '']) => read(`scripts/${name}`))].join('\n');
};

test('commands, options and other pages that runbooks name exist', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  const missing: string[] = [];
  for (const { alert } of rules) {
    const runbook = read(`docs/runbooks/${alert}.md`);
    for (const [command, name = '', options = ''] of runbook.matchAll(/npm run ([\w:-]+)(?: -- ([^`]+))?/g)) {
      const file = scripts[name]?.split(' ').at(-1);
      if (file === undefined || [...options.matchAll(/--[\w-]+/g)].some(([option]) => option !== '--help' && !optionsText(file).includes(`'${option}`))) missing.push(`${alert}: ${command}`);
    }
    for (const [page] of runbook.matchAll(/\b[A-Z]\w+\.md\b/g)) if (!existsSync(new URL(`docs/runbooks/${page}`, root))) missing.push(`${alert}: ${page}`);
    for (const [, metric = ''] of runbook.matchAll(/`([a-z]+_[a-z_]+(?:_total|_seconds|_bytes|_records|_count))`/g)) if (!(metric in metricTable)) missing.push(`${alert}: ${metric}`);
  }
  expect(missing).toEqual([]);
});

describe.each(dashboards)('dashboard $file', ({ panels, uid }) => {
  test('queries only metrics and labels that exist', () => {
    const faults = panels.flatMap(({ title, targets = [] }) => targets.flatMap(({ expr }) => faultsOf(expr).map((fault) => `${title}: ${fault}`)));
    expect(faults).toEqual([]);
    expect(panels.filter(({ targets }) => targets).length).toBeGreaterThan(3);
    expect(uid).toMatch(/^tidemark-/);
  });
});

test('the dashboards have different ids, and together they show every metric but a few of the processes', () => {
  expect(new Set(dashboards.map(({ uid }) => uid)).size).toBe(dashboards.length);
  const shown = new Set(dashboards.flatMap(({ panels }) => panels.flatMap(({ targets = [] }) => targets.flatMap(({ expr }) => promqlUse(expr).metrics)))
    .map((series) => (series in metricTable ? series : series.replace(/_(bucket|sum|count)$/, ''))));
  const ruled = new Set(rules.flatMap(({ expr }) => promqlUse(expr).metrics));
  const unseen = Object.keys(metricTable).filter((name) => !shown.has(name) && !ruled.has(name));
  expect(unseen.toSorted()).toEqual([
    'bronze_bytes_written_total', 'capture_connection_drops_total', 'capture_frames_total', 'deduplication_rate_percent', 'kafka_bytes_consumed_total', 'metric_series_refused_total',
    'nodejs_external_memory_bytes', 'nodejs_heap_used_bytes', 'process_start_time_seconds', 'records_processed_per_second',
  ]);
});

const promtool = await findOnPath('promtool', process.env);
test.skipIf(promtool === undefined)('promtool: each alert fires where it should, and nowhere else (skipped where promtool is not on the PATH)', async () => {
  const run = async (...args: string[]): Promise<string> => {
    const { stdout, stderr } = await promisify(execFile)(promtool!, args, { cwd: pathOf('deploy/prometheus/') });
    return stdout + stderr;
  };
  expect(await run('check', 'rules', 'tidemark.rules.yml')).toContain('SUCCESS');
  expect(await run('check', 'config', '--syntax-only', 'prometheus.yml')).toContain('SUCCESS');
  expect(await run('test', 'rules', 'tests/alerts.test.yml')).toContain('SUCCESS');
}, 300_000);

test('Alertmanager routes every severity to a receiver that it has, and the inhibitions name alerts that exist', () => {
  const config = parse(read('deploy/alertmanager/alertmanager.yml')) as {
    route: { receiver: string; routes: { receiver: string; matchers: string[] }[] };
    inhibit_rules: { source_matchers: string[]; target_matchers: string[] }[]; receivers: { name: string }[];
  };
  const receivers = config.receivers.map(({ name }) => name);
  expect(receivers).toEqual(expect.arrayContaining([config.route.receiver, ...config.route.routes.map(({ receiver }) => receiver)]));
  expect(config.route.routes.map(({ matchers }) => matchers.join())).toEqual(['severity="page"', 'severity="ticket"']);
  const names = config.inhibit_rules.flatMap(({ source_matchers, target_matchers }) => [...source_matchers, ...target_matchers])
    .filter((matcher) => matcher.startsWith('alertname')).flatMap((matcher) => /"(.*)"/.exec(matcher)![1]!.split('|'));
  for (const name of names) expect(rules.some(({ alert }) => new RegExp(`^(?:${name})$`).test(alert)), name).toBe(true);
});

const amtool = await findOnPath('amtool', process.env);
test.skipIf(amtool === undefined)('amtool: the routing is valid, a page wakes somebody, and all else waits (skipped where amtool is not on the PATH)', async () => {
  const file = pathOf('deploy/alertmanager/alertmanager.yml');
  const run = async (...args: string[]): Promise<string> => (await promisify(execFile)(amtool!, args)).stdout;
  expect(await run('check-config', file)).toContain('SUCCESS');
  for (const { alert, labels: { severity } } of rules) {
    expect((await run('config', 'routes', 'test', `--config.file=${file}`, `severity=${severity}`, `alertname=${alert}`, 'source=a')).trim(), alert).toBe(severity);
  }
}, 120_000);

/** What dashboards and runbooks elsewhere may count on: renaming one breaks them in silence. */
const promised = {
  bySource: [
    'bronze_records_ingested_total', 'bronze_kafka_lag_seconds', 'bronze_kafka_lag_records', 'bronze_processing_time_seconds', 'silver_records_valid_total', 'silver_records_invalid_total',
    'validation_errors_total', 'dlq_rate_percent', 'gold_records_written_total', 'duplicates_removed_total', 'deduplication_rate_percent', 'checkpoint_write_latency_seconds', 'checkpoint_size_bytes',
    'checkpoint_recovery_time_seconds', 'ingest_gap_records_total', 'retention_time_to_loss_seconds', 'freshness_seconds', 'silver_batch_processing_time_seconds', 'records_processed_per_second', 'late_records_total',
  ],
  byTable: [
    'partitions_created_total', 'partition_size_bytes', 'iceberg_commit_latency_seconds', 'iceberg_commit_conflicts_total', 'data_file_count', 'metadata_file_count', 'stored_bytes',
  ],
  ofProcess: ['buffer_bytes', 'buffer_budget_bytes', 'reprocess_progress_ratio', 'reprocess_rows_remaining', 'audit_findings', 'process_resident_memory_bytes', 'process_cpu_seconds_total'],
};
test('the metrics that the design promises are there under their names, by source and by table', () => {
  const labelsOf = (name: string): readonly string[] | undefined => definitionOf(name)?.labels ?? definitionOf(`${name}_count`)?.labels;
  expect(promised.bySource.filter((name) => !labelsOf(name)?.includes('source'))).toEqual([]);
  expect(promised.byTable.filter((name) => !labelsOf(name)?.includes('table'))).toEqual([]);
  expect(promised.ofProcess.filter((name) => labelsOf(name) === undefined)).toEqual([]);
});
