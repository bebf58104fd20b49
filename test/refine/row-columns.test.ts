import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { CellValue } from '../../src/datasets/dataset.ts';
import type { EncodableColumn } from '../../src/lake/columns.ts';
import { isConstantColumn, spreadColumn } from '../../src/lake/columns.ts';
import type { Field, FieldType } from '../../src/lake/schema.ts';
import { rowColumn } from '../../src/refine/row-columns.ts';

const field = (type: FieldType, required = true): Field => ({ id: 1, name: 'c', type, required });
/** The rows of a finished column, constants spread out. */
const spread = (column: EncodableColumn, rowCount: number): unknown[] => (isConstantColumn(column) ? Array.from({ length: rowCount }, () => column.constant) : Array.from(spreadColumn(column, rowCount) as Iterable<unknown>));

/** Appends what is accepted, as the transform does: a refused value leaves its place to the next. */
const appended = (of: Field, values: readonly (CellValue | undefined)[]): { kept: (CellValue | undefined)[]; column: EncodableColumn } => {
  const column = rowColumn(of, values.length);
  const kept: (CellValue | undefined)[] = [];
  for (const value of values) if (column.append(kept.length, value)) kept.push(value);
  return { kept, column: column.finish(kept.length) };
};

describe('64-bit columns', () => {
  const exact = fc.oneof(fc.maxSafeInteger(), fc.integer(), fc.constantFrom(0, -1, 2 ** 32, -(2 ** 32), Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER), fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }));

  test('hold every value as it is, numbers and bigints alike', () => {
    fc.assert(fc.property(fc.array(exact, { minLength: 1, maxLength: 40 }), (values) => {
      expect(spread(appended(field('long'), values).column, values.length)).toEqual(values.map(BigInt));
    }));
  });

  test('keep nulls where they may be null, and refuse them where not', () => {
    fc.assert(fc.property(fc.array(fc.option(exact, { nil: null }), { minLength: 1, maxLength: 40 }), (values) => {
      expect(spread(appended(field('long', false), values).column, values.length)).toEqual(values.map((value) => (value === null ? null : BigInt(value))));
      expect(appended(field('long'), values).kept).toEqual(values.filter((value) => value !== null));
    }));
  });

  test.each<[CellValue | undefined]>([[NaN], [Infinity], [0.5], [2 ** 53], [2n ** 63n], [-(2n ** 63n) - 1n], ['1'], [true], [undefined]])('refuse %s', (value) => {
    expect(rowColumn(field('timestamptz', false), 1).append(0, value)).toBe(false);
  });

  test('a decimal takes its precision, and not one digit more', () => {
    const column = rowColumn(field('decimal(18,8)'), 1);
    expect([10n ** 18n - 1n, -(10n ** 18n) + 1n, 10n ** 18n, -(10n ** 18n)].map((value) => column.append(0, value))).toEqual([true, true, false, false]);
    expect([9_999, 10_000, -10_000].map((value) => rowColumn(field('decimal(4,2)'), 1).append(0, value))).toEqual([true, false, false]);
  });
});

describe('any column', () => {
  const columns: [FieldType, fc.Arbitrary<CellValue>][] = [
    ['long', fc.integer({ min: 0, max: 2 })], ['int', fc.integer({ min: -1, max: 1 })], ['date', fc.integer()], ['string', fc.constantFrom('', 'a', 'b')], ['boolean', fc.boolean()],
    ['binary', fc.constantFrom(Buffer.from('a'), Buffer.from('b'))], [{ type: 'list', elementId: 2, element: 'string', elementRequired: true }, fc.constantFrom([] as readonly string[], ['a'])],
  ];

  test.each(columns)('%o: what is refused leaves nothing behind, and one value throughout is a constant', (type, value) => {
    const refused = fc.constantFrom<(CellValue | undefined)[]>(undefined, NaN, 2.5, '\0refused');
    fc.assert(fc.property(fc.array(fc.oneof({ weight: 4, arbitrary: fc.option(value, { nil: null }) }, { weight: 1, arbitrary: refused }), { maxLength: 20 }), fc.boolean(), (values, required) => {
      const { kept, column } = appended(field(type, required), values);
      expect(spread(column, kept.length).map((cell) => (typeof cell === 'bigint' ? Number(cell) : cell))).toEqual(kept);
      const wanted = values.filter((cell) => (cell === null ? !required : cell !== undefined && !Number.isNaN(cell) && cell !== 2.5 && (cell !== '\0refused' || type === 'string')));
      expect(kept).toEqual(wanted);
      expect(isConstantColumn(column)).toBe(kept.length > 0 && kept.every((cell) => cell === kept[0]));
    }));
  });

  test('an int refuses what 32 bits do not hold', () => {
    expect([2 ** 31 - 1, -(2 ** 31), 2 ** 31, -(2 ** 31) - 1].map((value) => rowColumn(field('int'), 1).append(0, value))).toEqual([true, true, false, false]);
  });

  test('a double takes numbers', () => {
    expect(spread(appended(field('double'), [1.5, 'x', 2]).column, 2)).toEqual([1.5, 2]);
    expect(() => rowColumn(field('double', false), 1)).toThrow('cannot hold nulls');
  });
});
