import type { RetentionExtensionActivities } from '../src/contracts/retention-extension.ts';
import { isTidemarkError } from '../src/domain/errors.ts';
import { raiseRetention, restoreRetention } from '../src/streaming/retention-extension.ts';
import type { RetentionExtensionDeps } from '../src/streaming/retention-extension.ts';
import { asActivity } from './edge.ts';

export const createRetentionExtensionActivities = (deps: RetentionExtensionDeps): RetentionExtensionActivities => ({
  raiseRetention: (input) => asActivity(() => raiseRetention(deps, input)),
  restoreRetention: ({ topic }) => asActivity(async () => {
    try {
      return await restoreRetention(deps, topic);
    } catch (error) {
      // The topic is gone, and its retention with it.
      if (!isTidemarkError(error, 'BAD_INPUT')) throw error;
      return 'notExtended';
    }
  }),
});
