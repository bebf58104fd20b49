import { Worker } from 'node:worker_threads';
import type { AuditInput, AuditReport } from '../contracts/audit.ts';
import { TidemarkError } from '../domain/errors.ts';
import { unpackError } from '../refine/thread-messages.ts';
import type { AuditProgress } from './audit-run.ts';
import type { FromAuditThread } from './audit-thread.ts';

/** What the audit's thread opens for itself: a part of the process's config, plain JSON. Never logged: it holds the store's keys. */
export interface AuditThreadConfig {
  readonly s3: { readonly endpoint: string | undefined; readonly region: string; readonly accessKeyId: string; readonly secretAccessKey: string; readonly bucket: string };
  readonly kafka: { readonly brokers: readonly string[]; readonly topicPrefix: string };
  readonly archive: { readonly bucket: string; readonly prefix: string };
  readonly pipelineUrl: string;
}

export interface AuditThreadInput extends AuditInput {
  memoryBudgetBytes?: number;
  withoutKafka?: boolean;
  /** Leave `audit_findings` alone. */
  withoutRecord?: boolean;
}

export interface RunAuditOptions {
  signal?: AbortSignal;
  onProgress?: (progress: AuditProgress) => void;
}

/**
 * Heap of the thread. Without a limit V8 takes what the machine has before it collects: 350 MB where 220 MB do. Bits and
 * keys are typed arrays, and not part of it.
 */
const heapMiB = 160;
const youngGenerationMiB = 12;

/**
 * Runs one audit in a thread of its own: its heap is bounded, and the process's event loop stays free (for the heartbeats
 * of a Temporal Worker). Its outcome goes to `audit_findings`. An abort ends the thread at once: an audit leaves
 * nothing half-done.
 *
 * @throws TidemarkError as auditConservation; BUDGET_EXCEEDED when the thread ran out of its heap.
 */
export const runAudit = (config: AuditThreadConfig, input: AuditThreadInput, { signal, onProgress }: RunAuditOptions = {}): Promise<AuditReport> =>
  new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const { s3, kafka, archive: { bucket, prefix }, pipelineUrl } = config;
    const worker = new Worker(new URL('audit-thread.ts', import.meta.url), {
      workerData: { config: { s3: { ...s3 }, kafka: { ...kafka, brokers: [...kafka.brokers] }, archive: { bucket, prefix }, pipelineUrl } satisfies AuditThreadConfig, input },
      resourceLimits: { maxOldGenerationSizeMb: heapMiB, maxYoungGenerationSizeMb: youngGenerationMiB },
    });
    const onAbort = (): void => {
      void worker.terminate();
      reject(signal!.reason as Error);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    let cause: Error | undefined;
    worker.on('message', (message: FromAuditThread) => {
      if (message.kind === 'progress') onProgress?.(message.progress);
      else if (message.kind === 'done') resolve(message.report);
      else reject(unpackError(message.error));
    });
    worker.on('error', (error: Error) => { cause = error; });
    worker.on('exit', (exitCode) => {
      signal?.removeEventListener('abort', onAbort);
      reject(new TidemarkError('BUDGET_EXCEEDED', `audit: its thread ended with exit code ${exitCode}${cause ? `: ${cause.message}` : ''}`, { cause }));
    });
  });
