import { workflowInfo } from '@temporalio/workflow';
import type { WorkflowInterceptors } from '@temporalio/workflow';
import { OpenTelemetryInboundInterceptor, OpenTelemetryInternalsInterceptor, OpenTelemetryOutboundInterceptor } from '@temporalio/interceptors-opentelemetry/lib/workflow/index.js';
import { streamWorkflowType } from '../src/contracts/stream.ts';

/**
 * Bundled only where traces are on. A stream Workflow runs for ever, and a trace is of a batch: it has no span of its own,
 * so that each micro-batch that it starts, and each of its activities, begins a trace.
 */
export const interceptors = (): WorkflowInterceptors => (workflowInfo().workflowType === streamWorkflowType ? {} : {
  inbound: [new OpenTelemetryInboundInterceptor()],
  outbound: [new OpenTelemetryOutboundInterceptor()],
  internals: [new OpenTelemetryInternalsInterceptor()],
});
