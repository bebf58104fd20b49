import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { exact, outcomeOf, startArmedPipeline } from '../support/armed-pipeline.ts';
import type { ArmedPipeline } from '../support/armed-pipeline.ts';
import { crashPointNamed } from '../support/fault-run.ts';

const minutes = 60_000;
/** What goes wrong, and the step at which one life of the process after the other ends. */
const steps: readonly (readonly [hazard: string, step: string])[] = [
  ['between the version of a Bronze commit and its hint: the version is finished, not repeated', 'after Bronze version'],
  ['after a Bronze commit took effect: its repetition finds the offsets covered', 'after Bronze hint'],
  ['after Silver was published, and maybe the DLQ not yet: nothing is published again', 'after Silver hint'],
  ['between the version of a Gold merge and its hint: the merge counts once', 'after Gold version'],
  ['after a Gold merge took effect: its repetition adds nothing', 'after Gold hint'],
];

describe('a Temporal Worker killed', () => {
  let pipeline: ArmedPipeline;
  beforeAll(async () => {
    pipeline = await startArmedPipeline({ victim: { name: 'temporal-worker', points: steps.map(([, step]) => crashPointNamed(step)) } });
  }, 2 * minutes);
  afterAll(() => pipeline?.stop(), minutes);

  // Lives go on ending while a test waits: the first one often waits for most of them.
  test.each(steps.map(([hazard], index) => [hazard, index + 1] as const))('%s', async (_, deaths) => {
    await pipeline.died(deaths);
    expect(await outcomeOf(pipeline)).toEqual(exact);
  }, 8 * minutes);
});
