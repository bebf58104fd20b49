import { inject } from 'vitest';
import { startPipelineOn } from './pipeline-processes.ts';
import type { RunningPipeline } from './pipeline-processes.ts';

export type { RunningPipeline } from './pipeline-processes.ts';

/** A pipeline of its own on the servers that all files of the integration project share. `ofProcess`: more environment of one process, by its name. */
export const startPipeline = (environment: Record<string, string> = {}, ofProcess: Record<string, Record<string, string>> = {}): Promise<RunningPipeline> =>
  startPipelineOn(inject('stack'), { environment, beforeLife: (name) => ofProcess[name] ?? {} });
