import { condition, defineQuery, defineSignal, proxyActivities, setCurrentDetails, setHandler, upsertSearchAttributes } from '@temporalio/workflow';
import { defineSearchAttributeKey } from '@temporalio/common';
import type { ExtendRetentionInput, ExtensionState, RestoreOutcome, RetentionExtension, RetentionExtensionActivities } from '../src/contracts/retention-extension.ts';
import { extendSignal, extensionQuery, restoreSignal } from '../src/contracts/retention-extension.ts';
import { searchAttributes } from '../src/contracts/visibility.ts';

const { raiseRetention, restoreRetention } = proxyActivities<RetentionExtensionActivities>({
  startToCloseTimeout: '1 minute',
  heartbeatTimeout: '20 seconds',
  // As long as Kafka or S3 are away: a retention that was raised has to come down again.
  retry: { initialInterval: '500 milliseconds', backoffCoefficient: 2, maximumInterval: '1 minute' },
});

const stateKey = defineSearchAttributeKey(searchAttributes.state.name, searchAttributes.state.type);

/**
 * Raises a topic's broker retention, waits, and puts it back. The timer is Temporal's: it outlives every process. Ends
 * sooner by the Signal `restore`; `extend` changes retention and end.
 */
export async function extendRetentionWorkflow(input: ExtendRetentionInput): Promise<RestoreOutcome> {
  let wanted = input;
  let applied: ExtendRetentionInput | null = null;
  let extension: RetentionExtension | null = null;
  let phase: ExtensionState['phase'] = 'raising';
  let ends = false;

  const enter = (next: ExtensionState['phase']): void => {
    phase = next;
    const { topic, retentionMs, untilMs } = wanted;
    const before = extension === null ? '' : ` It was ${extension.beforeMs} ms${extension.previous === null ? ', the brokers\' default' : ''}.`;
    setCurrentDetails(`**${topic}** is ${next}: retention.ms ${retentionMs} until ${new Date(untilMs).toISOString()}, then back.${before} The Signal \`${restoreSignal}\` puts it back now.`);
    upsertSearchAttributes([{ key: stateKey, value: next }]);
  };
  setHandler(defineQuery<ExtensionState>(extensionQuery), () => ({ phase, wanted, extension }), { description: 'What is raised, until when, and what it was before' });
  setHandler(defineSignal<[ExtendRetentionInput]>(extendSignal), (next) => {
    wanted = next;
    ends = false;
  }, { description: 'Another retention or another end. Input: { topic, retentionMs, untilMs }' });
  setHandler(defineSignal(restoreSignal), () => {
    ends = true;
  }, { description: 'Put the retention back now' });

  for (;;) {
    if (applied !== wanted && !ends) {
      enter('raising');
      const next: ExtendRetentionInput = wanted;
      try {
        extension = await raiseRetention(next);
      } catch (error) {
        // Kafka refuses: what was recorded for it is undone, and the failure is the Workflow's.
        await restoreRetention({ topic: next.topic });
        throw error;
      }
      applied = next;
      enter('raised');
    }
    const isDue = (): boolean => ends || applied !== wanted;
    // Whether there is a timer must not hang on the clock: a replay after a lost Workflow Task may be told another time.
    if (!isDue()) await condition(isDue, Math.max(1, wanted.untilMs - Date.now()));
    if (!ends && applied !== wanted) continue;
    enter('restoring');
    const given = wanted;
    const outcome = await restoreRetention({ topic: wanted.topic });
    extension = null;
    // Asked for again while it was put back.
    if (given !== wanted) {
      applied = null;
      continue;
    }
    enter('ended');
    return outcome;
  }
}
