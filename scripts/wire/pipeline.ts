import type { Config } from '../../src/config/config.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { TidemarkError } from '../../src/domain/errors.ts';

/** Imports the pipeline module that the config names. BAD_CONFIG if it cannot be imported or exports no pipeline. */
export const loadPipeline = async (config: Config): Promise<Pipeline> => {
  let module: { default?: Partial<Pipeline> };
  try {
    module = await import(config.pipelineUrl) as typeof module;
  } catch (error) {
    throw new TidemarkError('BAD_CONFIG', `TIDEMARK_PIPELINE: expected a module to import, found ${config.pipelineUrl}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
  const pipeline = module.default;
  if (typeof pipeline?.namespace !== 'string' || !Array.isArray(pipeline.datasets) || pipeline.datasets.length === 0) {
    throw new TidemarkError('BAD_CONFIG', `TIDEMARK_PIPELINE: expected a default export { namespace, dlqTable, datasets }, found ${Object.keys(pipeline ?? {}).join(', ') || 'nothing'} in ${config.pipelineUrl}`);
  }
  return pipeline as Pipeline;
};
