/**
 * Search attributes of the Workflows: few, because the dev server has three columns for integers. Names and types here,
 * registered at start by the Temporal Worker.
 */
export const searchAttributes = {
  source: { name: 'TidemarkSource', type: 'KEYWORD' },
  state: { name: 'TidemarkState', type: 'KEYWORD' },
  rows: { name: 'TidemarkRows', type: 'INT' },
  dlqRows: { name: 'TidemarkDlqRows', type: 'INT' },
} as const;
