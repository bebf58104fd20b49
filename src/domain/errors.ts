/**
 * The registry of error codes. Whether an operation may be retried is a property of the code, so that no caller
 * has to guess it from a message.
 */
export const errorCodes = {
  BAD_CONFIG: { retryable: false },
  BAD_INPUT: { retryable: false },
  OBJECT_NOT_FOUND: { retryable: false },
  OBJECT_STORE_UNAVAILABLE: { retryable: true },
  PRECONDITION_FAILED: { retryable: false },
  STORE_WITHOUT_CONDITIONAL_WRITES: { retryable: false },
  TABLE_NOT_FOUND: { retryable: false },
  TABLE_CORRUPT: { retryable: false },
  SNAPSHOT_NOT_FOUND: { retryable: false },
  COMMIT_CONFLICT: { retryable: true },
  COMMIT_OUTCOME_UNKNOWN: { retryable: false },
  COVERAGE_CONFLICT: { retryable: false },
  FILE_UNREADABLE: { retryable: false },
  CHECKSUM_MISMATCH: { retryable: false },
  REGISTRY_UNAVAILABLE: { retryable: true },
  SCHEMA_NOT_FOUND: { retryable: false },
  SCHEMA_INCOMPATIBLE: { retryable: false },
  KAFKA_UNAVAILABLE: { retryable: true },
  KAFKA_REFUSED: { retryable: false },
  EXCHANGE_UNAVAILABLE: { retryable: true },
  LOG_TRUNCATED: { retryable: false },
  TOPIC_RECREATED: { retryable: false },
  RECORDS_EXPIRED: { retryable: false },
  RECORD_BATCH_UNREADABLE: { retryable: false },
  STALE_EPOCH: { retryable: false },
  REPLAY_OVERTAKEN: { retryable: false },
  REFINE_THREAD_LOST: { retryable: true },
  TEMPORAL_UNAVAILABLE: { retryable: true },
  WORKFLOW_NOT_FOUND: { retryable: false },
  BUDGET_EXCEEDED: { retryable: false },
  BUCKET_HELD: { retryable: true },
  OFFSETS_CLAIMED: { retryable: true },
  RULES_CHANGED: { retryable: false },
  CLAIM_LOST: { retryable: false },
  STACK_START_FAILED: { retryable: false },
  TOOLCHAIN_MISSING: { retryable: false },
} as const satisfies Record<string, { retryable: boolean }>;

export type ErrorCode = keyof typeof errorCodes;

/** An expected failure. The message names subject, expected and found; the code says whether a retry can help. */
export class TidemarkError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'TidemarkError';
    this.code = code;
  }

  get retryable(): boolean {
    return errorCodes[this.code].retryable;
  }
}

export const isTidemarkError = (error: unknown, code?: ErrorCode): error is TidemarkError =>
  error instanceof TidemarkError && (code === undefined || error.code === code);

/** A broken invariant is a bug, never an operating error: in a workflow it fails the Workflow Task and waits for a fix. */
export class InvariantError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'InvariantError';
  }
}

export function invariant(condition: unknown, message: string | (() => string)): asserts condition {
  if (!condition) throw new InvariantError(typeof message === 'string' ? message : message());
}
