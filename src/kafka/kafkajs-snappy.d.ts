declare module 'kafkajs-snappy' {
  /** A kafkajs codec: raw snappy out, raw or xerial-framed snappy in. */
  const createSnappyCodec: () => { compress(encoder: { buffer: Buffer }): Promise<Buffer>; decompress(buffer: Buffer): Promise<Buffer> };
  export default createSnappyCodec;
}
