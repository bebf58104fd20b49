/**
 * Works on the items in their order, at most `atOnce` of them side by side. After a failure no further item is begun; it is thrown
 * once nothing is under way any more, so that nobody works on after the caller has given up.
 */
export const eachAtOnce = async <Item>(items: readonly Item[], atOnce: number, work: (item: Item, index: number) => Promise<void>): Promise<void> => {
  let next = 0;
  let failed = false;
  const results = await Promise.allSettled(Array.from({ length: Math.min(atOnce, items.length) }, async () => {
    while (next < items.length && !failed) {
      const index = next;
      next += 1;
      try {
        await work(items[index]!, index);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  }));
  const failure = results.find((result) => result.status === 'rejected');
  if (failure) throw failure.reason as Error;
};
