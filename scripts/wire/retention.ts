import { WorkflowNotFoundError } from '@temporalio/common';
import type { Client } from '@temporalio/client';
import type { RetentionDeps } from '../../activities/retention.ts';
import type { Config } from '../../src/config/config.ts';
import { auditWorkflowType } from '../../src/contracts/audit.ts';
import { extendRetentionWorkflowType } from '../../src/contracts/retention-extension.ts';
import { streamWorkflowType } from '../../src/contracts/stream.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { createS3ObjectStore } from '../../src/lake/s3-object-store.ts';
import type { S3ObjectStore } from '../../src/lake/s3-object-store.ts';
import { Archive } from '../../src/retention/archive.ts';
import { parsePolicies, retainedTables } from '../../src/retention/policies.ts';
import type { RetainedTable } from '../../src/retention/policies.ts';
import type { Lake } from './lake.ts';

/** Workflows that commit no data files of their own making: a stream's Bronze files are protected by their offsets. */
const notWriters = [streamWorkflowType, auditWorkflowType, extendRetentionWorkflowType];

/** The tables that age, by the pipeline and the environment. BAD_CONFIG with every problem. */
export const loadRetainedTables = (config: Pick<Config, 'retention'>, pipeline: Pipeline): RetainedTable[] => retainedTables(pipeline, parsePolicies(config.retention.policies));

/** The archive, in the lake's bucket or one of its own: then its store is another one, to be closed too. */
export const openArchive = ({ s3, archive }: Pick<Config, 's3' | 'archive'>, lake: Pick<Lake, 'store'>, pipeline: Pipeline): { archive: Archive; store: S3ObjectStore } => {
  const store: S3ObjectStore = archive.bucket === s3.bucket ? lake.store : createS3ObjectStore({
    bucket: archive.bucket, region: s3.region, ...(s3.endpoint === undefined ? {} : { endpoint: s3.endpoint }),
    credentials: { accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey },
  });
  const archived = new Archive({ store, namespace: pipeline.namespace, prefix: archive.prefix, ...(archive.storageClass === undefined ? {} : { storageClass: archive.storageClass }) });
  return { archive: archived, store };
};

export const isRunning = async (temporal: Client, workflowId: string): Promise<boolean> => {
  try {
    return (await temporal.workflow.getHandle(workflowId).describe()).status.name === 'RUNNING';
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return false;
    throw error;
  }
};

/** When the oldest Workflow Execution of this task queue began that may still commit files it has written. */
const oldestWriterMs = async (config: Config, temporal: Client, ownWorkflowId: string): Promise<number | null> => {
  let oldest: number | null = null;
  const query = `ExecutionStatus = 'Running' AND TaskQueue = '${config.temporal.taskQueue.replaceAll("'", '')}'`;
  for await (const { type, workflowId, startTime } of temporal.workflow.list({ query })) {
    if (notWriters.includes(type) || workflowId === ownWorkflowId) continue;
    if (oldest === null || startTime.getTime() < oldest) oldest = startTime.getTime();
  }
  return oldest;
};

/** For the Temporal Worker: the archive's bucket exists afterwards. Its store lives as long as the process. */
export const openRetention = async (config: Config, pipeline: Pipeline, lake: Lake, temporal: Client): Promise<RetentionDeps> => {
  const { archive, store } = openArchive(config, lake, pipeline);
  if (store !== lake.store) await store.ensureBucket();
  return {
    ...lake,
    pipeline,
    archive,
    tables: loadRetainedTables(config, pipeline),
    limits: { snapshotAgeMs: config.retention.snapshotAgeMs, snapshotsKept: config.retention.snapshotsKept, orphanGraceMs: config.retention.orphanGraceMs },
    oldestWriterMs: (ownWorkflowId) => oldestWriterMs(config, temporal, ownWorkflowId),
    isRunning: (workflowId) => isRunning(temporal, workflowId),
  };
};
