// A topic's broker retention, raised for a while. Crosses Temporal as JSON.

export const extendRetentionWorkflowType = 'extendRetentionWorkflow';
/** One topic is extended once at a time; who asks again changes the running extension. */
export const extendRetentionWorkflowId = (topic: string): string => `extend-retention/${topic}`;

export interface ExtendRetentionInput {
  topic: string;
  /** `retention.ms` until then. */
  retentionMs: number;
  untilMs: number;
}

/** The record of an extension, kept in the lake for as long as it lasts. */
export interface RetentionExtension extends ExtendRetentionInput {
  /** The topic's own `retention.ms` before; null: it had none, the brokers' default held. */
  previous: string | null;
  /** What held before, wherever it was set; -1: for ever. */
  beforeMs: number;
  startedAtMs: number;
}

export type RestoreOutcome =
  | 'restored'
  /** Somebody set another value meanwhile: it was left as it is. */
  | 'changedMeanwhile'
  /** Nothing was extended. */
  | 'notExtended';

/** Signal: another retention, or another end. */
export const extendSignal = 'extend';
/** Signal: put it back now. */
export const restoreSignal = 'restore';
/** Query. */
export const extensionQuery = 'extension';
export interface ExtensionState {
  phase: 'raising' | 'raised' | 'restoring' | 'ended';
  wanted: ExtendRetentionInput;
  /** Null until it is raised. */
  extension: RetentionExtension | null;
}

export interface RetentionExtensionActivities {
  raiseRetention(input: ExtendRetentionInput): Promise<RetentionExtension>;
  restoreRetention(input: { topic: string }): Promise<RestoreOutcome>;
}
