import { expect, test } from 'vitest';
import { TidemarkError } from '../../src/domain/errors.ts';
import type { RegistryClient } from '../../src/schema-registry/registry-client.ts';
import { SchemaKeeper } from '../../src/schema-registry/schema-keeper.ts';
import { createSchemaStore, loadKeptSchema } from '../../src/schema-registry/schema-store.ts';
import { createMemoryObjectStore } from '../support/memory-object-store.ts';

const trade = '{"type":"record","name":"Trade","fields":[]}';
const quote = '{"type":"record","name":"Quote","fields":[]}';
const unused = () => Promise.reject(new Error('unused'));

const keeperOf = (schemaById: RegistryClient['schemaById']) => {
  const store = createMemoryObjectStore();
  const asked: number[] = [];
  const schemas = createSchemaStore({ store, registry: { register: unused, setCompatibility: unused, versions: unused, version: unused, schemaById: (id) => { asked.push(id); return schemaById(id); } } });
  return { store, asked, schemas, keeper: new SchemaKeeper({ schemas, log: { warn: () => {} }, retryMs: 1 }) };
};

test('an id that was ingested keeps its meaning when the registry is rebuilt before it is refined', async () => {
  let known = trade;
  const { keeper, store, schemas } = keeperOf(() => Promise.resolve(known));
  keeper.see([1]);
  await keeper.idle();
  known = quote;
  expect((await loadKeptSchema(store, 1))?.schema).toBe(trade);
  // As refining asks, in a process that has never seen the id.
  expect((await createSchemaStore({ store, registry: { register: unused, setCompatibility: unused, versions: unused, version: unused, schemaById: () => Promise.resolve(quote) } }).load(1)).schema).toBe(trade);
  expect((await schemas.load(1)).schema).toBe(trade);
});

test('a registry that is away is asked until it answers, and each id once', async () => {
  let away = 3;
  const { keeper, store, asked } = keeperOf(() => ((away -= 1) >= 0 ? Promise.reject(new TidemarkError('REGISTRY_UNAVAILABLE', 'away')) : Promise.resolve(trade)));
  keeper.see([1]);
  keeper.see(new Set([1]));
  await keeper.idle();
  keeper.see([1]);
  await keeper.idle();
  expect(await loadKeptSchema(store, 1)).toMatchObject({ id: 1, schema: trade });
  expect(asked).toEqual([1, 1, 1, 1]);
});

test('a topic of rubbish, a new id in each record, asks for a few at once and remembers a bounded number', async () => {
  let running = 0;
  let most = 0;
  const { keeper, asked } = keeperOf(async (id) => {
    running += 1;
    most = Math.max(most, running);
    await new Promise((wake) => { setImmediate(wake); });
    running -= 1;
    throw new TidemarkError('SCHEMA_NOT_FOUND', `schema id ${id}`);
  });
  keeper.see(Array.from({ length: 25_000 }, (_, id) => id));
  await keeper.idle();
  expect(most).toBeLessThanOrEqual(8);
  expect(asked).toHaveLength(10_000);
  keeper.see([3]);
  await keeper.idle();
  expect(asked.filter((id) => id === 3)).toEqual([3]);
});
