import { ActivityFailure, ApplicationFailure, CancellationScope, condition, isCancellation, proxyActivities, setCurrentDetails, setHandler, upsertSearchAttributes } from '@temporalio/workflow';
import { defineQuery, defineSignal } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { DlqReplayActivities, DlqReplayInput, DlqReplayProgress, DlqReplayResult, ReplayPhase } from '../src/contracts/dlq-replay.ts';
import { noReplayCounts, pauseReplaySignal, replayOutcomes, replayProgressQuery, resumeReplaySignal, sumReplayCounts } from '../src/contracts/dlq-replay.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';
import { dlqReplayDetails } from './details.ts';

const { planReplay, claimReplay, stageReplayChunk, publishReplayResolutions, publishReplaySilver, mergeReplayGold, closeReplay } = proxyActivities<DlqReplayActivities>({
  startToCloseTimeout: '1 hour',
  heartbeatTimeout: '10 seconds',
  // No limit to attempts: an outage must not fail a replay that nothing is wrong with; see activities/edge.ts.
  retry: { initialInterval: '200 milliseconds', backoffCoefficient: 2, maximumInterval: '10 seconds' },
});

const sourceKey = defineSearchAttributeKey(searchAttributes.source.name, searchAttributes.source.type);
const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);
const rowsKey = defineSearchAttributeKey(searchAttributes.rows.name, searchAttributes.rows.type);
const dlqRowsKey = defineSearchAttributeKey(searchAttributes.dlqRows.name, searchAttributes.dlqRows.type);

/**
 * One DLQ replay: selected rows are refined again and staged, chunk by chunk, and then published once: resolutions, Silver, Gold.
 * It completes only if every selected row has an outcome. Cancelled before publishing it leaves the tables as they were; from
 * there on it only rolls forward.
 */
export async function dlqReplayWorkflow(input: DlqReplayInput): Promise<DlqReplayResult> {
  const { id, selection, mode } = input;
  const progress: DlqReplayProgress = {
    id, source: selection.source, mode, phase: 'planning', paused: false, plan: null, rowsTotal: 0, rowsRefined: 0, chunksTotal: 0, chunksRefined: 0, startedAtMs: Date.now(),
    counts: noReplayCounts, gold: null,
  };
  const show = (phase: ReplayPhase): void => {
    if (phase !== progress.phase) upsertSearchAttributes([{ key: stateKey, value: phase }]);
    progress.phase = phase;
    setCurrentDetails(dlqReplayDetails(progress));
  };
  const setPaused = (paused: boolean) => (): void => {
    progress.paused = paused;
    show(progress.phase);
  };
  setHandler(defineSignal(pauseReplaySignal), setPaused(true));
  setHandler(defineSignal(resumeReplaySignal), setPaused(false));
  setHandler(defineQuery<DlqReplayProgress>(replayProgressQuery), () => progress);
  upsertSearchAttributes([{ key: sourceKey, value: selection.source }, { key: stateKey, value: 'planning' }]);
  show('planning');

  const giveUp = async (error: unknown): Promise<never> => {
    await CancellationScope.nonCancellable(() => closeReplay({ ...input, isPublished: false }));
    show(isCancellation(error) ? 'cancelled' : 'failed');
    throw error;
  };
  try {
    const plan = await planReplay(input);
    Object.assign(progress, { plan, rowsTotal: plan.rows, chunksTotal: plan.chunks });
    show('waiting for the claim');
    await claimReplay(input);
    for (let chunk = 0; chunk < plan.chunks; chunk += 1) {
      show('staging');
      await condition(() => !progress.paused);
      progress.counts = sumReplayCounts(progress.counts, await stageReplayChunk({ ...input, chunk }));
      progress.rowsRefined = progress.counts.selected;
      progress.chunksRefined = chunk + 1;
    }
    const { counts } = progress;
    if (counts.selected !== plan.rows || replayOutcomes(counts) !== plan.rows) {
      throw ApplicationFailure.nonRetryable(`expected an outcome for each of ${plan.rows} selected rows, found ${replayOutcomes(counts)} of ${counts.selected}`, 'INVARIANT');
    }
    show('staging');
    await condition(() => !progress.paused);
  } catch (error) {
    await giveUp(error);
  }

  return CancellationScope.nonCancellable(async () => {
    show('publishing');
    try {
      await publishReplayResolutions(input);
    } catch (error) {
      if (error instanceof ActivityFailure && error.cause instanceof ApplicationFailure && error.cause.type === 'REPLAY_OVERTAKEN') return giveUp(error);
      show('failed');
      throw error;
    }
    try {
      await publishReplaySilver(input);
      progress.gold = await mergeReplayGold(input);
      await closeReplay({ ...input, isPublished: true });
    } catch (error) {
      show('failed');
      throw error;
    }
    const { counts, gold, plan } = progress;
    upsertSearchAttributes([{ key: rowsKey, value: counts.selected }, { key: dlqRowsKey, value: counts.refused + counts.quarantined }]);
    show('completed');
    return { ...counts, ...gold!, notRefined: plan!.notRefined, leftQuarantined: plan!.quarantined };
  });
}
