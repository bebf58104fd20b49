/**
 * What an operator needs to see of a failure: the code and the message of the failure that an activity gave, without the
 * wrappers that Temporal puts around it, and without what lies beneath in some library. Failures are told by their names:
 * this is shared by Workflows and activities, and the sandbox has classes of its own.
 */
export const failureCause = (error: unknown): string => {
  let current = error;
  for (let depth = 0; depth < 10 && current instanceof Error && current.name !== 'ApplicationFailure' && current.cause instanceof Error; depth += 1) {
    current = current.cause;
  }
  if (!(current instanceof Error)) return String(current);
  const type = 'type' in current && typeof current.type === 'string' && current.type !== '' ? `${current.type}: ` : '';
  return `${type}${current.message}`;
};
