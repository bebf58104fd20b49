import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { TidemarkError } from '../../../src/domain/errors.ts';
import { createObjectStoreCatalog, type ObjectStoreCatalogOptions } from '../../../src/lake/object-store-catalog.ts';
import type { CommitRequest, TableVersion } from '../../../src/lake/table.ts';
import { createMemoryObjectStore, type MemoryObjectStore, type PutFault } from '../../support/memory-object-store.ts';
import { offsets, trades, tradesFile } from './fixtures.ts';
import { seed } from '../../support/seed.ts';

const metadataPrefix = 'warehouse/market_data/trades/metadata/';
const hintKey = `${metadataPrefix}version-hint.text`;
const versionKey = (version: number) => `${metadataPrefix}v${version}.metadata.json`;
const isVersion = (key: string) => /\/v\d+\.metadata\.json$/.test(key);

const setup = async () => {
  const store = createMemoryObjectStore();
  /** Another process: nothing is shared but the store. */
  const processOf = (options: Partial<ObjectStoreCatalogOptions> = {}) => createObjectStoreCatalog({ store, namespace: 'market_data', ...options });
  const catalog = processOf();
  await catalog.ensureTable(trades);
  return { store, catalog, processOf };
};
const append = (n: number): CommitRequest => ({
  commitId: `append-${n}`, add: [tradesFile(`file-${n}`, { exchange: 'BINANCE', hour: n })], coverageAbsent: offsets(n * 10, n * 10 + 10), cover: offsets(n * 10, n * 10 + 10),
});
/** An append that nothing but its commit id guards. */
const unguarded = (n: number): CommitRequest => ({ commitId: `append-${n}`, add: append(n).add });
const filesOf = async (table: TableVersion): Promise<string[]> => (await table.scan()).map(({ filePath }) => /([^/]+)\.parquet$/.exec(filePath)![1]!);
const hintOf = (store: MemoryObjectStore): number => Number(Buffer.from(store.objects.get(hintKey)!.body).toString());
const once = (matches: (key: string) => boolean, fault: PutFault) => {
  let struck = false;
  return (key: string): PutFault | undefined => {
    if (struck || !matches(key)) return undefined;
    struck = true;
    return fault;
  };
};
/** A put that sleeps until it is woken. */
const sleeper = () => {
  const asleep = Promise.withResolvers<void>();
  const woken = Promise.withResolvers<void>();
  return { asleep: asleep.promise, wake: woken.resolve, fault: () => { asleep.resolve(); return woken.promise; } };
};

describe('a lost answer', () => {
  test('of the version file does not commit twice', async () => {
    const { store, catalog } = await setup();
    store.onPut = once(isVersion, 'loseAnswer');
    expect(await catalog.commit('trades', unguarded(1))).toMatchObject({ status: 'committed', attempts: 1 });
    expect(await filesOf(await catalog.load('trades'))).toEqual(['file-1']);
    expect(hintOf(store)).toBe(2);
  });

  test('of the hint does not commit twice', async () => {
    const { store, catalog } = await setup();
    store.onPut = once((key) => key === hintKey, 'loseAnswer');
    expect(await catalog.commit('trades', unguarded(1))).toMatchObject({ status: 'committed', attempts: 1 });
    expect(await filesOf(await catalog.load('trades'))).toEqual(['file-1']);
  });

  test('of a version file that never arrived is made good by another attempt', async () => {
    const { store, catalog } = await setup();
    store.onPut = once(isVersion, 'failBefore');
    expect(await catalog.commit('trades', unguarded(1))).toMatchObject({ status: 'committed', attempts: 2 });
    expect(await filesOf(await catalog.load('trades'))).toEqual(['file-1']);
  });

  test('of a version file that arrives late, behind its own retry, commits once', async () => {
    const { store, catalog } = await setup();
    let late: (() => Promise<unknown>) | undefined;
    const put = store.put.bind(store);
    store.put = (key, body, options) => {
      if (isVersion(key) && !late) {
        // The request sits in some queue of the network while its sender has given up.
        late = () => put(key, body, options);
        return Promise.reject(new TidemarkError('OBJECT_STORE_UNAVAILABLE', 'timeout'));
      }
      return put(key, body, options);
    };
    const committed = await catalog.commit('trades', unguarded(1));
    expect(committed.attempts).toBe(2);
    await expect(late!()).rejects.toMatchObject({ code: 'PRECONDITION_FAILED' });
    expect(await filesOf(await catalog.load('trades'))).toEqual(['file-1']);
  });

  test('of a version file that arrives late, before its own retry, is recognised as the same commit', async () => {
    const { store, catalog } = await setup();
    let late: Promise<unknown> | undefined;
    const put = store.put.bind(store);
    store.put = async (key, body, options) => {
      if (isVersion(key) && !late) {
        late = sleep(0).then(async () => {
          while (store.requests.get < 4) await sleep(0);
          return put(key, body, options);
        });
        throw new TidemarkError('OBJECT_STORE_UNAVAILABLE', 'timeout');
      }
      if (isVersion(key)) await late;
      return put(key, body, options);
    };
    const committed = await catalog.commit('trades', unguarded(1));
    expect(committed.status).toBe('committed');
    expect(await filesOf(await catalog.load('trades'))).toEqual(['file-1']);
    expect(hintOf(store)).toBe(2);
  });

  test('of the manifest list fails before anything is visible, and the same commit succeeds later', async () => {
    const { store, catalog } = await setup();
    store.onPut = once((key) => key.includes('snap-'), 'failBefore');
    await expect(catalog.commit('trades', append(1))).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE' });
    expect((await catalog.load('trades')).version).toBe(1);
    expect(await catalog.commit('trades', append(1))).toMatchObject({ status: 'committed' });
  });

  test.each(Array.from({ length: 5 }, (_, put) => [put]))('of any put (%i), with every process dying at it, leaves nothing lost and nothing twice', async (put) => {
    for (const fault of ['failBefore', 'loseAnswer'] as const) {
      const { store, processOf } = await setup();
      let puts = 0;
      // From the given put on, the process is gone: none of its requests gets through.
      store.onPut = () => {
        puts += 1;
        if (puts < put) return undefined;
        return puts === put ? fault : 'failBefore';
      };
      await processOf({ commitAttemptsMax: 2 }).commit('trades', append(1)).catch(() => {});
      store.onPut = undefined;
      await processOf().commit('trades', append(1));
      await processOf().commit('trades', append(2));
      const table = await processOf().load('trades');
      expect(await filesOf(table)).toEqual(['file-1', 'file-2']);
      expect(table.coverage.toJson()).toEqual({ 'raw.trades/0': '10-30' });
    }
  });
});

