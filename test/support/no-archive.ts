import type { BackfillArchive } from '../../activities/backfill.ts';
import { Coverage } from '../../src/domain/offsets.ts';

/** Of a lake that retention has taken nothing from. */
export const noArchive: BackfillArchive = {
  offsetsOf: () => Promise.resolve(Coverage.empty), restoreBronze: () => Promise.resolve(Coverage.empty), restoreRefined: () => Promise.resolve(Coverage.empty),
};
