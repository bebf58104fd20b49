import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { exact, outcomeOf, startArmedPipeline } from '../support/armed-pipeline.ts';
import type { ArmedPipeline } from '../support/armed-pipeline.ts';
import { crashPointNamed } from '../support/fault-run.ts';

const minutes = 60_000;
/** What goes wrong, and the step at which one life of the process after the other ends. */
const steps: readonly (readonly [hazard: string, step: string])[] = [
  ['after its claim, before it knows of it: the next claim has a higher epoch', 'after claim'],
  ['before a Bronze file is stored: its records are read again', 'before file write'],
  ['after a Bronze file was stored and before it is reported: the next owner finds it, and writes it not again', 'after file write'],
  ['after its report was accepted and before it knows: the next owner goes on behind it', 'after signal'],
  ['before it commits offsets to Kafka: the ledger alone says where to go on', 'before offset commit'],
];

describe('a streaming worker killed', () => {
  let pipeline: ArmedPipeline;
  beforeAll(async () => {
    pipeline = await startArmedPipeline({ victim: { name: 'streaming-worker', points: steps.map(([, step]) => crashPointNamed(step)) } });
  }, 2 * minutes);
  afterAll(() => pipeline?.stop(), minutes);

  // Lives go on ending while a test waits: the first one often waits for most of them.
  test.each(steps.map(([hazard], index) => [hazard, index + 1] as const))('%s', async (_, deaths) => {
    await pipeline.died(deaths);
    expect(await outcomeOf(pipeline)).toEqual(exact);
  }, 8 * minutes);
});
