import { crashEnvironment } from './crash-point.ts';
import type { CrashPoint } from './crash-point.ts';
import type { PipelineOptions } from './pipeline-processes.ts';

/** The lives of one process of a pipeline, each of which ends at a point of its own, one after the other; the one after them lives on. */
export interface CrashingLives {
  /** For startPipelineOn. */
  readonly hooks: Required<Pick<PipelineOptions, 'beforeLife' | 'onRestart'>>;
  /** Lives that ended where they should. */
  deaths(): number;
  /** From the next life on. */
  arm(): void;
}

/** @param unarmed environment of the lives before {@link CrashingLives.arm} was called; absent: the first life is armed already. */
export const crashingLives = (process: string, points: readonly CrashPoint[], unarmed?: Record<string, string>): CrashingLives => {
  const left = [...points];
  let isArmed = unarmed === undefined;
  let point: CrashPoint | undefined;
  let deaths = 0;
  return {
    hooks: {
      beforeLife: (name) => {
        if (name !== process) return {};
        if (!isArmed) return unarmed ?? {};
        point = left.shift();
        return point ? crashEnvironment(point) : {};
      },
      onRestart: (name, how) => {
        if (name === process && how === 'SIGKILL' && point) deaths += 1;
      },
    },
    deaths: () => deaths,
    arm: () => { isArmed = true; },
  };
};
