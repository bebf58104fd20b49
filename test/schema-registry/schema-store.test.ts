import { describe, expect, test } from 'vitest';
import { TidemarkError } from '../../src/domain/errors.ts';
import type { RegistryClient } from '../../src/schema-registry/registry-client.ts';
import { createSchemaStore, schemaFingerprint } from '../../src/schema-registry/schema-store.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';

const trade = '{"type":"record","name":"Trade","fields":[]}';
const quote = '{"type":"record","name":"Quote","fields":[]}';

const registryOf = (schemas: Record<number, string>): RegistryClient & { asked: number[] } => {
  const asked: number[] = [];
  return {
    asked,
    register: () => Promise.reject(new Error('unused')),
    setCompatibility: () => Promise.reject(new Error('unused')),
    versions: () => Promise.reject(new Error('unused')),
    version: () => Promise.reject(new Error('unused')),
    schemaById: (id) => {
      asked.push(id);
      const schema = schemas[id];
      return schema === undefined ? Promise.reject(new TidemarkError('SCHEMA_NOT_FOUND', `schema id ${id}`)) : Promise.resolve(schema);
    },
  };
};

describe('schemas by id', () => {
  test('are asked of the registry once, and kept in the lake', async () => {
    const store = createMemoryObjectStore();
    const registry = registryOf({ 7: trade });
    const schemas = createSchemaStore({ store, registry });
    const loaded = await Promise.all([schemas.load(7), schemas.load(7)]);
    await schemas.load(7);
    expect(loaded[0]).toEqual({ id: 7, schema: trade, fingerprint: schemaFingerprint(trade) });
    expect(registry.asked).toEqual([7]);
    expect(JSON.parse(Buffer.from((await store.get('schemas/7.json')).body).toString())).toEqual(loaded[0]);
  });

  test('a registry that was rebuilt with other ids does not change what an id means', async () => {
    const store = createMemoryObjectStore();
    await createSchemaStore({ store, registry: registryOf({ 7: trade }) }).load(7);
    const rebuilt = registryOf({ 7: quote });
    expect((await createSchemaStore({ store, registry: rebuilt }).load(7)).schema).toBe(trade);
    expect(rebuilt.asked).toEqual([]);
  });

  test('a registry that is gone is not missed for ids that the lake knows', async () => {
    const store = createMemoryObjectStore();
    await createSchemaStore({ store, registry: registryOf({ 7: trade }) }).load(7);
    expect((await createSchemaStore({ store, registry: registryOf({}) }).load(7)).schema).toBe(trade);
  });

  test('of two processes that keep an id at once, both go on with the one that was first', async () => {
    const store = createMemoryObjectStore();
    const late = createSchemaStore({ store, registry: registryOf({ 7: quote }) });
    let first = true;
    store.onPut = () => {
      if (!first) return undefined;
      first = false;
      return async () => { await createSchemaStore({ store, registry: registryOf({ 7: trade }) }).load(7); };
    };
    expect((await late.load(7)).schema).toBe(trade);
  });

  test('a lost answer of the put is no failure the second time', async () => {
    const store = createMemoryObjectStore();
    let lose = true;
    store.onPut = () => {
      const fault = lose ? 'loseAnswer' as const : undefined;
      lose = false;
      return fault;
    };
    const schemas = createSchemaStore({ store, registry: registryOf({ 7: trade }) });
    await expect(schemas.load(7)).rejects.toMatchObject({ code: 'OBJECT_STORE_UNAVAILABLE' });
    expect((await schemas.load(7)).schema).toBe(trade);
  });

  test('an id that nobody knows is asked for again later', async () => {
    const known: Record<number, string> = {};
    const schemas = createSchemaStore({ store: createMemoryObjectStore(), registry: registryOf(known) });
    await expect(schemas.load(7)).rejects.toMatchObject({ code: 'SCHEMA_NOT_FOUND' });
    known[7] = trade;
    expect((await schemas.load(7)).schema).toBe(trade);
  });

  test('a kept schema whose bytes were changed is not used', async () => {
    const store = createMemoryObjectStore();
    await store.put('schemas/7.json', JSON.stringify({ id: 7, schema: quote, fingerprint: schemaFingerprint(trade) }));
    await expect(createSchemaStore({ store, registry: registryOf({ 7: trade }) }).load(7)).rejects.toMatchObject({ code: 'FILE_UNREADABLE' });
  });
});

describe('keeping what was just registered', () => {
  test('is refused where the lake knows the id by another schema', async () => {
    const store = createMemoryObjectStore();
    const schemas = createSchemaStore({ store, registry: registryOf({}) });
    await schemas.keep(7, trade);
    await schemas.keep(7, '{ "name": "Trade", "type": "record", "fields": [] }');
    await expect(schemas.keep(7, quote)).rejects.toMatchObject({ code: 'SCHEMA_INCOMPATIBLE' });
    await expect(createSchemaStore({ store, registry: registryOf({}) }).keep(7, quote)).rejects.toMatchObject({ code: 'SCHEMA_INCOMPATIBLE' });
  });
});

describe('fingerprints', () => {
  test('are equal for schemas that differ only in spaces and the order of keys', () => {
    expect(schemaFingerprint('{"a":[1,{"c":1,"b":2}]}')).toBe(schemaFingerprint('{ "a": [1, {"b": 2, "c": 1}] }'));
    expect(schemaFingerprint('{"a":[1,2]}')).not.toBe(schemaFingerprint('{"a":[2,1]}'));
  });
});
