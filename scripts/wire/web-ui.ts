import type { Config } from '../../src/config/config.ts';

/** The list of Workflows in the Temporal Web UI; null without TEMPORAL_UI_URL. */
export const webUiWorkflowsUrl = ({ temporal: { uiUrl, namespace } }: Pick<Config, 'temporal'>): string | null =>
  (uiUrl === undefined ? null : `${uiUrl.replace(/\/$/, '')}/namespaces/${encodeURIComponent(namespace)}/workflows`);

/** The page of a Workflow there. */
export const webUiUrl = (config: Pick<Config, 'temporal'>, workflowId: string): string | null => {
  const workflows = webUiWorkflowsUrl(config);
  return workflows === null ? null : `${workflows}/${encodeURIComponent(workflowId)}`;
};
