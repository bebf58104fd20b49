import type { Client } from '@temporalio/client';
import type { Config } from '../../src/config/config.ts';
import { pauseSignal, resumeSignal, streamWorkflowId } from '../../src/contracts/stream.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { withOwnSignal } from '../../src/domain/own-signal.ts';
import { fetchOffsetBounds } from '../../src/kafka/topics.ts';
import type { ObjectStore } from '../../src/lake/object-store.ts';
import type { Catalog } from '../../src/lake/table.ts';
import { createCollector } from '../../src/page/collect.ts';
import { addPageRoutes } from '../../src/page/routes.ts';
import type { HttpServer } from '../../src/telemetry/http-server.ts';
import type { Logger } from '../../src/telemetry/logger.ts';
import type { Metrics } from '../../src/telemetry/metrics.ts';
import { webUiUrl, webUiWorkflowsUrl } from './web-ui.ts';

export interface PageDeps {
  config: Config;
  pipeline: Pipeline;
  http: Pick<HttpServer, 'route'>;
  metrics: Pick<Metrics, 'text'>;
  catalog: Catalog;
  store: ObjectStore;
  temporal: Client;
  log: Logger;
  signal: AbortSignal;
}

/** A stream whose Workflow Task hangs must not hold up the page, nor the end of the process. */
const callDeadlineMs = 5_000;

const fetchText = async (url: string, signal: AbortSignal): Promise<string> => {
  const answer = await fetch(`${url}/metrics`, { signal });
  if (!answer.ok) throw new Error(`${url}/metrics answers ${answer.status}`);
  return answer.text();
};

/** Serves the operator's page from this process. `done` resolves when it has stopped looking, after the signal. */
export const startPage = ({ config, pipeline, http, metrics, catalog, store, temporal, log, signal }: PageDeps): { done: Promise<void> } => {
  const { token, processes } = config.page;
  const collector = createCollector({
    client: temporal, bounded: (call) => temporal.withDeadline(Date.now() + callDeadlineMs, call), catalog, store, pipeline, signal,
    namespace: config.temporal.namespace,
    topicPrefix: config.kafka.topicPrefix,
    hasControls: token !== undefined,
    offsetBounds: (topics) => fetchOffsetBounds(config.kafka.brokers, topics),
    workflowUrl: (workflowId) => webUiUrl(config, workflowId),
    webUiUrl: webUiWorkflowsUrl(config),
    processes: [
      { name: 'Temporal Worker', load: () => metrics.text() },
      ...processes.map(({ name, url }) => ({ name, load: (aborted: AbortSignal) => fetchText(url, aborted) })),
    ],
  });
  return addPageRoutes(http, {
    signal,
    collector: { ...collector, look: () => withOwnSignal(signal, (looking) => temporal.withAbortSignal(looking, () => collector.look())) },
    controls: token === undefined ? null : {
      token,
      sources: pipeline.datasets.map(({ source }) => source),
      send: async (source, action) => {
        await temporal.workflow.getHandle(streamWorkflowId(source)).signal(action === 'pause' ? pauseSignal : resumeSignal);
        log.info({ source, action }, 'a stream was told so on the operator\'s page');
      },
    },
    onFailure: (error) => log.warn({ err: error }, 'the operator\'s page could not be brought up to date'),
  });
};
