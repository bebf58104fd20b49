import type { ClaimReply, ClaimRequest, CheckpointReport, LedgerQuery, LedgerView } from '../contracts/stream.ts';

/**
 * What a streaming worker asks of the stream workflow. Errors: TEMPORAL_UNAVAILABLE (retryable; of a report the outcome
 * is then unknown), WORKFLOW_NOT_FOUND from report and ledger when nothing of that name runs: claim again.
 */
export interface CheckpointClient {
  claim(source: string, request: ClaimRequest): Promise<ClaimReply>;
  /** No answer: read the {@link ledger} back. */
  report(source: string, report: CheckpointReport): Promise<void>;
  ledger(source: string, query: LedgerQuery): Promise<LedgerView>;
}
