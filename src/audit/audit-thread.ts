import { parentPort, workerData } from 'node:worker_threads';
import type { AuditReport } from '../contracts/audit.ts';
import type { Pipeline } from '../datasets/pipeline.ts';
import { Coverage } from '../domain/offsets.ts';
import { createObjectStoreCatalog } from '../lake/object-store-catalog.ts';
import { createS3ObjectStore } from '../lake/s3-object-store.ts';
import type { PackedError } from '../refine/thread-messages.ts';
import { packError } from '../refine/thread-messages.ts';
import type { AuditProgress } from './audit-run.ts';
import { auditConservation } from './conservation.ts';
import { recordAudit } from './finding-rows.ts';
import { Archive } from '../retention/archive.ts';
import { fetchKafkaBounds } from './kafka-bounds.ts';
import type { AuditThreadConfig, AuditThreadInput } from './run-audit.ts';

// The body of the thread of one audit: see run-audit.ts.

export type FromAuditThread =
  | { kind: 'progress'; progress: AuditProgress }
  | { kind: 'done'; report: AuditReport }
  | { kind: 'failed'; error: PackedError };

const port = parentPort!;
const answer = (message: FromAuditThread): void => { port.postMessage(message); };
const { config: { s3, kafka, archive, pipelineUrl }, input } = workerData as { config: AuditThreadConfig; input: AuditThreadInput };

try {
  const { default: pipeline } = await import(pipelineUrl) as { default: Pipeline };
  const { endpoint, accessKeyId, secretAccessKey, ...rest } = s3;
  const store = createS3ObjectStore({ ...rest, ...(endpoint === undefined ? {} : { endpoint }), credentials: { accessKeyId, secretAccessKey } });
  const catalog = createObjectStoreCatalog({ store, namespace: pipeline.namespace });
  const archiveStore = archive.bucket === rest.bucket ? store : createS3ObjectStore({ ...rest, ...(endpoint === undefined ? {} : { endpoint }), bucket: archive.bucket, credentials: { accessKeyId, secretAccessKey } });
  const report = await auditConservation({
    archive: new Archive({ store: archiveStore, namespace: pipeline.namespace, prefix: archive.prefix }),
    catalog, store, pipeline, topicPrefix: kafka.topicPrefix, verification: input.keysOnly ? 'keys' : 'content',
    ...(input.sources ? { sources: input.sources } : {}),
    ...(input.range ? { range: Coverage.fromJson(input.range) } : {}),
    ...(input.memoryBudgetBytes === undefined ? {} : { memoryBudgetBytes: input.memoryBudgetBytes }),
    ...(input.withoutKafka ? {} : { kafka: (topic) => fetchKafkaBounds(kafka.brokers, topic) }),
    onProgress: (progress) => { answer({ kind: 'progress', progress }); },
  });
  if (!input.withoutRecord) await recordAudit({ catalog, store, report, isWhole: !input.sources && !input.range && !input.keysOnly });
  answer({ kind: 'done', report });
  store.close();
  archiveStore.close();
} catch (error) {
  answer({ kind: 'failed', error: packError(error) });
}
