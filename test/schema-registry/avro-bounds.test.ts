import avro from 'avsc';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { compileAvroWalk } from '../../src/schema-registry/avro-bounds.ts';

const schema = {
  type: 'record', name: 'Everything', namespace: 'test', fields: [
    { name: 'a', type: 'string' }, { name: 'b', type: 'long' }, { name: 'c', type: 'int' }, { name: 'd', type: 'boolean' }, { name: 'e', type: 'double' }, { name: 'f', type: 'float' }, { name: 'g', type: 'bytes' },
    { name: 'h', type: ['null', 'string', 'long'] }, { name: 'i', type: { type: 'map', values: 'string' } }, { name: 'j', type: { type: 'array', items: { type: 'map', values: 'long' } } },
    { name: 'k', type: { type: 'enum', name: 'Side', symbols: ['BUY', 'SELL'] } }, { name: 'l', type: { type: 'fixed', name: 'Id', size: 4 } },
    { name: 'm', type: ['null', { type: 'record', name: 'Node', fields: [{ name: 'side', type: 'Side' }, { name: 'next', type: ['null', 'Node'] }] }] },
    { name: 'n', type: { type: 'long', logicalType: 'timestamp-micros' } },
  ],
};
const type = avro.Type.forSchema(schema as unknown as avro.Schema, { wrapUnions: true });
const walk = compileAvroWalk(schema);

const text = fc.string({ maxLength: 100 });
const long = fc.integer({ min: Number.MIN_SAFE_INTEGER + 1, max: Number.MAX_SAFE_INTEGER - 1 });
const side = fc.constantFrom('BUY', 'SELL');
const value = fc.record({
  a: text, b: long, c: fc.integer(), d: fc.boolean(), e: fc.double(), f: fc.float(), g: fc.uint8Array().map((bytes) => Buffer.from(bytes)),
  h: fc.oneof(fc.constant(null), text.map((string) => ({ string })), long.map((n) => ({ long: n }))), i: fc.dictionary(fc.string({ maxLength: 9 }).filter((key) => key !== '__proto__'), text, { maxKeys: 5 }),
  j: fc.array(fc.dictionary(fc.string({ maxLength: 3 }).filter((key) => key !== '__proto__'), long, { maxKeys: 3 }), { maxLength: 3 }), k: side,
  l: fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => Buffer.from(bytes)),
  m: fc.oneof(fc.constant(null), side.map((s) => ({ 'test.Node': { side: s, next: { 'test.Node': { side: s, next: null } } } }))), n: long,
});

describe('the walk of an encoded record', () => {
  test('ends where the record ends', () => {
    fc.assert(fc.property(value, fc.nat(9), fc.nat(9), (record, before, after) => {
      const bytes = Buffer.concat([Buffer.alloc(before), type.toBuffer(record), Buffer.alloc(after)]);
      expect(walk(bytes, before, bytes.length)).toBe(bytes.length - after);
    }));
  });

  test('refuses every record that is cut short, and says where', () => {
    fc.assert(fc.property(value, fc.nat(), (record, cut) => {
      const bytes = type.toBuffer(record);
      const end = cut % bytes.length;
      const walked = walk(bytes, 0, end);
      expect(walked).toBeLessThan(0);
      expect(-1 - walked).toBeLessThanOrEqual(end);
    }));
  });

  test('never throws, never leaves the bytes, and what it accepts avsc decodes as well or refuses a long', () => {
    fc.assert(fc.property(value, fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 4 }), (record, changes) => {
      const bytes = Buffer.from(type.toBuffer(record));
      for (const [at, byte] of changes) bytes[at % bytes.length] = byte;
      const walked = walk(bytes, 0, bytes.length);
      expect(walked).toBeLessThanOrEqual(bytes.length);
      let decoded: { value: unknown; offset: number } | undefined;
      let refusal = '';
      try {
        decoded = walked < 0 ? undefined : type.decode(bytes, 0);
      } catch (error) {
        refusal = (error as Error).message;
      }
      expect(walked < 0 || decoded?.offset === walked || refusal === 'potential precision loss').toBe(true);
    }), { numRuns: 2_000 });
  });

  test.each([['a map of billions', 'feffffff0f'], ['an array that counts below zero without end', '01'.repeat(20)]])('%s ends at once', (_, hex) => {
    const bytes = Buffer.from(hex, 'hex');
    expect(compileAvroWalk({ type: 'map', values: 'string' })(bytes, 0, bytes.length)).toBeLessThan(0);
  });

  test('billions of records without fields end at once, though they take no bytes', () => {
    const empty = compileAvroWalk({ type: 'array', items: { type: 'record', name: 'Empty', fields: [] } });
    expect(empty(Buffer.from('feffffff0f00', 'hex'), 0, 6)).toBeLessThan(0);
    expect(empty(Buffer.from('0200', 'hex'), 0, 2)).toBe(2);
  });

  test('a boolean is 0 or 1', () => {
    expect([0, 1, 2, 255].map((byte) => compileAvroWalk('boolean')(Buffer.from([byte]), 0, 1))).toEqual([1, 1, -1, -1]);
  });

  test('blocks with a size in bytes are read as those without', () => {
    // Two entries as one block of -2, nine bytes: "a" → "x", "b" → "yz"; then the end.
    const bytes = Buffer.from('0312 0261 0278 0262 04797a 00'.replaceAll(' ', ''), 'hex');
    expect(compileAvroWalk({ type: 'map', values: 'string' })(bytes, 0, bytes.length)).toBe(bytes.length);
  });

  test.each([['an unknown type', { type: 'decimal' }], ['a branch that is unknown', ['null', 'Nothing']], ['an array of nulls', { type: 'array', items: 'null' }]])('%s is no schema that can be bounded', (_, given) => {
    expect(() => compileAvroWalk(given)).toThrow(expect.objectContaining({ code: 'SCHEMA_INCOMPATIBLE' }) as Error);
  });
});
