import { promisify } from 'node:util';
import { zstdCompress, zstdDecompress } from 'node:zlib';
import kafkajs from 'kafkajs';
import createSnappyCodec from 'kafkajs-snappy';
import { compressFrame, decompressFrame } from 'lz4-napi';

/** What kafkajs asks of a codec; the encoder's buffer holds the record batch's records. */
interface Codec {
  compress(encoder: { buffer: Buffer }): Promise<Buffer>;
  decompress(buffer: Buffer): Promise<Buffer>;
}

export type Compression = 'none' | 'gzip' | 'snappy' | 'lz4' | 'zstd';

export const compressionTypes: Readonly<Record<Compression, number>> = { none: 0, gzip: 1, snappy: 2, lz4: 3, zstd: 4 };

const compressZstd = promisify(zstdCompress);
const decompressZstd = promisify(zstdDecompress);

// These run on libuv's pool, so that decoding a fetched record batch does not hold the event loop.
const zstd: Codec = {
  compress: ({ buffer }) => compressZstd(buffer),
  decompress: (buffer) => decompressZstd(buffer),
};
const lz4: Codec = {
  compress: ({ buffer }) => compressFrame(buffer),
  decompress: (buffer) => decompressFrame(buffer),
};
const snappy: Codec = createSnappyCodec();

/**
 * Makes kafkajs read and write what any other producer may have compressed a topic with: it ships gzip alone, and a
 * consumer that meets another codec stops for good. Idempotent; call it before the first client is made.
 */
export const registerCodecs = (): void => {
  // kafkajs types its registry as gzip only.
  const codecs: Record<number, () => Codec> = kafkajs.CompressionCodecs;
  codecs[compressionTypes.snappy] = () => snappy;
  codecs[compressionTypes.lz4] = () => lz4;
  codecs[compressionTypes.zstd] = () => zstd;
};
