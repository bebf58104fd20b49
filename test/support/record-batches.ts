/** Encodes Kafka record batches v2, to test what reads them. */
export interface BatchRecord {
  offsetDelta: number;
  timestampDelta: number;
  key: Buffer | null;
  value: Buffer | null;
  headers: [string, Buffer | null][];
}
export interface BatchSpec {
  baseOffset: bigint;
  lastOffsetDelta: number;
  firstTimestamp: bigint;
  maxTimestamp?: bigint;
  attributes?: number;
  producerId?: bigint;
  records: readonly BatchRecord[];
  /** Compresses the records; the attributes must say so. */
  compress?: (records: Buffer) => Buffer;
}

const varint = (value: number): Buffer => {
  let rest = value >= 0 ? BigInt(value) * 2n : BigInt(value) * -2n - 1n;
  const bytes: number[] = [];
  while (rest > 127n) {
    bytes.push(Number(rest & 127n) | 128);
    rest >>= 7n;
  }
  bytes.push(Number(rest));
  return Buffer.from(bytes);
};
const sized = (bytes: Buffer | null): Buffer => (bytes === null ? varint(-1) : Buffer.concat([varint(bytes.length), bytes]));

export const encodeRecord = ({ offsetDelta, timestampDelta, key, value, headers }: BatchRecord): Buffer => {
  const body = Buffer.concat([
    Buffer.from([0]), varint(timestampDelta), varint(offsetDelta), sized(key), sized(value), varint(headers.length),
    ...headers.flatMap(([name, headerValue]) => [sized(Buffer.from(name)), sized(headerValue)]),
  ]);
  return Buffer.concat([varint(body.length), body]);
};

export const encodeBatch = (spec: BatchSpec): Buffer => {
  const plain = Buffer.concat(spec.records.map(encodeRecord));
  const body = spec.compress ? spec.compress(plain) : plain;
  const head = Buffer.alloc(61);
  head.writeBigInt64BE(spec.baseOffset, 0);
  head.writeInt32BE(61 - 12 + body.length, 8);
  head[16] = 2;
  head.writeInt16BE(spec.attributes ?? 0, 21);
  head.writeInt32BE(spec.lastOffsetDelta, 23);
  head.writeBigInt64BE(spec.firstTimestamp, 27);
  head.writeBigInt64BE(spec.maxTimestamp ?? spec.firstTimestamp, 35);
  head.writeBigInt64BE(spec.producerId ?? -1n, 43);
  head.writeInt32BE(spec.records.length, 57);
  return Buffer.concat([head, body]);
};

/** The marker that ends a transaction. */
export const encodeMarker = (offset: bigint, producerId: bigint, type: 'abort' | 'commit'): Buffer => encodeBatch({
  baseOffset: offset, lastOffsetDelta: 0, firstTimestamp: 0n, attributes: 0x30, producerId,
  records: [{ offsetDelta: 0, timestampDelta: 0, key: Buffer.from([0, 0, 0, type === 'abort' ? 0 : 1]), value: Buffer.from([0, 0, 0, 0, 0, 0]), headers: [] }],
});

export const plainRecord = (offsetDelta: number, value: string): BatchRecord => ({ offsetDelta, timestampDelta: offsetDelta, key: null, value: Buffer.from(value), headers: [] });
