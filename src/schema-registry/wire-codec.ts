import { TidemarkError } from '../domain/errors.ts';

// Confluent wire format: a zero byte, the schema id as four big-endian bytes, then the Avro body.
// https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format

export const wireHeaderBytes = 5;
export const magicByte = 0;

/** Whether the bytes begin with a wire header. */
export const hasWireHeader = (bytes: Uint8Array): boolean => bytes.length >= wireHeaderBytes && bytes[0] === magicByte;

/** The schema id of bytes that {@link hasWireHeader}. Signed, as Confluent's own clients read it. */
export const wireSchemaId = (bytes: Uint8Array): number => wireSchemaIdAt(bytes, 0);

/** As {@link wireSchemaId}, of a record that begins at `at`. */
export const wireSchemaIdAt = (bytes: Uint8Array, at: number): number => (bytes[at + 1]! << 24) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 8) | bytes[at + 4]!;

/** The header and an Avro body as one record value. */
export const encodeWire = (schemaId: number, body: Uint8Array): Buffer => {
  if (!Number.isInteger(schemaId) || schemaId < 0 || schemaId > 0x7fff_ffff) {
    throw new TidemarkError('BAD_INPUT', `schema id: expected an integer of 0 to 2147483647, found ${schemaId}`);
  }
  const bytes = Buffer.allocUnsafe(wireHeaderBytes + body.length);
  bytes[0] = magicByte;
  bytes.writeInt32BE(schemaId, 1);
  bytes.set(body, wireHeaderBytes);
  return bytes;
};

/** As {@link encodeWire}, from an avsc type's `encode`, without the copy of the body. */
export const encodeWireRecord = <Value>(schemaId: number, type: { toBuffer(value: Value): Buffer }, value: Value): Buffer => encodeWire(schemaId, type.toBuffer(value));
