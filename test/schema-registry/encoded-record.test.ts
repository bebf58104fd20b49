import avro from 'avsc';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { compileAvroFieldWalk, compileAvroWalk } from '../../src/schema-registry/avro-bounds.ts';
import { EncodedRecord } from '../../src/schema-registry/encoded-record.ts';

const schema = {
  type: 'record', name: 'Sample', fields: [
    { name: 'before', type: 'string' }, { name: 'count', type: 'long' }, { name: 'flag', type: 'boolean' }, { name: 'choice', type: ['null', 'boolean'] },
    { name: 'name', type: ['null', 'string'] }, { name: 'extra', type: { type: 'map', values: 'string' } }, { name: 'after', type: 'string' },
  ],
} as const;
interface Sample {
  before: string;
  count: number;
  flag: boolean;
  choice: boolean | null;
  name: string | null;
  extra: Record<string, string>;
  after: string;
}
const type = avro.Type.forSchema(schema as unknown as avro.Schema);
const fields = compileAvroFieldWalk(schema);
const textOf = (bytes: Uint8Array, start: number, end: number): string => Buffer.from(bytes.subarray(start, end)).toString('utf8');

const key = fc.oneof(fc.string({ maxLength: 5 }), fc.constantFrom('a', 'b', 'ab', 'B', '0', '__proto__'));
const samples: fc.Arbitrary<Sample> = fc.record({
  before: fc.string({ maxLength: 200 }), count: fc.integer({ min: -(2 ** 53) + 2, max: 2 ** 53 - 2 }), flag: fc.boolean(), choice: fc.option(fc.boolean()), name: fc.option(fc.string({ maxLength: 80 })),
  extra: fc.dictionary(key, fc.string({ maxLength: 100 }), { maxKeys: 8 }), after: fc.string({ maxLength: 5 }),
});

test('fields read where they lie are those of the decoded record, wherever it lies', () => {
  const record = new EncodedRecord();
  fc.assert(fc.property(samples, fc.nat(20), fc.nat(20), (sample, before, behind) => {
    const body = type.toBuffer(sample);
    const bytes = Buffer.concat([Buffer.alloc(before, 0xff), body, Buffer.alloc(behind, 0xff)]);
    const decoded = type.fromBuffer(body) as Sample;
    expect(record.moveTo(bytes, before, before + body.length, fields)).toBe(true);
    expect(textOf(bytes, record.textStart(0), record.textEnd(0))).toBe(decoded.before);
    expect(record.natural(1)).toBe(decoded.count < 0 ? NaN : decoded.count);
    expect(record.boolean(2)).toBe(decoded.flag);
    expect(record.isNull(3) ? null : record.booleanOf(3)).toBe(decoded.choice);
    expect(record.isNull(4) ? null : textOf(bytes, record.textStartOf(4), record.textEnd(4))).toBe(decoded.name);
    expect(textOf(bytes, record.textStart(6), record.textEnd(6))).toBe(decoded.after);
    const count = record.findEntries(5);
    const isPlain = Object.keys(sample.extra).every((name) => /^[A-Za-z]/.test(name));
    expect(count >= 0).toBe(isPlain);
    const found = Array.from({ length: Math.max(0, count) }, (_, i) => [textOf(bytes, record.keyStarts[i]!, record.keyEnds[i]!), textOf(bytes, record.valueStarts[i]!, record.valueEnds[i]!)]);
    expect(found).toEqual(isPlain ? Object.entries(decoded.extra).sort(([a], [b]) => (a < b ? -1 : 1)) : []);
  }));
});

test('entries that an object would hold otherwise are left to it: a key twice, more than fit, blocks with their size', () => {
  const record = new EncodedRecord();
  const mapOnly = compileAvroFieldWalk({ type: 'record', name: 'One', fields: [{ name: 'extra', type: { type: 'map', values: 'string' } }] });
  const entry = (name: string): number[] => [2, name.charCodeAt(0), 2, 0x76];
  const found = (bytes: number[]): number => {
    expect(record.moveTo(Buffer.from(bytes), 0, bytes.length, mapOnly)).toBe(true);
    return record.findEntries(0);
  };
  expect(found([4, ...entry('b'), ...entry('a'), 0])).toBe(2);
  expect(found([2, ...entry('b'), 2, ...entry('a'), 0])).toBe(2);
  expect(found([4, ...entry('a'), ...entry('a'), 0])).toBe(-1);
  expect(found([2, ...entry('a'), 2, ...entry('a'), 0])).toBe(-1);
  expect(found([66, ...Array.from({ length: 33 }, (_, i) => entry(String.fromCharCode(65 + (i % 26)))).flat(), 0])).toBe(-1);
  expect(found([1, 8, ...entry('a'), 0])).toBe(-1);
});

test('bytes are a record exactly where the walk of the whole schema says so', () => {
  const record = new EncodedRecord();
  const walk = compileAvroWalk(schema);
  fc.assert(fc.property(samples, fc.nat(), fc.nat(255), fc.integer({ min: -3, max: 3 }), (sample, at, byte, longer) => {
    const body = type.toBuffer(sample);
    body[at % body.length] = byte;
    const end = Math.min(body.length, Math.max(0, body.length + longer));
    expect(record.moveTo(body, 0, end, fields)).toBe(walk(body, 0, end) === end);
  }));
});

test('a long is read exactly if avsc reads it, whatever its size', () => {
  const record = new EncodedRecord();
  const longOnly = compileAvroFieldWalk({ type: 'record', name: 'One', fields: [{ name: 'count', type: 'long' }] });
  const size = fc.oneof(fc.bigInt({ min: 0n, max: 2n ** 63n - 1n }), fc.constantFrom(0n, 63n, 64n, 2n ** 27n - 1n, 2n ** 27n, 2n ** 53n - 2n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 55n, 2n ** 56n, 2n ** 62n));
  fc.assert(fc.property(size, (value) => {
    const bytes: number[] = [];
    for (let rest = value << 1n; ; rest >>= 7n) {
      bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
      if (rest <= 0x7fn) break;
    }
    const body = Buffer.from(bytes);
    let expected = NaN;
    try {
      expected = avro.Type.forSchema('long').fromBuffer(body) as number;
    } catch { /* Past what a number holds. */ }
    expect(record.moveTo(body, 0, body.length, longOnly)).toBe(true);
    expect(record.natural(0)).toBe(expected);
  }), { numRuns: 500 });
});
