import avro from 'avsc';
import { compileAvroWalk } from './avro-bounds.ts';

/** A record as far as its bytes give it. */
export interface PartialRecord {
  /** Fields that decode, in the order of the schema; bytes as hex, longs past 2^53 as `unsafe long`. */
  fields: Record<string, unknown>;
  /** Where decoding stopped, as a position in the bytes; null: the record decodes. */
  stoppedAt: number | null;
  /** The field that it stopped in. */
  stoppedIn: string | null;
  /** Bytes behind the end of the record. */
  trailingBytes: number;
}

interface RecordJson {
  type?: unknown;
  namespace?: string;
  fields?: readonly { name: string; type: unknown }[];
}

const plain = (value: unknown): unknown => {
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
};

/** Decodes the body of a record field by field with its writer's schema, for people. Never throws for bytes; SCHEMA_INCOMPATIBLE for no Avro schema. */
export const decodePartly = (writerSchema: string, bytes: Uint8Array, position: number): PartialRecord => {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const schema = JSON.parse(writerSchema) as RecordJson;
  const fields: Record<string, unknown> = {};
  let at = position;
  if (schema.type !== 'record') {
    const walked = compileAvroWalk(schema)(buffer, at, buffer.length);
    return walked < 0 ? { fields, stoppedAt: -1 - walked, stoppedIn: null, trailingBytes: 0 } : { fields, stoppedAt: null, stoppedIn: null, trailingBytes: buffer.length - walked };
  }
  // Types that an earlier field has named are known to the later ones.
  const registry: Record<string, avro.Type> = {};
  for (const field of schema.fields ?? []) {
    let end: number;
    let value: unknown;
    try {
      end = compileAvroWalk(field.type)(buffer, at, buffer.length);
      if (end >= 0) {
        const type = avro.Type.forSchema(field.type as avro.Schema, { registry, ...(schema.namespace === undefined ? {} : { namespace: schema.namespace }) });
        try {
          value = plain(type.decode(buffer, at).value as unknown);
        } catch {
          value = 'unsafe long';
        }
      }
    } catch {
      // A name that only the whole schema knows: the bytes from here on are not told apart.
      return { fields, stoppedAt: at, stoppedIn: field.name, trailingBytes: 0 };
    }
    if (end < 0) return { fields, stoppedAt: -1 - end, stoppedIn: field.name, trailingBytes: 0 };
    fields[field.name] = value;
    at = end;
  }
  return { fields, stoppedAt: null, stoppedIn: null, trailingBytes: buffer.length - at };
};