describe('a hint that is behind', () => {
  const diesBeforeHint = async () => {
    const { store, processOf, catalog } = await setup();
    store.onPut = (key) => (key === hintKey ? 'failBefore' : undefined);
    await expect(processOf().commit('trades', append(1))).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE' });
    store.onPut = undefined;
    expect(hintOf(store)).toBe(1);
    return { store, processOf, catalog };
  };

  test('is moved on by the next reader, who sees the version', async () => {
    const { store, catalog } = await diesBeforeHint();
    expect(await filesOf(await catalog.load('trades'))).toEqual(['file-1']);
    expect(hintOf(store)).toBe(2);
  });

  test('is moved on by the next writer, who builds on the version', async () => {
    const { store, processOf } = await diesBeforeHint();
    const { version } = await processOf().commit('trades', append(2));
    expect(await filesOf(version)).toEqual(['file-1', 'file-2']);
    expect(hintOf(store)).toBe(3);
  });

  test('lets the same commit find itself', async () => {
    const { processOf } = await diesBeforeHint();
    expect(await processOf().commit('trades', append(1))).toMatchObject({ status: 'alreadyCommitted' });
  });

  test('moved on by somebody else while its writer slept is a success for the writer', async () => {
    const { store, catalog, processOf } = await setup();
    const { asleep, wake, fault } = sleeper();
    store.onPut = once((key) => key === hintKey, fault);
    const committing = catalog.commit('trades', unguarded(1));
    await asleep;
    for (const n of [2, 3, 4]) await processOf().commit('trades', append(n));
    wake();
    expect(await committing).toMatchObject({ status: 'committed', attempts: 1 });
    expect(await filesOf(await catalog.load('trades'))).toEqual(['file-1', 'file-2', 'file-3', 'file-4']);
    expect(hintOf(store)).toBe(5);
  });

  test('of a table whose creator died between its two puts is created by the next', async () => {
    const store = createMemoryObjectStore();
    const processOf = () => createObjectStoreCatalog({ store, namespace: 'market_data' });
    store.onPut = (key) => (key === hintKey ? 'failBefore' : undefined);
    await expect(processOf().ensureTable(trades)).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE' });
    store.onPut = undefined;
    expect((await processOf().load('trades')).version).toBe(1);
    expect(hintOf(store)).toBe(1);
  });
});

