import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { SchemaRegistry } from '@kafkajs/confluent-schema-registry';
import binanceTrades, { rawSchema } from '../../src/datasets/binance-trades.ts';
import type { S3ObjectStore } from '../../src/lake/s3-object-store.ts';
import { createS3ObjectStore } from '../../src/lake/s3-object-store.ts';
import { RefinePool } from '../../src/refine/refine-pool.ts';
import { compileDecoder } from '../../src/schema-registry/avro-decoder.ts';
import { createRegistryClient } from '../../src/schema-registry/registry-client.ts';
import { createSchemaStore } from '../../src/schema-registry/schema-store.ts';
import { encodeWire, wireHeaderBytes, wireSchemaId } from '../../src/schema-registry/wire-codec.ts';
import { putBronzeFile } from '../support/bronze-file.ts';
import { avroTypeOf, binanceRaw } from '../support/raw-records.ts';

const { s3, schemaRegistry } = inject('stack');
const bucket = `refine-${randomUUID()}`;
const registry = createRegistryClient({ url: schemaRegistry.url });
const subject = `refine-${randomUUID()}-value`;
let store: S3ObjectStore;
beforeAll(async () => {
  store = createS3ObjectStore({ bucket, region: s3.region, endpoint: s3.endpoint, credentials: { accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey } });
  await store.ensureBucket();
});
afterAll(() => { store.close(); });

describe('the real registry', () => {
  test('gives the same id for the same schema, and the schema back by its id', async () => {
    const id = await registry.register(subject, rawSchema);
    expect(await registry.register(subject, rawSchema)).toBe(id);
    expect(JSON.parse(await registry.schemaById(id))).toMatchObject({ name: 'BinanceRawTrade', namespace: 'com.k2.marketdata.raw' });
  });

  test('does not know an id that was never given', async () => {
    await expect(registry.schemaById(2_147_483_000)).rejects.toMatchObject({ code: 'SCHEMA_NOT_FOUND' });
  });

  test('refuses a schema that BACKWARD compatibility forbids', async () => {
    const own = `refine-${randomUUID()}-value`;
    await registry.register(own, rawSchema);
    await registry.setCompatibility(own, 'BACKWARD');
    const { fields } = rawSchema;
    await registry.register(own, { ...rawSchema, fields: [...fields, { name: 'added', type: 'string', default: '' }] });
    await expect(registry.register(own, { ...rawSchema, fields: [...fields, { name: 'required', type: 'string' }] })).rejects.toMatchObject({ code: 'SCHEMA_INCOMPATIBLE' });
  });

  test('and a client of others agree on the wire format, both ways', async () => {
    const theirs = new SchemaRegistry({ host: schemaRegistry.url });
    const id = await registry.register(subject, rawSchema);
    const raw = binanceRaw();
    const value = await theirs.encode(id, raw);
    expect(wireSchemaId(value)).toBe(id);
    const decoder = compileDecoder(await registry.schemaById(id), rawSchema);
    expect(decoder.walk(value, wireHeaderBytes, value.length)).toBe(value.length);
    expect({ ...decoder.decode(value, wireHeaderBytes) as object }).toEqual(raw);
    expect({ ...await theirs.decode(encodeWire(id, avroTypeOf(rawSchema).toBuffer(raw))) as object }).toEqual(raw);
  });

  test('is asked once: the next reader takes the schema from the lake', async () => {
    const id = await registry.register(subject, rawSchema);
    const kept = await createSchemaStore({ store, registry }).load(id);
    const gone = createRegistryClient({ url: 'http://127.0.0.1:1', attemptsMax: 1 });
    expect(await createSchemaStore({ store, registry: gone }).load(id)).toEqual(kept);
  });
});

describe('threads against real servers', () => {
  const poolOf = (registryUrl: string, pipelineUrl = new URL('../../src/datasets/market-data.ts', import.meta.url).href) => new RefinePool({
    s3: { ...s3, bucket }, schemaRegistry: { url: registryUrl }, pipelineUrl, microBatch: { threads: 2 },
  });

  test('refine Bronze files of the store in parallel, with schemas of the registry', async () => {
    const id = await registry.register(subject, rawSchema);
    const type = avroTypeOf(rawSchema);
    const topic = binanceTrades.topic;
    const rows = 500;
    const pool = poolOf(schemaRegistry.url);
    try {
      const results = await Promise.all([0, 1, 2].map(async (partition) => {
        const values = Array.from({ length: rows }, (_, i) => (i % 100 === 99 ? null : encodeWire(id, type.toBuffer(binanceRaw({ trade_id: i })))));
        const file = await putBronzeFile(store, { topic, partition, values });
        const plan = { [`${topic}/${partition}`]: `0-${rows}` };
        return pool.refine({ source: binanceTrades.source, batchId: `batch-${partition}`, bronzeFiles: [file], silver: plan, dlq: plan, nowMs: Date.now() });
      }));
      for (const { silverRows, dlqRows, silverFiles, dlqFiles } of results) {
        expect([silverRows, dlqRows]).toEqual([495, 5]);
        for (const { filePath, fileSizeBytes } of [...silverFiles, ...dlqFiles]) expect((await store.head(store.keyOf(filePath))).size).toBe(fileSizeBytes);
      }
    } finally {
      await pool.close();
    }
  });

  test('a registry that is away fails the task, retryable', async () => {
    const pool = poolOf('http://127.0.0.1:1');
    try {
      const topic = binanceTrades.topic;
      const file = await putBronzeFile(store, { topic, partition: 9, values: [encodeWire(2_147_483_001, Buffer.from('body'))] });
      const plan = { [`${topic}/9`]: '0-1' };
      await expect(pool.refine({ source: binanceTrades.source, batchId: 'away', bronzeFiles: [file], silver: plan, dlq: plan, nowMs: Date.now() })).rejects.toMatchObject({ code: 'REGISTRY_UNAVAILABLE', retryable: true });
    } finally {
      await pool.close();
    }
  });
});
