/** Places where a process may die, for the fault tests. */
export type Step =
  | 'before-claim' | 'after-claim'
  | 'before-upload' | 'after-upload'
  | 'before-report' | 'after-report'
  | 'before-offset-commit' | 'after-offset-commit';

/** Called at each step; what it throws stops the streaming worker on the spot, as a crash would. */
export type AtStep = (step: Step, subject: string) => Promise<void> | void;