describe('a zombie', () => {
  /** Sleeps before its version file, while others commit and delete all old versions. */
  const zombie = async (request: CommitRequest, others: readonly CommitRequest[]) => {
    const { store, catalog, processOf } = await setup();
    const { asleep, wake, fault } = sleeper();
    store.onPut = once(isVersion, fault);
    const committing = catalog.commit('trades', request);
    await asleep;
    const other = processOf({ keepVersions: 1, metadataGraceMs: 0 });
    for (const commit of others) await other.commit('trades', commit);
    await other.expireMetadata('trades');
    expect(store.objects.has(versionKey(2))).toBe(false);
    wake();
    return { store, committing, processOf };
  };

  test('that creates an old version number with success does not take it for a commit', async () => {
    const { store, committing, processOf } = await zombie(append(1), [append(2), append(3), append(4)]);
    expect(await committing).toMatchObject({ status: 'committed', attempts: 2 });
    expect(store.objects.has(versionKey(2))).toBe(true);
    const table = await processOf().load('trades');
    expect(await filesOf(table)).toEqual(['file-2', 'file-3', 'file-4', 'file-1']);
    expect(table.coverage.toJson()).toEqual({ 'raw.trades/0': '10-50' });
  });

  test('whose work was done by its successor meanwhile finds it covered', async () => {
    const { committing, processOf } = await zombie(append(1), [{ ...append(1), commitId: 'successor' }, append(3), append(4)]);
    expect(await committing).toMatchObject({ status: 'alreadyCommitted' });
    expect(await filesOf(await processOf().load('trades'))).toEqual(['file-1', 'file-3', 'file-4']);
  });

  test('that has nothing but its commit id, and outslept every version that could tell, says that it does not know', async () => {
    const { committing, processOf } = await zombie(unguarded(1), [append(2), append(3), append(4)]);
    await expect(committing).rejects.toMatchObject({ code: 'COMMIT_OUTCOME_UNKNOWN' });
    expect(await filesOf(await processOf().load('trades'))).toEqual(['file-2', 'file-3', 'file-4']);
  });

  test('that slept between version file and hint, until its version was deleted, finds its commit by its id', async () => {
    const { store, catalog, processOf } = await setup();
    const { asleep, wake, fault } = sleeper();
    store.onPut = once((key) => key === hintKey, fault);
    const committing = catalog.commit('trades', unguarded(1));
    await asleep;
    const other = processOf({ keepVersions: 1, metadataGraceMs: 0 });
    for (const n of [2, 3, 4]) await other.commit('trades', append(n));
    await other.expireMetadata('trades');
    wake();
    expect(await committing).toMatchObject({ status: 'committed' });
    expect(await filesOf(await processOf().load('trades'))).toEqual(['file-1', 'file-2', 'file-3', 'file-4']);
  });

  test('that reads an old hint, and finds a version in the void ahead of it, does not take it for current', async () => {
    const { store, catalog, processOf } = await setup();
    await catalog.commit('trades', append(1));
    const voidVersion = store.objects.get(versionKey(2))!.body;
    const reader = processOf();
    // The reader sleeps after it has read the hint at 2 and version 2.
    const { asleep, wake, fault } = sleeper();
    store.onGet = async (key) => {
      if (key !== versionKey(3)) return;
      store.onGet = undefined;
      await fault();
    };
    const reading = reader.load('trades');
    await asleep;
    const other = processOf({ keepVersions: 1, metadataGraceMs: 0 });
    for (const n of [2, 3, 4]) await other.commit('trades', append(n));
    await other.expireMetadata('trades');
    await store.put(versionKey(3), voidVersion, { condition: 'absent' });
    wake();
    expect(await filesOf(await reading)).toEqual(['file-1', 'file-2', 'file-3', 'file-4']);
    expect(hintOf(store)).toBe(5);
  });

  test('that sleeps between hint and version file, and finds its number put into the void meanwhile, reads again', async () => {
    let now = 0;
    const { store, catalog, processOf } = await setup();
    await catalog.commit('trades', append(1));
    const emptyTable = store.objects.get(versionKey(1))!.body;
    const { asleep, wake, fault } = sleeper();
    store.onGet = async (key) => {
      if (key !== versionKey(2)) return;
      store.onGet = undefined;
      await fault();
    };
    const reading = processOf({ now: () => now }).load('trades');
    await asleep;
    const other = processOf({ keepVersions: 1, metadataGraceMs: 0 });
    for (const n of [2, 3, 4]) await other.commit('trades', append(n));
    await other.expireMetadata('trades');
    await store.put(versionKey(2), emptyTable, { condition: 'absent' });
    now = 86_400_000;
    wake();
    expect(await filesOf(await reading)).toEqual(['file-1', 'file-2', 'file-3', 'file-4']);
  });

  test('whose hint put arrives late does not move the hint back', async () => {
    const { store, catalog, processOf } = await setup();
    await catalog.commit('trades', append(1));
    const stale = store.objects.get(hintKey)!.etag;
    await processOf().commit('trades', append(2));
    await expect(store.put(hintKey, '2', { condition: { etag: stale } })).rejects.toMatchObject({ code: 'PRECONDITION_FAILED' });
    expect(hintOf(store)).toBe(3);
  });
});

