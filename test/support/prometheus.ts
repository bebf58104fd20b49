import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { stringify } from 'yaml';
import { findFreePorts } from '../../src/stack/ports.ts';

export interface PrometheusSample { metric: Record<string, string>; value: [number, string] }
export interface PrometheusRule { name: string; health: string; state: string; lastError?: string }

export interface RunningPrometheus {
  /** An instant query. Rejects with Prometheus' own words when it refuses the expression. */
  query(expression: string): Promise<PrometheusSample[]>;
  /** The alerts as it has evaluated them. */
  rules(): Promise<PrometheusRule[]>;
  stop(): Promise<void>;
}

/** A real Prometheus that scrapes each second, with the shipped rules. `targets`: host:port by job. */
export const startPrometheus = async (binary: string, targets: Readonly<Record<string, string>>): Promise<RunningPrometheus> => {
  const folder = await mkdtemp(join(tmpdir(), 'tidemark-prometheus-'));
  const [port] = await findFreePorts(1);
  const url = `http://127.0.0.1:${port}`;
  const config = join(folder, 'prometheus.yml');
  await writeFile(config, stringify({
    global: { scrape_interval: '1s', evaluation_interval: '1s' },
    rule_files: [fileURLToPath(new URL('../../deploy/prometheus/tidemark.rules.yml', import.meta.url))],
    scrape_configs: Object.entries(targets).map(([job, target]) => ({ job_name: job, static_configs: [{ targets: [target] }] })),
  }));
  const child = spawn(binary, [`--config.file=${config}`, `--storage.tsdb.path=${join(folder, 'data')}`, `--web.listen-address=127.0.0.1:${port}`, '--log.level=error'], { stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(child, 'close');
  let errors = '';
  child.stderr.on('data', (chunk: Buffer) => { errors = (errors + chunk.toString()).slice(-2_000); });
  const ask = async <T>(path: string): Promise<T> => {
    const { status, data, error } = await (await fetch(`${url}/api/v1/${path}`)).json() as { status: string; data: T; error?: string };
    if (status !== 'success') throw new Error(error);
    return data;
  };
  while (!(await fetch(`${url}/-/ready`).then(({ ok }) => ok, () => false))) {
    if (child.exitCode !== null) throw new Error(`prometheus ended with ${child.exitCode}: ${errors}`);
    await sleep(100);
  }
  return {
    query: async (expression) => (await ask<{ result: PrometheusSample[] }>(`query?${new URLSearchParams({ query: expression }).toString()}`)).result,
    rules: async () => (await ask<{ groups: { rules: PrometheusRule[] }[] }>('rules')).groups.flatMap(({ rules }) => rules),
    stop: async () => {
      child.kill('SIGKILL');
      await ended;
      await rm(folder, { recursive: true, force: true });
    },
  };
};
