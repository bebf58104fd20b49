import { createHash } from 'node:crypto';
import { TidemarkError } from '../../src/domain/errors.ts';
import type { CopyingObjectStore, ObjectHead, PutOptions } from '../../src/lake/object-store.ts';

/**
 * Where a fault strikes a put:
 * - `failBefore`: nothing is stored, the caller gets OBJECT_STORE_UNAVAILABLE;
 * - `loseAnswer`: the put takes effect (conditions included), the caller gets OBJECT_STORE_UNAVAILABLE;
 * - a function: runs in the middle of the put, before it takes effect: awaiting in it is a process that sleeps.
 */
export type PutFault = 'failBefore' | 'loseAnswer' | (() => Promise<void>);

export interface MemoryObjectStore extends CopyingObjectStore {
  readonly objects: ReadonlyMap<string, { body: Uint8Array; etag: string; lastModifiedMs: number; metadata: Record<string, string> }>;
  /** Called for each put; what it returns strikes that put. */
  onPut: ((key: string, options: PutOptions) => PutFault | undefined) | undefined;
  /** Called before each get, getRange and head; may throw or wait. */
  onGet: ((key: string) => Promise<void> | void) | undefined;
  /** Requests so far, by kind, and bytes put. */
  readonly requests: { put: number; get: number; head: number; list: number; delete: number; bytesPut: number };
}

/** The semantics of S3 in memory: conditional puts, ETags by content, read after write. Every call yields to the event loop. */
export function createMemoryObjectStore(bucket = 'lake', now: () => number = Date.now): MemoryObjectStore {
  const objects = new Map<string, { body: Uint8Array; etag: string; lastModifiedMs: number; metadata: Record<string, string> }>();
  const requests = { put: 0, get: 0, head: 0, list: 0, delete: 0, bytesPut: 0 };
  const root = `s3://${bucket}/`;
  const turn = (): Promise<void> => new Promise((resolve) => { setImmediate(resolve); });
  const unavailable = (what: string): TidemarkError => new TidemarkError('OBJECT_STORE_UNAVAILABLE', `object store, ${what}: no answer (injected fault)`);
  const find = (what: string, key: string) => {
    const object = objects.get(key);
    if (!object) throw new TidemarkError('OBJECT_NOT_FOUND', `object store, ${what} ${key}: 404 NoSuchKey`);
    return object;
  };

  const store: MemoryObjectStore = {
    bucket,
    objects,
    requests,
    onPut: undefined,
    onGet: undefined,
    location: (key) => root + key,
    keyOf(location) {
      if (!location.startsWith(root)) throw new TidemarkError('BAD_INPUT', `location: expected ${root}…, found ${location}`);
      return location.slice(root.length);
    },
    async put(key, body, options = {}) {
      requests.put += 1;
      options.signal?.throwIfAborted();
      await turn();
      const fault = store.onPut?.(key, options);
      if (fault === 'failBefore') throw unavailable(`put ${key}`);
      if (typeof fault === 'function') await fault();
      const existing = objects.get(key);
      const { condition } = options;
      const refused = condition === 'absent' ? existing !== undefined : condition !== undefined && existing?.etag !== condition.etag;
      if (!refused) {
        const bytes = typeof body === 'string' ? Buffer.from(body) : Buffer.from(body);
        requests.bytesPut += bytes.length;
        const etag = `"${createHash('md5').update(bytes).digest('hex')}"`;
        objects.set(key, { body: bytes, etag, lastModifiedMs: now(), metadata: { ...options.metadata } });
      }
      if (fault === 'loseAnswer') throw unavailable(`put ${key}`);
      if (refused) throw new TidemarkError('PRECONDITION_FAILED', `object store, put ${key}: 412 PreconditionFailed`);
      return { etag: objects.get(key)!.etag };
    },
    upload(key, options = {}) {
      const pieces: Uint8Array[] = [];
      return {
        append: (bytes) => {
          options.signal?.throwIfAborted();
          pieces.push(bytes);
          return Promise.resolve();
        },
        finish: async () => void await store.put(key, Buffer.concat(pieces), options),
        abort: () => Promise.resolve(),
      };
    },
    async get(key) {
      requests.get += 1;
      await turn();
      await store.onGet?.(key);
      const { body, etag, metadata } = find('get', key);
      return { body, etag, metadata };
    },
    async getRange(key, start, end) {
      requests.get += 1;
      await turn();
      await store.onGet?.(key);
      return find('get', key).body.subarray(start, end);
    },
    async head(key) {
      requests.head += 1;
      await turn();
      await store.onGet?.(key);
      const { body, etag, lastModifiedMs, metadata } = find('head', key);
      return { key, size: body.length, etag, lastModifiedMs, metadata };
    },
    async copyFrom(source, sourceKey, key) {
      requests.put += 1;
      await turn();
      const { body, etag, metadata } = source.bucket === bucket ? find('copy', sourceKey) : await (source as MemoryObjectStore).get(sourceKey);
      const fault = store.onPut?.(key, {});
      if (fault === 'failBefore') throw unavailable(`copy to ${key}`);
      if (typeof fault === 'function') await fault();
      objects.set(key, { body, etag, lastModifiedMs: now(), metadata });
      if (fault === 'loseAnswer') throw unavailable(`copy to ${key}`);
    },
    async *list(prefix, { startAfter = '' } = {}): AsyncGenerator<ObjectHead> {
      requests.list += 1;
      await turn();
      const keys = [...objects.keys()].filter((key) => key.startsWith(prefix) && key > startAfter).sort();
      for (const key of keys) {
        const object = objects.get(key);
        if (object) yield { key, size: object.body.length, etag: object.etag, lastModifiedMs: object.lastModifiedMs, metadata: {} };
      }
    },
    async delete(keys) {
      requests.delete += 1;
      await turn();
      for (const key of keys) objects.delete(key);
    },
  };
  return store;
}
