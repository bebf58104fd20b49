import type { TestProject } from 'vitest/node';
import { startStack } from '../../src/stack/index.ts';
import type { StackEndpoints, StackEvent } from '../../src/stack/index.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** The endpoints of the one stack of real servers that all files of the integration project share. */
    stack: StackEndpoints;
  }
}

/**
 * Starts the real servers once for the integration project. They are stopped by the returned teardown; if the run is
 * killed instead, they die with it.
 */
export default async function startSharedStack(project: TestProject): Promise<() => Promise<void>> {
  const stack = await startStack({ onProgress: (event) => process.stderr.write(`${progressLine(event)}\n`) });
  project.provide('stack', stack.endpoints);
  return () => stack.stop();
}

const progressLine = ({ server, step, message }: StackEvent): string => `[stack] ${server} ${step}: ${message}`;
