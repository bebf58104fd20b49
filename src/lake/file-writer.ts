import { ByteWriter } from 'hyparquet-writer';
import { releaseBuffer } from './release.ts';

/** Bytes that grow at their end, and give back at once what they have outgrown. */
export class FileWriter extends ByteWriter {
  override ensure(size: number): void {
    const { buffer } = this;
    super.ensure(size);
    if (this.buffer !== buffer) releaseBuffer(buffer);
  }
}
