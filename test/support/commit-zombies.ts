import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createRandom } from '../../src/capture/random.ts';
import { isTidemarkError } from '../../src/domain/errors.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import { createS3ObjectStore } from '../../src/lake/s3-object-store.ts';
import type { StackEndpoints } from '../../src/stack/index.ts';
import type { CommitWriterInput } from './commit-writer.ts';
import { startHttpFaultProxy } from './fault-proxy.ts';
import type { HttpCall, HttpFault } from './fault-proxy.ts';

export interface CommitZombiesResult {
  seed: number;
  ok: boolean;
  problems: string[];
  /** SIGSTOPs inside a table commit, by the request that they struck. */
  sleeps: Record<string, number>;
  /** How many versions went by in the longest sleep. */
  versionsSleptMax: number;
  commits: number;
  /** Commits that their writer knows to have succeeded and the table does not have; and files that it has twice, or should not have. */
  lost: number;
  twice: number;
  seconds: number;
}

export interface CommitZombiesOptions {
  s3: StackEndpoints['s3'];
  seed: number;
  sleeps: number;
  keepVersions?: number;
  onProgress?: (line: string) => void;
  signal?: AbortSignal;
}

const writers = [0, 1] as const;
/** Versions that pass while one sleeps: up to three times as many as are kept. */
const versionsMax = 15;
const sleepMsMax = 20_000;

/**
 * Two processes commit to one table; one after the other is put to sleep (SIGSTOP) in the middle of a commit, with its
 * request on the way or already at the store, until the other has made versions enough for the old ones to be deleted.
 */
export const runCommitZombies = async ({ s3, seed, sleeps: wanted, keepVersions = 5, onProgress = () => {}, signal }: CommitZombiesOptions): Promise<CommitZombiesResult> => {
  const startedMs = Date.now();
  const random = createRandom(seed);
  const credentials = { accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey };
  const direct = { bucket: `zombies-${randomUUID()}`, region: s3.region, endpoint: s3.endpoint, credentials };
  const store = createS3ObjectStore(direct);
  await store.ensureBucket();
  const sleeps: Record<string, number> = {};
  const slept = (): number => Object.values(sleeps).reduce((sum, count) => sum + count, 0);
  const problems: string[] = [];
  let versionsSleptMax = 0;
  let asleep: Promise<void> | null = null;
  let over = false;
  const isOver = (): boolean => over || signal?.aborted === true;

  const hintVersion = async (): Promise<number> => {
    try {
      return Number(Buffer.from((await store.get('warehouse/market_data/trades/metadata/version-hint.text')).body).toString());
    } catch (error) {
      if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return 0;
      throw error;
    }
  };
  const sleepThrough = async (pid: number, versions: number): Promise<void> => {
    process.kill(pid, 'SIGSTOP');
    try {
      const from = await hintVersion();
      const deadline = Date.now() + sleepMsMax;
      let passed = 0;
      for (; passed < versions && Date.now() < deadline; passed = await hintVersion() - from) await sleep(10, undefined, signal ? { signal } : {});
      versionsSleptMax = Math.max(versionsSleptMax, passed);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
  };
  const strike = (pid: () => number | undefined) => ({ method, path }: HttpCall): HttpFault | undefined => {
    const target = /\/metadata\/(?:(v)\d+\.metadata\.json|(version-hint)\.text)/.exec(path);
    const id = pid();
    if (over || asleep !== null || id === undefined || !target || (method !== 'PUT' && method !== 'GET')) return undefined;
    // A few commits undisturbed in between, so that there are versions to delete.
    if (random.unit() > (method === 'PUT' ? 0.12 : 0.02)) return undefined;
    const held = method === 'GET' || random.below(2) === 0;
    const name = `${method} ${target[1] ? 'version' : 'hint'}, ${held ? 'request on its way' : 'answer on its way'}`;
    sleeps[name] = (sleeps[name] ?? 0) + 1;
    if (slept() % 20 === 0) onProgress(`${slept()} sleeps`);
    const sleeping = sleepThrough(id, 1 + random.below(versionsMax)).catch((error: unknown) => {
      problems.push(`sleep: ${error instanceof Error ? error.message : String(error)}`);
    }).finally(() => {
      asleep = null;
      over ||= slept() >= wanted;
    });
    asleep = sleeping;
    return held ? { until: sleeping } : undefined;
  };

  const started = await Promise.all(writers.map(async (writer) => {
    const proxy = await startHttpFaultProxy(s3.endpoint);
    const input: CommitWriterInput = { s3: { ...direct, endpoint: proxy.url }, writer, keepVersions };
    const child = spawn(process.execPath, [fileURLToPath(new URL('./commit-writer.ts', import.meta.url))], {
      stdio: ['pipe', 'pipe', 'pipe'], env: { PATH: process.env['PATH'] ?? '', COMMIT_WRITER: JSON.stringify(input) },
    });
    const output = Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
    proxy.onRequest = strike(() => child.pid);
    return { child, output, proxy };
  }));
  try {
    while (!isOver() && started.every(({ child }) => child.exitCode === null)) await sleep(50);
    over = true;
    await asleep;
    for (const { child } of started) child.stdin.end();
    const acknowledged = await Promise.all(started.map(async ({ output }, writer) => {
      const [stdout, stderr, [code]] = await output;
      if (code !== 0) problems.push(`writer ${writer} ended with ${code}: ${stderr.trim().split('\n').slice(-5).join(' | ')}`);
      return code === 0 ? (JSON.parse(stdout) as { commits: number }).commits : 0;
    }));
    const table = await createObjectStoreCatalog({ store, namespace: 'market_data' }).load('trades');
    const files = (await table.scan()).map(({ filePath }) => /file-(\d+-\d+)\.parquet$/.exec(filePath)?.[1] ?? filePath);
    const expected = new Set(acknowledged.flatMap((commits, writer) => Array.from({ length: commits }, (_, n) => `${writer}-${n}`)));
    const found = new Set(files);
    const lost = [...expected].filter((file) => !found.has(file)).length;
    const twice = files.length - found.size + [...found].filter((file) => !expected.has(file)).length;
    if (lost > 0 || twice > 0) problems.push(`files: ${lost} lost, ${twice} twice or unknown`);
    acknowledged.forEach((commits, writer) => {
      const covered = table.coverage.of(`raw.trades/${writer}`).intervals.map(({ start, end }) => `${start}-${end}`).join(',');
      if (covered !== `0-${commits * 10}`) problems.push(`writer ${writer}: expected offsets 0-${commits * 10} covered, found ${covered}`);
    });
    return {
      seed, ok: problems.length === 0, problems, sleeps, versionsSleptMax, commits: acknowledged.reduce((sum, commits) => sum + commits, 0), lost, twice,
      seconds: (Date.now() - startedMs) / 1_000,
    };
  } finally {
    for (const { child } of started) child.kill('SIGKILL');
    await Promise.all(started.map(({ proxy }) => proxy.close()));
    store.close();
  }
};
