import type { MemoryObjectStore } from '../support/memory-object-store.ts';

export class ProcessDied extends Error {}

export interface DyingStore {
  store: MemoryObjectStore;
  /** Puts, copies and deletes so far. */
  mutations(): number;
}

/**
 * The same objects as a process sees them that dies right after its nth write took effect, without its answer: from then on
 * every call fails. Without `nth` it only counts.
 */
export const dyingStore = (inner: MemoryObjectStore, nth = Infinity): DyingStore => {
  let mutations = 0;
  let dead = false;
  const alive = (): void => {
    if (dead) throw new ProcessDied(`died after write ${nth}`);
  };
  const mutate = async <T>(work: () => Promise<T>): Promise<T> => {
    alive();
    mutations += 1;
    const isLast = mutations === nth;
    const result = await work();
    dead ||= isLast;
    alive();
    return result;
  };
  const store: MemoryObjectStore = {
    ...inner,
    put: (...args) => mutate(() => inner.put(...args)),
    copyFrom: (...args) => mutate(() => inner.copyFrom(...args)),
    delete: (...args) => mutate(() => inner.delete(...args)),
    get: async (...args) => {
      alive();
      return inner.get(...args);
    },
    getRange: async (...args) => {
      alive();
      return inner.getRange(...args);
    },
    head: async (...args) => {
      alive();
      return inner.head(...args);
    },
    async *list(...args) {
      alive();
      yield* inner.list(...args);
    },
  };
  return { store, mutations: () => mutations };
};
