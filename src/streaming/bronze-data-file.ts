import { parseBronzeFileSuffix } from '../contracts/bronze.ts';
import { TidemarkError } from '../domain/errors.ts';
import type { DataFile } from '../lake/data-file.ts';
import { decodeSingleValue } from '../lake/iceberg/single-value.ts';
import { dayOf } from '../lake/iceberg/transforms.ts';
import type { ObjectStore } from '../lake/object-store.ts';
import { dataFileFromFooter, objectSource, openParquet } from '../lake/parquet-reader.ts';
import type { TableDefinition } from '../lake/schema.ts';
import { checkFooter } from './bronze-file.ts';

/**
 * A Bronze file as its table commit names it, from what the store holds: the footer must say the range that the key says.
 * Throws OBJECT_NOT_FOUND, FILE_UNREADABLE.
 */
export const loadBronzeDataFile = async (store: ObjectStore, bronze: TableDefinition, filePath: string, suffix: string): Promise<DataFile> => {
  const key = store.keyOf(filePath);
  const { size } = await store.head(key);
  const file = await openParquet(objectSource(store, key, size));
  checkFooter(parseBronzeFileSuffix(suffix), file.keyValueMetadata, file.rowCount);
  const metrics = dataFileFromFooter(file, bronze.fields);
  const { id, type } = bronze.fields.find(({ name }) => name === 'ingestion_timestamp')!;
  const [lower, upper] = [metrics.lowerBounds[id], metrics.upperBounds[id]];
  if (lower === undefined || lower !== upper || typeof type !== 'string') {
    throw new TidemarkError('FILE_UNREADABLE', `Bronze file ${suffix}: expected one ingestion_timestamp, found ${lower === undefined ? 'none' : 'several'}`);
  }
  const ingestedAtMicros = decodeSingleValue(type, Buffer.from(lower, 'base64')) as bigint;
  return { ...metrics, filePath, partition: { ingestion_timestamp: dayOf(ingestedAtMicros) } };
};
