import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { openArchive } from '../../scripts/wire/retention.ts';
import { auditConservation } from '../../src/audit/conservation.ts';
import type { AuditReport } from '../../src/contracts/audit.ts';
import type { CompactionResult } from '../../src/contracts/compaction.ts';
import { compactionWorkflowId, compactionWorkflowType } from '../../src/contracts/compaction.ts';
import type { RetentionSweepResult } from '../../src/contracts/retention.ts';
import { retentionSweepWorkflowId, retentionSweepWorkflowType } from '../../src/contracts/retention.ts';
import binanceTrades, { rawSchema } from '../../src/datasets/binance-trades.ts';
import { dayMs } from '../../src/domain/retention.ts';
import { retainedTables } from '../../src/retention/policies.ts';
import { restoreArchive } from '../../src/retention/restore.ts';
import type { CrashPoint } from '../support/crash-point.ts';
import { crashingLives } from '../support/crashing-lives.ts';
import { createDlqLake, rawSchemaId } from '../support/dlq-lake.ts';
import { startPipelineOn } from '../support/pipeline-processes.ts';
import type { RunningPipeline } from '../support/pipeline-processes.ts';
import { binanceRaw, wireEncoder } from '../support/raw-records.ts';

const minutes = 60_000;
const [silver, gold] = ['silver_binance_trades', 'gold_crypto_trades'] as const;
const put = (match: string, nth = 1): CrashPoint => ({ at: 'after', call: 'put', match, nth });
/** Where one life of the Temporal Worker after the other ends: in the sweep of Silver, then in the compaction of Gold. */
const points: readonly CrashPoint[] = [
  put(`/archive/[^/]+/${silver}/files/`, 2), put(`/${silver}/manifests/`), put(`/${silver}/metadata/v\\d+`), put(`/${silver}/metadata/version-hint`),
  put(`/${gold}/data/.*compacted-`), put(`/${gold}/metadata/v\\d+`), put(`/${gold}/metadata/version-hint`),
];
const lives = crashingLives('temporal-worker', points, {});
let running: RunningPipeline;

beforeAll(async () => {
  running = await startPipelineOn(inject('stack'), {
    environment: { COMPACTION_FILES_MIN: '3', COMPACTION_QUIET_MINUTES: '0' },
    ...lives.hooks,
  });
}, 2 * minutes);
afterAll(() => running?.stop(), minutes);

test('a Temporal Worker that is killed after each step of a sweep and of a compaction takes exactly the due rows, and loses and doubles none; a second run changes nothing', async () => {
  const { temporal, config, pipeline, lake: { store, catalog } } = running;
  const lake = await createDlqLake(store);
  lake.registered.set(rawSchemaId, JSON.stringify(rawSchema));
  const encode = wireEncoder(rawSchema, rawSchemaId);
  // Each Silver file holds rows of one old and one recent day; their trades are of two hours.
  const [old, recent] = [Date.now() - 60 * dayMs, Date.now() - 2 * dayMs];
  const hourMs = 3_600_000;
  const filesOf = async (table: string): Promise<number> => (await (await catalog.load(table)).scan()).length;
  const batches = 6;
  for (let batch = 0; batch < batches; batch += 1) {
    for (const [partition, ingestionMs] of [[0, old], [1, recent]] as const) {
      const values = Array.from({ length: 40 }, (_, i) => {
        const id = partition * 1_000_000 + batch * 40 + i;
        return encode(binanceRaw({ trade_id: id, trade_time_ms: old - (i % 2) * hourMs, ingestion_timestamp: old * 1_000, price: `${1 + id}` }));
      });
      await lake.ingest(binanceTrades, values, { partition, start: batch * 40, ingestionMs });
    }
    await lake.refine(binanceTrades.source);
  }
  const rows = batches * 40;
  expect(await running.rows(silver)).toBe(2 * rows);
  const [silverBefore, goldBefore, goldFiles] = [lake.comparable(await lake.rows(silver)), await lake.rows(gold), await filesOf(gold)];
  const { archive } = openArchive(config, running.lake, pipeline);
  const audit = (): Promise<AuditReport> => auditConservation({ catalog, store, pipeline, topicPrefix: '', archive });
  expect((await audit()).findings).toEqual([]);

  const sweep = (): Promise<RetentionSweepResult> => temporal.workflow.execute(retentionSweepWorkflowType, { workflowId: retentionSweepWorkflowId(silver), taskQueue: config.temporal.taskQueue, args: [{ table: silver }] }) as Promise<RetentionSweepResult>;
  const compact = (): Promise<CompactionResult> => temporal.workflow.execute(compactionWorkflowType, { workflowId: compactionWorkflowId(gold), taskQueue: config.temporal.taskQueue, args: [{ table: gold }] }) as Promise<CompactionResult>;
  lives.arm();
  process.kill(running.temporalWorker.pid!, 'SIGKILL');
  const swept = await sweep();
  expect(swept).toMatchObject({ archived: { rows }, damaged: [], held: [] });
  const compacted = await compact();
  expect(lives.deaths()).toBe(points.length);
  expect(await filesOf(gold)).toBeLessThan(goldFiles);
  expect(compacted.failed).toEqual([]);
  expect(await lake.rows(gold)).toEqual(goldBefore);
  expect((await lake.rows(silver)).every((row) => row['kafka_partition'] === 1)).toBe(true);
  expect(await running.rows(silver)).toBe(rows);
  expect((await audit()).findings).toEqual([]);

  expect(await sweep()).toMatchObject({ archived: { rows: 0 } });
  expect(await compact()).toMatchObject({ groups: 0 });
  const table = retainedTables(pipeline).find(({ name }) => name === silver)!;
  await restoreArchive({ catalog, store, archive, pipeline }, table, { untilMs: Date.now() + dayMs });
  expect(lake.comparable(await lake.rows(silver))).toEqual(silverBefore);
  expect((await audit()).findings).toEqual([]);
}, 10 * minutes);
