import avro from 'avsc';
import { TidemarkError, isTidemarkError } from '../domain/errors.ts';
import type { AvroRecordSchema } from '../datasets/dataset.ts';
import type { AvroFieldWalk, AvroWalk } from './avro-bounds.ts';
import { compileAvroFieldWalk, compileAvroWalk } from './avro-bounds.ts';

/** Decodes bodies of one writer's schema into records of the reader's schema. Synchronous, one record at a time. */
export interface AvroDecoder {
  /** The position after the body that starts at `position`, or `-1 - position` of where it stops being one. Never throws. */
  readonly walk: AvroWalk;
  /** The record. Only for bytes that {@link walk} accepts; throws for a long past 2^53, which a number cannot hold. */
  decode(bytes: Buffer, position: number): unknown;
  /** Finds the fields where the writer's schema is the reader's and every field stands for itself; undefined otherwise. */
  readonly fields?: { readonly fieldCount: number; readonly walk: AvroFieldWalk };
}

const fieldWalkOf = (schema: unknown): ReturnType<typeof compileAvroFieldWalk> | undefined => {
  try {
    return compileAvroFieldWalk(schema);
  } catch (error) {
    if (isTidemarkError(error, 'SCHEMA_INCOMPATIBLE')) return undefined;
    throw error;
  }
};

/** SCHEMA_INCOMPATIBLE: the writer's schema is no Avro schema, or its records cannot be read as the reader's. */
export const compileDecoder = (writerSchema: string, readerSchema: AvroRecordSchema): AvroDecoder => {
  try {
    // avsc's constructor takes a mutable schema; it does not change it.
    const reader = avro.Type.forSchema(readerSchema as unknown as avro.Schema);
    const parsed: unknown = JSON.parse(writerSchema);
    const writer = avro.Type.forSchema(parsed as avro.Schema);
    const walk = compileAvroWalk(parsed);
    // The canonical form leaves out defaults and docs: with equal forms the bytes are read as they are, which is faster.
    const resolver = JSON.stringify(writer.schema()) === JSON.stringify(reader.schema()) ? undefined : reader.createResolver(writer);
    const fields = resolver ? undefined : fieldWalkOf(parsed);
    return { walk, decode: (bytes, position) => reader.decode(bytes, position, resolver).value as unknown, ...(fields ? { fields } : {}) };
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new TidemarkError('SCHEMA_INCOMPATIBLE', `Avro schema: expected one that reads as ${readerSchema.namespace}.${readerSchema.name}, found: ${found}`, { cause });
  }
};
