import type { Config } from '../../src/config/config.ts';
import { pipelineTables } from '../../src/datasets/pipeline.ts';
import type { Pipeline } from '../../src/datasets/pipeline.ts';
import { createObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import type { ObjectStoreCatalog } from '../../src/lake/object-store-catalog.ts';
import { createS3ObjectStore, probeConditionalWrites } from '../../src/lake/s3-object-store.ts';
import type { S3ObjectStore } from '../../src/lake/s3-object-store.ts';

export interface Lake {
  store: S3ObjectStore;
  catalog: ObjectStoreCatalog;
}

export const openStore = ({ s3 }: Pick<Config, 's3'>): S3ObjectStore => createS3ObjectStore({
  bucket: s3.bucket,
  region: s3.region,
  ...(s3.endpoint === undefined ? {} : { endpoint: s3.endpoint }),
  credentials: { accessKeyId: s3.accessKeyId, secretAccessKey: s3.secretAccessKey },
});

/** For readers: nothing is created or probed. */
export const openLakeReadOnly = (config: Pick<Config, 's3'>, pipeline: Pipeline): Lake => {
  const store = openStore(config);
  return { store, catalog: createObjectStoreCatalog({ store, namespace: pipeline.namespace }) };
};

/** For writers: the bucket and every table of the pipeline exist afterwards, and the store is known to honour conditions. */
export const openLake = async (config: Pick<Config, 's3'>, pipeline: Pipeline): Promise<Lake> => {
  const lake = openLakeReadOnly(config, pipeline);
  await lake.store.ensureBucket();
  await probeConditionalWrites(lake.store);
  await Promise.all(pipelineTables(pipeline).map((table) => lake.catalog.ensureTable(table)));
  return lake;
};
