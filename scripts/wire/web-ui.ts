import type { Config } from '../../src/config/config.ts';

/** The page of a Workflow in the Temporal Web UI; null without TEMPORAL_UI_URL. */
export const webUiUrl = ({ temporal: { uiUrl, namespace } }: Pick<Config, 'temporal'>, workflowId: string): string | null =>
  (uiUrl === undefined ? null : `${uiUrl.replace(/\/$/, '')}/namespaces/${encodeURIComponent(namespace)}/workflows/${encodeURIComponent(workflowId)}`);
