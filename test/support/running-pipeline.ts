import { inject } from 'vitest';
import { startPipelineOn } from './pipeline-processes.ts';
import type { RunningPipeline } from './pipeline-processes.ts';

export type { RunningPipeline } from './pipeline-processes.ts';

/** A pipeline of its own on the servers that all files of the integration project share. */
export const startPipeline = (environment: Record<string, string> = {}): Promise<RunningPipeline> => startPipelineOn(inject('stack'), { environment });
