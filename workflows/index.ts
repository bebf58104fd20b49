export { auditWorkflow } from './audit.ts';
export { compactionWorkflow } from './compaction.ts';
export { dlqReplayWorkflow } from './dlq-replay.ts';
export { extendRetentionWorkflow } from './extend-retention.ts';
export { microBatchWorkflow } from './micro-batch.ts';
export { retentionSweepWorkflow } from './retention-sweep.ts';
export { streamWorkflow } from './stream.ts';
