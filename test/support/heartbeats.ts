import { heartbeat } from '@temporalio/activity';

/** Runs inside of an activity that beats meanwhile: one that a test holds longer than its heartbeat timeout must not be started a second time. */
export const whileAlive = async (work: () => Promise<void> | void | undefined): Promise<void> => {
  const beating = setInterval(() => heartbeat(), 1_000);
  try {
    await work();
  } finally {
    clearInterval(beating);
  }
};
