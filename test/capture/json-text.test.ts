import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { JsonText } from '../../src/capture/json-text.ts';
import { NumberText, parseJsonText, textOf } from '../../src/capture/json-text.ts';

/** As JSON.parse would have it. */
const plain = (value: JsonText): unknown => {
  if (value instanceof NumberText) return Number(value.text);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value === 'object' && value !== null) return Object.fromEntries(Object.entries(value).map(([field, inner]) => [field, plain(inner)]));
  return value;
};

const outcome = (parse: () => unknown): unknown => {
  try {
    return { value: parse() };
  } catch {
    return 'refused';
  }
};

describe('JSON whose numbers stay text', () => {
  test('is what JSON.parse reads, white space and escapes included', () => {
    fc.assert(fc.property(fc.json({ noUnicodeString: false }), fc.constantFrom(undefined, 1, '\t', ' \r\n'), (json, space) => {
      const text = JSON.stringify(JSON.parse(json), null, space);
      expect(plain(parseJsonText(text))).toEqual(JSON.parse(text));
    }), { numRuns: 1_000 });
  });

  test('is refused exactly where JSON.parse refuses', () => {
    const damaged = fc.tuple(fc.json(), fc.nat(), fc.constantFrom('', '"', '{', ']', ',', ':', '\\', '0', '-', '.', 'e', 'null', '\u0000', '\n', 'x'), fc.nat(3))
      .map(([json, at, piece, cut]) => `${json.slice(0, at % (json.length + 1))}${piece}${json.slice((at % (json.length + 1)) + cut)}`);
    fc.assert(fc.property(damaged, (text) => {
      expect(outcome(() => plain(parseJsonText(text)))).toEqual(outcome(() => JSON.parse(text) as unknown));
    }), { numRuns: 5_000 });
  });

  test.each(['0.01300000', '2.14E+4', '16763580994566763544', '-0', '1e-8', '0.1000000000000000055511151231257827'])('keeps the number %s as it stands', (literal) => {
    expect(parseJsonText(`[ ${literal} ]`)).toEqual([new NumberText(literal)]);
    expect(textOf((parseJsonText(`{"a":${literal}}`) as { a: JsonText }).a)).toBe(literal);
  });

  test('gives nested values as JSON, numbers untouched', () => {
    expect(textOf(parseJsonText('{"a":[1.50,"x",null,true],"b":{"c":2E1}}'))).toBe('{"a":[1.50,"x",null,true],"b":{"c":2E1}}');
  });

  test('has no more levels than the stack bears', () => {
    expect(() => parseJsonText('['.repeat(1_000_000))).toThrow(expect.objectContaining({ code: 'BAD_INPUT' }));
  });

  test('has no field that reaches the prototype', () => {
    const value = parseJsonText('{"__proto__":{"polluted":true}}') as Record<string, unknown>;
    expect(Object.keys(value)).toEqual(['__proto__']);
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });
});