describe('racing writers', () => {
  test('eight of them, fifty commits each, all land exactly once', async () => {
    const { store, processOf } = await setup();
    await Promise.all(Array.from({ length: 8 }, async (_, writer) => {
      const catalog = processOf({ commitAttemptsMax: 1_000 });
      for (let n = 0; n < 50; n += 1) {
        const at = writer * 50 + n;
        expect((await catalog.commit('trades', append(at))).status).toBe('committed');
      }
    }));
    const table = await processOf().load('trades');
    const files = await filesOf(table);
    expect(files).toHaveLength(400);
    expect(new Set(files).size).toBe(400);
    expect(table.coverage.toJson()).toEqual({ 'raw.trades/0': '0-4000' });
    expect(table.version).toBe(401);
    expect(hintOf(store)).toBe(401);
    expect((await table.scan()).map(({ dataSequenceNumber }) => Number(dataSequenceNumber))).toEqual(Array.from({ length: 400 }, (_, n) => n + 1));
  });

  test('for the same offsets: one commits, the others find it done', async () => {
    const { processOf } = await setup();
    const results = await Promise.all(Array.from({ length: 6 }, () => processOf().commit('trades', append(1))));
    expect(results.filter(({ status }) => status === 'committed')).toHaveLength(1);
    expect(await filesOf(await processOf().load('trades'))).toEqual(['file-1']);
  });

  test('for the same file to remove: one removes it, the others are told that it is gone', async () => {
    const { catalog, processOf } = await setup();
    await catalog.commit('trades', append(1));
    const remove = append(1).add.map(({ filePath }) => filePath);
    const results = await Promise.allSettled(Array.from({ length: 4 }, (_, n) => processOf().commit('trades', {
      commitId: `rewrite-${n}`, add: [tradesFile(`rewrite-${n}`, { exchange: 'BINANCE', hour: 1 })], remove,
    })));
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    expect(results.filter((result) => result.status === 'rejected' && (result.reason as TidemarkError).code === 'COMMIT_CONFLICT')).toHaveLength(3);
    expect(await filesOf(await processOf().load('trades'))).toHaveLength(1);
  });

  test('of one process do not conflict with each other', async () => {
    const { catalog } = await setup();
    const results = await Promise.all(Array.from({ length: 20 }, (_, n) => catalog.commit('trades', append(n))));
    expect(results.every(({ attempts }) => attempts === 1)).toBe(true);
  });

  test('through lost answers and failed puts at random, all land exactly once', async () => {
    let state = seed;
    // A linear congruential generator: faults that can be replayed from their seed.
    const random = () => { state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff; return state / 0x80000000; };
    const { store, processOf } = await setup();
    store.onPut = () => {
      const dice = random();
      return dice < 0.08 ? 'failBefore' : dice < 0.16 ? 'loseAnswer' : undefined;
    };
    await Promise.all(Array.from({ length: 4 }, async (_, writer) => {
      for (let n = 0; n < 25; n += 1) {
        for (let done = false; !done;) {
          // The process dies at each error, and another does its work again.
          done = await processOf({ commitAttemptsMax: 20 }).commit('trades', append(writer * 25 + n)).then(() => true, (error: TidemarkError) => {
            expect(['OBJECT_STORE_UNAVAILABLE', 'COMMIT_CONFLICT'], `seed ${seed}`).toContain(error.code);
            return false;
          });
        }
      }
    }));
    store.onPut = undefined;
    const table = await processOf().load('trades');
    expect((await filesOf(table)).sort(), `seed ${seed}`).toEqual(Array.from({ length: 100 }, (_, n) => `file-${n}`).sort());
    expect(table.coverage.toJson(), `seed ${seed}`).toEqual({ 'raw.trades/0': '0-1000' });
    expect(hintOf(store), `seed ${seed}`).toBe(101);
  });
});

test('an aborted commit stops before its version file, and never between version file and hint', async () => {
  const { store, catalog } = await setup();
  const controller = new AbortController();
  store.onPut = (key) => {
    if (key.includes('snap-')) controller.abort(new Error('cancelled'));
    return undefined;
  };
  await expect(catalog.commit('trades', { ...append(1), signal: controller.signal })).rejects.toThrow('cancelled');
  expect(store.objects.has(versionKey(2))).toBe(false);
  const second = new AbortController();
  store.onPut = (key) => {
    if (isVersion(key)) second.abort(new Error('cancelled'));
    return undefined;
  };
  expect(await catalog.commit('trades', { ...append(1), signal: second.signal })).toMatchObject({ status: 'committed' });
});
