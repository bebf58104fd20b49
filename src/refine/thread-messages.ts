import type { ErrorCode } from '../domain/errors.ts';
import { InvariantError, TidemarkError, errorCodes } from '../domain/errors.ts';
import type { TaskName, TaskProgress } from './refine-tasks.ts';

// Messages between a RefinePool and its threads.
export type ToThread =
  | { kind: 'run'; task: number; name: TaskName; input: unknown }
  | { kind: 'abort'; task: number; reason: string };
export type FromThread =
  | { kind: 'progress'; task: number; progress: TaskProgress }
  | { kind: 'done'; task: number; result: unknown }
  | { kind: 'failed'; task: number; error: PackedError };

/** An error as it crosses: a structured clone would lose its class and its code. */
export interface PackedError {
  name: string;
  message: string;
  code?: ErrorCode;
  stack?: string;
  cause?: PackedError;
}

export const packError = (error: unknown): PackedError => {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error) };
  return {
    name: error.name,
    message: error.message,
    ...(error.stack === undefined ? {} : { stack: error.stack }),
    ...(error instanceof TidemarkError ? { code: error.code } : {}),
    ...(error.cause === undefined ? {} : { cause: packError(error.cause) }),
  };
};

export const unpackError = ({ name, message, code, stack, cause }: PackedError): Error => {
  const options = cause === undefined ? undefined : { cause: unpackError(cause) };
  let error: Error;
  if (code !== undefined && code in errorCodes) error = new TidemarkError(code, message, options);
  else if (name === 'InvariantError') error = new InvariantError(message);
  else error = new Error(message, options);
  error.name = name;
  if (stack !== undefined) error.stack = stack;
  return error;
};
