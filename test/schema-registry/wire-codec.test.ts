import { describe, expect, test } from 'vitest';
import { encodeWire, hasWireHeader, wireHeaderBytes, wireSchemaId } from '../../src/schema-registry/wire-codec.ts';

describe('wire format', () => {
  test('a zero byte, the id as four big-endian bytes, the body', () => {
    expect(encodeWire(0x01020304, Buffer.from('body')).toString('hex')).toBe(`0001020304${Buffer.from('body').toString('hex')}`);
  });

  test.each([0, 1, 255, 65_536, 0x7fff_ffff])('id %i comes back', (id) => {
    const bytes = encodeWire(id, new Uint8Array(0));
    expect([hasWireHeader(bytes), wireSchemaId(bytes), bytes.length]).toEqual([true, id, wireHeaderBytes]);
  });

  test.each([-1, 1.5, 0x8000_0000, NaN])('id %d is refused', (id) => {
    expect(() => encodeWire(id, new Uint8Array(0))).toThrow(expect.objectContaining({ code: 'BAD_INPUT' }) as Error);
  });

  test.each(['', '00000000', '0100000001'])('0x%s has no header', (hex) => {
    expect(hasWireHeader(Buffer.from(hex, 'hex'))).toBe(false);
  });
});
