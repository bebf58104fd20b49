/** The innermost message of a failure chain: what an operator needs to see, without the wrappers of Workflow and Activity. */
export const rootCause = (error: unknown): string => {
  let current = error;
  for (let depth = 0; depth < 10 && current instanceof Error && current.cause instanceof Error; depth += 1) current = current.cause;
  if (!(current instanceof Error)) return String(current);
  const type = 'type' in current && typeof current.type === 'string' && current.type !== '' ? `${current.type}: ` : '';
  return `${type}${current.message}`;
};
