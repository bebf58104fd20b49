// Prints a workflow bundle: the body of the process that `loadWorkflowBundle` starts. The bundler is a compiler, and what it
// takes (90 MB) stays in the process that it ran in.
import { parseArgs } from 'node:util';
import { bundleWorkflowCode } from '@temporalio/worker';
import { tracingModule, workflowsPath } from './workflow-bundle.ts';

const { values: { traced } } = parseArgs({ options: { traced: { type: 'boolean', default: false } } });
const ignore = (): void => {};
const logger = { log: ignore, trace: ignore, debug: ignore, info: ignore, warn: ignore, error: (message: string): void => void process.stderr.write(`${message}\n`) };
const { code } = await bundleWorkflowCode({ workflowsPath, logger, ...(traced ? { workflowInterceptorModules: [tracingModule] } : {}) });
process.stdout.write(code);
