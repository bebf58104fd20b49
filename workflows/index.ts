export { auditWorkflow } from './audit.ts';
export { microBatchWorkflow } from './micro-batch.ts';
export { streamWorkflow } from './stream.ts';
