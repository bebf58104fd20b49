import { createHash } from 'node:crypto';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import type { RegistryClient } from './registry-client.ts';

/** A writer's schema as the lake keeps it, under `<prefix>/<id>.json`. Never changed once written. */
export interface KeptSchema {
  id: number;
  /** SHA-256 of the schema's JSON with sorted keys, hex. */
  fingerprint: string;
  /** The schema as JSON text, as the registry gave it. */
  schema: string;
}

/**
 * Schemas by id. The lake is asked first and wins: a registry that was rebuilt may know an id by another schema, and
 * Bronze must be decoded with the one that was meant.
 */
export interface SchemaStore {
  /** The schema that an id names. SCHEMA_NOT_FOUND: neither the lake nor the registry knows it. */
  load(id: number): Promise<KeptSchema>;
  /**
   * Keeps a schema that was just registered. SCHEMA_INCOMPATIBLE: the lake knows the id by another schema, that is, the
   * registry was rebuilt; nothing may be produced with this id.
   */
  keep(id: number, schema: string): Promise<KeptSchema>;
}

/** What the lake knows an id by, without asking anybody else and without keeping anything; null: nothing. */
export const loadKeptSchema = async (store: Pick<ObjectStore, 'get'>, id: number, prefix = 'schemas'): Promise<KeptSchema | null> => {
  try {
    return JSON.parse(Buffer.from((await store.get(`${prefix}/${id}.json`)).body).toString('utf8')) as KeptSchema;
  } catch (error) {
    if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return null;
    throw error;
  }
};

const sortedJson = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(sortedJson);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, inner]) => [key, sortedJson(inner)]));
};

/** Equal for schemas that differ only in white space and the order of JSON keys. Throws SCHEMA_INCOMPATIBLE for what is no JSON. */
export const schemaFingerprint = (schema: string): string => {
  let parsed: unknown;
  try {
    parsed = JSON.parse(schema);
  } catch {
    // A schema that is only a type's name may come without quotes.
    parsed = schema;
  }
  return createHash('sha256').update(JSON.stringify(sortedJson(parsed))).digest('hex');
};

export interface SchemaStoreOptions {
  store: ObjectStore;
  registry: RegistryClient;
  /** Folder of the kept schemas, without a trailing slash. */
  prefix?: string;
}

export const createSchemaStore = ({ store, registry, prefix = 'schemas' }: SchemaStoreOptions): SchemaStore => {
  // Ids in use are few; an entry is a few KiB.
  const known = new Map<number, KeptSchema>();
  const loading = new Map<number, Promise<KeptSchema>>();
  const keyOf = (id: number): string => `${prefix}/${id}.json`;

  const fromLake = async (id: number): Promise<KeptSchema | undefined> => {
    let body: Uint8Array;
    try {
      ({ body } = await store.get(keyOf(id)));
    } catch (error) {
      if (isTidemarkError(error, 'OBJECT_NOT_FOUND')) return undefined;
      throw error;
    }
    const kept = JSON.parse(Buffer.from(body).toString('utf8')) as KeptSchema;
    if (kept.id !== id || typeof kept.schema !== 'string' || schemaFingerprint(kept.schema) !== kept.fingerprint) {
      throw new TidemarkError('FILE_UNREADABLE', `${store.location(keyOf(id))}: expected schema ${id} with its fingerprint, found id ${kept.id}, fingerprint ${kept.fingerprint}`);
    }
    known.set(id, kept);
    return kept;
  };

  /** The first to put wins; whoever loses, or lost the answer of an earlier put, takes what is there. */
  const putOnce = async (kept: KeptSchema): Promise<KeptSchema> => {
    try {
      await store.put(keyOf(kept.id), JSON.stringify(kept), { condition: 'absent', contentType: 'application/json' });
    } catch (error) {
      if (!isTidemarkError(error, 'PRECONDITION_FAILED')) throw error;
      const there = await fromLake(kept.id);
      if (there) return there;
      throw error;
    }
    known.set(kept.id, kept);
    return kept;
  };

  const load = async (id: number): Promise<KeptSchema> => {
    const kept = await fromLake(id);
    if (kept) return kept;
    const schema = await registry.schemaById(id);
    return putOnce({ id, fingerprint: schemaFingerprint(schema), schema });
  };

  return {
    load(id) {
      const kept = known.get(id);
      if (kept) return Promise.resolve(kept);
      let pending = loading.get(id);
      if (!pending) {
        pending = load(id).finally(() => { loading.delete(id); });
        loading.set(id, pending);
      }
      return pending;
    },
    async keep(id, schema) {
      const fingerprint = schemaFingerprint(schema);
      const kept = known.get(id) ?? (await fromLake(id)) ?? (await putOnce({ id, fingerprint, schema }));
      if (kept.fingerprint !== fingerprint) {
        throw new TidemarkError('SCHEMA_INCOMPATIBLE', `schema id ${id}: the lake holds fingerprint ${kept.fingerprint}, found ${fingerprint}: the registry was rebuilt with other ids`);
      }
      return kept;
    },
  };
};
